"""The head of linear probing."""

import torch
from mmpretrain.registry import MODELS

from simim_plugin.evaluation.probe_head import ProbeHead


def test_head_is_a_linear_map_of_batch_normalised_features():
    torch.manual_seed(0)
    head = ProbeHead(num_classes=3, in_channels=5)
    features = torch.randn(64, 5) * torch.tensor([1, 9, 0.1, 1e-3, 4]) + 7
    mean, variance = features.mean(0), features.var(0, unbiased=False)
    normed = (features - mean) / (variance + 1e-6).sqrt()
    expected = normed @ head.fc.weight.T + head.fc.bias
    torch.testing.assert_close(
        head((features,)), expected, rtol=1e-4, atol=1e-4
    )
    # Evaluation uses the running statistics.
    head.eval()
    normed = (features - head.norm.running_mean) / (
        head.norm.running_var + 1e-6
    ).sqrt()
    expected = normed @ head.fc.weight.T + head.fc.bias
    torch.testing.assert_close(
        head((features,)), expected, rtol=1e-4, atol=1e-4
    )


def test_only_the_linear_layer_is_trained_from_small_weights():
    torch.manual_seed(0)
    head = MODELS.build(
        dict(type='ProbeHead', num_classes=200, in_channels=100)
    )
    head.init_weights()
    assert sorted(dict(head.named_parameters())) == ['fc.bias', 'fc.weight']
    assert abs(head.fc.weight.std().item() - 0.01) < 5e-4
    assert not head.fc.bias.any()

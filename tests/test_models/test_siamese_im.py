"""Properties of the algorithm: gradients, masks, grids, momentum."""

from collections import Counter

import pytest
import torch
from mmpretrain.models.utils import MultiheadAttention
from mmpretrain.registry import MODELS
from torch.utils._python_dispatch import TorchDispatchMode

from simim_plugin.errors import SimimError
from simim_plugin.geometry import PairGeometry
from simim_plugin.models import UniGradHead
from simim_plugin.models.positions import relative_embedding
from simim_plugin.vit import UnboundAttention

from .helpers import small_batch, small_config, small_model


class Calls(TorchDispatchMode):
    """Count the calls of each operator."""

    def __init__(self):
        super().__init__()
        self.count = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count[function.overloadpacket.__name__] += 1
        return function(*args, **(kwargs or {}))


class Largest(TorchDispatchMode):
    """Note the size of the largest result of an operator."""

    numel = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for tensor in torch.utils._pytree.tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                self.numel = max(self.numel, tensor.numel())
        return result


def gradients(model, inputs, samples):
    model.zero_grad()
    outputs = model.loss(inputs, samples)
    outputs['loss'].backward()
    return {
        name: p.grad.clone()
        for name, p in model.named_parameters()
        if p.grad is not None
    }


def test_the_loss_gradient_is_its_closed_form():
    """dL/dp = 2 ((p - t) + lambda C p) / (M D)."""
    generator = torch.Generator().manual_seed(0)
    prediction, target = (
        torch.randn(3, 7, 5, generator=generator, dtype=torch.float64)
        for _ in range(2)
    )
    prediction.requires_grad_()
    terms = UniGradHead(0.3).loss(prediction, target)
    terms['loss'].backward()
    assert torch.allclose(
        terms['loss'], terms['positive_term'] + terms['negative_term']
    )
    t = torch.nn.functional.layer_norm(target, (5,)).flatten(0, 1)
    p = prediction.detach().flatten(0, 1)
    similarity = p @ t.T  # the M x M matrix that the head avoids
    expected = 2 * ((p - t) + 0.3 * similarity @ t / len(t)) / p.numel()
    assert torch.allclose(
        prediction.grad.flatten(0, 1), expected, rtol=1e-12, atol=0
    )


def by_autograd(prediction, target, weight):
    """Return loss and gradient of UniGrad, all of it by autograd."""
    leaf = prediction.detach().requires_grad_()
    p = leaf.flatten(0, 1)
    t = torch.nn.functional.layer_norm(target, target.shape[2:]).flatten(0, 1)
    similar = ((p @ (t.T @ t / len(t))) * p).sum() / len(p)
    positive = (p - t).square().sum() / len(p)
    loss = (positive + weight * similar) / p.shape[1]
    loss.backward()
    return loss.detach(), leaf.grad


@pytest.mark.parametrize('autocast', [False, True])
def test_the_loss_and_its_gradient_are_those_of_autograd(autocast):
    """To 9e-8 of the exact one, nearer than autograd in float32."""
    torch.manual_seed(0)
    prediction, target = torch.randn(2, 8, 49, 96)
    prediction.requires_grad_()
    with torch.autocast('cpu', torch.bfloat16, enabled=autocast):
        outputs = UniGradHead().loss(prediction, target)
    assert {value.dtype for value in outputs.values()} == {torch.float32}
    (4 * outputs['loss']).backward()
    loss, gradient = by_autograd(prediction.double(), target.double(), 0.02)
    assert torch.allclose(outputs['loss'].double(), loss, rtol=2e-7, atol=0)
    ours = prediction.grad / 4
    assert (ours - gradient).norm() < 9e-8 * gradient.norm()
    _, inexact = by_autograd(prediction, target, 0.02)
    assert (inexact - gradient).norm() > (ours - gradient).norm()


def test_the_gradient_of_the_loss_is_its_numeric_one():
    torch.manual_seed(0)
    prediction, target = torch.randn(2, 3, 4, 5, dtype=torch.float64)
    prediction.requires_grad_()
    head = UniGradHead(0.3)
    assert torch.autograd.gradcheck(
        lambda p: head.loss(p, target)['loss'], [prediction]
    )


def test_the_loss_keeps_one_tensor_for_the_backward_pass():
    prediction, target = torch.randn(2, 3, 4, 5)
    prediction.requires_grad_()
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda tensor: kept.append(tensor.numel()) or tensor, lambda x: x
    ):
        UniGradHead().loss(prediction, target)
    assert kept == [prediction.numel()]


def test_a_second_derivative_of_the_loss_is_refused():
    prediction = torch.randn(1, 4, 5, requires_grad=True)
    loss = UniGradHead().loss(prediction, torch.randn(1, 4, 5))['loss']
    with pytest.raises(SimimError, match='without create_graph'):
        torch.autograd.grad(loss, prediction, create_graph=True)


def test_recomputed_blocks_give_the_same_gradients():
    """Drop path draws the same paths again."""
    found = []
    for again in (False, True):
        config = small_config()
        config['backbone'] |= dict(with_cp=again, drop_path_rate=0.5)
        torch.manual_seed(0)
        model = MODELS.build(config).double().train()
        model.init_weights()
        runs = Counter()
        branches = dict(online=model.backbone, target=model.target['backbone'])
        for name, backbone in branches.items():
            for layer in backbone.layers:
                layer.register_forward_pre_hook(
                    lambda *_, runs=runs, name=name: runs.update([name])
                )
        views, samples = small_batch()
        views = [view.double() for view in views]
        torch.manual_seed(1)
        model.loss(views, samples)['loss'].backward()
        assert runs == dict(online=4 if again else 2, target=2)
        found.append([p.grad for p in model.parameters()])
    for kept, recomputed in zip(*found, strict=True):
        assert (kept is None) == (recomputed is None)
        assert kept is None or torch.equal(kept, recomputed)


def test_the_target_gets_no_gradient():
    model = small_model()
    names = gradients(model, *small_batch())
    assert names
    assert not [name for name in names if name.startswith('target.')]


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
def test_the_mask_tokens_are_the_map_of_the_whole_relative_embedding(dtype):
    """The gradient too, to 2.5e-7 of its norm in float32."""
    neck = small_model(grid=(3, 5), dims=64).neck.to(dtype)
    _, samples = small_batch(grid=(3, 5))
    geometry = PairGeometry.stack([sample.geometry for sample in samples])
    whole = relative_embedding(geometry, (3, 5), (3, 5), 64, dtype)
    expected = neck.mask_token + neck.relative_map(whole)
    ours = neck.mask_tokens(geometry)
    assert ours.dtype is dtype
    bound = 2.5e-7 if dtype is torch.float32 else 1e-15
    weights = torch.randn_like(expected)
    parameters = [neck.mask_token, *neck.relative_map.parameters()]
    for one, other in zip(
        [ours, *torch.autograd.grad((ours * weights).sum(), parameters)],
        [
            expected,
            *torch.autograd.grad((expected * weights).sum(), parameters),
        ],
        strict=True,
    ):
        assert (one - other).norm() < bound * other.norm()


def test_no_tensor_holds_the_whole_relative_embedding():
    """None made for the queries is wider than they are."""
    neck = small_model(dims=64).neck
    _, samples = small_batch()
    geometry = PairGeometry.stack([sample.geometry for sample in samples])
    with Largest() as largest:
        queries = neck.mask_tokens(geometry)
    assert largest.numel == queries.numel()


@pytest.mark.parametrize('shortcut', [False, True])
def test_attention_is_that_of_mmpretrain_without_buffers_of_zeros(shortcut):
    torch.manual_seed(0)
    options = dict(layer_scale_init_value=0.1, v_shortcut=shortcut)
    heads = 1 if shortcut else 3
    stock = MultiheadAttention(24, heads, attn_drop=0.3, **options)
    ours = UnboundAttention(24, heads, attn_drop=0.3, **options)
    ours.load_state_dict(stock.state_dict())
    tokens = torch.randn(2, 7, 24)
    results, zeros = [], []
    for attention in (stock, ours):
        torch.manual_seed(1)  # of the dropout
        leaf = tokens.clone().requires_grad_()
        with Calls() as calls:
            output = attention(leaf)
            output.square().sum().backward()
        results.append(
            [output, leaf.grad, *(p.grad for p in attention.parameters())]
        )
        zeros.append(calls.count['select_backward'])
    assert zeros == [3, 0]
    assert all(torch.equal(*pair) for pair in zip(*results, strict=True))


def test_every_block_has_this_attention():
    """Of the backbone, fine-tuned or not, of projector and decoder."""
    model = small_model()
    classifier = MODELS.build(
        dict(
            type='SiameseIMViT',
            arch='tiny',
            out_type='avg_featmap',
            drop_path_rate=0.1,
        )
    )
    for part in (model, classifier):
        kinds = {
            type(module)
            for module in part.modules()
            if isinstance(module, MultiheadAttention)
        }
        assert kinds == {UnboundAttention}
    rates = [layer.ffn.dropout_layer.drop_prob for layer in classifier.layers]
    assert {type(rate) for rate in rates} == {float}
    assert rates == pytest.approx(torch.linspace(0, 0.1, 12).tolist())


def test_masked_pixels_do_not_change_the_loss():
    model = small_model().eval()
    (online_view, target_view), samples = small_batch()
    hidden = torch.stack([s.mask for s in samples]).view(-1, 1, 4, 4)
    pixels = hidden.repeat_interleave(4, 2).repeat_interleave(4, 3)
    noise = torch.where(pixels, 100 * torch.randn_like(online_view), 0)
    loss = model.loss([online_view, target_view], samples)['loss']
    same = model.loss([online_view + noise, target_view], samples)['loss']
    other = model.loss([online_view + 0.01, target_view], samples)['loss']
    assert loss == same
    assert loss != other


def test_the_prediction_depends_on_the_geometry():
    model = small_model().eval()
    inputs, samples = small_batch()
    before = model.loss(inputs, samples)['loss']
    samples[0].geometry = samples[0].geometry.inverse()
    assert model.loss(inputs, samples)['loss'] != before


@pytest.mark.parametrize('grid', [(4, 4), (3, 5), (2, 7)])
@pytest.mark.parametrize('patch', [4, 14])
@pytest.mark.parametrize('masked', [0, 1, 5])
def test_any_grid_and_any_number_of_masked_patches(grid, patch, masked):
    model = small_model(grid=grid, patch=patch)
    inputs, samples = small_batch(grid=grid, patch=patch, masked=masked)
    rows, cols = grid
    assert inputs[0].shape[2:] == (rows * patch, cols * patch)
    grads = gradients(model, inputs, samples)
    trained = {n for n, p in model.named_parameters() if p.requires_grad}
    assert grads.keys() == trained
    assert all(g.isfinite().all() for g in grads.values())


def test_masks_of_unequal_size_are_refused():
    model = small_model()
    inputs, samples = small_batch()
    samples[1].mask[:] = False
    with pytest.raises(SimimError, match=r'0 to 6.*`num_masked`'):
        model.loss(inputs, samples)


def test_the_target_starts_as_a_copy_and_moves_by_the_momentum():
    model = small_model()
    for branch in ('backbone', 'projector'):
        online = getattr(model, branch).state_dict()
        target = model.target[branch].state_dict()
        for name, value in online.items():
            assert torch.equal(value, target[name]), name
    start = model.target['projector'].embed.weight.clone()
    with torch.no_grad():
        model.projector.embed.weight += 1
    model.update_target(0.75)
    moved = model.target['projector'].embed.weight
    assert torch.allclose(moved, start + 0.25)


def test_the_target_has_no_stochastic_depth_and_no_dropout():
    config = small_config()
    config['backbone'] |= dict(drop_path_rate=0.9, drop_rate=0.9)
    config['backbone']['layer_cfgs'] = dict(attn_drop_rate=0.9)
    torch.manual_seed(0)
    model = MODELS.build(config)
    model.init_weights()
    view = torch.randn(4, 3, 16, 16)
    first, second = (model.train().encode_target(view) for _ in range(2))
    assert torch.equal(first, second)
    first, second = (model.backbone(view)[0] for _ in range(2))
    assert not torch.equal(first, second)
    model.eval()
    assert torch.equal(
        model.backbone(view)[0], model.target['backbone'](view)[0]
    )


def test_patch_embedding_and_positions_are_frozen():
    model = small_model()
    frozen = {
        name
        for name, p in model.named_parameters()
        if not p.requires_grad and not name.startswith('target.')
    }
    assert frozen == {
        'backbone.pos_embed',
        'backbone.patch_embed.projection.weight',
        'backbone.patch_embed.projection.bias',
        'neck.pos_embed',
    }


def test_features_equal_those_of_an_empty_mask():
    model = small_model().eval()
    inputs, _ = small_batch(masked=0)
    (tokens,) = model.extract_feat(inputs[0])
    everything = torch.arange(16).expand(4, -1)
    seen = model.backbone(inputs[0], everything)
    assert torch.allclose(tokens, seen, atol=1e-6)

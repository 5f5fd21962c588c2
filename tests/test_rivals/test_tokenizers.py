"""The tokenizers of BEiT."""

import pickle

import pytest
import torch
from mmengine.registry import init_default_scope
from mmpretrain.registry import MODELS
from torch.utils._python_dispatch import TorchDispatchMode

from simim_plugin.checkpoint import CheckpointError
from simim_plugin.errors import SimimError
from simim_plugin.rivals import (
    DALLETokenizer,
    FitTokenizerHook,
    PatchTokenizer,
    TokenHead,
    ViTBEiT,
)

SMALL = dict(n_hid=4, n_blk_per_group=1, vocab_size=16)


@pytest.fixture(autouse=True)
def scope():
    init_default_scope('mmpretrain')


def grey(*levels, size=4):
    """A row of grey patches, (1, 3, size, size x patches)."""
    row = torch.tensor(levels).repeat_interleave(size)
    return row.expand(1, 3, size, -1).clone()


def test_patches_get_the_number_of_the_nearest_centre():
    tokenizer = PatchTokenizer(num_tokens=3, patch_size=4)
    tokenizer.centres.copy_(torch.tensor([0.1, 0.5, 0.9])[:, None])
    numbers = tokenizer(grey(0.0, 0.45, 0.72, 1.0, 0.28))
    assert numbers.tolist() == [[0, 1, 2, 2, 0]]
    # Row by row, as the patches of the backbone.
    two_rows = torch.cat([grey(0.0, 0.5), grey(1.0, 0.0)], dim=2)
    assert tokenizer(two_rows).tolist() == [[0, 1, 2, 0]]


def test_the_fit_finds_clusters():
    torch.manual_seed(0)
    levels = torch.tensor([0.1, 0.4, 0.8]).repeat(40)
    noisy = grey(*levels.tolist()) + 0.02 * torch.randn(1, 3, 4, 480)
    tokenizer = PatchTokenizer(num_tokens=3, patch_size=4)
    # Lloyd's algorithm keeps a start with two centres in one cluster.
    for seed in range(20):
        torch.manual_seed(seed)
        tokenizer.fit(noisy, rounds=5)
        found = tokenizer.centres.mean(dim=1).sort().values
        if torch.allclose(found, torch.tensor([0.1, 0.4, 0.8]), atol=0.01):
            break
    else:
        pytest.fail(f'no start found the clusters: {found}')
    numbers = tokenizer(noisy).view(-1, 3)
    assert (numbers == numbers[0]).all()
    assert len(set(numbers[0].tolist())) == 3


def test_a_fit_lowers_the_distance():
    torch.manual_seed(0)
    pixels = torch.rand(8, 3, 16, 16)
    distances = []
    for rounds in (0, 1, 10):
        torch.manual_seed(1)
        tokenizer = PatchTokenizer(num_tokens=8, patch_size=4)
        tokenizer.fit(pixels, rounds)
        patches = tokenizer._patches(pixels)
        chosen = tokenizer.centres[tokenizer(pixels).flatten()]
        distances.append((patches - chosen).square().mean().item())
    assert distances == sorted(distances, reverse=True)
    assert distances[-1] < distances[0]


def test_dalle_reads_its_file_and_numbers_every_patch(tmp_path):
    torch.manual_seed(0)
    encoder = MODELS.build(dict(type='DALL-E', **SMALL))
    file = tmp_path / 'dalle_encoder.pth'
    torch.save(encoder.state_dict(), file)
    tokenizer = DALLETokenizer(str(file), patch_size=16, **SMALL)
    tokenizer.init_weights()
    view = torch.rand(2, 3, 64, 48)
    numbers = tokenizer(view)
    assert numbers.shape == (2, 4 * 3)
    small = torch.nn.functional.interpolate(
        view, (32, 24), mode='bicubic', antialias=True
    )
    direct = encoder(0.8 * small.clamp(0, 1) + 0.1).argmax(dim=1)
    assert torch.equal(numbers, direct.flatten(1))
    assert len(numbers.unique()) > 1
    assert not [p for p in tokenizer.parameters() if p.requires_grad]


def test_files_that_are_not_dalles_are_refused(tmp_path):
    plain = tmp_path / 'other.pth'
    torch.save({'blocks.weight': torch.ones(2)}, plain)
    with pytest.raises(CheckpointError, match='does not hold the encoder'):
        DALLETokenizer(str(plain), 16, **SMALL).init_weights()
    more = dict(SMALL, vocab_size=32)  # another codebook
    torch.save(MODELS.build(dict(type='DALL-E', **more)).state_dict(), plain)
    with pytest.raises(CheckpointError, match='with 16 tokens'):
        DALLETokenizer(str(plain), 16, **SMALL).init_weights()
    module = tmp_path / 'encoder.pkl'
    module.write_bytes(pickle.dumps(print))
    with pytest.raises(CheckpointError):
        DALLETokenizer(str(module), 16, **SMALL).init_weights()


def test_blank_images_hide_no_patch():
    """Few of the first patches differ, and enough of all."""
    torch.manual_seed(0)
    tokenizer = PatchTokenizer(64, 4)
    pixels = torch.zeros(512, 3, 8, 8)
    pixels[:, :, :4, :4] = torch.rand(512, 3, 1, 1)
    pixels[100:] = 0
    tokenizer.fit(pixels, rounds=1)
    assert len(tokenizer.centres.unique(dim=0)) == 64
    with pytest.raises(SimimError, match='found 11 different patches'):
        tokenizer.fit(pixels[90:], rounds=1)


BACKBONE = dict(
    type='MaskTokenViT',
    arch=dict(
        embed_dims=8, num_layers=1, num_heads=2, feedforward_channels=16
    ),
    img_size=8,
    patch_size=4,
)


PATCHES = dict(type='PatchTokenizer', num_tokens=4, patch_size=4)


def model_of(tokens=4, known=4, tokenizer=None, **backbone):
    return ViTBEiT(
        data_preprocessor=dict(
            type='PairDataPreprocessor', mean=[100.0] * 3, std=[50.0] * 3
        ),
        backbone=dict(BACKBONE, **backbone),
        head=dict(type='TokenHead', in_dims=8, num_tokens=tokens),
        target_generator=tokenizer or dict(PATCHES, num_tokens=known),
    )


class Sample:
    def __init__(self, *mask):
        self.mask = torch.tensor(mask)


def test_the_loss_is_that_of_the_masked_patches():
    torch.manual_seed(0)
    model = model_of()
    model.target_generator.centres.copy_(
        torch.tensor([0.0, 0.3, 0.6, 0.9])[:, None]
    )
    pixels = torch.cat([grey(0.0, 0.3), grey(0.6, 0.9)], dim=2)  # (1, 3, 8, 8)
    view = (255 * pixels - 100) / 50
    losses = model.loss([view], [Sample(False, True, True, False)])
    mask = torch.tensor([[False, True, True, False]])
    replaced = mask, model.mask_token
    (tokens,) = model.backbone(view, replaced=replaced)
    logits = model.head.tokens(tokens[0, [2, 3]])  # after the cls token
    logs = logits.log_softmax(dim=1)
    expected = -(logs[0, 1] + logs[1, 2]) / 2
    assert torch.allclose(losses['loss'], expected)
    # What is masked is not seen.
    other = view.clone()
    other[..., :4, 4:] = 9.0
    (seen,) = model.backbone(other, replaced=replaced)
    assert torch.equal(seen, tokens)


def test_autocast_changes_no_token():
    """In bfloat16 a patch between two centres would get the other."""
    torch.manual_seed(0)
    model = model_of(tokens=64, known=64)
    model.target_generator.centres.uniform_()
    view = torch.randn(64, 3, 8, 8)
    samples = [Sample(False, True, True, False)] * len(view)
    seen = []
    model.target_generator.register_forward_hook(
        lambda part, inputs, numbers: seen.append(numbers)
    )
    for enabled in (False, True):
        with torch.autocast('cpu', torch.bfloat16, enabled=enabled):
            model.loss([view], samples)
    assert torch.equal(*seen)


def test_the_tokenizer_takes_the_channels_of_the_backbone():
    model = model_of(in_channels=5)
    assert model.target_generator.centres.shape == (4, 5 * 4 * 4)


class Waits(TorchDispatchMode):
    """Count the values that Python reads from tensors."""

    count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        self.count += name == '_local_scalar_dense'
        return function(*args, **(kwargs or {}))


def test_a_fitted_tokenizer_does_not_wait_for_the_device():
    model = model_of()
    tokenizer = model.target_generator
    assert not tokenizer.fitted
    tokenizer.fit(torch.rand(4, 3, 8, 8), rounds=1)
    other = model_of()
    other.load_state_dict(model.state_dict())
    for tokenizer in (model.target_generator, other.target_generator):
        assert tokenizer.fitted
        with Waits() as waits:
            tokenizer(torch.rand(2, 3, 8, 8))
        assert waits.count == 0


def test_accuracy_counts_the_tokens():
    head = TokenHead(2, 2)
    head.tokens.weight.data = torch.eye(2)
    head.tokens.bias.data.zero_()
    features = torch.tensor([[[3.0, 0.0], [0.0, 3.0], [3.0, 0.0]]])
    losses = head.loss(features, torch.tensor([[0, 1, 1]]))
    assert losses['token_accuracy'].item() == pytest.approx(2 / 3)


WRONG = {
    'one token': (lambda: PatchTokenizer(1, 4), 'at least 2'),
    'images': (lambda: FitTokenizerHook(images=0), 'images=0'),
    'codebook': (lambda: model_of(tokens=8), 'knows 4 tokens and the head 8'),
    'patches': (
        lambda: model_of(tokenizer=dict(PATCHES, patch_size=2)),
        'patches of 2 x 2 pixels and the backbone has 4 x 4',
    ),
    'channels': (
        lambda: model_of(
            tokenizer=dict(PATCHES, in_channels=3), in_channels=4
        ),
        'takes 3 channels and the backbone 4',
    ),
    'colours of DALL-E': (
        lambda: model_of(
            16,
            tokenizer=dict(
                SMALL, type='DALLETokenizer', file='', patch_size=4
            ),
            in_channels=4,
        ),
        'takes 3 channels and the backbone 4',
    ),
    'not fitted': (
        lambda: PatchTokenizer(2, 4)(torch.ones(1, 3, 4, 4)),
        'add FitTokenizerHook',
    ),
    'few patches': (
        lambda: PatchTokenizer(4, 4).fit(grey(0.1, 0.1, 0.2), 1),
        'found 2 different patches for 4 tokens',
    ),
    'nothing masked': (
        lambda: model_of().loss([torch.ones(1, 3, 8, 8)], [Sample(*[0] * 4)]),
        'at least 1',
    ),
}


@pytest.mark.parametrize(('make', 'words'), WRONG.values(), ids=WRONG)
def test_wrong_settings_are_one_sentence(make, words):
    with pytest.raises(SimimError, match=words) as caught:
        make()
    assert '\n' not in str(caught.value)

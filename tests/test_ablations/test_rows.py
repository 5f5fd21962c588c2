"""Every row matches table 3 of the paper, builds anywhere and trains."""

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import default_collate
from mmengine.optim import build_optim_wrapper
from mmengine.registry import RUNNERS, init_default_scope
from mmpretrain.models import MAEPretrainHead
from mmpretrain.registry import HOOKS, MODELS, TRANSFORMS
from PIL import Image
from torch import nn

from simim_plugin import ablation_base
from simim_plugin.ablations import (
    GlobalHead,
    L2Head,
    MAELikeNorm,
    MoCoLikeNorm,
    NormedUniGradHead,
    PixelSiameseIM,
    PredictorHead,
    RandomMask,
    SameView,
)
from simim_plugin.datasets import BlockwiseMask, PairedViews
from simim_plugin.errors import SimimError
from simim_plugin.models import TokenBatchNorm, UniGradHead
from simim_plugin.runs.batch_norm import depends_on_sync_bn

from . import FILES, NAMES, ROWS, SCALES, load

# The columns of the paper's table 3: views, target, colour, mask, norm of
# projector and decoder, loss norm, loss, form.
TABLE_3 = {
    'mae': 'same pixel no random LN MAE-like dense L2',
    'a': 'same pixel no random LN MAE-like dense L2',
    'b': 'same feature no random LN MoCo-like dense UniGrad',
    'c': 'same pixel yes random LN MAE-like dense L2',
    'd': 'two pixel no random LN MAE-like dense L2',
    'e': 'two feature no random LN MoCo-like dense UniGrad',
    'f': 'two feature yes random LN MoCo-like dense UniGrad',
    'g': 'two feature yes random BN MoCo-like dense UniGrad',
    'h': 'two feature yes blockwise BN MoCo-like dense UniGrad',
    'i': 'two feature yes blockwise BN MAE-like dense UniGrad',
    'j': 'two feature yes blockwise BN MAE-like dense L2',
    'k': 'two feature yes random BN MoCo-like global UniGrad',
    'mocov3': 'two feature yes random BN MoCo-like global UniGrad',
}


@pytest.fixture(autouse=True)
def scope():
    init_default_scope('mmpretrain')


def build(config):
    """Build the model on the meta device, and the transforms."""
    with torch.device('meta'):
        model = MODELS.build(config.model)
    pipeline = config.train_dataloader.dataset.pipeline
    return model, [TRANSFORMS.build(t) for t in pipeline]


def one(transforms, kind):
    found = [t for t in transforms if isinstance(t, kind)]
    assert len(found) < 2
    return found[0] if found else None


def table_row(model, transforms):
    """Describe a built row in the terms of table 3."""
    views = one(transforms, PairedViews)
    mae = isinstance(model.head, MAEPretrainHead)
    two = views is not None and not isinstance(views, SameView)
    pixel = mae or isinstance(model, PixelSiameseIM)
    coloured = (
        [
            bool(view.transforms)
            for view in (views.online, views.target)[: 1 + two]
        ]
        if views
        else [False]
    )
    assert len(set(coloured)) == 1
    if mae:
        mask = 'random'
        assert model.backbone.mask_ratio == 0.75
    else:
        blocks = one(transforms, BlockwiseMask)
        mask = 'blockwise' if blocks else 'random'
        drawn = blocks or one(transforms, RandomMask)
        assert drawn.key == 'mask'
        share = (0.6 if blocks else 0.75) * np.prod(drawn.grid)
        assert drawn.num_masked == pytest.approx(share, abs=0.99)
    head, form = model.head, 'dense'
    if isinstance(head, PredictorHead):
        head = head.loss_module
    if isinstance(head, GlobalHead):
        head, form = head.head, 'global'
    if mae:
        assert isinstance(head.loss_module.penalty, nn.MSELoss)
        loss_norm = 'MAE-like' if head.norm_pix else 'none'
    else:
        norm = getattr(head, 'norm', MAELikeNorm())  # the method's own
        loss_norm = {MAELikeNorm: 'MAE-like', MoCoLikeNorm: 'MoCo-like'}[
            type(norm)
        ]
    kinds = {
        L2Head: 'L2',
        MAEPretrainHead: 'L2',
        NormedUniGradHead: 'UniGrad',
        UniGradHead: 'UniGrad',
    }
    above = [model.neck, model.head, getattr(model, 'projector', None)]
    norms = {
        'LN' if isinstance(module, nn.LayerNorm) else 'BN'
        for part in above
        if part is not None
        for module in part.modules()
        if isinstance(module, nn.LayerNorm | nn.BatchNorm1d | TokenBatchNorm)
    }
    return ' '.join(
        [
            'two' if two else 'same',
            'pixel' if pixel else 'feature',
            'yes' if coloured[0] else 'no',
            mask,
            *norms,
            loss_norm,
            form,
            kinds[type(head)],
        ]
    )


@pytest.mark.parametrize('scale', SCALES)
@pytest.mark.parametrize('name', TABLE_3)
def test_row_matches_table_3(name, scale, monkeypatch):
    built = build(load(name, scale, monkeypatch))
    assert table_row(*built) == TABLE_3[name]


def test_a_small_target_has_fixed_positions(monkeypatch):
    config = load('target-half', 'demo', monkeypatch)
    config.model.backbone.train_positions = True
    with pytest.raises(SimimError, match='train_positions of '):
        MODELS.build(config.model)


@pytest.mark.shared
def test_table_3_is_copied_correctly(shared):
    text = (shared / 'RESULTS.md').read_text().partition('Ablations')[2]
    rows = {}
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.split('|')[1:-1]]
        if len(cells) == 13:
            rows[cells[0]] = ' '.join(cells[1:9])
    names = {'mae': 'MAE', 'i': '(i) = default', 'mocov3': 'MoCo-v3 with mask'}
    for name, fields in TABLE_3.items():
        assert rows[names.get(name, f'({name})')] == fields


@pytest.mark.parametrize('file', FILES, ids=NAMES)
def test_row_config_is_short_and_titled(file):
    lines = file.read_text().splitlines()
    assert len(lines) <= 25
    assert lines[0] == "_base_ = __import__('simim_plugin').ablation_base()"
    assert lines[1].startswith(('# Row', '# Ours: '))


def recipe_of(config) -> str:
    pipeline = config.train_dataloader.dataset.pipeline
    parts = (config.model, pipeline, config.optim_wrapper)
    return repr((*parts, config.custom_hooks))


@pytest.mark.parametrize('scale', SCALES)
def test_row_i_is_the_base_and_no_other_row_is(scale, monkeypatch):
    seen = {}
    for name in NAMES:
        config = load(name, scale, monkeypatch)
        seen[name] = recipe_of(config)
    assert seen['i'] == recipe_of(Config.fromfile(ablation_base()))
    assert len(set(seen.values())) == len(NAMES)


def test_imagenet_scale_is_the_papers_400_epochs(monkeypatch):
    row = load('i', 'in1k', monkeypatch)
    file = 'siamese_im_vit-base-p16_8xb512-amp-coslr-400e_in1k.py'
    ours = Config.fromfile(ROWS.parent / 'siamese_im' / file)
    for name, value in ours.items():
        if name != 'custom_imports':
            assert row[name] == value, name


@pytest.mark.parametrize('scale', SCALES)
def test_builds_from_another_folder(scale, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for name in NAMES:
        config = load(name, scale, monkeypatch)
        model, transforms = build(config)
        for hook in config.custom_hooks:
            HOOKS.build(hook)
        momentum = 'MomentumHook' in str(config.custom_hooks)
        assert momentum == hasattr(model, 'update_target'), name
        assert ('sync_bn' in config) == depends_on_sync_bn(model), name
        # One grid everywhere, and views that fill it.
        grid = tuple(config.grid)
        assert model.backbone.patch_resolution == grid
        size = tuple(n * config.patch_size for n in grid)
        for transform in transforms:
            if hasattr(transform, 'num_masked'):
                assert transform.grid == grid, name
            if isinstance(transform, PairedViews):
                assert transform.size == size
                target = getattr(model.neck, 'target_grid', grid)
                assert getattr(transform, 'target_size', size) == tuple(
                    n * config.patch_size for n in target
                )


def test_an_unknown_scale_is_a_sentence(monkeypatch):
    with pytest.raises(SimimError, match=r"'tiny'.*SIMIM_SCALE.*in1k, cifar"):
        load('a', 'tiny', monkeypatch)


@pytest.fixture(scope='module')
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp('images')
    draw = np.random.default_rng(0)
    for index in range(4):
        pixels = draw.integers(0, 256, (9, 12, 3), np.uint8)
        image = Image.fromarray(pixels).resize((96, 72))
        image.save(folder / f'{index}.png')
    return folder


def small(config, images):
    """Reduce the row to four images."""
    config.train_dataloader.update(
        batch_size=4, num_workers=0, persistent_workers=False
    )
    config.train_dataloader.dataset.data_root = str(images)
    return config


@pytest.mark.parametrize('name', NAMES)
def test_takes_two_steps(name, monkeypatch, images):
    torch.manual_seed(0)
    config = small(load(name, 'demo', monkeypatch), images)
    model = MODELS.build(config.model)
    model.init_weights()
    model.train()
    optimizer = build_optim_wrapper(model, config.optim_wrapper)
    _, transforms = build(config)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    for _ in range(2):
        if hasattr(model, 'update_target'):
            model.update_target(0.9)
        samples = []
        for file in sorted(images.iterdir()):
            results = dict(img_path=str(file))
            for transform in transforms:
                results = transform(results)
            samples.append(results)
        outputs = model.train_step(default_collate(samples), optimizer)
        assert outputs['loss'].isfinite()
        assert outputs['loss'] > 0
    # Every trained part moves, and so does its momentum copy.
    still = {
        n
        for n, p in model.named_parameters()
        if p.isfinite().all() and torch.equal(p, before[n])
    }
    fixed = ('pos_embed', 'patch_embed.projection')
    assert not [n for n in still if not any(part in n for part in fixed)]
    patches = 'backbone.patch_embed.projection.weight'
    assert (patches in still) == (name not in ('mae', 'trained-patch-embed'))


@pytest.mark.slow
@pytest.mark.parametrize('name', ['a', 'mae', 'mocov3', 'target-random'])
def test_runs(name, monkeypatch, images, tmp_path):
    """The Runner trains the rows that differ most from the method."""
    config = small(load(name, 'demo', monkeypatch), images)
    config.train_cfg.max_epochs = 2
    config.work_dir = str(tmp_path)
    config.default_hooks.checkpoint.interval = 1
    runner = RUNNERS.build(config)
    runner.train()
    saved = torch.load(tmp_path / 'epoch_2.pth', weights_only=False)
    assert 'backbone.cls_token' in saved['state_dict']

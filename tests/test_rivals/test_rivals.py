"""The configs of the rivals build, train, resume and agree over processes."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import default_collate
from mmengine.fileio import load as load_file
from mmengine.optim import build_optim_wrapper
from mmengine.registry import RUNNERS, init_default_scope
from mmpretrain.registry import HOOKS, MODELS, TRANSFORMS
from PIL import Image

from simim_plugin.benchmarks.timing import count_flops
from simim_plugin.benchmarks.training import pretraining_step
from simim_plugin.checkpoint import read_checkpoint, read_weights
from simim_plugin.config_files import config_path
from simim_plugin.engine import MomentumHook
from simim_plugin.errors import SimimError
from simim_plugin.rivals import (
    AssignmentHead,
    CropMasks,
    DenseContrastHead,
    DistillationHead,
    HoldLastLayerHook,
    InfoNCEHead,
    MultiCropViews,
    RepeatedSampler,
    StepEMAHook,
    TemperatureHook,
)
from simim_plugin.rivals.assignment import target_assignments
from simim_plugin.rivals.moving import Centre, KeyQueue
from simim_plugin.runs.batch_norm import depends_on_sync_bn
from simim_plugin.settings import check_settings
from simim_plugin.settings.channels import fit_channels
from simim_plugin.settings.sizes import apply_img_size

from ..test_engine.training import GUARD, Pairs, trainer

CONFIGS = Path(__file__).resolve().parents[2] / 'configs' / 'rivals'
NAMES = [
    file.stem.removeprefix('siamese_im_rival-')
    for file in sorted(CONFIGS.glob('*.py'))
]
SCALES = ('in1k', 'cifar10', 'demo')
NO_TEACHER = ('beit', 'supervised')


@pytest.fixture(autouse=True)
def scope():
    init_default_scope('mmpretrain')


def load(name, scale, monkeypatch):
    monkeypatch.setenv('SIMIM_SCALE', scale)
    kind = 'row' if name == 'mae' else 'rival'
    return Config.fromfile(config_path(f'siamese_im_{kind}-{name}.py'))


@pytest.fixture(scope='module')
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp('images')
    draw = np.random.default_rng(0)
    for index in range(8):
        pixels = draw.integers(0, 256, (9, 12, 3), np.uint8)
        image = Image.fromarray(pixels).resize((96, 72))
        file = folder / 'ab'[index % 2] / f'{index}.png'
        file.parent.mkdir(exist_ok=True)
        image.save(file)
    return folder


def batch_of(config, images):
    transforms = [
        TRANSFORMS.build(t) for t in config.train_dataloader.dataset.pipeline
    ]
    samples = []
    for file in sorted(images.glob('*/*'))[:4]:
        results = dict(img_path=str(file), gt_label=1)
        for transform in transforms:
            results = transform(results)
        samples.append(results)
    return default_collate(samples)


def built(config, channels=3):
    """Build a model; the tokenizer of BEiT is fitted on noise."""
    model = MODELS.build(config.model)
    model.init_weights()
    if getattr(model, 'target_generator', None) is not None:
        size = config.crop['size']
        noise = torch.rand(16, channels, size, size)
        model.target_generator.fit(noise, rounds=1)
    return model


@pytest.mark.parametrize('scale', SCALES)
@pytest.mark.parametrize('name', NAMES)
def test_builds(name, scale, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    config = load(name, scale, monkeypatch)
    with torch.device('meta'):
        model = MODELS.build(config.model)
    for hook in config.custom_hooks:
        HOOKS.build(hook)
    for transform in config.train_dataloader.dataset.pipeline:
        TRANSFORMS.build(transform)
    assert ('sync_bn' in config) == depends_on_sync_bn(model)
    assert model.backbone.patch_resolution == tuple(config.grid)
    moves = name not in NO_TEACHER
    assert ('MomentumHook' in str(config.custom_hooks)) == moves


def test_each_has_an_entry_and_a_section():
    index = load_file(CONFIGS / 'metafile.yml')
    files = [model['Config'] for model in index['Models']]
    root = CONFIGS.parents[1]
    assert all((root / file).is_file() for file in files)
    assert {Path(file).stem for file in files} == {
        'siamese_im_row-mae',
        *(f'siamese_im_rival-{name}' for name in NAMES),
    }
    text = (root / 'docs' / 'rivals.md').read_text()
    sections = {
        title.lower().replace(' ', '-')
        for title in re.findall('^### (.+)$', text, re.M)
    }
    assert sections == {'mae', *NAMES}


@pytest.mark.parametrize('name', sorted({*NAMES} - {*NO_TEACHER}))
def test_the_teacher_has_no_stochastic_depth(name, monkeypatch):
    """DINO and iBOT have it in the student alone."""
    config = load(name, 'demo', monkeypatch)
    config.model.backbone.drop_path_rate = 0.9
    model = built(config).train()
    view = torch.randn(8, 3, 48, 48)
    first, second = (model.teacher_tokens(view) for _ in range(2))
    assert torch.equal(first, second)
    first, second = (model.student_tokens(view) for _ in range(2))
    assert not torch.equal(first, second)


@pytest.mark.parametrize('name', NAMES)
def test_takes_two_steps(name, monkeypatch, images):
    torch.manual_seed(0)
    config = load(name, 'demo', monkeypatch)
    model = built(config)
    model.train()
    optimizer = build_optim_wrapper(model, config.optim_wrapper)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    moves = getattr(model, 'update_target', lambda momentum: None)
    for _ in range(2):
        moves(0.9)
        outputs = model.train_step(batch_of(config, images), optimizer)
        assert outputs['loss'].isfinite()
    moves(0.9)
    still = {
        n for n, p in model.named_parameters() if torch.equal(p, before[n])
    }
    fixed = ('pos_embed', 'patch_embed.projection')
    assert not [n for n in still if not any(part in n for part in fixed)]
    patches = 'backbone.patch_embed.projection.weight'
    assert (patches in still) == (name in ('moco-v3', 'densecl'))


@pytest.mark.slow
@pytest.mark.parametrize('name', [*NAMES, 'mae'])
def test_resumes_bit_for_bit(name, monkeypatch, images, tmp_path):
    """Centres, temperatures, the held layer and the masks of MAE, too."""
    states = []
    for part in ('whole', 'resumed'):
        torch.manual_seed(0)
        config = load(name, 'demo', monkeypatch)
        config.train_dataloader.update(
            batch_size=2, num_workers=0, persistent_workers=False
        )
        config.train_dataloader.dataset.data_root = str(images)
        config.train_cfg.max_epochs = 2
        config.auto_scale_lr.enable = False
        config.optim_wrapper.accumulative_counts = 2
        config.default_hooks.checkpoint.update(
            by_epoch=False, interval=2, max_keep_ckpts=-1
        )
        if name == 'beit':  # eight images have few patches
            config.model.target_generator.num_tokens = 16
            config.model.head.num_tokens = 16
        if name == 'supervised':
            config.model.data_preprocessor.num_classes = 2
            config.model.head.num_classes = 2
            averaging = dict(type='StepEMAHook', momentum=0.25)
            config.custom_hooks.append(averaging)
        config.work_dir = str(tmp_path / part)
        config.experiment_name = f'{name}-{part}'
        if part == 'resumed':
            config.load_from = str(tmp_path / 'whole' / 'iter_6.pth')
            config.resume = True
        RUNNERS.build(config).train()
        states.append(read_checkpoint(tmp_path / part / 'iter_8.pth'))
    one, two = states
    if name == 'supervised':
        for key, value in one['ema_state_dict'].items():
            assert torch.equal(value, two['ema_state_dict'][key]), key
        assert one['ema_state_dict']['steps'] == 4  # of 8 batches
    for key, value in one['state_dict'].items():
        assert torch.equal(value, two['state_dict'][key]), key
    moments = (state['optimizer']['state'] for state in states)
    for mine, theirs in zip(*(m.values() for m in moments), strict=True):
        for key, value in mine.items():
            assert torch.equal(value, theirs[key]), key


def test_beit_trains_in_a_loop_of_iterations(monkeypatch, images, tmp_path):
    config = load('beit', 'demo', monkeypatch)
    config.merge_from_dict(
        dict(
            train_cfg=dict(
                _delete_=True, type='IterBasedTrainLoop', max_iters=2
            ),
            train_dataloader=dict(
                batch_size=2,
                num_workers=0,
                persistent_workers=False,
                sampler=dict(type='InfiniteSampler'),
                dataset=dict(data_root=str(images)),
            ),
            model=dict(
                target_generator=dict(num_tokens=16),
                head=dict(num_tokens=16),
            ),
            auto_scale_lr=dict(enable=False),
            param_scheduler=[],
            default_hooks=dict(checkpoint=None),
            log_processor=dict(by_epoch=False),
            work_dir=str(tmp_path),
            experiment_name='beit-iterations',
        )
    )
    runner = RUNNERS.build(config)
    runner.train()
    assert runner.iter == 2
    assert runner.model.target_generator.fitted


def test_an_average_stays_where_a_step_is_skipped(tmp_path):
    averaging = dict(type='StepEMAHook', momentum=0.25)
    runner = trainer(tmp_path)(GUARD, averaging, dataset=Pairs(spoiled=[4]))
    (hook,) = (h for h in runner.hooks if isinstance(h, StepEMAHook))
    assert hook.ema_model.steps == 5  # of 6 steps


def test_the_average_of_a_held_backbone_is_the_backbone(tmp_path):
    holding = dict(type='HoldBackboneHook', epochs=1)
    averaging = dict(type='StepEMAHook', momentum=0.25)
    runner = trainer(tmp_path)(holding, averaging)
    (hook,) = (h for h in runner.hooks if isinstance(h, StepEMAHook))
    assert hook.ema_model.steps == 6
    average = hook.ema_model.module.state_dict()
    for name, value in runner.model.state_dict().items():
        if name.startswith('backbone.'):
            assert torch.equal(value, average[name]), name


MISSING = {
    'TemperatureHook': (
        dict(start=0.1, end=0.1, epochs=1),
        'head.teacher_temperature',
    ),
    'HoldLastLayerHook': ({}, 'neck.last_layer'),
    'FitTokenizerHook': ({}, 'target_generator'),
}


@pytest.mark.parametrize('kind', MISSING)
def test_a_hook_without_its_part_is_refused(kind, tmp_path):
    options, part = MISSING[kind]
    words = f'{kind} needs {part} of the model, which SiameseIM does not'
    with pytest.raises(SimimError, match=words):
        trainer(tmp_path)(dict(options, type=kind))


POOLS = dict(beit='mean', dino='cls', ibot='cls', msn='cls', densecl='mean')


@pytest.mark.parametrize('name', NAMES)
def test_an_encoder_is_read_as_its_method_does(name, monkeypatch, tmp_path):
    config = load(name, 'demo', monkeypatch)
    model = MODELS.build(config.model)
    torch.save(dict(state_dict=model.state_dict()), tmp_path / 'run.pth')
    branches = ('online', *['teacher'] * (name not in NO_TEACHER))
    for branch in branches:
        weights = read_weights(tmp_path / 'run.pth', branch)
        assert weights.family.pool == POOLS.get(name, 'cls')
        assert weights.options(4)['final_norm']


def test_a_centre_moves_once_a_step_and_not_after_a_skipped_one():
    centre = Centre(3, momentum=0.5)
    centre.observe(torch.tensor([[1.0, 2.0, 3.0]]))
    centre.observe(torch.tensor([[3.0, 2.0, 1.0]]))
    assert not centre.value.any()
    centre.move()
    assert centre.value.tolist() == [1.0, 1.0, 1.0]
    centre.observe(torch.full((1, 3), torch.nan))
    centre.forget()
    centre.move()
    assert centre.value.tolist() == [1.0, 1.0, 1.0]


def test_a_queue_takes_the_newest_keys():
    queue = KeyQueue(2, 3)
    first = queue.value.clone()
    keys = torch.eye(2)
    queue.observe(keys)
    assert torch.equal(queue.value, first)
    queue.forget()
    queue.move()
    assert torch.equal(queue.value, first)
    for _ in range(2):
        queue.observe(keys)
        queue.move()
    # Four keys in three places: the fourth replaces the first.
    assert queue.value.T.tolist() == [[0, 1], [0, 1], [1, 0]]


def test_multi_crop_views():
    red = dict(type='FastGrayscale', prob=1.0)
    transform = MultiCropViews(
        [
            dict(size=32, crop_scale=(0.3, 1.0), number=2),
            dict(size=(8, 16), crop_scale=(0.05, 0.3), colours=[red]),
        ]
    )
    image = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
    views = transform({'img': image})['img']
    assert [view.shape for view in views] == [
        (32, 32, 3),
        (32, 32, 3),
        (8, 16, 3),
    ]
    assert (views[2][..., 0] == views[2][..., 1]).all()
    assert not np.array_equal(views[0], views[1])


def test_crop_masks():
    transform = CropMasks(grid=(8, 8), ratio=(0.1, 0.5), prob=0.5)
    masks = np.stack([transform({})['mask'] for _ in range(200)])
    assert masks.shape == (200, 2, 64)
    counts = masks.sum(axis=-1)
    masked = counts[counts > 0]
    assert 0.4 < len(masked) / counts.size < 0.6
    assert (masked.min(), masked.max()) == (6, 32)


def test_copies_of_an_image_are_shared_and_drawn_apart(monkeypatch):
    draws = []
    for rank in (0, 1):
        sampler = RepeatedSampler(range(6), seed=3)
        sampler.rank, sampler.world_size = rank, 2
        sampler.num_samples, sampler.total_size = 3, 6
        sampler.start(epoch=1, first=0)
        draws.append([*sampler])
        sampler.start(epoch=1, first=1)
        assert [*sampler] == draws[-1][1:]
    shared = [draw for pair in zip(*draws, strict=True) for draw in pair]
    assert len({draw.image for draw in shared}) == 2
    assert [d.image == shared[0].image for d in shared] == 3 * [True] + 3 * [
        False
    ]
    assert len(set(shared)) == 6
    sampler.start(epoch=2, first=0)
    assert not set(sampler) & set(shared)
    still = RepeatedSampler(range(4), shuffle=False)
    assert [draw.image for draw in still] == [0, 0, 0, 1]


WRONG = {
    'repeats': (lambda: RepeatedSampler(range(2), repeats=0), 'at least 1'),
    'teacher temperature': (
        lambda: DistillationHead(8, teacher_temperature=0.0),
        'teacher_temperature of DistillationHead is 0.0',
    ),
    'outputs': (lambda: DistillationHead(1), 'at least 2'),
    'prototypes': (lambda: AssignmentHead(4, num_prototypes=1), 'at least 2'),
    'sharpening': (lambda: AssignmentHead(4, sharpening=0), 'above 0'),
    'ratio': (lambda: CropMasks(8, ratio=(0.0, 0.5)), '0 < low <= high < 1'),
    'masked crops': (
        lambda: CropMasks(8, prob=0.0),
        'prob of CropMasks is 0.0',
    ),
    'crop key': (
        lambda: MultiCropViews([dict(size=8, scale=(0.1, 1.0))]),
        'give it size and crop_scale',
    ),
    'crop scale': (
        lambda: MultiCropViews([dict(size=8, crop_scale=(0.5, 2.0))]),
        '0 < low <= high <= 1',
    ),
    'temperature': (lambda: TemperatureHook(0.0, 0.1, 3), 'above 0'),
    'held': (lambda: HoldLastLayerHook(0), 'epochs=0'),
    'contrast temperature': (
        lambda: InfoNCEHead(dict(type='FeatureMLP'), temperature=0.0),
        'temperature of InfoNCEHead is 0.0',
    ),
    'momentum': (
        lambda: MomentumHook(schedule='sine'),
        'set schedule to cosine or linear',
    ),
    'queue': (lambda: DenseContrastHead(4, queue_length=0), 'queue_length=0'),
}


@pytest.mark.parametrize(('make', 'words'), WRONG.values(), ids=WRONG)
def test_wrong_settings_are_one_sentence(make, words):
    with pytest.raises(SimimError, match=words) as caught:
        make()
    assert '\n' not in str(caught.value)


@pytest.mark.parametrize('name', ['dino', 'ibot', 'moco-v3', 'msn'])
def test_a_backbone_without_a_cls_token_is_refused(name, monkeypatch):
    """The first patch would be taken for it."""
    config = load(name, 'demo', monkeypatch)
    config.model.backbone.with_cls_token = False
    with pytest.raises(SimimError, match=r'set .*with_cls_token to True'):
        MODELS.build(config.model)


@pytest.mark.parametrize('name', ['dino', 'ibot'])
def test_a_loss_has_terms_of_patches_or_none(name, monkeypatch):
    config = load(name, 'demo', monkeypatch)
    config.model.head.with_patches = name == 'dino'
    with pytest.raises(SimimError, match='set with_patches of '):
        MODELS.build(config.model)


def test_crops_and_loss_have_as_many_global_ones(monkeypatch):
    config = load('ibot', 'demo', monkeypatch)
    check_settings(config)
    config.model.head.num_global = 1
    with pytest.raises(SimimError, match='num_global is 2 and '):
        check_settings(config)


def test_views_that_are_not_normalised(monkeypatch, images):
    config = load('beit', 'demo', monkeypatch)
    config.model.data_preprocessor.update(mean=None, std=None)
    model = built(config)
    batch = model.data_preprocessor(batch_of(config, images), training=True)
    losses = model.loss(batch['inputs'], batch['data_samples'])
    assert losses['loss'].isfinite()


def test_sharp_targets_are_finite():
    torch.manual_seed(0)
    targets, prototypes = torch.randn(4, 16), torch.randn(128, 16)
    found = target_assignments(targets, prototypes, 0.03, 0.25)
    assert found.isfinite().all()
    assert torch.allclose(found.sum(dim=1), torch.ones(4))


@pytest.mark.parametrize('name', ['beit', 'ibot'])
def test_a_backbone_that_cannot_replace_patches_is_refused(name, monkeypatch):
    config = load(name, 'demo', monkeypatch)
    config.model.backbone.type = 'SiameseIMViT'
    with pytest.raises(SimimError, match="to 'MaskTokenViT'"):
        MODELS.build(config.model)


@pytest.mark.parametrize('name', ['beit', 'densecl'])
def test_patches_need_no_cls_token(name, monkeypatch, images):
    config = load(name, 'demo', monkeypatch)
    config.model.backbone.with_cls_token = False
    model = built(config)
    batch = model.data_preprocessor(batch_of(config, images), training=True)
    losses = model.loss(batch['inputs'], batch['data_samples'])
    assert losses['loss'].isfinite()


@pytest.mark.parametrize('name', ['dino', 'ibot'])
def test_one_crop_has_no_other(name, monkeypatch, images):
    config = load(name, 'demo', monkeypatch)
    model = MODELS.build(config.model)
    batch = model.data_preprocessor(batch_of(config, images), training=True)
    with pytest.raises(SimimError, match='An image has 1 crops'):
        model.loss(batch['inputs'][:1], batch['data_samples'])


def test_one_size_does_not_set_crops_of_many(monkeypatch):
    config = load('dino', 'demo', monkeypatch)
    config.img_size = 96
    with pytest.raises(SimimError, match='leave img_size out'):
        apply_img_size(config)


@pytest.mark.parametrize('name', [n for n in NAMES if n != 'supervised'])
def test_images_of_four_channels(name, monkeypatch):
    """The colours of each crop and BEiT's tokenizer follow the backbone."""
    config = load(name, 'demo', monkeypatch)
    config.model.backbone.in_channels = 4
    config.model.data_preprocessor.update(mean=[100.0] * 4, std=[50.0] * 4)
    left_out = fit_channels(config)
    assert 'saturation' not in str(config.train_dataloader)
    assert 'FastColorJitter.saturation' in left_out
    model = built(config, channels=4)
    pipeline = config.train_dataloader.dataset.pipeline[1:]
    image = np.random.default_rng(0).integers(0, 256, (72, 96, 4), np.uint8)
    samples = []
    for _ in range(3):
        results = dict(img=image)
        for transform in pipeline:
            results = TRANSFORMS.build(transform)(results)
        samples.append(results)
    batch = model.data_preprocessor(default_collate(samples), training=True)
    loss = model.loss(batch['inputs'], batch['data_samples'])['loss']
    assert loss.isfinite()


@pytest.mark.parametrize('name', [*NAMES, 'mae'])
def test_losses_are_float32_under_autocast(name, monkeypatch, images):
    torch.manual_seed(0)
    config = load(name, 'demo', monkeypatch)
    model = built(config)
    batch = model.data_preprocessor(batch_of(config, images), training=True)
    with torch.autocast('cpu', torch.bfloat16):
        losses = model.loss(batch['inputs'], batch['data_samples'])
    assert {loss.dtype for loss in losses.values()} == {torch.float32}


@pytest.mark.parametrize('name', ['dino', 'densecl'])
def test_a_skipped_step_moves_no_centre_or_queue(name, monkeypatch, images):
    torch.manual_seed(0)
    config = load(name, 'demo', monkeypatch)
    model = MODELS.build(config.model)
    model.init_weights()
    batch = model.data_preprocessor(batch_of(config, images), training=True)
    model.loss(batch['inputs'], batch['data_samples'])
    model.update_target(1.0)
    before = {n: x.clone() for n, x in model.head.named_buffers()}
    model.loss(batch['inputs'], batch['data_samples'])
    model.forget_step()
    model.update_target(1.0)
    for buffer, value in model.head.named_buffers():
        assert torch.equal(value, before[buffer]), buffer


@pytest.mark.parametrize(
    'name',
    [
        'siamese_im_row-i',
        'siamese_im_row-mae',
        *(f'siamese_im_rival-{name}' for name in NAMES),
    ],
)
def test_a_step_is_measured(name, monkeypatch):
    monkeypatch.setenv('SIMIM_SCALE', 'demo')
    torch.manual_seed(0)
    step = pretraining_step(f'{name}.py', batch=2, bf16=False)
    # Between a forward pass of the encoder and ten of them, with gradients.
    assert 0.05 < count_flops(step) / 2 / 1e9 < 3

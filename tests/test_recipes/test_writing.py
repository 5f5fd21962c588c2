"""Written configs say what was decided, and mean what they say."""

import zipfile
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from mmengine.config import Config
from mmpretrain.registry import OPTIM_WRAPPERS

from simim_plugin import config_path
from simim_plugin.benchmarks.memory import Peak, fit_held
from simim_plugin.checkpoint.families import PLAIN
from simim_plugin.commands.protocols import dictionaries, fit_model
from simim_plugin.engine import AutocastOptimWrapper
from simim_plugin.errors import SimimError
from simim_plugin.models import SiameseIMViT
from simim_plugin.recipes.configuring import Choices, make_recipe
from simim_plugin.recipes.machine import (
    HELD,
    UNTRIED,
    Machine,
    Need,
    Precision,
    cpu_precision,
    gpu_precision,
    largest_batch,
    need,
)
from simim_plugin.recipes.plans import (
    UNTRAINED,
    Plan,
    epochs_for,
    power_of_two,
    square_root_lr,
    warn,
)
from simim_plugin.recipes.written import MOST_LINES, WIDTH, Code, Written
from simim_plugin.settings import apply_img_size, check_settings

from ..test_checkpoint.families import saved
from ..test_checkpoint.helpers import HEADS
from ..test_checkpoint.test_preprocessing import AUGREG, timm_folder
from .data import CLASSES, class_folders, coco, label_maps

CPU = Machine('CPU', 12.0, 2, gpu=False)
GPU = Machine('a GPU', 24.0, 16, True, gpu_precision((8, 0)))
BASE = 'siamese_im_vit-tiny-p16_knn_in1k.py'


def test_text_of_settings(tmp_path):
    out = Written(BASE, ['One line.', 'Another.'])
    out.set('img_size', 96, 'why')
    out.set('model.backbone.arch', 'small', 'a long reason ' * 5)
    out.set('model.backbone.pretrained', "it's a file.pth")
    out.set('train_dataloader.dataset.path', 'a' * 60)
    out.set('train_dataloader.dataset.other', (1,))
    out.set('optim_wrapper.lr', 122.7709383)
    out.set('val_dataloader', Code('dict(a=[img_size])'))
    out.set('img_size', 128, 'later')
    text = str(out)
    assert text.startswith('# One line.\n# Another.\n_base_ = ')
    assert 'img_size = 128  # later\n' in text
    assert '# a long reason a long reason' in text
    file = tmp_path / 'written.py'
    file.write_text(text)
    config = Config.fromfile(file)
    assert config.model.backbone.pretrained == "it's a file.pth"
    assert config.model.backbone.arch == 'small'
    assert config.train_dataloader.dataset.other == (1,)
    assert config.optim_wrapper.lr == 122.7709383
    assert config.val_dataloader.a == [128]


def test_rules_of_plans():
    assert square_root_lr(1e-3, 1024, 256) == pytest.approx(5e-4)
    assert square_root_lr(1e-3, 1024, 4096) == 1e-3
    assert [power_of_two(n) for n in (0.3, 1, 3.9, 64)] == [1, 1, 2, 64]
    assert epochs_for(1000, 100, 500, 10, 90) == 50
    assert epochs_for(1000, 100, 5000, 10, 90) == 90
    assert epochs_for(10, 100, 5, 10, 90) == 10
    plan = Plan(100, 4, 2, 3, 1e-5, 1, 1e-3)
    assert (plan.total, plan.steps, plan.batches()) == (8, 36, 72)
    warn(plan, 'classification', {'a': 9, 'b': 1})
    few, low, small = plan.warnings
    assert '36 optimizer steps' in few
    assert '1e-05' in low
    assert '2 classes and 1 training pictures of b' in small


@pytest.mark.parametrize(
    ('task', 'folder'), [('detection', 'boxes'), ('segmentation', 'maps')]
)
def test_short_runs_of_new_heads_learn(task, folder, data, tmp_path):
    """The rule of a large batch leaves 600 steps of two images no room."""
    recipe, config = written(task, tmp_path / 'a.py', data / folder)
    assert config.optim_wrapper.optimizer.lr == 1e-3
    recipe, config = written(
        *(task, tmp_path / 'b.py', data / folder), arch='base'
    )
    assert config.optim_wrapper.optimizer.lr == 2.5e-4
    assert not any('learning rate' in w for w in recipe.plan.warnings)


def test_a_batch_fits_the_memory():
    step = need('finetune', GPU, (768, 12), 224, 16)
    batch = largest_batch(GPU, step, 4096)
    assert batch & (batch - 1) == 0
    assert step.gib(batch) <= 0.7 * 24 < step.gib(2 * batch)
    assert largest_batch(GPU, step, 8) == 8
    assert largest_batch(GPU, Need(0, 2.0**40), 8) == 1
    detector = [
        need('vitdet', GPU, (768, 12), 1024, 16, masks) for masks in (0, 1)
    ]
    assert detector[0].image < detector[1].image
    classes = [
        need('upernet', machine, (768, 12), 512, 16, classes=count)
        for machine in (CPU, GPU)
        for count in (2, 150)
    ]
    assert classes[0].image < classes[1].image
    assert classes[2].image < classes[3].image
    single = replace(GPU, precision=Precision('fp32', 'old'))
    assert need('finetune', single, (768, 12), 224, 16).image > step.image


@given(
    kind=st.sampled_from([*HELD]),
    sizes=st.tuples(st.integers(16, 1600), st.integers(1, 48)),
    side=st.integers(2, 64).map(lambda n: 16 * n),
    free=st.floats(0.1, 512),
    most=st.integers(1, 4096),
    gpu=st.booleans(),
)
def test_no_batch_exceeds_the_memory_by_the_table(
    kind, sizes, side, free, most, gpu
):
    machine = Machine('it', free, 2, gpu)
    step = need(kind, machine, sizes, side, 16, classes=3)
    if not gpu and step.gib(1) > free:
        with pytest.raises(SimimError, match=r'A step of one image takes'):
            largest_batch(machine, step, most)
        return
    batch = largest_batch(machine, step, most)
    assert 1 <= batch <= most
    assert batch == 1 or step.gib(batch) <= 0.7 * free
    assert gpu or step.gib(batch) <= free
    if 2 * batch <= most:
        assert step.gib(2 * batch) > 0.7 * free


@given(
    kind=st.sampled_from([*HELD]),
    sizes=st.tuples(st.integers(16, 1600), st.integers(1, 48)),
    more=st.tuples(st.integers(0, 400), st.integers(0, 12)),
)
def test_larger_encoders_hold_more_by_the_table(kind, sizes, more):
    larger = (sizes[0] + more[0], sizes[1] + more[1])
    small, large = (need(kind, CPU, s, 224, 16) for s in (sizes, larger))
    assert small.fixed <= large.fixed
    assert small.gib(8) <= large.gib(8)


def test_the_table_is_above_what_is_measured():
    peaks = [
        Peak(16, 8, 1.0),
        Peak(16, 32, 1.2),
        Peak(64, 32, 1.7),
        Peak(64, 8, 1.19),
    ]
    held = fit_held(peaks)
    assert min(held) >= 0
    for one in peaks:
        image = held.image * 2**20 + held.patch * 2**10 * one.patches
        found = Need(held.fixed * 2**30, image).gib(one.batch)
        assert one.gib - 1e-9 <= found <= one.gib + 0.1


def test_little_memory_is_reported(data, tmp_path):
    small = Machine('CPU', 0.5, 2, gpu=False)
    with pytest.raises(SimimError, match=r'and 0\.5 GiB are free; lower'):
        written('detection', tmp_path / 'a.py', data / 'boxes', small)
    recipe, _ = written(
        *('detection', tmp_path / 'a.py', data / 'boxes', small),
        batch_size=1,
    )
    assert any('0.5 GiB are free' in w for w in recipe.plan.warnings)


def test_upernet_takes_two_pictures_or_more(data, tmp_path):
    """Its normalisation has no variance in one."""
    tight = Machine('CPU', 2.0, 2, gpu=False)
    _, config = written(
        'segmentation', tmp_path / 'a.py', data / 'maps', tight
    )
    assert config.train_dataloader.batch_size >= 2
    with pytest.raises(SimimError, match='set --batch-size 2 or more'):
        written(
            *('segmentation', tmp_path / 'b.py', data / 'maps'), batch_size=1
        )


def test_rules_of_precision():
    names = [gpu_precision(c).name for c in ((9, 0), (8, 0), (7, 5), (6, 1))]
    assert names == ['bf16', 'bf16', 'fp16', 'fp32']
    assert '7.5' in gpu_precision((7, 5)).why
    assert cpu_precision(True) == UNTRIED
    assert cpu_precision(False).name == cpu_precision(None).name == 'fp32'


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp('own data')
    class_folders(root / 'classes')
    coco(root / 'boxes')
    coco(root / 'boxes alone', masks=False)
    label_maps(root / 'maps')
    return root


JOBS = [
    ('pretraining', None, 'classes'),
    ('classification', 'finetune', 'classes'),
    ('classification', 'linear', 'classes'),
    ('classification', 'knn', 'classes'),
    ('classification', 'logistic', 'classes'),
    ('detection', None, 'boxes'),
    ('detection', None, 'boxes alone'),
    ('segmentation', 'upernet', 'maps'),
    ('segmentation', 'linear', 'maps'),
]
FROZEN = ('linear', 'knn', 'logistic')


def written(task, out, data, machine=CPU, **choices):
    recipe = make_recipe(task, str(data), out, Choices(**choices), machine)
    recipe.write(out)
    return recipe, Config.fromfile(out)


def needed(kind, method, tmp_path):
    """Return an encoder where the method cannot do without."""
    if kind is None and method not in FROZEN:
        return None
    return str(saved(kind or 'dinov2', tmp_path)[1])


@pytest.mark.parametrize('machine', [CPU, GPU], ids=['cpu', 'gpu'])
@pytest.mark.parametrize('kind', [None, 'dinov2-registers', 'siglip'])
@pytest.mark.parametrize(('task', 'method', 'folder'), JOBS)
def test_written_configs_pass_the_check(
    task, method, folder, kind, machine, data, tmp_path
):
    """Every task takes every encoder."""
    encoder = needed(kind, method, tmp_path)
    if encoder and method == 'upernet':  # the encoder has two blocks
        with pytest.raises(SimimError, match='UPerNet reads 4 blocks'):
            written(
                *(task, tmp_path / 'my.py', data / folder, machine),
                encoder=encoder,
                num_heads=2,
            )
        return
    size = 64 if encoder and task == 'detection' else None
    recipe, config = written(
        *(task, tmp_path / 'my.py', data / folder, machine),
        method=method,
        encoder=encoder,
        num_heads=2 if encoder else None,
        img_size=size,
    )
    assert len(str(recipe.written).splitlines()) <= MOST_LINES
    apply_img_size(config)
    assert not any('erased' in line for line in check_settings(config))
    backbone = config.model.backbone
    if encoder:
        place = config.model if task == 'pretraining' else backbone
        assert place.pretrained == encoder
        assert backbone.arch['embed_dims'] == recipe.encoder.width
        family = recipe.encoder.family
        if family.mean != PLAIN.mean:
            assert config.model.data_preprocessor.mean == [*family.mean]
    elif method != 'upernet':  # it has the numbers of the arch
        assert backbone.arch == ('small' if machine.gpu else 'tiny')
    names = getattr(recipe.data, 'classes', None)
    if names and task == 'detection':
        assert config.model.roi_head.bbox_head.num_classes == 3
        assert {*config.train_dataloader.dataset.metainfo.classes} == {
            *CLASSES
        }
    assert not (tmp_path / 'my.py.part').exists()


def resized(config):
    """Return the sizes and interpolations of the resized test images."""
    parts = [config.get(key) for key in ('test_cfg', 'test_dataloader')]
    steps = dictionaries(parts, 'type')
    return [
        (step['size'], step['interpolation'])
        for step in steps
        if step['type'] == 'torchvision/Resize'
    ]


@pytest.mark.parametrize('method', ['finetune', *FROZEN])
@pytest.mark.parametrize('kind', ['siglip', 'dinov2', 'stated'])
def test_images_are_cropped_as_the_family_does(kind, method, data, tmp_path):
    """By the written config as by the packaged one of an evaluation."""
    if kind == 'stated':
        (tmp_path / 'timm').mkdir()
        encoder = timm_folder(tmp_path / 'timm', **AUGREG)
    else:
        encoder = saved(kind, tmp_path)[1]
    recipe, config = written(
        *('classification', tmp_path / 'my.py', data / 'classes'),
        method=method,
        encoder=str(encoder),
        num_heads=HEADS,
        img_size=112,
    )
    family = recipe.encoder.family
    assert (family.crop == PLAIN.crop) == (kind == 'dinov2')
    packaged = Config.fromfile(config_path(recipe.written.base))
    before = resized(packaged)
    fit_model(packaged, method, recipe.encoder.options, family)
    assert resized(config) == resized(packaged)
    assert (before == resized(config)) == (kind == 'dinov2')
    apply_img_size(config)
    check_settings(config)
    edge = round(round(224 / family.crop) * 112 / 224)
    assert {size for size, _ in resized(config)} == {edge}


@pytest.mark.parametrize(('task', 'method', 'folder'), JOBS)
def test_the_precision_stands_in_the_config(
    task, method, folder, data, tmp_path
):
    encoder = needed(None, method, tmp_path)
    for number, (gpu, name, wanted) in enumerate(
        [
            (False, 'fp32', dict(on_cpu=False)),
            (False, 'bf16', dict(on_cpu=True)),
            (True, 'bf16', dict(type='mmpretrain.AutocastOptimWrapper')),
            (True, 'fp16', dict(type='AmpOptimWrapper', dtype='float16')),
            (True, 'fp32', dict(type='OptimWrapper')),
        ]
    ):
        precision = Precision(name, 'a reason')
        machine = Machine('it', 24.0, 2, gpu, precision)
        recipe, config = written(
            *(task, tmp_path / f'my{number}.py', data / folder, machine),
            method=method,
            encoder=encoder,
            num_heads=2 if encoder else None,
        )
        text = str(recipe.written)
        if method in ('knn', 'logistic'):
            assert 'optim_wrapper' not in text
            continue
        assert f'  # {name}: a reason' in text
        assert wanted.items() <= dict(config.optim_wrapper).items()
        apply_img_size(config)
        check_settings(config)
        if not gpu:
            wrapper = OPTIM_WRAPPERS.get(config.optim_wrapper.type)
            assert wrapper is AutocastOptimWrapper


def of_no_named_size(folder, **options):
    """Save an encoder of four blocks; return its file and its arch."""
    arch = dict(embed_dims=64, num_layers=4, num_heads=2)
    arch['feedforward_channels'] = 256
    vit = SiameseIMViT(arch=arch, img_size=32, patch_size=8, **options)
    state = {f'backbone.{k}': v for k, v in vit.state_dict().items()}
    torch.save(dict(state_dict=state), folder / 'encoder.pth')
    return str(folder / 'encoder.pth'), arch


@pytest.mark.parametrize(('task', 'method', 'folder'), JOBS)
def test_the_other_encoder_of_a_file_is_taken(
    task, method, folder, data, tmp_path
):
    file, _ = of_no_named_size(tmp_path)
    content = torch.load(file)
    state = content['state_dict']
    state |= {f'target.{name}': value + 1 for name, value in state.items()}
    torch.save(content, file)
    for lora in {None, 4 if method in ('finetune', 'upernet') else None}:
        _, config = written(
            *(task, tmp_path / 'my.py', data / folder),
            method=method,
            encoder=file,
            branch='target',
            num_heads=2,
            img_size=64,
            lora=lora,
        )
        apply_img_size(config)
        check_settings(config)
        place = config.model if task == 'pretraining' else None
        place = place or config.model.backbone.get('module')
        place = place or config.model.backbone
        assert place.pretrained == dict(file=file, branch='target')


@pytest.mark.parametrize(
    ('task', 'method', 'folder'),
    [job for job in JOBS if job[1] not in UNTRAINED],
)
@pytest.mark.parametrize('batch', [3, 5])
def test_everything_follows_the_images_of_a_step(
    task, method, folder, batch, data, tmp_path
):
    recipe, config = written(
        *(task, tmp_path / 'my.py', data / folder),
        method=method,
        encoder=needed(None, method, tmp_path),
        num_heads=2 if method in FROZEN else None,
        batch_size=batch,
    )
    plan = recipe.plan
    assert plan.batch == batch
    assert config.train_dataloader.batch_size == batch
    wrapper = config.optim_wrapper
    step = batch * wrapper.get('accumulative_counts', 1)
    assert plan.total == step == config.auto_scale_lr.base_batch_size
    if task == 'pretraining':
        wanted = square_root_lr(plan.recipe_lr, 4096, step)
        assert wrapper.optimizer.lr == wanted
        assert f'1e-3 x sqrt({step} / 4096)' in str(recipe.written)
        steps = plan.epochs * (plan.images // step)
        assert f'{steps} steps of {step} of' in str(recipe.written)


TUNING = [{}, dict(freeze=True), dict(encoder_lr=0.1), dict(lora=4)]
LONG = f'a folder with a long name of someone/{100 * "x"}'
LISTS = {
    'classes': 'a list of labels.csv',
    'maps': 'a list of pairs.csv',
}


@pytest.fixture(scope='module')
def far(data):
    """Return the data in a place with a long path, and lists of it."""
    root = data / LONG
    root.parent.mkdir()
    root.symlink_to(data, target_is_directory=True)
    lines = [
        f'{path.relative_to(data)},{path.parent.name}'
        for path in sorted((data / 'classes').glob('*/*.png'))
    ]
    (data / LISTS['classes']).write_text('\n'.join(lines))
    lines = [
        f'maps/images/bild {k}.jpg,maps/masks/bild {k}.png' for k in range(8)
    ]
    (data / LISTS['maps']).write_text('\n'.join(lines))
    for part in ('training', 'tests'):
        with zipfile.ZipFile(data / f'{part} pictures.zip', 'w') as archive:
            for path in sorted((data / 'classes').glob('*/*.png')):
                archive.write(path, path.relative_to(data / 'classes'))
    return root


def sources(task, root, folder):
    """Return the data of a task in all its forms."""
    zipped, other = (f'{root}/{n} pictures.zip' for n in ('training', 'tests'))
    found = [(f'{root}/{folder}', None)]
    if folder in LISTS:
        found.append((f'{root}/{LISTS[folder]}', None))
    if task == 'pretraining':
        found.append((zipped, None))
    if task == 'classification':
        found.append((zipped, other))
    return found


@pytest.mark.parametrize('machine', [CPU, GPU], ids=['cpu', 'gpu'])
@pytest.mark.parametrize('kind', [None, 'own', 'clip', 'dinov3'])
@pytest.mark.parametrize(('task', 'method', 'folder'), JOBS)
def test_configs_have_at_most_40_lines(
    task, method, folder, kind, machine, far, tmp_path
):
    """With long paths, and each option that adds lines."""
    if kind == 'own' or (kind and method == 'upernet'):
        extra = dict(clip=dict(pre_norm=True), dinov3=dict(num_registers=4))
        encoder, _ = of_no_named_size(tmp_path, **extra.get(kind, {}))
    else:
        encoder = needed(kind, method, tmp_path)
    tuned = method in ('finetune', 'upernet') or task == 'detection'
    tried = 0
    for tuning in TUNING if tuned else [{}]:
        new = {*tuning} & {'freeze', 'lora'} and not encoder
        if new:
            continue
        for place, val in sources(task, far, folder):
            choices = Choices(
                method=method,
                encoder=encoder,
                num_heads=2 if encoder else None,
                img_size=64 if task == 'detection' else None,
                val_data=val,
                **tuning,
            )
            out = tmp_path / 'my.py'
            text = str(make_recipe(task, place, out, choices, machine).written)
            assert len(text.splitlines()) <= MOST_LINES, text
            compile(text, 'my.py', 'exec')
            tried += 1
    assert tried >= len(sources(task, far, folder))


def test_lines_are_longer_if_there_would_be_too_many():
    out = Written(BASE, [])
    for k in range(60):
        out.set(f'model.backbone.setting{k}', 'a value of 30 characters')
    text = str(out)
    assert len(text.splitlines()) <= MOST_LINES
    assert max(map(len, text.splitlines())) > WIDTH


def test_upernet_takes_an_encoder_of_no_named_size(data, tmp_path):
    encoder, arch = of_no_named_size(tmp_path)
    _, config = written(
        *('segmentation', tmp_path / 'a.py', data / 'maps'),
        encoder=encoder,
        num_heads=2,
    )
    assert config.model.backbone.arch == arch
    apply_img_size(config)
    check_settings(config)


@pytest.mark.parametrize('kind', ['beit', 'dinov2', 'dinov3'])
def test_a_detector_has_the_positions_of_its_encoder(data, tmp_path, kind):
    """The encoder has 4 x 4 positions, and DINOv3 none."""
    _, file = saved(kind, tmp_path)
    _, config = written(
        *('detection', tmp_path / 'my.py', data / 'boxes'),
        encoder=str(file),
        num_heads=4,
    )
    side = config.model.backbone.get('pretrain_img_size', 224)
    assert side == (224 if kind == 'dinov3' else 4 * 16)
    check_settings(config)


def test_a_pretraining_continues_by_the_recipe(data, tmp_path):
    _, file = saved('dinov2', tmp_path)
    recipe, config = written(
        *('pretraining', tmp_path / 'a.py', data / 'classes'),
        encoder=str(file),
        num_heads=2,
    )
    momentum, hold, *others = config.custom_hooks
    assert (momentum.type, momentum.base_momentum) == ('MomentumHook', 0.999)
    assert (hold.type, hold.epochs) == ('HoldBackboneHook', recipe.plan.warmup)
    _, new = written('pretraining', tmp_path / 'b.py', data / 'classes')
    assert [h.type for h in new.custom_hooks[1:]] == [h.type for h in others]
    assert recipe.plan.recipe_lr == pytest.approx(1e-4)


def test_choices_reach_the_config(data, tmp_path):
    _, file = saved('dinov2', tmp_path)
    _, config = written(
        *('classification', tmp_path / 'a.py', data / 'classes'),
        encoder=str(file),
        num_heads=2,
        img_size=40,
        batch_size=2,
        epochs=7,
        encoder_lr=0.1,
    )
    assert config.img_size == 40
    assert config.train_dataloader.batch_size == 2
    assert config.train_cfg.max_epochs == 7
    keys = config.optim_wrapper.paramwise_cfg.custom_keys
    assert keys.backbone.lr_mult == 0.1
    _, config = written(
        *('detection', tmp_path / 'b.py', data / 'boxes'),
        encoder=str(file),
        num_heads=2,
        freeze=True,
        masks=False,
    )
    assert config.model.type == 'FasterRCNN'
    assert config.model.backbone.frozen_stages == 2


@pytest.mark.parametrize(
    ('task', 'choices', 'words'),
    [
        ('painting', {}, "no task 'painting'"),
        ('detection', dict(method='yolo'), "no method 'yolo'"),
        ('pretraining', dict(masks=True), 'masks has no effect'),
        ('classification', dict(method='knn', epochs=3), 'epochs has no'),
        ('classification', dict(method='knn', batch_size=3), 'batch-size has'),
        ('classification', dict(branch='target'), 'without --encoder'),
        ('pretraining', dict(num_heads=3), 'without --encoder'),
        ('pretraining', dict(seed=3), '--seed has no effect'),
        ('classification', dict(seed=-1), '--seed is -1; set'),
        ('pretraining', dict(val_share=0.5), '--val-share has no effect'),
        (
            'classification',
            dict(freeze=True, encoder_lr=0.1),
            'so --encoder-lr has no effect',
        ),
        ('classification', dict(method='knn'), 'features of an encoder'),
        ('classification', dict(freeze=True), '--freeze uses'),
        ('classification', dict(lora=4), '--lora uses'),
        ('classification', dict(lora=4, freeze=True), 'leave out --freeze'),
        ('pretraining', dict(lora=4), 'lora has no effect'),
        ('classification', dict(method='linear', lora=4), 'lora has no'),
        ('classification', dict(arch='vast'), "no arch 'vast'"),
        ('classification', dict(arch='tiny', encoder='x'), '--arch is that'),
        ('classification', dict(img_size=50), 'set 48'),
        ('classification', dict(batch_size=0), '--batch-size is 0'),
        ('classification', dict(encoder_lr=2.0), '--encoder-lr is 2'),
        ('classification', dict(encoder='none.pth'), 'no checkpoint file'),
    ],
)
def test_choices_without_effect_are_refused(
    task, choices, words, data, tmp_path
):
    out = tmp_path / 'my.py'
    with pytest.raises(SimimError, match=words):
        make_recipe(task, str(data / 'classes'), out, Choices(**choices), CPU)
    assert not [*tmp_path.iterdir()]


def test_a_gpu_takes_larger_batches(data, tmp_path):
    recipes = [
        written('pretraining', tmp_path / 'a.py', data / 'classes', machine)[0]
        for machine in (CPU, GPU)
    ]
    assert [r.encoder.name for r in recipes] == ['tiny', 'small']
    assert recipes[0].plan.steps <= recipes[1].plan.steps

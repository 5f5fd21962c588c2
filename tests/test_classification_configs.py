"""Classification configs match their recipes and train."""

import itertools
import os
import pickle
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope
from mmpretrain.datasets import CIFAR10
from mmpretrain.registry import (
    DATASETS,
    HOOKS,
    LOOPS,
    METRICS,
    MODELS,
    OPTIMIZERS,
    TASK_UTILS,
    TRANSFORMS,
)
from PIL import Image
from torch import nn

from simim_plugin.commands import test as testing
from simim_plugin.commands.command_line import build_runner
from simim_plugin.errors import SimimError
from simim_plugin.evaluation.classes import leave_out_large_topk

ROOT = Path(__file__).resolve().parents[1] / 'configs'
FILES = sorted((ROOT / 'classification').glob('*.py'))
BASE = 'siamese_im_vit-base-p16'
FINETUNING = f'{BASE}_ft-8xb128-amp-coslr-100e_in1k'
LINEAR = f'{BASE}_linear-8xb2048-amp-coslr-90e_in1k'
LOGISTIC = f'{BASE}_logistic_in1k-1pct'
KNN = f'{BASE}_knn_in1k'
SMALL = [file.stem for file in FILES if re.search('tiny-p4|micro', file.stem)]
TRAINED = [name for name in SMALL if '_ft' in name or '_linear' in name]


def load(name) -> Config:
    (file,) = ROOT.rglob(f'{name}.py')
    init_default_scope('mmpretrain')
    return Config.fromfile(file)


def loaders(config) -> list:
    """Return every data loader of a config."""
    found = [config[key] for key in config if key.endswith('_dataloader')]
    if 'train_dataloader' in config.test_cfg:
        found.append(config.test_cfg.train_dataloader)
    return found


@pytest.mark.parametrize('file', FILES, ids=lambda file: file.stem)
def test_builds_from_another_folder(file, tmp_path, monkeypatch):
    relative = os.path.relpath(file, tmp_path)
    monkeypatch.chdir(tmp_path)
    config = Config.fromfile(relative)
    init_default_scope('mmpretrain')
    assert config.custom_imports.allow_failed_imports is False
    assert config.runner_type == 'SiameseIMRunner'
    assert config.model.backbone.pretrained is None
    with torch.device('meta'):  # no weights are drawn
        model = MODELS.build(config.model)
    frozen = config.test_cfg.get('type') == 'FrozenFeatureLoop'
    assert model.with_head is not frozen
    if frozen:
        assert config.test_cfg.type in LOOPS
        TASK_UTILS.build(config.test_cfg.classifier)
        assert model.backbone.out_type == 'raw'
    else:
        head = model.head.fc
        assert head.in_features == model.backbone.embed_dims
        assert head.out_features == config.model.data_preprocessor.num_classes
        assert config.val_dataloader == config.test_dataloader
    for loader in loaders(config):
        assert loader.dataset.type in DATASETS
        for cfg in loader.dataset.pipeline:
            TRANSFORMS.build(cfg)
    for cfg in config.custom_hooks:
        HOOKS.build(cfg)


FINETUNED = {
    # epochs, lr, layer decay, drop path, batch, width
    FINETUNING: (100, 1e-3, 0.65, 0.1, 1024, 768),
    'siamese_im_vit-large-p16_ft-8xb128-amp-coslr-50e_in1k': (
        *(50, 4e-3, 0.75, 0.2, 1024, 1024),
    ),
    'siamese_im_vit-huge-p14_ft-8xb128-amp-coslr-50e_in1k': (
        *(50, 4e-3, 0.75, 0.3, 1024, 1280),
    ),
    f'{BASE}_ft-1pct-8xb64-amp-coslr-200e_in1k': (
        *(200, 5e-4, 0.65, 0.1, 512, 768),
    ),
}


@pytest.mark.parametrize('name', FINETUNED)
def test_finetuning_recipe(name):
    """Compare with docs/finetuning.md and MMPretrain's MAE benchmarks."""
    epochs, lr, decay, drop_path, batch, width = FINETUNED[name]
    config = load(name)
    assert config.train_cfg.max_epochs == epochs
    optim = config.optim_wrapper
    assert optim.type == 'AutocastOptimWrapper'
    assert optim.optimizer.type == 'AdamW'
    assert optim.optimizer.lr == pytest.approx(lr)
    assert optim.optimizer.betas == (0.9, 0.999)
    assert optim.optimizer.weight_decay == 0.05
    assert 'clip_grad' not in optim
    assert optim.paramwise_cfg.layer_decay_rate == decay
    assert config.auto_scale_lr == dict(base_batch_size=batch, enable=True)
    gpus = int(name.split('xb')[0].rpartition('-')[2])
    assert gpus * config.train_dataloader.batch_size == batch
    assert config.param_scheduler == dict(
        type='WarmupCosineLR',
        warmup=5,
        eta_min=1e-6,
        convert_to_iter_based=True,
    )
    backbone = config.model.backbone
    assert backbone.drop_path_rate == drop_path
    assert backbone.out_type == 'avg_featmap'
    assert backbone.train_patch_embed is True
    assert config.model.head.in_channels == width
    assert not any('EMA' in hook.type for hook in config.custom_hooks)
    assert config.default_hooks.checkpoint.max_keep_ckpts == 1


def test_finetuning_augmentation():
    """The recipe is rand-m9-mstd0.5-inc1, erasing 0.25, mixup, cutmix."""
    config = load(FINETUNING)
    crop, randaugment, erasing = (
        next(t for t in config.train_pipeline if t.type.endswith(kind))
        for kind in ('RandomResizedCrop', 'RandAugment', 'RandomErasing')
    )
    built = TRANSFORMS.build(crop).t
    assert built.scale == (0.08, 1.0)
    assert built.size == (224, 224)
    assert built.interpolation.value == 'bicubic'
    flip = TRANSFORMS.build(config.train_pipeline[3])
    assert flip.t.p == 0.5
    randaugment = TRANSFORMS.build(randaugment)
    assert len(randaugment.transforms) == 15
    assert randaugment.num_policies == 2
    for policy in randaugment.transforms:
        assert policy.prob == 0.5
    rotate = randaugment.transforms[3]
    assert (rotate.magnitude_level, rotate.magnitude_std) == (9, 0.5)
    assert rotate.interpolation == 'bicubic'
    erasing = TRANSFORMS.build(erasing)
    assert erasing.erase_prob == 0.25
    assert (erasing.min_area_ratio, erasing.max_area_ratio) == (0.02, 1 / 3)
    assert erasing.aspect_range == (0.3, 10 / 3)
    # These are BGR; the figures of the preprocessor are RGB.
    mean = config.model.data_preprocessor.mean
    assert erasing.fill_color == mean[::-1]
    assert erasing.fill_std == config.model.data_preprocessor.std[::-1]
    assert rotate.pad_val == tuple(round(level) for level in mean[::-1])
    assert config.model.head.loss.label_smooth_val == 0.1
    mixes = MODELS.build(config.model).data_preprocessor.batch_augments
    assert mixes.probs is None  # one of them always, with equal chances
    assert [mix.alpha for mix in mixes.augments] == [0.8, 1.0]


def test_training_images_stay_rgb(tmp_path, monkeypatch):
    """RandAugment and erasing work in BGR in between."""
    config = load(FINETUNING)
    seen = []
    kinds = ('RandAugment', 'RandomErasing')
    for kind in kinds:
        monkeypatch.setattr(
            TRANSFORMS.get(kind),
            'transform',
            lambda self, results: seen.append(results['img']) or results,
        )
    (tmp_path / 'red').mkdir()
    Image.new('RGB', (300, 250), (200, 10, 30)).save(tmp_path / 'red/a.png')
    dataset = config.train_dataloader.dataset
    dataset.data_root = str(tmp_path)
    sample = DATASETS.build(dataset)[0]
    assert sample['inputs'].shape == (3, 224, 224)
    assert sample['inputs'][:, 5, 7].tolist() == [200, 10, 30]
    assert [image[5, 7].tolist() for image in seen] == [[30, 10, 200]] * 2


@pytest.mark.shared
def test_layer_decay_is_the_released_one(golden):
    _, described = golden('layer_decay_vitb_0p65')
    config = load(FINETUNING)
    model = MODELS.build(config.model)
    optim = build_optim_wrapper(model, config.optim_wrapper)
    groups = optim.optimizer.param_groups
    assert len(groups) == described['groups']
    names = {param: name for name, param in model.named_parameters()}
    settings = {
        names[param]: (group['lr_scale'], group['weight_decay'], group['lr'])
        for group in groups
        for param in group['params']
    }
    renamed = {
        'patch_embed.proj.': 'patch_embed.projection.',
        'blocks.': 'layers.',
        '.norm1.': '.ln1.',
        '.norm2.': '.ln2.',
        '.mlp.fc1.': '.ffn.layers.0.0.',
        '.mlp.fc2.': '.ffn.layers.1.',
        'fc_norm.': 'ln2.',
    }
    expected = {}
    for name, param in described['params'].items():
        for theirs, ours in renamed.items():
            name = name.replace(theirs, ours)
        if name.startswith('head.'):
            name = name.replace('head.', 'head.fc.')
        else:
            name = f'backbone.{name}'
        scale = param['lr_scale']
        expected[name] = (scale, param['weight_decay'], 1e-3 * scale)
    assert settings.keys() == expected.keys()
    for name, numbers in expected.items():
        assert settings[name] == pytest.approx(numbers, rel=1e-9), name


def test_new_layers_of_finetuning():
    """fc_norm has eps 1e-6 and starts at 1 and 0; the head is close to 0."""
    torch.manual_seed(0)
    model = MODELS.build(load(FINETUNING).model)
    model.backbone.layers = nn.ModuleList()  # initialise the rest only
    model.backbone.num_layers = 0
    model.init_weights()
    assert model.backbone.ln2.eps == 1e-6
    assert (model.backbone.ln2.weight == 1).all()
    assert abs(model.head.fc.weight.std().item() - 2e-5) < 1e-6
    assert not model.head.fc.bias.any()
    assert model.backbone.patch_embed.projection.weight.requires_grad
    assert not model.backbone.pos_embed.requires_grad


def test_linear_recipe():
    """Compare with docs/linear.md."""
    config = load(LINEAR)
    assert config.train_cfg.max_epochs == 90
    assert config.optim_wrapper.type == 'AutocastOptimWrapper'
    assert config.auto_scale_lr == dict(base_batch_size=16384, enable=True)
    assert config.train_dataloader.batch_size * 8 == 16384
    assert config.param_scheduler == dict(
        type='WarmupCosineLR', warmup=10, convert_to_iter_based=True
    )
    model = MODELS.build(config.model)
    optimizer = OPTIMIZERS.build(
        dict(config.optim_wrapper.optimizer, params=model.head.parameters())
    )
    (group,) = optimizer.param_groups
    assert type(optimizer).__name__ == 'ProbeLARS'
    assert group['lr'] == pytest.approx(6.4)
    assert (group['momentum'], group['weight_decay']) == (0.9, 0)
    assert (group['nesterov'], optimizer.trust) == (False, 0.001)
    assert type(model.head.loss_module).__name__ == 'CrossEntropyLoss'
    parts = model.backbone.modules()
    assert not any(getattr(part, 'drop_prob', 0) for part in parts)
    crop = TRANSFORMS.build(config.train_pipeline[1])
    assert crop.crop_ratio_range == (0.08, 1.0)
    assert (crop.interpolation, crop.backend) == ('bicubic', 'pillow')
    assert [t.type for t in config.train_pipeline] == [
        'LoadRGBImage',
        'SingleDrawCrop',
        'RandomFlip',
        'PackInputs',
    ]


@pytest.mark.parametrize(
    ('name', 'interpolation'),
    [
        (FINETUNING, 'bicubic'),
        (LINEAR, 'bicubic'),
        (KNN, 'bicubic'),
        (LOGISTIC, 'bilinear'),
    ],
)
def test_evaluation_images(tmp_path, name, interpolation):
    """Pillow resizes the short edge to 256; the centre crop has 224.

    Tests of frozen features treat the training images in the same way.
    """
    config = load(name)
    pixels = np.random.default_rng(0).integers(0, 256, (300, 600, 3), np.uint8)
    image = Image.fromarray(pixels)
    (tmp_path / 'only').mkdir()
    image.save(tmp_path / 'only' / 'a.png')
    kind = dict(bicubic=Image.BICUBIC, bilinear=Image.BILINEAR)[interpolation]
    expected = np.asarray(image.resize((512, 256), kind))
    expected = expected[16:240, 144:368]
    tested = [config.test_dataloader]
    if 'train_dataloader' in config.test_cfg:
        tested.append(config.test_cfg.train_dataloader)
    for loader in tested:
        dataset = dict(loader.dataset, data_root=str(tmp_path))
        dataset.pop('list_file', None)
        got = DATASETS.build(dataset)[0]['inputs'].permute(1, 2, 0).numpy()
        assert np.array_equal(got, expected)


def test_frozen_rules():
    """Compare with docs/knn.md and docs/logistic.md."""
    knn = load(KNN).test_cfg
    assert knn.pool == 'mean'
    assert knn.classifier == dict(
        type='KNNClassifier', ks=(10, 20, 100, 200), temperature=0.07
    )
    logistic = load(LOGISTIC).test_cfg
    assert logistic.pool == 'cls'
    assert logistic.classifier == dict(type='LogisticClassifier', l2=None)
    assert logistic.train_dataloader.dataset.list_file
    assert logistic.train_dataloader.dataset.data_root.endswith('train')


@pytest.mark.parametrize('name', SMALL)
def test_small_backbones_match_pretraining(name):
    pretraining = load(
        'siamese_im_vit-micro-p8_demo'
        if name.endswith('demo')
        else 'siamese_im_vit-tiny-p4_1xb512-amp-coslr-400e_cifar10'
    ).model.backbone
    ours = load(name).model.backbone
    if name.endswith('demo'):  # views of 48 px, tested on whole scenes
        pretraining.img_size = 64
    assert {key: ours[key] for key in pretraining} == pretraining


@pytest.fixture(scope='module')
def folder(tmp_path_factory) -> Path:
    """Generated images: 8 classes of 2, 64 px; 10 classes of 2, 32 px."""
    root = tmp_path_factory.mktemp('images')
    rng = np.random.default_rng(0)
    for kind, classes, size in (('demo', 8, 64), ('cifar10', 10, 32)):
        for split, label in itertools.product(
            ('train', 'val'), range(classes)
        ):
            target = root / kind / split / f'class{label}'
            target.mkdir(parents=True)
            for k in range(2):
                pixels = rng.integers(0, 256, (size, size, 3), np.uint8)
                Image.fromarray(pixels).save(target / f'{k}.png')
    return root


def on_images(name, folder, tmp_path) -> Config:
    """Return a user's config that puts one of ours on generated images."""
    kind = name.rpartition('_')[2]
    file = tmp_path / 'mine.py'
    (base,) = ROOT.rglob(f'{name}.py')
    lines = [f'_base_ = {str(base)!r}']
    for loader, split in (
        ('train', 'train'),
        ('val', 'val'),
        ('test', 'val'),
    ):
        pipeline = 'train_pipeline' if loader == 'train' else 'test_pipeline'
        path = str(folder / kind / split)
        lines.append(
            f'{loader}_dataloader = dict(batch_size=8, num_workers=0, '
            'persistent_workers=False, dataset=dict(_delete_=True, '
            f"type='LabelledFolder', data_root={path!r}, "
            f"pipeline=[dict(type='LoadRGBImage'), *_base_.{pipeline}]))"
        )
    file.write_text('\n'.join(lines))
    init_default_scope('mmpretrain')
    config = Config.fromfile(file)
    config.work_dir = str(tmp_path / 'run')
    config.launcher = 'none'
    config.train_cfg.max_epochs = 1
    config.param_scheduler.warmup = 1
    config.experiment_name = f'{name}_{tmp_path.name}'
    return config


@pytest.mark.parametrize(
    'name',
    [
        pytest.param(name, marks=[pytest.mark.slow] * ('cifar' in name))
        for name in TRAINED
    ],
)
def test_small_configs_train(name, folder, tmp_path):
    """Training steps change the trained parameters and nothing else."""
    config = on_images(name, folder, tmp_path)
    runner = build_runner(config)
    runner.model.init_weights()
    before = {
        key: value.clone() for key, value in runner.model.state_dict().items()
    }
    model = runner.train()
    assert runner.iter == 2
    assert 'val/accuracy/top1' in runner.message_hub.log_scalars
    # lr = base x batch / 256 for the batch of the run, times the layer scale
    lr = config.optim_wrapper.optimizer.lr
    lr *= 8 / config.auto_scale_lr.base_batch_size
    for group in runner.optim_wrapper.optimizer.param_groups:
        scale = group.get('lr_scale', 1)
        assert group['initial_lr'] == pytest.approx(lr * scale)
    after = model.state_dict()
    moved = {key for key in before if not torch.equal(before[key], after[key])}
    head = {'head.fc.weight', 'head.fc.bias'}
    if '_linear' in name:
        statistics = {
            f'head.norm.{part}'
            for part in ('running_mean', 'running_var', 'num_batches_tracked')
        }
        assert moved == head | statistics
        assert (model.backbone.ln2.weight == 1).all()
        assert not model.backbone.ln2.bias.any()
        assert [p.requires_grad for p in model.backbone.parameters()].count(
            True
        ) == 0
    else:
        assert moved == before.keys() - {'backbone.pos_embed'}


@pytest.mark.parametrize('split', ['train', 'val'])
def test_class_count_is_checked_before_training(folder, tmp_path, split):
    name = 'siamese_im_vit-micro-p8_ft-1xb64-amp-coslr-10e_demo'
    config = on_images(name, folder, tmp_path)
    config[f'{split}_dataloader'].dataset.data_root = str(
        folder / 'cifar10' / split
    )
    runner = build_runner(config)
    with pytest.raises(SimimError, match=r'8 classes and the .* has 10') as e:
        runner.train()
    assert '\n' not in str(e.value)
    assert runner.iter == 0


@pytest.mark.parametrize('name', ['ft-1xb64-amp-coslr-10e', 'linear'])
def test_fewer_than_five_classes(folder, tmp_path, name):
    """A top-5 accuracy of two classes would end the run after an epoch."""
    if name == 'linear':
        name = 'linear-1xb64-amp-coslr-20e'
    name = f'siamese_im_vit-micro-p8_{name}_demo'
    config = on_images(name, folder, tmp_path)
    config.val_evaluator = dict(type='Accuracy', topk=(1, 5))
    config.test_evaluator = config.val_evaluator
    config.model.head.num_classes = 2
    config.model.data_preprocessor.num_classes = 2
    for split in ('train', 'val'):
        for label in range(2):
            shutil.copytree(
                folder / 'demo' / split / f'class{label}',
                tmp_path / 'two' / split / f'class{label}',
            )
    for loader, split in (('train', 'train'), ('val', 'val'), ('test', 'val')):
        dataset = config[f'{loader}_dataloader'].dataset
        dataset.data_root = str(tmp_path / 'two' / split)
    config.train_dataloader.batch_size = 2
    runner = build_runner(config)
    runner.train()
    scalars = runner.message_hub.log_scalars
    assert 'val/accuracy/top1' in scalars
    assert 'val/accuracy/top5' not in scalars
    assert {*runner.test()} == {'accuracy/top1'}
    runner.val_loop.evaluator.metrics[0].topk = (5,)
    with pytest.raises(SimimError, match=r'2 classes .* topk=\(5,\); set it'):
        leave_out_large_topk(
            runner.val_loop, runner.val_loop.dataloader.dataset
        )


def test_predictions_are_drawn(folder, tmp_path):
    name = 'siamese_im_vit-micro-p8_ft-1xb64-amp-coslr-10e_demo'
    config = on_images(name, folder, tmp_path)
    model = MODELS.build(config.model)
    torch.save(dict(state_dict=model.state_dict()), tmp_path / 'file.pth')
    testing.main(
        [
            *(str(tmp_path / 'mine.py'), str(tmp_path / 'file.pth')),
            *('--work-dir', str(tmp_path / 'run')),
            *('--show-dir', str(tmp_path / 'drawn')),
            *('--cfg-options', 'default_hooks.visualization.interval=1'),
        ]
    )
    dataset = DATASETS.build(config.test_dataloader.dataset)
    # MMPretrain names a picture after its image, without the folder, so
    # those of several classes would replace each other.
    images = [dataset.get_data_info(i) for i in range(len(dataset))]
    paths = [Path(image['img_path']) for image in images]
    names = {'-'.join(path.parts[-2:]) for path in paths}
    drawn = {file.name for file in (tmp_path / 'drawn').iterdir()}
    assert drawn == {f'{name}_0.png' for name in names}
    assert len(drawn) == len(images)


def test_frozen_features_draw_nothing(tmp_path, capsys):
    name = 'siamese_im_vit-micro-p8_knn_demo.py'
    with pytest.raises(SystemExit):
        testing.main([name, 'file.pth', '--show-dir', str(tmp_path)])
    assert capsys.readouterr().err == (
        'error: The test of this config draws no pictures: leave out '
        '--show-dir.\n'
    )


def test_pictures_of_several_processes_are_refused(
    tmp_path, monkeypatch, capsys
):
    """The libraries draw those of the first process alone."""
    name = 'siamese_im_vit-micro-p8_ft-1xb64-amp-coslr-10e_demo.py'
    runner = SimpleNamespace(world_size=2)
    monkeypatch.setattr(testing, 'build_runner', lambda _: runner)
    with pytest.raises(SystemExit):
        testing.main([name, 'file.pth', '--show-dir', str(tmp_path)])
    assert capsys.readouterr().err == (
        'error: --show-dir draws the pictures of one process, and 2 test; '
        'leave out --launcher, or --show-dir.\n'
    )


def test_class_names_are_compared_before_training(folder, tmp_path):
    """Both sets have the same number of classes, with different names."""
    name = 'siamese_im_vit-micro-p8_ft-1xb64-amp-coslr-10e_demo'
    config = on_images(name, folder, tmp_path)
    other = tmp_path / 'val'
    shutil.copytree(folder / 'demo' / 'val', other)
    (other / 'class3').rename(other / 'xylophone')
    config.val_dataloader.dataset.data_root = str(other)
    runner = build_runner(config)
    with pytest.raises(SimimError, match=r'validation set 8.*class3, xyl'):
        runner.train()
    assert runner.iter == 0


def test_cifar10_files(tmp_path, monkeypatch):
    """MMPretrain's class reads the pickled batches for the configs."""
    batches = tmp_path / 'cifar-10-batches-py'
    batches.mkdir()
    rng = np.random.default_rng(0)
    for name, _ in [*CIFAR10.train_list, *CIFAR10.test_list]:
        rows = rng.integers(0, 256, (3, 3072), np.uint8)
        batch = dict(data=rows, labels=[1, 5, 9])
        (batches / name).write_bytes(pickle.dumps(batch))
    monkeypatch.setattr(CIFAR10, '_check_integrity', lambda self: True)
    for name in (name for name in SMALL if name.endswith('cifar10')):
        for loader in loaders(load(name)):
            dataset = dict(loader.dataset, data_root=str(tmp_path))
            built = DATASETS.build(dataset)
            assert len(built) == (15 if dataset['split'] == 'train' else 3)
            assert built[1]['inputs'].shape == (3, 32, 32)
            assert built[1]['inputs'].dtype == torch.uint8
            assert built[1]['data_samples'].gt_label.item() == 5
            if dataset['split'] == 'test':  # unchanged, RGB
                expected = torch.tensor(rows[1].reshape(3, 32, 32))
                assert torch.equal(built[1]['inputs'], expected)


@pytest.mark.parametrize('topk', [None, 1])
def test_metrics_of_several_labels_have_no_list_of_accuracies(topk):
    metric = METRICS.build(dict(type='MultiLabelMetric', topk=topk))
    loop = SimpleNamespace(evaluator=SimpleNamespace(metrics=[metric]))
    dataset = SimpleNamespace(metainfo=dict(classes=('cat', 'dog')))
    leave_out_large_topk(loop, dataset)
    assert metric.topk == topk

"""Segmentation runs of a few iterations, by the package's commands."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.registry import init_default_scope
from mmseg.models import SegTTAModel
from PIL import Image

from simim_plugin.benchmarks import segmentation as benchmark
from simim_plugin.checkpoint import CheckpointError
from simim_plugin.commands import benchmark as command_line
from simim_plugin.commands import test as testing
from simim_plugin.commands import train as training
from simim_plugin.commands.command_line import build_runner
from simim_plugin.demo.data import make_demo_data
from simim_plugin.models import SiameseIMViT
from simim_plugin.pictures.distinct import distinct_names
from simim_plugin.segmentation import label_maps

from ..test_packaging import make_site, run, source, wheel  # noqa: F401

UPERNET = 'siamese_im_vit-micro-p8_upernet-1xb16-amp-200i_demo.py'
LINEAR = 'siamese_im_vit-micro-p8_seg-linear-1xb16-amp-200i_demo.py'
KNN = 'siamese_im_vit-micro-p8_seg-knn_demo.py'
TINY = 'siamese_im_vit-micro-p16_upernet-1xb6-amp-200i_ade20k-tiny-128x128.py'
ARCH = dict(
    embed_dims=128, num_layers=4, num_heads=4, feedforward_channels=512
)


@pytest.fixture(scope='module')
def scenes(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp('scenes') / 'demo'
    make_demo_data(folder, train=12, val=3, seed=3)
    return folder


@pytest.fixture(scope='module')
def pretrained(tmp_path_factory) -> Path:
    """A pretraining checkpoint: a backbone, and parts to be dropped."""
    torch.manual_seed(0)
    vit = SiameseIMViT(arch=ARCH, img_size=64, patch_size=8)
    vit.init_weights()
    state = {f'backbone.{k}': v for k, v in vit.state_dict().items()}
    state['head.mean'] = torch.zeros(3)
    file = tmp_path_factory.mktemp('weights') / 'pretrained.pth'
    torch.save(dict(meta={}, state_dict=state), file)
    return file


def options(scenes, *loaders, **others):
    """Return options that shorten a run to seconds."""
    settings = {f'{name}.dataset.data_root': scenes for name in loaders}
    settings |= {f'{name}.num_workers': 0 for name in loaders}
    settings |= {f'{name}.persistent_workers': False for name in loaders}
    return [f'{key}={value}' for key, value in (settings | others).items()]


LOADERS = ('train_dataloader', 'val_dataloader', 'test_dataloader')


def train(name, scenes, work_dir, *args, iterations=3, **others):
    others = {
        'train_dataloader.batch_size': 4,
        'train_cfg.max_iters': iterations,
        'train_cfg.val_interval': iterations,
        'default_hooks.checkpoint.interval': 1,
        'default_hooks.checkpoint.max_keep_ckpts': 5,
        'default_hooks.logger.interval': 1,
    } | others
    args = [name, '--work-dir', str(work_dir), *map(str, args)]
    args += ['--cfg-options', *options(scenes, *LOADERS, **others)]
    config = training.configure(training.parse_args(args))
    init_default_scope('mmseg')
    runner = build_runner(config)
    runner.train()
    return runner


def evaluate(name, file, scenes, work_dir, *loaders, **others):
    args = [str(name), str(file), '--work-dir', str(work_dir), '--cfg-options']
    args += options(scenes, 'test_dataloader', *loaders, **others)
    config = testing.configure(testing.parse_args(args))
    init_default_scope('mmseg')
    runner = build_runner(config)
    return runner, runner.test()


def state_of(file):
    return torch.load(file, weights_only=False)['state_dict']


@pytest.fixture(scope='module')
def trained(scenes, pretrained, tmp_path_factory) -> Path:
    """Three steps of UPerNet, a checkpoint after each."""
    folder = tmp_path_factory.mktemp('upernet')
    train(UPERNET, scenes, folder, '--pretrained', pretrained)
    return folder


def logged(folder, name):
    """Return all values of a figure that a run logged."""
    (file,) = folder.glob('*/vis_data/scalars.json')
    lines = map(json.loads, file.read_text().splitlines())
    return [line[name] for line in lines if name in line]


def moved(state, pretrained):
    """Return the names of pretrained weights that changed."""
    before = torch.load(pretrained)['state_dict']
    names = [name for name in before if name in state]
    assert len(names) == len(before) - 1  # without the head's
    return [n for n in names if not torch.equal(state[n], before[n])]


def test_finetune_then_test(trained, scenes, pretrained, tmp_path):
    losses = logged(trained, 'loss')
    assert len(losses) == 3
    assert np.isfinite(losses).all()
    file = trained / 'iter_3.pth'
    _, metrics = evaluate(UPERNET, file, scenes, tmp_path)
    assert [metrics['mIoU']] == logged(trained, 'mIoU')
    assert moved(state_of(file), pretrained)


def test_predictions_are_drawn(trained, scenes, tmp_path):
    args = [UPERNET, trained / 'iter_3.pth', '--work-dir', tmp_path]
    args += ['--show-dir', tmp_path / 'drawn', '--cfg-options']
    args += options(scenes, 'test_dataloader')
    args.append('default_hooks.visualization.interval=1')
    testing.main(list(map(str, args)))
    pictures = list((tmp_path / 'drawn').rglob('*.png'))
    assert len(pictures) == 3
    names = distinct_names(map(str, (scenes / 'val').rglob('*.*'))).values()
    assert {*pictures} == {tmp_path / 'drawn' / f'{n}.png' for n in names}
    for picture in pictures:  # truth and prediction
        assert Image.open(picture).size == (128, 64)


def test_probe_does_not_change_the_encoder(scenes, pretrained, tmp_path):
    given = ('--pretrained', pretrained, '--amp')  # bf16 on a CPU too
    train(LINEAR, scenes, tmp_path, *given)
    assert np.isfinite(logged(tmp_path, 'loss')).all()
    state = state_of(tmp_path / 'iter_3.pth')
    assert not moved(state, pretrained)
    assert state['decode_head.conv_seg.weight'].any()


def test_resume_continues_the_same_run(trained, scenes, tmp_path):
    shutil.copy(trained / 'iter_2.pth', tmp_path)
    (tmp_path / 'last_checkpoint').write_text(str(tmp_path / 'iter_2.pth'))
    runner = train(UPERNET, scenes, tmp_path, '--resume')
    assert runner.iter == 3
    whole, resumed = (
        torch.load(folder / 'iter_3.pth', weights_only=False)['optimizer']
        for folder in (trained, tmp_path)
    )
    rates = [
        [group['lr'] for group in optimizer['param_groups']]
        for optimizer in (whole, resumed)
    ]
    assert rates[0] == rates[1]
    steps = {float(x['step']) for x in resumed['state'].values()}
    assert steps == {3.0}


def test_another_heads_weights_are_refused(trained, scenes, tmp_path):
    with pytest.raises(CheckpointError, match='does not fit the model'):
        evaluate(LINEAR, trained / 'iter_1.pth', scenes, tmp_path)


def test_wrong_label_map_ends_the_run(tmp_path, capsys, monkeypatch):
    """In one sentence, even from a loader process."""
    # The start sees the first map only.
    monkeypatch.setattr(label_maps, 'LOOKED_AT', 1)
    monkeypatch.setattr(label_maps, '_CHUNK', 1)
    scenes = tmp_path / 'scenes'
    make_demo_data(scenes, train=4, val=1, seed=3)
    for file in sorted((scenes / 'label_maps/train').rglob('*.png'))[1:]:
        Image.new('L', (64, 64), 99).save(file)
    changes = {
        'train_dataloader.num_workers': 1,
        'train_dataloader.batch_size': 4,
    }
    given = ['--cfg-options', *options(scenes, *LOADERS, **changes)]
    with pytest.raises(SystemExit) as ended:
        training.main([LINEAR, '--work-dir', str(tmp_path), *given])
    assert ended.value.code == 1
    (printed,) = (
        line
        for line in capsys.readouterr().err.splitlines()
        if line.startswith('error: ')
    )
    assert re.fullmatch(
        rf'error: The label map {scenes}/\S+png holds the value 99, beyond '
        r'the 14 classes .*\.',
        printed,
    )


def test_knn_from_a_pretraining_checkpoint(scenes, pretrained, tmp_path):
    """On the training images, each patch is its own neighbour."""
    runner, metrics = evaluate(
        KNN,
        pretrained,
        scenes,
        tmp_path,
        'test_cfg.train_dataloader',
        **{
            'test_cfg.patches_per_image': None,
            'model.decode_head.temperature': 1e-4,
            'test_dataloader.dataset.data_prefix.img_path': 'train',
            'test_dataloader.dataset.data_prefix.seg_map_path': (
                'label_maps/train'
            ),
        },
    )
    assert len(runner.model.decode_head.features) == 12 * 64
    # A patch on a border has one value for several classes.
    assert metrics['aAcc'] > 80
    runner, other = evaluate(
        KNN,
        pretrained,
        scenes,
        tmp_path,
        'test_cfg.train_dataloader',
        **{'test_cfg.patches_per_image': 5},
    )
    assert len(runner.model.decode_head.features) == 12 * 5
    assert other['aAcc'] < metrics['aAcc']


def test_several_scales_and_flips(trained, scenes, tmp_path):
    """Images smaller than the crop are padded; the weights stay."""
    multi = tmp_path / 'multi.py'
    multi.write_text(
        f"_base_ = __import__('simim_plugin').config_path('{UPERNET}')\n"
        'test_dataloader = dict(dataset=dict(pipeline=[\n'
        "    dict(type='LoadImageFromFile'),\n"
        "    dict(type='TestTimeAug', transforms=[\n"
        "        [dict(type='Resize', scale=(4 * s, s), keep_ratio=True)\n"
        '         for s in (32, 96)],\n'
        "        [dict(type='RandomFlip', prob=p, direction='horizontal')\n"
        '         for p in (0.0, 1.0)],\n'
        "        [dict(type='LoadLabelMap')],\n"
        "        [dict(type='PackSegInputs')]])]))\n"
        'custom_hooks = [*_base_.custom_hooks,\n'
        "                dict(type='MultiScaleTestHook')]\n"
    )
    file = trained / 'iter_3.pth'
    runner, metrics = evaluate(multi, file, scenes, tmp_path)
    assert isinstance(runner.model, SegTTAModel)
    assert 0 <= metrics['mIoU'] <= 100
    for name, value in runner.model.module.state_dict().items():
        assert torch.equal(value, state_of(file)[name]), name
    assert [metrics['aAcc']] != logged(trained, 'aAcc')
    assert runner.test() == metrics
    assert type(runner.model.module).__name__ == 'EncoderDecoder'


@pytest.mark.slow
@pytest.mark.shared
def test_memorises_two_photographs(shared, tmp_path):
    """Of different sizes, from random weights."""
    root = shared / 'data/ade_tiny/ADEChallengeData2016'
    given = {
        'train_dataloader.batch_size': 2,
        'train_dataloader.dataset.indices': 2,
        'auto_scale_lr.enable': False,
        'param_scheduler.0.end': 5,
        'param_scheduler.1.begin': 5,
        'param_scheduler.1.end': 24,
        'val_dataloader.dataset.indices': 2,
        'val_dataloader.dataset.data_prefix.img_path': 'images/training',
        'val_dataloader.dataset.data_prefix.seg_map_path': (
            'annotations/training'
        ),
        'default_hooks.checkpoint.interval': 24,
    }
    train(TINY, root, tmp_path, iterations=24, **given)
    losses = logged(tmp_path, 'loss')
    assert len(losses) == 24
    assert np.mean(losses[-5:]) < 0.7 * np.mean(losses[:5])
    (accuracy,) = logged(tmp_path, 'aAcc')
    assert accuracy > 50
    file, further = tmp_path / 'iter_24.pth', tmp_path / 'further'
    given['param_scheduler.1.end'] = 26
    longer = ('--resume', file, '--extend')
    train(TINY, root, further, *longer, iterations=26, **given)
    resumed = logged(further, 'loss')
    assert len(resumed) == 2
    assert np.mean(resumed) < 0.7 * np.mean(losses[:5])


def test_benchmark_of_a_step(capsys, monkeypatch):
    """The step includes gradients and the optimizer."""
    monkeypatch.setattr(
        benchmark, 'peak_megabytes', lambda prepare, *args: 1.0
    )  # a separate process would take half a minute
    made = []
    stock = benchmark.training_step
    monkeypatch.setattr(
        benchmark,
        'training_step',
        lambda *args: made.append(stock(*args)) or made[-1],
    )
    words = ['--parts', 'segmentation-step', '--config', UPERNET, '--bf16']
    command_line.main([*words, '--batch-size', '2', '--rounds', '1'])
    printed = capsys.readouterr().out
    assert re.search(r'training step: s +\d+\.\d+ +cpu +\d+\.\d+ ', printed)
    assert re.search(r'training step: MB +1\b', printed)
    first, second = (made[0]()['loss'] for _ in range(2))
    assert second < first  # of the same images


@pytest.mark.slow
def test_stock_mim_trains_and_tests_from_the_wheel(
    scenes,
    pretrained,
    wheel,  # noqa: F811
    tmp_path,
):
    """Two steps, then a test with sliding windows and pictures."""
    python = make_site(tmp_path / 'venv', wheel)
    project = tmp_path / 'my project'
    project.mkdir()
    (project / 'mine.py').write_text(
        f"_base_ = __import__('simim_plugin').config_path('{UPERNET}')\n"
        + ''.join(
            f'{name} = dict(num_workers=0, persistent_workers=False,\n'
            f'    dataset=dict(data_root={str(scenes)!r}))\n'
            for name in LOADERS
        )
        + 'train_dataloader["batch_size"] = 4\n'
        f'model = dict(backbone=dict(pretrained={str(pretrained)!r}),\n'
        '    test_cfg=dict(crop_size=(64, 64), stride=(21, 21)))\n'
        'train_cfg = dict(max_iters=2, val_interval=3)\n'
        'default_hooks = dict(logger=dict(interval=1),\n'
        '    checkpoint=dict(interval=2), visualization=dict(interval=1))\n'
    )
    mim = [python, '-m', 'mim']
    work = ['--work-dir', 'run']
    printed = run(
        *mim, 'train', 'mmsegmentation', 'mine.py', *work, cwd=project
    )
    assert re.search(r'Iter\(train\) \[2/2\]', printed), printed[-4000:]
    assert 'Loaded 52 tensors' in printed
    printed = run(
        *mim,
        *('test', 'mmsegmentation', 'mine.py'),
        *('--checkpoint', 'run/iter_2.pth', '--show-dir', 'drawn', *work),
        cwd=project,
    )
    assert re.search(r'Iter\(test\) \[3/3\]\s+aAcc: .*mIoU: ', printed)
    drawn = list(project.rglob('drawn/**/*.png'))
    assert len(drawn) == 3
    assert {Image.open(file).size for file in drawn} == {(128, 64)}

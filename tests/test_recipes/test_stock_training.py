"""Written configs train by OpenMMLab's launcher, from another folder."""

import json
import os
import subprocess
import sys
from importlib.metadata import packages_distributions
from importlib.util import find_spec
from pathlib import Path

import pytest

from ..training_processes import TOOLS, run_tool
from .test_end_to_end import configured

LIBRARIES = dict(
    pretraining='mmpretrain',
    classification='mmpretrain',
    detection='mmdet',
    segmentation='mmseg',
)


def stock_script(library):
    """Return the script of a library's ``mim train``."""
    package = Path(find_spec(library).origin).parent
    return package / '.mim' / 'tools' / 'train.py'


def mim_name(library):
    """Return the name of a library for mim: onedl-mmdetection's without on."""
    (name,) = packages_distributions()[library]
    return name.removeprefix('onedl-')


def short_run(task, tmp_path):
    """Write a config; return it and options for two steps."""
    config = configured(task, tmp_path / 'mine', '--no-trial', '--epochs', '1')
    words = ['--work-dir', 'run', '--cfg-options']
    words += ['default_hooks.logger.interval=1']
    words += ['train_dataloader.num_workers=0']
    words += ['train_dataloader.persistent_workers=False']
    if task in ('detection', 'segmentation'):
        words += ['train_cfg.max_iters=2']
    if task != 'pretraining':
        words += [f'val_{key}=None' for key in ('cfg', 'dataloader')]
        words += ['val_evaluator=None']
    return config, words


def check_run(done, folder):
    """Two steps were trained, with finite losses, and a checkpoint kept."""
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    (log,) = (folder / 'run').glob('*/vis_data/scalars.json')
    steps = [json.loads(line) for line in log.read_text().splitlines()]
    losses = [step['loss'] for step in steps if 'loss' in step]
    assert len(losses) >= 2
    assert all(0 < loss < 100 for loss in losses), losses
    assert [*(folder / 'run').glob('*.pth')]


MIM = find_spec('mim') is not None
BY_MIM = ('pretraining', 'detection', 'segmentation')


@pytest.mark.parametrize('task', [t for t in LIBRARIES if t not in BY_MIM])
def test_it_trains_by_the_stock_script(task, tmp_path):
    config, words = short_run(task, tmp_path)
    elsewhere = tmp_path / 'elsewhere'
    elsewhere.mkdir()
    script = stock_script(LIBRARIES[task])
    check_run(run_tool(script, config, *words, cwd=elsewhere), elsewhere)


@pytest.mark.slow
@pytest.mark.skipif(not MIM, reason='mim is not installed')
@pytest.mark.parametrize('task', BY_MIM)
def test_it_trains_by_mim(task, tmp_path):
    """``mim train mmpretrain|mmdetection|mmsegmentation CONFIG``.

    It starts the script of the test above, one of each library.
    """
    config, words = short_run(task, tmp_path)
    elsewhere = tmp_path / 'elsewhere'
    elsewhere.mkdir()
    name = mim_name(LIBRARIES[task])
    done = subprocess.run(
        [sys.executable, '-m', 'mim', 'train', name, str(config), *words],
        cwd=elsewhere,
        capture_output=True,
        text=True,
        env=dict(os.environ, PYTHONPATH=str(TOOLS.parent)),
    )
    check_run(done, elsewhere)

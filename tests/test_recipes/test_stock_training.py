"""Written configs train by the scripts that ``mim train`` starts."""

import json
from importlib.util import find_spec
from pathlib import Path

import pytest

from ..training_processes import run_tool
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


@pytest.mark.parametrize('task', LIBRARIES)
def test_it_trains_from_another_folder(task, tmp_path):
    config = configured(task, tmp_path / 'mine', '--no-trial', '--epochs', '1')
    elsewhere = tmp_path / 'elsewhere'
    elsewhere.mkdir()
    words = ['--work-dir', 'run', '--cfg-options']
    words += ['default_hooks.logger.interval=1']
    words += ['train_dataloader.num_workers=0']
    words += ['train_dataloader.persistent_workers=False']
    if task in ('detection', 'segmentation'):
        words += ['train_cfg.max_iters=2']
    if task != 'pretraining':
        words += [f'val_{key}=None' for key in ('cfg', 'dataloader')]
        words += ['val_evaluator=None']
    script = stock_script(LIBRARIES[task])
    done = run_tool(script, config, *words, cwd=elsewhere)
    assert done.returncode == 0, done.stderr[-2000:]
    (log,) = (elsewhere / 'run').glob('*/vis_data/scalars.json')
    steps = [json.loads(line) for line in log.read_text().splitlines()]
    losses = [step['loss'] for step in steps if 'loss' in step]
    assert len(losses) >= 2
    assert all(0 < loss < 100 for loss in losses), losses
    assert [*(elsewhere / 'run').glob('*.pth')]

"""Importing mmpretrain without the libraries that no command needs."""

import subprocess
import sys

import pytest

from simim_plugin import commands

SCRIPT = """
import sys
from simim_plugin.environment import import_mmpretrain_fast
import_mmpretrain_fast()
assert 'mmpretrain.models' in sys.modules
assert not {'mmdet', 'transformers.modeling_utils'} & sys.modules.keys()

import simim_plugin.pretraining
from mmpretrain.registry import MODELS
assert MODELS.get('SiameseIM') is simim_plugin.models.SiameseIM

import_mmpretrain_fast()  # has no effect now
import simim_plugin.detection
from mmdet.registry import MODELS as DETECTORS
assert DETECTORS.get('MaskRCNN') is not None
"""


@pytest.mark.slow
def test_a_command_imports_neither_mmdet_nor_transformers():
    """Detection, which needs mmdet, imports it afterwards."""
    done = subprocess.run(
        [sys.executable, '-c', SCRIPT], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]


def test_a_broken_mmpretrain_ends_a_command_in_one_sentence(
    monkeypatch, capsys
):
    """The import fails with a message and not with a traceback."""

    def fail():
        raise ImportError('No module named modelindex; install it.')

    monkeypatch.setattr(commands, 'import_mmpretrain_fast', fail)
    with pytest.raises(SystemExit) as stop:
        commands.run('evaluate', task='pretraining')
    assert stop.value.code == 1
    assert capsys.readouterr().err == (
        'error: No module named modelindex; install it.\n'
    )

"""Importing mmpretrain without the libraries that no command needs."""

import subprocess
import sys

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


def test_a_command_imports_neither_mmdet_nor_transformers():
    """Detection, which needs mmdet, imports it afterwards."""
    done = subprocess.run(
        [sys.executable, '-c', SCRIPT], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]

"""Segmentation components, registered in MMSegmentation."""

from ..environment import require_in_configs

require_in_configs('segmentation')

# ruff: noqa: E402
from mmseg.registry import (
    OPTIM_WRAPPER_CONSTRUCTORS,
    OPTIM_WRAPPERS,
    TRANSFORMS,
)

from .. import operators  # noqa: F401  # before mmseg imports mmcv.ops

# isort: split
from ..runs.terminal import noted_notices

with noted_notices():  # mmseg prints some when imported
    import mmseg.datasets  # noqa: F401

from .. import evaluation  # noqa: F401  # registers components
from ..datasets.annotated import LoadArray, LoadImage
from ..engine import AutocastOptimWrapper, LayerDecayConstructor
from ..inference import accept_collate_settings, correct_segmentation
from .backbone import SiameseIMSegViT
from .channels import AnyChannelSegPreprocessor
from .data import CheckedADE20KDataset, CheckedSegDataset, LoadLabelMap
from .hooks import (
    AsLoadedVisualizationHook,
    MultiScaleTestHook,
    OneChannelHook,
    OneSizeHook,
)
from .probes import KNNSegHead, KNNSegLoop, LinearSegHead

__all__ = [
    'AnyChannelSegPreprocessor',
    'AsLoadedVisualizationHook',
    'CheckedADE20KDataset',
    'CheckedSegDataset',
    'KNNSegHead',
    'KNNSegLoop',
    'LinearSegHead',
    'LoadLabelMap',
    'MultiScaleTestHook',
    'OneChannelHook',
    'OneSizeHook',
    'SiameseIMSegViT',
]

OPTIM_WRAPPERS.register_module(module=AutocastOptimWrapper)
OPTIM_WRAPPER_CONSTRUCTORS.register_module(module=LayerDecayConstructor)

accept_collate_settings()
correct_segmentation()
# The inferencers look for the first name, and put the second in its place.
TRANSFORMS.register_module(name='LoadImageFromFile', module=LoadImage)
TRANSFORMS.register_module(
    name='LoadImageFromNDArray', module=LoadArray, force=True
)

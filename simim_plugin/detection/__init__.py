"""Detection: ViTDet and LVIS components, registered in MMDetection."""

from ..environment import require_in_configs

require_in_configs('detection')

# ruff: noqa: E402
from .. import operators  # noqa: F401  # before mmdet imports mmcv.ops

# isort: split
from ..runs.terminal import noted_notices

with noted_notices():  # mmdet prints some when imported
    import mmdet.evaluation  # noqa: F401

from mmdet.registry import TRANSFORMS

from .. import evaluation  # noqa: F401  # registers components
from ..datasets.annotated import LoadArray, LoadImage
from ..inference import accept_collate_settings, correct_detection
from .channels import AnyChannelDetPreprocessor, AnyChannelResize
from .coco_metric import NamedCocoMetric
from .datasets import (
    CheckedCocoDataset,
    CheckedLVISDataset,
    RepeatFactorSampler,
)
from .federated_loss import FederatedLoss
from .hooks import MaskHook, PNGVisualizationHook
from .loading import LoadInstances
from .lvis_metric import NumPy2LVISMetric
from .precision import Float32RoIExtractor, Float32RPNHead
from .pyramid import SiameseIMFeaturePyramid
from .schedule import schedule
from .vitdet import SiameseIMViTDet

__all__ = [
    'AnyChannelDetPreprocessor',
    'AnyChannelResize',
    'CheckedCocoDataset',
    'CheckedLVISDataset',
    'FederatedLoss',
    'Float32RPNHead',
    'Float32RoIExtractor',
    'LoadInstances',
    'MaskHook',
    'NamedCocoMetric',
    'NumPy2LVISMetric',
    'PNGVisualizationHook',
    'RepeatFactorSampler',
    'SiameseIMFeaturePyramid',
    'SiameseIMViTDet',
    'schedule',
]

accept_collate_settings()
correct_detection()
# The inferencers look for the first name, and put the second in its place.
TRANSFORMS.register_module(name='LoadImageFromFile', module=LoadImage)
TRANSFORMS.register_module(
    name='LoadImageFromNDArray', module=LoadArray, force=True
)
# For pipelines of MMDetection's own, whose class drops run-length masks.
TRANSFORMS.register_module(
    name='LoadAnnotations', module=LoadInstances, force=True
)

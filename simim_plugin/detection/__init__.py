"""Detection: ViTDet's parts and LVIS, registered in MMDetection."""

from ..environment import MissingDependency, require
from ..errors import SimimError

try:
    require('detection')
except MissingDependency as error:
    # Of an ImportError in custom_imports mmengine tells another sentence.
    raise SimimError(str(error)) from None

from .datasets import (
    CheckedCocoDataset,
    CheckedLVISDataset,
    RepeatFactorSampler,
)
from .federated_loss import FederatedLoss
from .lvis_metric import NumPy2LVISMetric
from .precision import Float32RoIExtractor, Float32RPNHead
from .pyramid import SiameseIMFeaturePyramid
from .schedule import schedule
from .vitdet import SiameseIMViTDet

__all__ = [
    'CheckedCocoDataset',
    'CheckedLVISDataset',
    'FederatedLoss',
    'Float32RPNHead',
    'Float32RoIExtractor',
    'NumPy2LVISMetric',
    'RepeatFactorSampler',
    'SiameseIMFeaturePyramid',
    'SiameseIMViTDet',
    'schedule',
]

"""The methods that the paper compares with, on the same ViT and data path.

Importing this package registers their classes in MMPretrain, together with
the components of :mod:`simim_plugin.pretraining`::

    custom_imports = dict(imports=['simim_plugin.rivals'])
"""

from .. import pretraining  # noqa: F401  # registers components
from .beit import TokenHead, ViTBEiT
from .dense_cl import DenseContrastHead, DenseMLPs, ViTDenseCL
from .dino import DistillationHead, ViTDINO, ViTIBOT
from .distillation import PrototypeHead
from .mask_token import MaskTokenViT
from .moco_v3 import FeatureMLP, InfoNCEHead, ViTMoCoV3
from .msn import AssignmentHead, ProjectionMLP, ViTMSN
from .sampling import RepeatedSampler
from .schedules import HoldLastLayerHook, StepEMAHook, TemperatureHook
from .tokenizers import DALLETokenizer, FitTokenizerHook, PatchTokenizer
from .views import CropMasks, MultiCropViews

__all__ = [
    'AssignmentHead',
    'CropMasks',
    'DALLETokenizer',
    'DenseContrastHead',
    'DenseMLPs',
    'DistillationHead',
    'FeatureMLP',
    'FitTokenizerHook',
    'HoldLastLayerHook',
    'InfoNCEHead',
    'MaskTokenViT',
    'MultiCropViews',
    'PatchTokenizer',
    'ProjectionMLP',
    'PrototypeHead',
    'RepeatedSampler',
    'StepEMAHook',
    'TemperatureHook',
    'TokenHead',
    'ViTBEiT',
    'ViTDINO',
    'ViTDenseCL',
    'ViTIBOT',
    'ViTMSN',
    'ViTMoCoV3',
]

"""The method: algorithm, backbone, projector, decoder and head.

Importing this package registers them in MMPretrain, and adds the packaged
configs to MMPretrain's list of models.
"""

from ..environment import leave_out_multimodal

leave_out_multimodal()

# ruff: noqa: E402
from ..config_files import register_model_names
from .backbone import SiameseIMViT
from .decoder import RelativePositionDecoder
from .head import UniGradHead
from .norm import TokenBatchNorm
from .preprocessor import PairDataPreprocessor
from .projector import TransformerProjector
from .siamese_im import SiameseIM

__all__ = [
    'PairDataPreprocessor',
    'RelativePositionDecoder',
    'SiameseIM',
    'SiameseIMViT',
    'TokenBatchNorm',
    'TransformerProjector',
    'UniGradHead',
]

register_model_names()

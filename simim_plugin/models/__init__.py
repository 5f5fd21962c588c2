"""The method: algorithm, backbone, projector, decoder and head.

Importing this package registers them in MMPretrain, adds the packaged configs
to MMPretrain's list of models, and replaces MMEngine's ``load_checkpoint``
for models of this package (:mod:`simim_plugin.checkpoint.stock_loading`).
"""

from ..environment import leave_out_multimodal

leave_out_multimodal()

# ruff: noqa: E402
from ..checkpoint.stock_loading import replace_load_checkpoint
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
replace_load_checkpoint()

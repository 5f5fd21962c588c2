"""The method's modules and its variants, registered in MMPretrain."""

from ..environment import leave_out_multimodal

leave_out_multimodal()

# ruff: noqa: E402
from ..packaged import register_model_names
from .loss_norms import MAELikeNorm, MoCoLikeNorm, NoLossNorm, OnlineNorm
from .masked_moco import MaskedMoCoV3, MeanTokenNeck, PredictorHead
from .masked_vit import SiameseIMViT
from .preprocessor import PairDataPreprocessor
from .probe_head import ProbeHead
from .projector import TransformerProjector
from .relative_decoder import RelativePositionDecoder
from .siamese_im import SiameseIM
from .token_norm import TokenBatchNorm
from .unigrad_head import UniGradHead
from .variant_heads import GlobalHead, L2Head
from .variants import (
    PartialTargetSiameseIM,
    PixelSiameseIM,
    SmallTargetSiameseIM,
    SymmetricSiameseIM,
)

__all__ = [
    'GlobalHead',
    'L2Head',
    'MAELikeNorm',
    'MaskedMoCoV3',
    'MeanTokenNeck',
    'MoCoLikeNorm',
    'NoLossNorm',
    'OnlineNorm',
    'PairDataPreprocessor',
    'PartialTargetSiameseIM',
    'PixelSiameseIM',
    'PredictorHead',
    'ProbeHead',
    'RelativePositionDecoder',
    'SiameseIM',
    'SiameseIMViT',
    'SmallTargetSiameseIM',
    'SymmetricSiameseIM',
    'TokenBatchNorm',
    'TransformerProjector',
    'UniGradHead',
]

register_model_names()

"""Variants of the method: rows of the paper's table 3, and our own.

Each variant is a class of its own; the configs in ``configs/ablations``
choose it by name. Importing this package registers the classes in MMPretrain.
"""

from .. import pretraining  # noqa: F401  # registers components
from .algorithms import (
    PartialTargetSiameseIM,
    PixelSiameseIM,
    SmallTargetSiameseIM,
    SymmetricSiameseIM,
)
from .decoders import PixelDecoder, SmallTargetDecoder
from .heads import GlobalHead, L2Head, NormedUniGradHead
from .loss_norms import MAELikeNorm, MoCoLikeNorm, NoLossNorm, OnlineNorm
from .masked_moco import MaskedMoCoV3, MeanTokenNeck, PredictorHead
from .masks import RandomMask
from .views import SameView, SmallTargetViews

__all__ = [
    'GlobalHead',
    'L2Head',
    'MAELikeNorm',
    'MaskedMoCoV3',
    'MeanTokenNeck',
    'MoCoLikeNorm',
    'NoLossNorm',
    'NormedUniGradHead',
    'OnlineNorm',
    'PartialTargetSiameseIM',
    'PixelDecoder',
    'PixelSiameseIM',
    'PredictorHead',
    'RandomMask',
    'SameView',
    'SmallTargetDecoder',
    'SmallTargetSiameseIM',
    'SmallTargetViews',
    'SymmetricSiameseIM',
]

"""Variants of the method: the rows of the paper's table 3 and more.

Each variant is a class, which a config in ``configs/ablations`` selects.
Importing this package registers the classes in MMPretrain, together with the
components of :mod:`simim_plugin.pretraining`.
"""

from .. import pretraining  # noqa: F401  # registers components
from .algorithms import (
    PartialTargetSiameseIM,
    PixelSiameseIM,
    SmallTargetSiameseIM,
    SymmetricSiameseIM,
)
from .decoders import PixelDecoder
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
    'SmallTargetSiameseIM',
    'SmallTargetViews',
    'SymmetricSiameseIM',
]

"""The method's modules, registered in MMPretrain."""

from .masked_vit import SiameseIMViT
from .preprocessor import PairDataPreprocessor
from .projector import TransformerProjector
from .relative_decoder import RelativePositionDecoder
from .siamese_im import SiameseIM
from .token_norm import TokenBatchNorm
from .unigrad_head import UniGradHead

__all__ = [
    'PairDataPreprocessor',
    'RelativePositionDecoder',
    'SiameseIM',
    'SiameseIMViT',
    'TokenBatchNorm',
    'TransformerProjector',
    'UniGradHead',
]

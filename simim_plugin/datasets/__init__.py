"""Load images: pairs of views to pretrain, labelled images to evaluate."""

from ..pictures import UnreadableImageError
from .block_mask import BlockwiseMask
from .evaluation_crop import AnyChannelCrop, EvaluationCrop
from .image_folder import ImageFolder
from .inferencers import replace_preprocess
from .labelled_folder import LabelledFolder
from .loading import LoadRGBImage
from .local_cifar10 import LocalCIFAR10
from .paired_views import PairedViews
from .photometric import FastColorJitter, FastGaussianBlur, FastGrayscale
from .robustness import (
    CorruptedFolder,
    ImageNetA,
    ImageNetC,
    ImageNetR,
    ImageNetSketch,
)
from .single_draw_crop import SingleDrawCrop

__all__ = [
    'AnyChannelCrop',
    'BlockwiseMask',
    'CorruptedFolder',
    'EvaluationCrop',
    'FastColorJitter',
    'FastGaussianBlur',
    'FastGrayscale',
    'ImageFolder',
    'ImageNetA',
    'ImageNetC',
    'ImageNetR',
    'ImageNetSketch',
    'LabelledFolder',
    'LoadRGBImage',
    'LocalCIFAR10',
    'PairedViews',
    'SingleDrawCrop',
    'UnreadableImageError',
]

replace_preprocess()

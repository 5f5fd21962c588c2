"""Images in, pairs of views with their geometry and mask out."""

from .block_mask import BlockwiseMask
from .image_folder import ImageFolder
from .loading import LoadRGBImage, UnreadableImageError
from .paired_views import PairedViews
from .photometric import FastColorJitter, FastGaussianBlur, FastGrayscale

__all__ = [
    'BlockwiseMask',
    'FastColorJitter',
    'FastGaussianBlur',
    'FastGrayscale',
    'ImageFolder',
    'LoadRGBImage',
    'PairedViews',
    'UnreadableImageError',
]

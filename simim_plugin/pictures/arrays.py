"""Arrays that are given to an inferencer, read by the rules of files.

Shape key: H rows, W columns, C channels.
"""

from __future__ import annotations

import numpy as np

from ..errors import SimimError
from .levels import Window, to_eight_bits
from .reading import in_three_channels


def array_to_rgb(image: object, window: Window | None = None) -> np.ndarray:
    """Return an image in OpenMMLab's channel order, BGR, as RGB.

    Args:
        image (numpy.ndarray): (H, W), (H, W, 1), (H, W, 3) BGR or
            (H, W, 4) BGR and alpha, uint8 or of more bits.
        window (tuple[float, float], optional): see
            :func:`simim_plugin.pictures.decode`.

    Returns:
        numpy.ndarray: (H, W, 3) uint8, RGB.

    Raises:
        SimimError: for anything else.
    """
    shape = getattr(image, 'shape', None)
    if not isinstance(image, np.ndarray) or not (
        image.size
        and (image.ndim == 2 or (image.ndim == 3 and shape[2] in (1, 3, 4)))
    ):
        raise SimimError(
            f'A {type(image).__name__} of shape {shape} is no image; give an '
            'array (H, W), (H, W, 1), (H, W, 3) in BGR or (H, W, 4) in BGR '
            'and alpha.'
        )
    name = f'The array {image.shape}'
    if image.ndim == 3:
        image = image[..., 0] if shape[2] == 1 else image[..., 2::-1]
    try:
        pixels = to_eight_bits(image, window, name)
    except ValueError as error:
        raise SimimError(f'{name} is no image: {error}.') from error
    return np.ascontiguousarray(in_three_channels(pixels))

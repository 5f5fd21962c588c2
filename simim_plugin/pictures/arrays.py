"""Arrays that are given to an inferencer, read by the rules of files.

Shape key: H rows, W columns, C channels.
"""

from __future__ import annotations

import numpy as np

from ..errors import SimimError
from .levels import Window, to_eight_bits
from .reading import with_channels


def array_to_rgb(
    image: object, window: Window | None = None, channels: int = 3
) -> np.ndarray:
    """Return an image in OpenMMLab's channel order, BGR, as RGB.

    Args:
        image (numpy.ndarray): (H, W), (H, W, 1), (H, W, 3) BGR or
            (H, W, 4) BGR and alpha, uint8 or of more bits; for other
            ``channels`` than three (H, W, N) in their order.
        window (tuple[float, float], optional): see
            :func:`simim_plugin.pictures.decode`.
        channels (int): N. Defaults to 3.

    Returns:
        numpy.ndarray: (H, W, N) uint8, RGB if N is 3.

    Raises:
        SimimError: for anything else.
    """
    shape: tuple[int, ...] = getattr(image, 'shape', ())
    depth = shape[2] if len(shape) == 3 else 1
    depths = {3: (1, 3, 4), 1: (1, 3, 4)}.get(channels, (channels,))
    if (
        not isinstance(image, np.ndarray)
        or image.ndim not in (2, 3)
        or not image.size
        or depth not in depths
    ):
        raise SimimError(
            f'A {type(image).__name__} of shape {shape} is no image of '
            f'{channels} channels; give an array (H, W), (H, W, 1), '
            '(H, W, 3) in BGR or (H, W, 4) in BGR and alpha, or one of as '
            'many channels as LoadRGBImage has.'
        )
    name = f'The array {shape}'
    if depth == 1:
        image = image.reshape(shape[:2])
    elif channels in (1, 3):
        image = image[..., 2::-1]
    try:
        pixels = to_eight_bits(image, window, name)
    except ValueError as error:
        raise SimimError(f'{name} is no image: {error}.') from error
    return np.ascontiguousarray(with_channels(pixels, channels))

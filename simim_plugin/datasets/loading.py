"""Read any image file as RGB uint8, and name the files that fail.

Shape key: H rows, W columns.
"""

from __future__ import annotations

import io

import cv2
import numpy as np
from mmcv.transforms import BaseTransform
from mmengine import fileio
from mmpretrain.registry import TRANSFORMS
from PIL import Image

from ..errors import SimimError
from ..files import check_regular

_JPEG_END = b'\xff\xd9'


class UnreadableImageError(SimimError):
    """An image file that cannot be read; the message names it."""


def decode_rgb(data: bytes) -> np.ndarray:
    """Decode the bytes of an image file.

    Greyscale, CMYK and palette images become RGB as Pillow converts them.
    16-bit levels keep their upper byte; 32-bit levels count as 16 bits, or
    as 8 bits if none exceeds 255. As in Pillow, alpha is dropped and the
    EXIF orientation is ignored.

    Returns:
        numpy.ndarray: (H, W, 3) uint8, RGB.

    Raises:
        Exception: any error of Pillow, for an unreadable or truncated
            file, or an image large enough to exhaust the memory.
    """
    file = io.BytesIO(data)
    image: Image.Image = Image.open(file)  # reads the header only
    # OpenCV decodes ordinary JPEGs to the same pixels in 3/4 of the time.
    # Pillow handles files without the end marker, which may be truncated.
    if (
        image.format == 'JPEG'
        and image.mode in ('L', 'RGB')
        and data.endswith(_JPEG_END)
    ):
        pixels = cv2.imdecode(
            np.frombuffer(data, np.uint8),
            cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION,
        )
        if pixels is not None:
            return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB, pixels)
    if image.mode == 'F':
        raise ValueError('pixels are floats of unknown range')
    if image.mode.startswith('I'):  # Pillow would clip at 255
        levels = np.asarray(image)
        eight = image.mode == 'I' and levels.max() < 256
        grey = levels.clip(0, 65535) >> (0 if eight else 8)
        return np.repeat(grey.astype(np.uint8)[..., None], 3, axis=2)
    if image.mode == 'P':
        image = image.convert('RGBA')  # no warning about alpha in palettes
    return np.array(image.convert('RGB'))


@TRANSFORMS.register_module()
class LoadRGBImage(BaseTransform):
    """Load an image of any kind as 8-bit RGB.

    MMCV's ``LoadImageFromFile`` returns BGR, rotates the image by its EXIF
    orientation, and does not name a file that it cannot decode.

    **Required Keys:** ``img_path``, or a BGR ``img`` (H, W, 3) from
    MMPretrain's inferencers, which is converted to RGB

    **Added Keys:** ``img`` (H, W, 3) uint8 RGB, ``ori_shape`` and
    ``img_shape`` (H, W)

    Args:
        backend_args (dict, optional): file backend, as in
            ``mmengine.fileio.get``. Defaults to None: the path's prefix
            selects it.
    """

    def __init__(self, backend_args: dict | None = None) -> None:
        self.backend_args = backend_args

    def transform(self, results: dict) -> dict:
        """Load ``results['img_path']``, or convert a given ``img`` to RGB.

        Raises:
            UnreadableImageError: if the file cannot be read or decoded.
        """
        if 'img' in results:
            results['img'] = np.ascontiguousarray(results['img'][..., ::-1])
            return results
        path = results['img_path']
        try:
            check_regular(path)
            data = fileio.get(path, backend_args=self.backend_args)
            image = decode_rgb(data)
        # Decoders raise many types, from OSError to struct.error.
        except Exception as error:
            raise UnreadableImageError(
                f'Cannot read the image {path} ({_reason(error)}): replace or '
                'remove the file, or skip such files with '
                "`type='ImageFolder', skip_broken=0.01`."
            ) from error
        results['img'] = image
        results['ori_shape'] = results['img_shape'] = image.shape[:2]
        return results

    def __repr__(self) -> str:
        return f'{type(self).__name__}(backend_args={self.backend_args})'


def _reason(error: Exception) -> str:
    if isinstance(error, Image.UnidentifiedImageError):
        return 'no image format that Pillow knows'
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error).rstrip('.') or type(error).__name__

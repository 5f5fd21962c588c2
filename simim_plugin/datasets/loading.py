"""Read any image file as RGB uint8, and name the files that fail.

Shape key: H rows, W columns.
"""

from __future__ import annotations

from typing import Any

from mmcv.transforms import BaseTransform
from mmpretrain.registry import TRANSFORMS

from ..pictures import (
    Window,
    array_to_rgb,
    check_measured,
    decode,
    given_window,
    naming,
    read_file,
)


@TRANSFORMS.register_module()
class LoadRGBImage(BaseTransform):
    """Load an image of any kind as 8-bit RGB, as a person sees it.

    MMCV's ``LoadImageFromFile`` returns BGR, does not know all formats, and
    does not name a file that it cannot decode.

    **Required Keys:** ``img_path`` (with ``member`` in an archive), or an
    ``img`` in BGR, see :func:`simim_plugin.pictures.array_to_rgb`

    **Added Keys:** ``img`` (H, W, N) uint8, RGB if N is 3, ``ori_shape`` and
    ``img_shape`` (H, W)

    Args:
        backend_args (dict, optional): file backend, as in
            ``mmengine.fileio.get``. Defaults to None: the path's prefix
            selects it.
        window (tuple[float, float] | str, optional): levels that become 0
            and 255 in images of more than 8 bits. 'percentiles' lets the
            training set find them once. Defaults to None: 16-bit levels
            keep their upper byte.
        channels (int): N; 3 for RGB, 1 for grey, or that of multispectral
            images. It equals ``in_channels`` of the backbone. Defaults to 3.
    """

    def __init__(
        self,
        backend_args: dict | None = None,
        window: Window | str | None = None,
        channels: int = 3,
    ) -> None:
        self.channels = channels
        self.backend_args = backend_args
        self.window: Any = given_window(window)

    def transform(self, results: dict) -> dict:
        """Load ``results['img_path']``, or convert a given ``img`` to RGB.

        Raises:
            UnreadableImageError: if the file cannot be read or decoded.
            SimimError: if a given ``img`` is no image.
        """
        check_measured(self.window)
        if 'img' in results:
            image = array_to_rgb(results['img'], self.window, self.channels)
        else:
            path = results['img_path']
            with naming(path):
                member = results.get('member')
                data = read_file(path, member, self.backend_args)
                image = decode(
                    data, window=self.window, name=path, channels=self.channels
                )
        results['img'] = image
        results['ori_shape'] = results['img_shape'] = image.shape[:2]
        return results

    def __repr__(self) -> str:
        return (
            f'{type(self).__name__}(backend_args={self.backend_args}, '
            f'window={self.window}, channels={self.channels})'
        )

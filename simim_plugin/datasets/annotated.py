"""Read annotated images as their annotations see them.

Some tools annotate the stored pixels, others the upright image. The size
that the annotations state shows which. Shape key: H rows, W columns.
"""

from __future__ import annotations

import io
import logging
from collections import Counter
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from mmcv.transforms import LoadImageFromFile
from mmengine import fileio
from mmengine.dist import is_main_process
from mmengine.logging import print_log
from PIL import Image

from ..errors import SimimError
from ..files import check_regular
from ..pictures import (
    Header,
    UnreadableImageError,
    Window,
    array_to_rgb,
    check_measured,
    decode,
    decode_to_draw,
    given_window,
    naming,
    read_header,
)
from ..text import clean

Size = tuple[int, int]
"""(H, W)."""

MOST = 5_000
"""Largest number of images whose sizes are compared before a run."""


class LoadImage(LoadImageFromFile):
    """MMCV's ``LoadImageFromFile`` by the rules of ``LoadRGBImage``.

    MMDetection and MMSegmentation know it by MMCV's name, which their
    inferencers look for. Images without annotations are turned upright; of
    annotated ones the annotations decide.

    **Required Keys:** ``img_path``; with annotations ``height`` and
    ``width``, or ``seg_map_path``, and ``upright``, the answer if these fit
    the stored image and the upright one

    **Added Keys:** ``img`` (H, W, N) uint8, BGR if N is 3, ``img_shape`` and
    ``ori_shape`` (H, W), ``upright`` (bool)

    Args:
        window (tuple[float, float] | str, optional): as in
            :class:`simim_plugin.datasets.LoadRGBImage`. Defaults to None.
        channels (int): N, as there. Defaults to 3.
        **kwargs: see :class:`mmcv.transforms.LoadImageFromFile`. Another
            ``color_type`` or ``imdecode_backend`` is left to MMCV.
    """

    def __init__(
        self,
        window: Window | str | None = None,
        channels: int = 3,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.window = given_window(window)
        self.channels = channels
        stock = (self.color_type, self.imdecode_backend) != ('color', 'cv2')
        if stock and (window is not None or channels != 3):
            raise SimimError(
                'color_type and imdecode_backend of LoadImageFromFile leave '
                'the reading to MMCV, which knows no window and no channels; '
                'remove them.'
            )
        self.stock = stock

    def transform(self, results: dict) -> dict | None:
        """Load ``results['img_path']``.

        Raises:
            UnreadableImageError: if the file cannot be read or decoded.
            SimimError: if the annotations are of another size.
        """
        if self.stock:
            return super().transform(results)
        if 'img_path' not in results:  # of a list that begins with a file
            return self._from_array(results)
        check_measured(self.window)
        path = results['img_path']
        try:
            with naming(path):
                check_regular(path)
                data = fileio.get(path, backend_args=self.backend_args)
                header = read_header(io.BytesIO(data))
            results['upright'] = _is_upright(results, header)
            with naming(path):
                image = decode(
                    data, results['upright'], self.window, path, self.channels
                )
        except UnreadableImageError:
            if self.ignore_empty:
                return None
            raise
        return self._packed(results, image)

    def _from_array(self, results: dict) -> dict:
        results['img_path'] = None
        check_measured(self.window)
        image = array_to_rgb(results['img'], self.window, self.channels)
        return self._packed(results, image)

    def _packed(self, results: dict, rgb: np.ndarray) -> dict:
        image = rgb
        if self.channels == 3:
            image = cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR)
        if self.to_float32:
            image = image.astype(np.float32)
        results['img'] = image
        results['img_shape'] = results['ori_shape'] = image.shape[:2]
        return results


class LoadArray(LoadImage):
    """OpenMMLab's ``LoadImageFromNDArray`` by the rules of ``LoadRGBImage``.

    **Required Keys:** ``img``, see
    :func:`simim_plugin.pictures.array_to_rgb`

    **Added Keys:** as in :class:`LoadImage`, and ``img_path``, None
    """

    def transform(self, results: dict) -> dict | None:
        """Convert ``results['img']`` to (H, W, N) uint8.

        Raises:
            SimimError: if it is no image.
        """
        if 'img' not in results:  # of a list that begins with an array
            return super().transform(results)
        return self._from_array(results)


def read_as_loaded(
    sample: Any, backend_args: dict | None = None
) -> np.ndarray:
    """Read the image of a sample, turned as :class:`LoadImage` has it.

    Args:
        sample (BaseDataElement): with ``img_path``, ``ori_shape``, and
            ``upright`` if it is packed.
        backend_args (dict, optional): as in ``mmengine.fileio.get``.

    Returns:
        numpy.ndarray: (H, W, 3) uint8 RGB.
    """
    with naming(sample.img_path):
        data = fileio.get(sample.img_path, backend_args=backend_args)
        fit = _fit(read_header(io.BytesIO(data)), tuple(sample.ori_shape))
        upright = sample.get('upright', fit != 'stored')
        return decode_to_draw(data, upright, sample.img_path)


def prefer_upright(
    items: Sequence[dict],
    source: str,
    upright: bool | None = None,
    error: type[SimimError] = SimimError,
) -> bool:
    """Compare images with the sizes that their annotations state.

    Args:
        items (Sequence[dict]): of a data set, with the keys that
            :class:`LoadImage` takes. Of many, ``MOST`` evenly spaced ones
            are compared.
        source (str): file or folder of the annotations, for messages.
        upright (bool, optional): the answer, if it is known.
        error (type[SimimError]): what to raise.

    Returns:
        bool: whether annotations that fit the stored image and the upright
        one are taken to be of the upright one, as most others of the set are.

    Raises:
        SimimError: if images are neither stored nor upright of that size.
    """
    wrong, fits = [], Counter[str]()
    count = min(len(items), MOST)
    for k in np.linspace(0, len(items) - 1, count).astype(int):
        try:
            header = read_header(items[k]['img_path'])
            stated = _stated_size(items[k])
        except Exception:  # it is named when it is loaded
            continue
        if stated is None:
            continue
        fit = _fit(header, stated)
        if fit == 'none':
            wrong.append(_mismatch(items[k], header, stated))
        elif header.orientation > 1:
            fits[fit] += 1
    if wrong:
        more = '; ...' if len(wrong) > 3 else ''
        raise error(
            f'Of {count} images {len(wrong)} have another size than their '
            f'annotations in {source}: {"; ".join(wrong[:3])}{more}; correct '
            'the annotations, or get the images that were annotated.'
        )
    others = fits['upright'] > fits['stored']
    answer = others if upright is None else upright
    if fits and is_main_process():
        _report(fits, source, answer, upright is not None)
    return answer


def _report(
    fits: Counter[str], source: str, answer: bool, known: bool
) -> None:
    """Log how images with an EXIF turn are read."""
    undecided = not (known or fits['upright'] or fits['stored'])
    advice = (
        '; if they were annotated upright, set upright=True of the data set'
        if undecided
        else ''
    )
    print_log(
        f'{fits.total()} images of {clean(source)} have an EXIF orientation: '
        f'{fits["stored"]} are annotated as stored, {fits["upright"]} '
        f'upright, and {fits["both"]}, which fit both, are read '
        f'{"upright" if answer else "as stored"}{advice}.',
        logger='current',
        level=logging.WARNING if undecided else logging.INFO,
    )


def _is_upright(results: dict, header: Header) -> bool:
    """Return whether the annotations of an image are of it upright."""
    labels = results.get('seg_map_path')
    if labels and header.orientation == 1:
        return False  # no need to read the label map
    try:
        stated = _stated_size(results)
    except OSError:  # the loader of the label map names it
        return False
    if stated is None:
        return True
    fit = _fit(header, stated)
    if fit == 'none' and not labels:
        raise SimimError(
            'An image has another size than its annotations: '
            f'{_mismatch(results, header, stated)}; correct the annotations, '
            'or get the image that was annotated.'
        )
    return fit == 'upright' or (
        fit == 'both' and results.get('upright', False)
    )


def _stated_size(results: dict) -> Size | None:
    """Return the size that annotations state, or None without any."""
    if results.get('seg_map_path'):
        with Image.open(results['seg_map_path']) as labels:
            return labels.height, labels.width
    if 'height' in results and 'width' in results:
        return results['height'], results['width']
    return None


def _fit(header: Header, size: Size) -> str:
    stored, upright = size == header.stored, size == header.turned
    if stored and upright:
        return 'both'
    return 'stored' if stored else 'upright' if upright else 'none'


def _mismatch(results: dict, header: Header, stated: Size) -> str:
    labels, (height, width) = results.get('seg_map_path'), stated
    rows, columns = header.stored
    image = f'{results["img_path"]} has {columns} x {rows}'
    if labels:
        return f'{labels} has {width} x {height} pixels and {image}'
    return f'{image} pixels and its annotations {width} x {height}'

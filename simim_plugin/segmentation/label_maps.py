"""Read label maps, and look at those of a data set before a run starts.

Shape key: H rows, W columns.
"""

from __future__ import annotations

import io
import logging
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
from mmengine import fileio
from mmengine.logging import print_log
from PIL import Image

from ..errors import SimimError
from ..files import check_regular
from ..pictures.deep import stated_top, stored_levels
from ..text import clean, some

IGNORED = 255
"""Value of pixels that neither the loss nor a metric counts."""

LOOKED_AT = 500
"""Label maps in which each class is looked for, spread over the data set."""

_CHUNK = 32
_PHOTOMETRIC, _SAMPLE_FORMAT = 262, 339  # tags of TIFF
_SPREAD = {'L;2': 85, 'L;4': 17, 'L;2R': 85, 'L;4R': 17}
"""Distance of the values of few bits, by Pillow's names of their coding."""


class LabelMapError(SimimError):
    """Error of missing or wrong label maps; the message names them."""


def read_label_map(path: str, backend_args: dict | None = None) -> np.ndarray:
    """Read a label map.

    Palette images are read as values, not as colours.

    Args:
        path (str): an image file without loss.
        backend_args (dict, optional): file backend, as in
            ``mmengine.fileio.get``. Defaults to None.

    Returns:
        numpy.ndarray: (H, W) of bool or integers.

    Raises:
        LabelMapError: if the file cannot be read, holds colours or several
            pages, or does not state its values.
    """
    try:
        check_regular(path)
        data = fileio.get(path, backend_args=backend_args)
        image = Image.open(io.BytesIO(data))
        fault = _fault(image)
        labels = _as_stored(image, data)
    # Decoders raise anything from OSError to struct.error.
    except Exception as error:
        unknown = isinstance(error, Image.UnidentifiedImageError)
        reason = 'no image format that Pillow knows' if unknown else error
        raise LabelMapError(
            f'Cannot read the label map {path} ({reason}); replace the '
            'file, or remove it and its image.'
        ) from error
    if fault:
        raise LabelMapError(f'The label map {path} {fault}.')
    if labels.dtype.kind == 'f':
        raise LabelMapError(
            f'The label map {path} holds fractions; save it as an image of '
            'whole numbers.'
        )
    if labels.ndim != 2 or labels.dtype.kind not in 'bui':
        raise LabelMapError(
            f'The label map {path} holds colours where class indices are '
            'needed; save it as a greyscale or palette image of indices.'
        )
    if image.format == 'JPEG':
        raise LabelMapError(
            f'The label map {path} is a JPEG file, whose compression changes '
            'class indices; make it anew as a PNG file.'
        )
    return labels


def _fault(image: Image.Image) -> str | None:
    """Return why the values of a file are not known, as a clause, or None."""
    pages = getattr(image, 'n_frames', 1)
    if pages > 1:
        return (
            f'has {pages} pages, of which one would be read; save it as one '
            'image of class indices'
        )
    gif = image.format == 'GIF'
    if gif and np.ptp(np.array(image.convert('RGB')), axis=-1).any():
        return (
            'is a GIF file of colours, whose values its writer may have '
            'numbered anew; save it as PNG'
        )
    tags = getattr(image, 'tag_v2', {})
    if image.mode in ('1', 'L') and tags.get(_PHOTOMETRIC) == 0:
        return (
            'is a TIFF file with white as the lowest value, which readers '
            'turn round; save it with black as the lowest one, or as PNG'
        )
    return None


def _as_stored(image: Image.Image, data: bytes) -> np.ndarray:
    """Return the values of a file, where Pillow has others.

    Pillow spreads values of 2 and 4 bits over 0 to 255, and those of PNM and
    JPEG 2000 files from the highest that they state. It takes signed bytes
    of a TIFF file for unsigned ones. Writers of GIF files leave out the
    values that a file lacks, so that the levels of its palette count.
    """
    if image.format == 'GIF':
        return np.array(image.convert('L'))
    if stated_top(image, data) not in (None, 255):
        return stored_levels(image, data)
    tiles = getattr(image, 'tile', ())  # before the pixels are read
    kind = tiles[0].args if tiles else ''
    kind = kind[0] if isinstance(kind, tuple) else kind
    labels = np.array(image)
    if image.mode == 'L' and kind in _SPREAD:
        return labels // _SPREAD[kind]
    formats = getattr(image, 'tag_v2', {}).get(_SAMPLE_FORMAT, (1,))
    signed = 2 in (formats if isinstance(formats, tuple) else (formats,))
    if image.mode == 'L' and signed:
        return labels.view(np.int8)
    return labels


def wrong_value(values: np.ndarray, results: dict) -> str | None:
    """Return the fault of a value beyond the classes as a clause, or None.

    Args:
        values (numpy.ndarray): of label maps, as stored; any shape.
        results (dict): ``reduce_zero_label`` and, if known, ``num_classes``
            or ``values`` and ``ignored``.
    """
    if results.get('values') is not None:
        if results['ignored'] == 'others':
            return None
        known = [*results['values'], *results['ignored']]
        other = np.setdiff1d(values, known)
        return (
            f'holds the value {other[0]}, which is none of the values of the '
            'classes and none that is ignored; add it to values or ignored '
            'of the data set'
            if other.size
            else None
        )
    count = results.get('num_classes', IGNORED - 1)
    highest = count if results['reduce_zero_label'] else count - 1
    counted = values[values != IGNORED]
    if counted.size and not 0 <= counted.min() <= counted.max() <= highest:
        wrong = counted.max() if counted.max() > highest else counted.min()
        return (
            f'holds the value {wrong}, beyond the {count} classes of the '
            f'data set (0 to {highest}, and {IGNORED} for ignored pixels); '
            'correct it, or the classes in metainfo and num_classes of the '
            'heads'
        )
    return None


def class_indices(values: np.ndarray, results: dict) -> np.ndarray:
    """Return the classes that values stand for.

    Args:
        values (numpy.ndarray): as stored, without wrong ones; any shape.
        results (dict): ``values`` or ``reduce_zero_label``, and
            ``label_map``.

    Returns:
        numpy.ndarray: uint8, 255 for ignored pixels.
    """
    if results.get('values') is not None:
        labels = np.full(values.shape, IGNORED, np.uint8)
        for label, value in enumerate(results['values']):
            labels[values == value] = label
    else:
        labels = values.astype(np.uint8)
        if results['reduce_zero_label']:
            labels -= 1  # 0 becomes 255
            labels[labels == IGNORED - 1] = IGNORED
    if results.get('label_map') is not None:
        table = np.arange(256, dtype=np.uint8)
        for old, new in results['label_map'].items():
            table[old] = new
        labels = table[labels]
    return labels


def check_label_maps(
    pairs: Sequence[dict],
    classes: Sequence[str],
    backend_args: dict | None = None,
) -> None:
    """Look for every class in the label maps of a data set.

    It stops when all classes are found, or after ``LOOKED_AT`` maps in which
    there are two.

    Args:
        pairs (Sequence[dict]): of the data set, with ``seg_map_path``.
        classes (Sequence[str]): the names.
        backend_args (dict, optional): see :func:`read_label_map`.

    Raises:
        LabelMapError: if there is one class only, if a map is wrong, or if
            the ignored value stands where a class belongs.
    """
    if len(classes) == 1:
        raise LabelMapError(
            f'A data set with the class {classes[0]!r} alone teaches nothing, '
            'since every other pixel is ignored; declare two, as in '
            f"metainfo=dict(classes=('background', {classes[0]!r})), with the "
            'values 0 and 1 in the label maps and reduce_zero_label=False.'
        )
    step = -(-len(pairs) // LOOKED_AT)
    order = [p for start in range(step) for p in pairs[start::step]]
    values: set[int] = set()
    found: set[int] = set()
    looked = 0

    look = partial(_values, backend_args=backend_args)
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for start in range(0, len(order), _CHUNK):
            chunk = order[start : start + _CHUNK]
            values.update(*pool.map(look, chunk))
            looked += len(chunk)
            stored = np.array(sorted(values), np.int64)
            found = {*class_indices(stored, pairs[0]).tolist()} - {IGNORED}
            if len(found) == len(classes) or (
                looked >= LOOKED_AT and len(found) > 1
            ):
                break
    absent = [name for k, name in enumerate(classes) if k not in found]
    if absent:
        _say_absent(pairs, values, absent, looked, len(classes))


def _values(pair: dict, backend_args: dict | None) -> list[int]:
    """Return the values in the label map of a pair."""
    path = pair['seg_map_path']
    present = _present(read_label_map(path, backend_args))
    fault = wrong_value(present, pair)
    if fault:
        raise LabelMapError(f'The label map {path} {fault}.')
    return present.tolist()


def _say_absent(
    pairs: Sequence[dict],
    values: set[int],
    absent: list[str],
    looked: int,
    count: int,
) -> None:
    first = pairs[0]
    place = os.path.dirname(first['seg_map_path'])
    zero = first['reduce_zero_label']
    ignored = 0 if zero else IGNORED
    if (
        len(absent) >= count - 1
        and ignored in values
        and first.get('label_map') is None
        and first.get('values') is None
    ):
        remedy = (
            'set reduce_zero_label=False of the data sets'
            if zero
            else f'save them with the values 0 to {count - 1}, or set values '
            'of the data sets, such as values=[0, 255]'
        )
        raise LabelMapError(
            f'The {looked} label maps of {place} hold the values '
            f'{some(sorted(values))} only, of which {ignored} is ignored, so '
            f'that {some(map(repr, absent))} would never be learned; '
            f'{remedy}.'
        )
    part = '' if looked == len(pairs) else f' of {len(pairs)}'
    print_log(
        f'In {looked}{part} label maps of {clean(place)} there is no pixel of '
        f'{len(absent)} of the {count} classes ({some(absent)}); check '
        'their values and the classes if this is unexpected.',
        'current',
        logging.WARNING,
    )


def _present(labels: np.ndarray) -> np.ndarray:
    if labels.dtype != np.uint8:
        return np.unique(labels.astype(np.int64))
    seen = np.zeros(256, bool)
    seen[labels.ravel()] = True
    return np.flatnonzero(seen)

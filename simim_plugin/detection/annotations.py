"""Read COCO and LVIS annotation files, and count what training leaves out."""

from __future__ import annotations

import json
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from difflib import SequenceMatcher
from typing import Any

import numpy as np

from ..errors import SimimError
from ..text import some

BOXES_ONLY = 'siamese_im_vit-base-p16_vitdet-faster-16xb4-amp-100e_coco.py'
"""The config that needs no masks."""
MOST = 10**15
"""The largest number; operators overflow beyond it."""
FAR = 10
"""Sides of the image, the most between it and a point of a polygon."""


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and -MOST <= value <= MOST


Check = tuple[Callable[[Any], bool], str]
_ID: Check = (
    lambda value: type(value) in (int, float, str),
    'a number or a text',
)
_SIZE: Check = (lambda n: _is_number(n) and n > 0), 'a number above 0'
_COUNT: Check = (
    (lambda n: type(n) is int and 0 <= n <= MOST),
    'a whole number from 0',
)
_TEXT: Check = (lambda value: isinstance(value, str)), 'a text'
_BOX: Check = (
    lambda box: (
        isinstance(box, list) and len(box) == 4 and all(map(_is_number, box))
    ),
    'a list of four numbers',
)
NEEDED: dict[str, dict[str, Check]] = {
    'images': {'id': _ID, 'width': _SIZE, 'height': _SIZE},
    'categories': {'id': _ID, 'name': _TEXT},
    'annotations': {
        'id': _ID,
        'image_id': _ID,
        'category_id': _ID,
        'bbox': _BOX,
        'area': (_is_number, 'a number'),
    },
}
"""The keys of the entries in each part of a file, and their values."""

_FLAG: Check = (lambda flag: flag in (0, 1, None)), '0 or 1'
OPTIONAL = {
    'images': {'file_name': _TEXT, 'coco_url': _TEXT},
    'categories': {},
    'annotations': {'iscrowd': _FLAG, 'ignore': _FLAG},
}
"""Further keys that are read if an entry has them."""

CROWD = 'crowd regions'
POLYGONS = 'with polygons'
RUNS = 'with a run-length mask'
NO_MASK = 'without a mask'
UNFIT = 'with a run-length mask of another size than the image'
FLAT = 'with a polygon that is no list in a list'
OTHER = 'with a polygon of other things than numbers'
SHARES = 'with polygons in fractions of the image'
OUTSIDE = 'with polygons far outside the image'
FEW_POINTS = 'with polygons of fewer than three points only'
REFUSED = {
    NO_MASK: f'use {BOXES_ONLY} or its settings to train boxes alone, or add '
    'a segmentation to every object',
    UNFIT: 'export them again, with a size of (height, width)',
    FLAT: 'make each segmentation a list of polygons, [[x, y, ...], ...]',
    OTHER: 'make each segmentation a list of polygons, [[x, y, ...], ...], or '
    'one run-length mask',
    OUTSIDE: 'correct their points, in pixels of the image',
    SHARES: 'multiply x by the width and y by the height',
    FEW_POINTS: 'remove them, since the evaluation cannot read them',
}
"""Kinds of masks that end a run, with what to do; the last in tests only."""
BROKEN = {UNFIT, FLAT, OTHER, OUTSIDE}


def read_annotations(file: str) -> dict[str, list[dict]]:
    """Read and check an annotation file.

    Args:
        file (str): JSON in UTF-8, in the format of COCO or LVIS.

    Returns:
        dict: the file's content; ``annotations`` are absent from a test file.

    Raises:
        SimimError: if the file is missing or is no such file, if an entry
            lacks a key, or if an id occurs twice.
    """
    content = _read(file, {'images', 'categories'})
    for part in content.keys() & NEEDED.keys():
        _check_entries(file, part, content[part])
    return content


def counted_categories(file: str) -> list[dict]:
    """Read the categories of an LVIS file, in the order of their ids.

    Args:
        file (str): LVIS annotations; their other parts are not checked.

    Raises:
        SimimError: as in :func:`read_annotations`, and if a category has no
            ``image_count``.
    """
    categories = _read(file, {'categories'})['categories']
    _check_entries(file, 'categories', categories)
    if not all('image_count' in category for category in categories):
        raise SimimError(
            f'The annotation file {file} has categories without image_count, '
            'by which the FederatedLoss draws; use the LVIS training '
            'annotations, or ann_file=None to draw evenly.'
        )
    _check_values(file, 'categories', 'image_count', _COUNT, categories)
    return sorted(categories, key=lambda category: category['id'])


def _read(file: str, parts: set[str]) -> dict[str, list[dict]]:
    """Read JSON that has some parts of an annotation file."""
    if not os.path.isfile(file):
        raise SimimError(
            f'There is no annotation file {file}; set data_root and ann_file '
            'of the data set.'
        )
    try:
        with open(file, encoding='utf-8-sig') as opened:
            content = json.load(opened, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise SimimError(
            f'The annotation file {file} is no JSON in UTF-8 ({error}); '
            'correct it, or export it again.'
        ) from error
    if not isinstance(content, dict) or not parts <= {*content}:
        raise SimimError(
            f'The annotation file {file} is not in the format of COCO, a '
            'dictionary of images, annotations and categories; export it '
            'in this format.'
        )
    return content


def _no_number(word: str) -> None:
    raise ValueError(f'it holds {word}')


def _check_entries(file: str, part: str, entries: list[dict]) -> None:
    needed = NEEDED[part].keys()
    if not isinstance(entries, list) or not all(
        isinstance(entry, dict) for entry in entries
    ):
        raise SimimError(
            f'In the annotation file {file} {part} is no list of '
            'dictionaries; export it in the format of COCO.'
        )
    lacking = [entry for entry in entries if not needed <= entry.keys()]
    if lacking:
        key = sorted(needed - lacking[0].keys())[0]
        raise SimimError(
            f'The annotation file {file} has {len(lacking)} of '
            f'{len(entries)} {part} without {key}; add it to them.'
        )
    for key, check in (NEEDED[part] | OPTIONAL[part]).items():
        _check_values(file, part, key, check, entries)
    nameless = [e for e in entries if not e.keys() & {'file_name', 'coco_url'}]
    if part == 'images' and nameless:
        raise SimimError(
            f'The annotation file {file} has {len(nameless)} of '
            f'{len(entries)} images without file_name; add it to them.'
        )
    names = Counter(
        os.path.normpath(entry['file_name'])
        for entry in entries
        if part == 'images' and 'file_name' in entry
    )
    if len(names) < names.total():
        ((twice, _),) = names.most_common(1)
        raise SimimError(
            f'The annotation file {file} lists the image {twice} more than '
            'once, and an entry would lack the objects of the others; merge '
            'its entries.'
        )
    kinds = {isinstance(entry['id'], str) for entry in entries}
    if part != 'annotations' and len(kinds) > 1:
        raise SimimError(
            f'The annotation file {file} has {part} of ids that are numbers '
            'and texts, which have no order; make all of them numbers.'
        )
    ids = Counter(entry['id'] for entry in entries)
    if len(ids) < len(entries):
        ((twice, _),) = ids.most_common(1)
        raise SimimError(
            f'The annotation file {file} has several {part} with the id '
            f'{twice}; give each an id of its own.'
        )


def _check_values(
    file: str, part: str, key: str, check: Check, entries: list[dict]
) -> None:
    fits, what = check
    held = [entry for entry in entries if key in entry]
    wrong = [entry for entry in held if not fits(entry[key])]
    if wrong:
        raise SimimError(
            f'The annotation file {file} has {len(wrong)} of {len(entries)} '
            f'{part} whose {key} is not {what} (id {wrong[0]["id"]}: '
            f'{key} {wrong[0][key]!r:.60}); correct them.'
        )


def category_ids(
    file: str, categories: list[dict], classes: Sequence[str]
) -> list[int]:
    """Return the ids of the categories with the names of the classes.

    Args:
        file (str): the annotation file, for the error.
        categories (list[dict]): of the file, in any order.
        classes (Sequence[str]): the names of the data set.

    Raises:
        SimimError: if a class has no category, or more than one.
    """
    ids = defaultdict(list)
    for category in categories:
        ids[category['name']].append(category['id'])
    found = [name for name in classes if name in ids]
    if len(found) < len(classes):
        lacking = [name for name in classes if name not in ids]
        raise SimimError(
            f'The data set has {len(classes)} classes '
            f'({some(classes)}), of which the annotation file {file} has '
            f'{len(found)}: it lacks {some(lacking)} and has {some(ids)}; '
            'set metainfo=dict(classes=...) to the names in the file.'
        )
    twice = [name for name in classes if len(ids[name]) > 1]
    if twice:
        raise SimimError(
            f'The annotation file {file} has {len(twice)} names with several '
            f'categories ({some(twice)}); give each category another name, '
            'or merge them.'
        )
    return [ids[name][0] for name in classes]


def ordered_category_ids(
    file: str, categories: list[dict], classes: Sequence[str]
) -> list[int]:
    """Return the ids of LVIS categories, which must be those of the classes.

    MMDetection spells one of LVIS's names differently from the file.

    Args:
        file (str): the annotation file, for the error.
        categories (list[dict]): of the file, in any order.
        classes (Sequence[str]): the names of the data set.

    Raises:
        SimimError: if the classes are not the names in the order of the ids.
    """
    ordered = sorted(categories, key=lambda category: category['id'])
    names = [category['name'] for category in ordered]
    if len(names) != len(classes):
        category_ids(file, categories, classes)
        raise SimimError(
            f'The data set has {len(classes)} classes and the annotation '
            f'file {file} has {len(names)} categories; list all of them in '
            'metainfo=dict(classes=...).'
        )
    spelled = set(classes) ^ set(names)  # perhaps in two ways
    wrong = [
        (ours, theirs)
        for ours, theirs in zip(classes, names, strict=True)
        if ours != theirs
        and not ({ours, theirs} <= spelled and _alike(ours, theirs))
    ]
    if wrong:
        category_ids(file, categories, classes)
        ours, theirs = wrong[0]
        raise SimimError(
            f'The classes of the data set are in another order than the ids '
            f'in the annotation file {file} ({ours} stands where the file '
            f'has {theirs}); list the names in metainfo=dict(classes=...) in '
            'the order of their ids.'
        )
    return [category['id'] for category in ordered]


def _alike(ours: str, theirs: str) -> bool:
    return SequenceMatcher(None, ours, theirs).ratio() > 0.9


def reason_left_out(
    ann: dict, image: dict, labels: dict[int, int]
) -> str | None:
    """Return why MMDetection leaves an object out, or None if it does not.

    Args:
        ann (dict): an annotation.
        image (dict): its image.
        labels (dict[int, int]): category id to label of the data set.
    """
    x, y, width, height = ann['bbox']
    if ann.get('ignore'):
        return 'marked as ignored'
    if width < 1 or height < 1:
        return 'with a box of less than a pixel'
    inside = (
        min(x + width, image['width']) > max(x, 0)
        and min(y + height, image['height']) > max(y, 0)
    )  # fmt: skip
    if not inside:
        return 'outside their image'
    if ann['area'] <= 0:
        return 'with an area of 0'
    if ann['category_id'] not in labels:
        return 'of other categories'
    return None


class SkippedObjects:
    """Counts the objects left out of a data set, by reason."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.places: dict[str, dict[str, None]] = defaultdict(dict)

    def add(self, reason: str, place: str) -> None:
        """Count an object.

        Args:
            reason (str): a phrase that follows the number of objects.
            place (str): the image's name.
        """
        self.counts[reason] += 1
        if len(self.places[reason]) < 4:
            self.places[reason][place] = None

    def __str__(self) -> str:
        return '; '.join(
            f'{count} {reason} ({some(self.places[reason])})'
            for reason, count in self.counts.most_common()
        )


def check_masks(
    file: str, listed: list[dict], skipped: SkippedObjects, *, evaluated: bool
) -> int:
    """Check the masks of all objects.

    Args:
        file (str): the annotation file, for the errors.
        listed (list[dict]): images with ``instances``, as MMDetection lists
            them.
        skipped (SkippedObjects): receives objects whose polygons have too few
            points.
        evaluated (bool): whether the masks are ground truth of a metric.

    Returns:
        int: the number of run-length masks.

    Raises:
        SimimError: if objects have no mask, or masks that do not fit.
    """
    kinds: dict[str, list[str]] = defaultdict(list)
    for item in listed:
        name = os.path.basename(item['img_path'])
        for instance in item['instances']:
            kind = _kind(instance, item)
            # Crowds need no mask, but decoding a broken one may end Python.
            if not instance['ignore_flag'] or kind in BROKEN:
                kinds[kind].append(name)
    for name in kinds[FEW_POINTS]:
        skipped.add(FEW_POINTS, name)
    for kind, advice in REFUSED.items():
        if kinds[kind] and (evaluated or kind != FEW_POINTS):
            raise SimimError(
                f'The annotation file {file} has {len(kinds[kind])} of '
                f'{sum(map(len, kinds.values()))} objects {kind} '
                f'({some(dict.fromkeys(kinds[kind]))}); {advice}.'
            )
    return len(kinds[RUNS])


def _kind(instance: dict, item: dict) -> str:
    mask = instance.get('mask')
    if mask is None:
        return NO_MASK
    if isinstance(mask, dict):
        return RUNS if _fits(mask, item['height'], item['width']) else UNFIT
    if not isinstance(mask, list):
        return OTHER
    if _is_number(mask[0]):
        return FLAT
    if not all(isinstance(polygon, list) for polygon in mask):
        return OTHER
    filled = [polygon for polygon in mask if polygon]
    try:
        low, high = min(map(min, filled)), max(map(max, filled))
        if max(-low, high) > FAR * max(item['width'], item['height']):
            return OUTSIDE
    except TypeError:  # of things that are no numbers
        return OTHER
    except ValueError:  # of nothing
        return FEW_POINTS
    # Points of 0 and 1 alone, in a box of one pixel, outline that pixel.
    inner = {value for polygon in filled for value in polygon} - {0, 1}
    large = max(instance['bbox']) > 1
    if high <= 1 and item['width'] > 1 and (inner or large):
        return SHARES
    whole = any(len(p) >= 6 and len(p) % 2 == 0 for p in mask)
    return POLYGONS if whole else FEW_POINTS


def _fits(mask: dict, height: int, width: int) -> bool:
    counts = mask.get('counts')
    if mask.get('size') != [height, width]:
        return False
    if isinstance(counts, str):
        return _pixels(counts) == height * width
    if not isinstance(counts, list):
        return False
    whole = all(type(n) is int and n >= 0 for n in counts)
    return whole and sum(counts) == height * width


def _pixels(counts: str) -> int | None:
    """Return the sum of compressed runs, or None if they are broken.

    pycocotools decodes runs of too few pixels to memory that nothing wrote.
    A character has five bits of a run, from the lowest, and whether more
    follow. From the fourth, a run is the difference to the last but one.
    """
    codes = np.frombuffer(counts.encode('utf-8'), np.uint8).astype(int) - 48
    last = np.flatnonzero(codes & 32 == 0)
    lengths = np.diff(last, prepend=-1)
    whole = codes.size and last.size and last[-1] == codes.size - 1
    if not whole or codes.min() < 0 or codes.max() > 63 or lengths.max() > 7:
        return None
    first = last - lengths + 1
    shifts = 5 * (np.arange(codes.size) - np.repeat(first, lengths))
    runs = np.add.reduceat((codes & 31) << shifts, first)
    runs -= np.where(codes[last] & 16, 1 << (5 * lengths), 0)
    runs[2::2] = runs[2::2].cumsum()
    runs[1::2] = runs[1::2].cumsum()
    return int(runs.sum()) if runs.min() >= 0 else None

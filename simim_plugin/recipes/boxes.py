"""Read the annotations of objects in the format of COCO."""

from __future__ import annotations

import json
import os
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..detection.annotations import read_annotations
from ..errors import SimimError
from ..text import some
from .splitting import (
    TESTS,
    TRAINING,
    Counted,
    balance,
    check_share,
    divide,
)
from .survey import (
    Survey,
    refuse_broken_tests,
    refuse_links,
    refuse_shared,
    survey,
)

_LOOKED_AT = 50


@dataclass(frozen=True)
class Part:
    """One annotation file and its pictures.

    Args:
        file (str): the annotation file; it is written if ``content`` is set.
        images (str): folder of the pictures.
        content (dict, optional): of a file that a division makes.
    """

    file: str
    images: str
    content: dict[str, Any] | None = None


@dataclass(frozen=True)
class Boxes(Counted):
    """Annotated pictures to train on and to test on.

    Args:
        train (Part): to train on.
        val (Part): to test on.
        counts (dict[str, int]): training objects by class, in the order of
            the file's ids.
        unused (list[str]): categories without a training object.
        masks (bool): whether every object has a mask.
        pictures (Survey): the training pictures.
        images (tuple[int, int]): numbers of pictures in both parts.
        side (float): median of the longer side of a box, as a share of the
            longer side of its picture.
        read (list[str]): the annotation files of the user.
    """

    train: Part
    val: Part
    counts: dict[str, int]
    unused: list[str]
    masks: bool
    pictures: Survey
    images: tuple[int, int]
    side: float
    read: list[str]

    def __str__(self) -> str:
        """Return one line: pictures, objects, classes and their balance."""
        kind = 'with masks' if self.masks else 'boxes alone'
        return (
            f'{self.images[0]} training and {self.images[1]} test pictures, '
            f'{sum(self.counts.values())} training objects ({kind}) of '
            f'{len(self.counts)} classes, {balance(self.counts)}'
            + (f'; left out: {some(self.unused)}' if self.unused else '')
        )


def read_boxes(
    data: str,
    share: float,
    seed: int,
    out: Path,
    masks: bool | None = None,
    val_data: str | None = None,
) -> Boxes:
    """Read an annotation file, or a folder of one or two of them.

    Args:
        data (str): a JSON file in COCO's format, or a folder that holds
            files for training and tests, such as
            ``annotations/instances_train.json`` or
            ``train/_annotations.coco.json``.
        share (float): of the pictures to test on, if there is one file.
        seed (int): of that division.
        out (Path): prefix of the two files that a division writes.
        masks (bool, optional): train masks too. Defaults to None: if every
            object has one.
        val_data (str, optional): the JSON file to test on. Defaults to None.

    Raises:
        SimimError: if there is no such file, it is wrong, its pictures are
            missing, no class has an object, or masks are asked for that are
            not there.
    """
    train_file, val_file = (data, val_data) if val_data else _files(data, out)
    content = _named_pictures(train_file)
    folder = _image_folder(train_file, content['images'])
    pictures = _paths(folder, content)
    seen = survey(pictures, every=val_file is None)
    if val_file is None:
        refuse_links(pictures)
        check_share(share)
        content = _without(content, folder, seen.broken)
        first, second = _divided(content, share, seed, train_file)
        train = Part(f'{out}_train.json', folder, first)
        val = Part(f'{out}_val.json', folder, second)
        seen = seen.without_broken()
    else:
        first, second = content, _named_pictures(val_file)
        train = Part(train_file, folder)
        val = Part(val_file, _image_folder(val_file, second['images']))
        tests = _paths(val.images, second)
        refuse_shared(pictures, tests)
        refuse_broken_tests(tests)
    counts, unused = _objects(first, second, train_file, val_file)
    _check_tests(second, counts, val_file or train_file, val_file is None)
    objects = [*_kept(first, counts), *_kept(second, counts)]
    return Boxes(
        train,
        val,
        counts,
        unused,
        _trains_masks(objects, masks, train_file),
        seen,
        (len(first['images']), len(second['images'])),
        _median_side(first),
        [file for file in (train_file, val_file) if file],
    )


def _named_pictures(file: str) -> dict[str, Any]:
    """Read annotations whose pictures have names."""
    content = read_annotations(file)
    for image in content['images']:
        if 'file_name' not in image:
            raise SimimError(
                f'The picture of id {image["id"]} in {file} has no file_name, '
                'as in the files of LVIS; add one to each picture, or train '
                'a packaged config of LVIS.'
            )
    return content


def _without(content: dict, folder: str, broken: list[str]) -> dict:
    """Leave out the pictures that cannot be read."""
    left = {*broken}
    images = [
        image
        for image in content['images']
        if os.path.join(folder, image['file_name']) not in left
    ]
    ids = {image['id'] for image in images}
    anns = [
        ann for ann in content.get('annotations', ()) if ann['image_id'] in ids
    ]
    return dict(content, images=images, annotations=anns)


def _files(data: str, out: Path) -> tuple[str, str | None]:
    """Return the file to train on, and the one to test on if there is one.

    Files of an earlier division, which the next one replaces, do not count.
    """
    if os.path.isfile(data):
        return data, None
    if not os.path.isdir(data):
        raise SimimError(
            f'There is no annotation file or folder {data}; pass a JSON file '
            "in COCO's format, or the folder that holds it."
        )
    places = [Path(data), *(p for p in Path(data).iterdir() if p.is_dir())]
    found = sorted(
        str(file)
        for place in places
        for file in place.glob('*.json')
        if not file.name.startswith('.') and _is_coco(file)
    )
    made = {Path(f'{out}_{part}.json').absolute() for part in ('train', 'val')}
    others = [file for file in found if Path(file).absolute() not in made]
    if len(found) - len(others) == 2 and others:
        found = others
    train = [file for file in found if _named(file, data, TRAINING)]
    rest = [file for file in found if file not in train]
    tests = [
        files
        for name in TESTS
        if (files := [file for file in rest if _named(file, data, (name,))])
    ]
    unnamed = {*rest} - {file for files in tests for file in files}
    if len(train) == 1 and tests and len(tests[0]) == 1 and not unnamed:
        return train[0], tests[0][0]
    if len(found) == 1:
        return found[0], None
    raise SimimError(
        f'{data} has {len(found)} annotation files in the format of COCO '
        f'({some(os.path.relpath(f, data) for f in found)}), and one is '
        'needed, or one with train and one with val in its name; pass the '
        'file itself, and the one to test on as --val-data.'
    )


def _is_coco(file: Path) -> bool:
    """Return whether a file may be an annotation file, by its keys."""
    with file.open('rb') as stream:
        start, end = stream.read(4096), b''
        if file.stat().st_size > 4096:
            stream.seek(-4096, os.SEEK_END)
            end = stream.read()
    keys = (b'"images"', b'"categories"', b'"annotations"')
    return any(key in start + end for key in keys)


def _named(file: str, root: str, names: Iterable[str]) -> bool:
    """Return whether a name is a part of a file's path, such as train."""
    path = os.path.relpath(file, root).lower()
    words = path.replace('.', '_').replace(os.sep, '_').replace('-', '_')
    return any(word.rstrip('0123456789') in names for word in words.split('_'))


def _image_folder(file: str, images: list[dict]) -> str:
    """Return the folder below which the pictures of a file are.

    Raises:
        SimimError: if there is none near the file.
    """
    if not images:
        raise SimimError(
            f'The annotation file {file} lists no pictures; export it again.'
        )
    here = Path(file).absolute().parent
    words = {Path(file).stem, *Path(file).stem.split('_')}
    tried = [here, here.parent]
    for folder in (here, here.parent):
        tried += [folder / 'images', *(folder / word for word in words)]
        tried += [folder / 'images' / word for word in words]
    step = max(1, len(images) // _LOOKED_AT)
    names = [image['file_name'] for image in images[::step]]
    best = max(
        tried,
        key=lambda place: sum((place / name).is_file() for name in names),
    )
    there = sum((best / name).is_file() for name in names)
    if there < len(names):
        lacking = next(n for n in names if not (best / n).is_file())
        raise SimimError(
            f'The pictures of {file} are not all near it: of {len(names)} '
            f'looked for {there} are below {best}, and {lacking} is not; put '
            'them into a folder called images beside it.'
        )
    return str(best)


def _kept(content: dict, counts: dict[str, int]) -> list[dict]:
    """Return the objects that count, of the classes with training objects."""
    ids = {c['id'] for c in content['categories'] if c['name'] in counts}
    return [
        ann
        for ann in content.get('annotations', ())
        if ann['category_id'] in ids and not ann.get('iscrowd')
    ]


def _trains_masks(objects: list[dict], asked: bool | None, file: str) -> bool:
    """Return whether to train masks: as asked, or if every object has one."""
    there = all(ann.get('segmentation') for ann in objects)
    if asked and not there:
        raise SimimError(
            f'Objects of {file} have no mask, which --masks asks for; leave '
            'it out to train boxes alone, or add a segmentation to every '
            'object.'
        )
    return there if asked is None else asked


def _objects(
    first: dict, second: dict, file: str, other: str | None
) -> tuple[dict[str, int], list[str]]:
    """Count the training objects of each class, and name unused ones."""
    ordered = sorted(first['categories'], key=lambda c: c['id'])
    names = {c['id']: c['name'] for c in ordered}
    if len({*names.values()}) < len(names):
        twice = Counter(names.values()).most_common(1)[0][0]
        raise SimimError(
            f'The annotation file {file} has several categories called '
            f'{twice!r}; give each another name, or merge them.'
        )
    objects = Counter(
        names.get(ann['category_id'])
        for ann in first.get('annotations', ())
        if not ann.get('iscrowd')
    )
    counts = {n: objects[n] for n in names.values() if objects[n]}
    if not counts:
        raise SimimError(
            f'The annotation file {file} has no object of its categories; '
            'check that it is the file of this data set.'
        )
    lacking = [
        name
        for name in counts
        if name not in {c['name'] for c in second['categories']}
    ]
    if lacking:
        raise SimimError(
            f'The annotation file {other} has no category {some(lacking)}, '
            f'which {file} has; give both files the same categories.'
        )
    return counts, [n for n in names.values() if n not in counts]


def _check_tests(
    content: dict, counts: dict[str, int], file: str, divided: bool
) -> None:
    """Refuse a test without objects, whose AP is -1."""
    listed = {image['id'] for image in content['images']}
    if any(ann['image_id'] in listed for ann in _kept(content, counts)):
        return
    if divided:
        raise SimimError(
            f'The part of {file} to test on ({len(listed)} pictures) has no '
            'object; set another --val-share or --seed, or annotate more '
            'pictures.'
        )
    raise SimimError(
        f'The annotation file {file} has no object of the trained classes in '
        f'its {len(listed)} pictures, and cannot test; pass annotated '
        'pictures.'
    )


def _paths(folder: str, content: dict) -> list[str]:
    return [os.path.join(folder, i['file_name']) for i in content['images']]


def _divided(
    content: dict, share: float, seed: int, file: str
) -> tuple[dict, dict]:
    """Divide a file by its pictures, those of a rare class alike."""
    images = content['images']
    if len(images) < 2:
        raise SimimError(
            f'The annotation file {file} has {len(images)} picture, which '
            'cannot both train and test; add pictures.'
        )
    objects = defaultdict(list)
    for ann in content.get('annotations', ()):
        objects[ann['image_id']].append(ann)
    often = Counter(
        category
        for anns in objects.values()
        for category in {ann['category_id'] for ann in anns}
    )
    rarest = [
        min(
            (ann['category_id'] for ann in objects[image['id']]),
            key=often.__getitem__,
            default=None,
        )
        for image in images
    ]
    parts = divide(rarest, share, seed)
    if not parts[1]:  # every class has one picture
        parts = divide([None] * len(images), share, seed)
    made = []
    for indices in parts:
        chosen = [images[k] for k in indices]
        anns = [ann for image in chosen for ann in objects[image['id']]]
        made.append(dict(content, images=chosen, annotations=anns))
    return made[0], made[1]


def write_part(part: Part) -> str:
    """Return the text of a file that a division makes."""
    return json.dumps(part.content) + '\n'


def _median_side(content: dict) -> float:
    sizes = {i['id']: max(i['width'], i['height']) for i in content['images']}
    shares = sorted(
        max(ann['bbox'][2:]) / sizes[ann['image_id']]
        for ann in content.get('annotations', ())
        if ann['image_id'] in sizes
    )
    return shares[len(shares) // 2] if shares else 0.0

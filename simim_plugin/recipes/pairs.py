"""Find the pairs of pictures and label maps in folders and lists."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from ..errors import SimimError
from ..pictures.walking import list_images
from ..segmentation.label_maps import LabelMapError, read_label_map
from .file_lists import below, common_folder, is_list, read_pairs
from .splitting import TESTS, TRAINING, part_named

IMAGES = ('images', 'image', 'img', 'imgs', 'jpegimages', 'leftimg8bit')
MAPS = (
    *('masks', 'mask', 'labels', 'label', 'annotations', 'label_maps'),
    *('segmentationclass', 'seg', 'gt', 'ann', 'anns', 'ann_dir', 'lbl'),
)
"""Usual names of the two folders, in lower case."""

ENDINGS = ('.png', '.bmp', '.tif', '.tiff', '.gif')
"""Endings of label maps."""

LAYOUTS = (
    'known are images/ and masks/, or two folders of other names whose files '
    'have the same names, each with or without train/ and val/; train/ and '
    'val/ that hold two such folders; train/ and val/ beside label_maps/train '
    'and label_maps/val; and a list of pictures and label maps (.csv or .txt)'
)


@dataclass(frozen=True)
class Pairs:
    """Pictures of one part and their label maps.

    Args:
        images (str): folder of the pictures.
        maps (str): folder of the label maps.
        names (list[str]): the pictures below ``images``.
        ending (str): of the label maps.
        given (dict[str, str]): from a picture to its label map below
            ``maps``, if a list names both.
    """

    images: str
    maps: str
    names: list[str]
    ending: str
    given: dict[str, str] = field(default_factory=dict)

    def label_map(self, name: str) -> str:
        """Return the label map of a picture."""
        other = os.path.splitext(name)[0] + self.ending
        return os.path.join(self.maps, self.given.get(name, other))

    def pictures(self) -> list[str]:
        """Return the paths of the pictures."""
        return [os.path.join(self.images, name) for name in self.names]

    def lines(self) -> list[str]:
        """Return the lines of a list for ``CheckedSegDataset``."""
        if not self.given:
            return self.names
        return [f'{name}\t{self.given[name]}' for name in self.names]

    def only(self, names: list[str]) -> Pairs:
        """Return some of the pairs."""
        return Pairs(self.images, self.maps, names, self.ending, self.given)


def find_parts(
    root: str, val: str | None = None
) -> tuple[Pairs, Pairs | None]:
    """Return the pairs to train on, and those to test on if there are.

    Args:
        root (str): a folder in one of the ``LAYOUTS``, or a list.
        val (str, optional): a second folder or list, of the tests.

    Raises:
        SimimError: if there are none, pictures have no label map, or a
            picture is in both parts.
    """
    if val:
        train, tests = _whole(root), _whole(val)
        return train, tests
    if is_list(root):
        return _listed(root), None
    inner = _folders(root)
    parts = _two_parts(inner)
    if parts:
        maps = _beside(root, inner, parts)
        return tuple(  # type: ignore[return-value]
            _pairs(os.path.join(root, part), os.path.join(root, maps, part))
            if maps
            else _pairs(*_both(os.path.join(root, part)))
            for part in parts
        )
    images, maps = _both(root)
    parts = _two_parts(_folders(images))
    if parts:
        return tuple(  # type: ignore[return-value]
            _pairs(os.path.join(images, part), os.path.join(maps, part))
            for part in parts
        )
    return _pairs(images, maps), None


def _whole(place: str) -> Pairs:
    return _listed(place) if is_list(place) else _pairs(*_both(place))


def _listed(file: str) -> Pairs:
    """Return the pairs of a list."""
    both = read_pairs(file, ENDINGS)
    pictures = [one.path for one in both]
    found = [one.label for one in both]
    images, maps = common_folder(pictures), common_folder(found)
    names = below(pictures, images)
    given = dict(zip(names, below(found, maps), strict=True))
    return Pairs(images, maps, names, '', given)


def _folders(root: str) -> list[str]:
    if not os.path.isdir(root):
        return []
    return sorted(e.name for e in os.scandir(root) if e.is_dir())


def _two_parts(inner: Sequence[str]) -> list[str]:
    """Return the folders to train and to test on, [] without both."""
    parts = part_named(inner, TRAINING), part_named(inner, TESTS)
    return [part for part in parts if part] if all(parts) else []


def _beside(
    root: str, inner: Sequence[str], parts: Sequence[str]
) -> str | None:
    """Return the folder of label maps that is divided as pictures beside."""
    found = [
        name
        for name in inner
        if name not in parts
        and {*parts} <= {*_folders(os.path.join(root, name))}
        and list_images(os.path.join(root, name), ENDINGS)
    ]
    return part_named(found, MAPS) or next(
        (
            name
            for name in found
            if all(
                _fit(
                    os.path.join(root, part),
                    os.path.join(root, name, part),
                )
                for part in parts
            )
        ),
        None,
    )


def _both(root: str) -> tuple[str, str]:
    """Return the folder of pictures and that of label maps in a folder.

    Those of usual names count first, then those whose files fit.
    """
    inner = _folders(root)
    full = [
        name
        for name in inner
        if list_images(os.path.join(root, name), ENDINGS)
    ]
    images, maps = part_named(inner, IMAGES), part_named(full, MAPS)
    if images and maps:
        return os.path.join(root, images), os.path.join(root, maps)
    images_of = [images] if images else [*inner, '']
    maps_of = [maps] if maps else full
    couples = [
        (os.path.join(root, image), os.path.join(root, name))
        for name in maps_of
        for image in images_of
        if image != name
        and _fit(os.path.join(root, image), os.path.join(root, name))
    ] or [
        (os.path.join(root, image), os.path.join(root, name, image))
        for name in maps_of
        for image in images_of
        if image not in (name, '')
        and _fit(os.path.join(root, image), os.path.join(root, name, image))
    ]
    if len(couples) == 1:
        return couples[0]
    if couples:
        some = '; '.join(
            ' and '.join(os.path.relpath(place, root) for place in couple)
            for couple in couples[:3]
        )
        raise SimimError(
            f'Several folders of {root} may be the pictures and the label '
            f'maps ({some}); call those that you mean images and masks, or '
            'pass a list of both.'
        )
    raise SimimError(
        f'{root} has no folder of pictures and one of label maps with the '
        f'same names (found {", ".join(inner[:5]) or "no folders"}); '
        f'{LAYOUTS}.'
    )


def _fit(images: str, maps: str) -> bool:
    """Return whether each picture has a label map of its name."""
    names = _names(images, maps) if os.path.isdir(maps) else []
    found = {
        os.path.splitext(os.path.relpath(path, maps))[0]: path
        for path in (list_images(maps, ENDINGS) if names else ())
    }
    stems = [os.path.splitext(name)[0] for name in names]
    if not names or not all(stem in found for stem in stems):
        return False
    with suppress(LabelMapError):
        read_label_map(found[stems[0]])
        return True
    return False


def _names(images: str, maps: str) -> list[str]:
    """Return the pictures below a folder, without the label maps in it."""
    inside = os.path.join(os.path.relpath(maps, images), '')
    names = (os.path.relpath(path, images) for path in list_images(images))
    return [name for name in names if not name.startswith(inside)]


def _pairs(images: str, maps: str) -> Pairs:
    names = _names(images, maps)
    if not names:
        raise SimimError(
            f'There is no picture in {images}; pass the folder that holds '
            'images and masks.'
        )
    there = Counter(
        os.path.splitext(path)[1] for path in list_images(maps, ENDINGS)
    )
    if not there:
        raise SimimError(
            f'There is no label map in {maps} ({" ".join(ENDINGS)}); save '
            'them as PNG files of class indices.'
        )
    pairs = Pairs(images, maps, names, there.most_common(1)[0][0])
    pictures: dict[str, str] = {}
    for name in names:
        other = pictures.setdefault(pairs.label_map(name), name)
        if other != name:
            raise SimimError(
                f'The pictures {other} and {name} in {images} have the same '
                f'label map {pairs.label_map(name)} by their names; rename '
                'one of them and its label map, or pass a list of the pairs.'
            )
    lacking = [n for n in names if not os.path.isfile(pairs.label_map(n))]
    if lacking:
        raise SimimError(
            f'{len(lacking)} of {len(names)} pictures in {images} have no '
            f'label map, such as {pairs.label_map(lacking[0])}; add them, '
            'remove the pictures, or pass a list of the pairs.'
        )
    return pairs

"""ImageNet-A, -R, -Sketch and -C, and other folders corrupted like -C."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Set
from itertools import product
from pathlib import Path
from typing import Any, ClassVar

from mmengine.dist import is_main_process
from mmpretrain.datasets import CustomDataset
from mmpretrain.datasets.categories import IMAGENET_CATEGORIES
from mmpretrain.registry import DATASETS
from tqdm import tqdm

from ..errors import SimimError
from ..pictures.walking import (
    Census,
    class_folders,
    class_labels,
    images_by_class,
    walk_images,
)
from ..text import clean, some

CLASS_LISTS = Path(__file__).parent / 'class_lists'
"""Class lists and reference errors; README.md names their sources."""

CORRUPTIONS = (
    'gaussian_noise',
    'shot_noise',
    'impulse_noise',
    'defocus_blur',
    'glass_blur',
    'motion_blur',
    'zoom_blur',
    'snow',
    'frost',
    'fog',
    'brightness',
    'contrast',
    'elastic_transform',
    'pixelate',
    'jpeg_compression',
)
"""The 15 corruptions of ImageNet-C's mean, without its four extra ones."""

SEVERITIES = (1, 2, 3, 4, 5)


def read_wnids(name: str) -> list[str]:
    """Read the sorted WordNet ids of a list.

    Args:
        name (str): 'imagenet_1k', 'imagenet_a' or 'imagenet_r'.
    """
    return (CLASS_LISTS / f'{name}_wnids.txt').read_text().split()


def imagenet_labels() -> dict[str, int]:
    """Map the WordNet ids of ImageNet-1k to class indices, 0 to 999."""
    wnids = read_wnids('imagenet_1k')
    return {wnid: index for index, wnid in enumerate(wnids)}


def labelled_images(
    root: str | os.PathLike[str],
    labels: Mapping[str, int],
    census: Census | None = None,
) -> list[tuple[str, int]]:
    """Return path and label of each image in the class folders of ``root``.

    Args:
        root (str | PathLike): a folder of ``CLASS/*.jpg`` or other images.
        labels (Mapping[str, int]): label of each class folder.
        census (Census, optional): counts the files.

    Raises:
        SimimError: if a class has no folder or no image, or a folder is
            none of the classes.
    """
    if not labels:
        raise SimimError(
            f'There is no image in the sub-folders of {root}; pass a folder '
            'that holds one sub-folder of images per class.'
        )
    _check_classes(root, labels.keys())
    images = images_by_class(root, labels, census=census)
    empty = [name for name, paths in images.items() if not paths]
    if empty:
        raise SimimError(
            f'{root} has {_count(empty, "class folder")} without an image; '
            'unpack the data set again.'
        )
    return [
        (path, labels[name])
        for name, paths in images.items()
        for path in paths
    ]


def _check_classes(root: str | os.PathLike[str], names: Set[str]) -> None:
    """Check that the sub-folders of ``root`` are exactly ``names``."""
    found = set(class_folders(root))
    missing = names - found
    unknown = [
        name
        for name in found - names
        if any(walk_images(os.path.join(root, name)))
    ]
    if missing:
        raise SimimError(
            f'{root} lacks {_count(missing, "class folder")} of '
            f'{len(names)}; unpack the data set again.'
        )
    if unknown:
        raise SimimError(
            f'{root} has {_count(unknown, "folder")} that are none of its '
            f'{len(names)} classes; move them away, or check data_root.'
        )


@DATASETS.register_module()
class ImageNetSketch(CustomDataset):
    """ImageNet-Sketch: ``WNID/*.JPEG``, the 1000 classes of ImageNet-1k.

    Args:
        data_root (str): the folder of class folders.
        **kwargs: ``pipeline`` and other arguments of MMPretrain's
            ``CustomDataset``.

    Raises:
        SimimError: if the folder is missing or is another data set.
    """

    METAINFO: ClassVar = dict(classes=IMAGENET_CATEGORIES)
    WNIDS: ClassVar = 'imagenet_1k'

    def __init__(self, data_root: str, **kwargs: Any) -> None:
        super().__init__(data_root=os.path.expanduser(data_root), **kwargs)

    def check_folders(self) -> None:
        """Check the class folders without listing their images."""
        wnids = read_wnids(self.WNIDS)
        if not os.path.isdir(self.img_prefix):
            raise SimimError(
                f'There is no {type(self).__name__} at {self.img_prefix}; '
                f'unpack it so that the folder holds its {len(wnids)} class '
                f'folders ({wnids[0]}, ...), or set data_root.'
            )
        _check_classes(self.img_prefix, set(wnids))

    def load_data_list(self) -> list[dict]:
        """List one ``dict(img_path=..., gt_label=...)`` per image."""
        self.check_folders()
        labels = imagenet_labels()
        census = Census()
        images = labelled_images(
            self.img_prefix,
            {wnid: labels[wnid] for wnid in read_wnids(self.WNIDS)},
            census,
        )
        census.report(self.img_prefix)
        return [dict(img_path=path, gt_label=label) for path, label in images]


class _Of200Classes(ImageNetSketch):
    """200 of the 1000 classes; ``metainfo['subset']`` has their labels."""

    def __init__(
        self, data_root: str, metainfo: dict | None = None, **kwargs: Any
    ) -> None:
        labels = imagenet_labels()
        subset = tuple(labels[wnid] for wnid in read_wnids(self.WNIDS))
        super().__init__(
            data_root,
            metainfo=dict(metainfo or {}, subset=subset),
            **kwargs,
        )


@DATASETS.register_module()
class ImageNetA(_Of200Classes):
    """ImageNet-A: ``WNID/*.jpg``, natural adversarial examples.

    It has 200 classes of ImageNet-1k; the labels are their indices there.
    The arguments are those of :class:`ImageNetSketch`.
    """

    WNIDS = 'imagenet_a'


@DATASETS.register_module()
class ImageNetR(_Of200Classes):
    """ImageNet-R: ``WNID/*.jpg``, renditions such as art and toys.

    It has 200 classes of ImageNet-1k; the labels are their indices there.
    The arguments are those of :class:`ImageNetSketch`.
    """

    WNIDS = 'imagenet_r'


@DATASETS.register_module()
class CorruptedFolder(CustomDataset):
    """A labelled image folder, corrupted as ImageNet-C is.

    ::

        data_root/CORRUPTION/SEVERITY/CLASS/*.jpg

    ``tools/make_corruptions.py`` writes this layout, with the 15
    :data:`CORRUPTIONS` and severities 1 to 5. The classes are the sorted
    folders, as in the clean set. The metric reads the keys ``corruption``
    and ``severity`` of each image; pack them with
    ``dict(type='PackInputs', meta_keys=('corruption', 'severity'))``.

    Args:
        data_root (str): the folder of corruptions.
        **kwargs: ``pipeline`` and other arguments of MMPretrain's
            ``CustomDataset``.

    Raises:
        SimimError: if a corruption, a severity or a class is missing.
    """

    def __init__(self, data_root: str, **kwargs: Any) -> None:
        super().__init__(data_root=os.path.expanduser(data_root), **kwargs)

    def load_data_list(self) -> list[dict]:
        """List one dict per image: path, label, corruption and severity."""
        self.check_folders()
        root = Path(self.img_prefix)
        labels = self._labels(root)
        census = Census()
        cells = tqdm(
            list(product(CORRUPTIONS, SEVERITIES)),
            clean(f'Listing {root}'),
            leave=False,
            disable=None if is_main_process() else True,
        )
        images = [
            dict(
                img_path=path,
                gt_label=label,
                corruption=corruption,
                severity=severity,
            )
            for corruption, severity in cells
            for path, label in labelled_images(
                root / corruption / str(severity), labels, census
            )
        ]
        census.report(root)
        return images

    def _labels(self, root: Path) -> dict[str, int]:
        labels = class_labels(root / CORRUPTIONS[0] / str(SEVERITIES[0]))
        self._metainfo['classes'] = tuple(map(clean, labels))
        return labels

    def check_folders(self) -> None:
        """Check the folders of all severities without listing images."""
        root = Path(self.img_prefix)
        missing = [c for c in CORRUPTIONS if not (root / c).is_dir()]
        if not missing:
            missing = [
                f'{corruption}/{severity}'
                for corruption, severity in product(CORRUPTIONS, SEVERITIES)
                if not (root / corruption / str(severity)).is_dir()
            ]
        if missing:
            kind = type(self).__name__
            fault = (
                f'{kind} at {root} lacks {_count(missing, "folder")}'
                if root.is_dir()
                else f'There is no {kind} at {root}'
            )
            raise SimimError(
                f'{fault}; the layout is CORRUPTION/SEVERITY/CLASS/*.jpg '
                f'with {len(CORRUPTIONS)} corruptions and severities 1 to 5, '
                'as tools/make_corruptions.py writes it.'
            )


@DATASETS.register_module()
class ImageNetC(CorruptedFolder):
    """ImageNet-C: ``CORRUPTION/SEVERITY/WNID/*.JPEG``, 224 x 224 pixels.

    The arguments are those of :class:`CorruptedFolder`.
    """

    METAINFO: ClassVar = dict(classes=IMAGENET_CATEGORIES)

    def _labels(self, root: Path) -> dict[str, int]:
        return imagenet_labels()


def _count(names: Collection[str], what: str) -> str:
    """Return '2 folders (a, b)', '5 folders (a, b, c, ...)'."""
    plural = 's' * (len(names) != 1)
    return f'{len(names)} {what}{plural} ({some(sorted(names))})'

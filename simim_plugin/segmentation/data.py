"""Segmentation data sets that check their files before a run starts.

Shape key: H rows, W columns.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from mmengine import fileio, list_from_file
from mmseg.datasets import ADE20KDataset, BaseSegDataset
from mmseg.datasets.transforms import LoadAnnotations
from mmseg.registry import DATASETS, TRANSFORMS

from ..datasets.annotated import prefer_upright
from ..datasets.image_set import ImageSet
from ..text import some
from .label_maps import (
    IGNORED,
    LabelMapError,
    check_label_maps,
    class_indices,
    read_label_map,
    wrong_value,
)


@DATASETS.register_module()
class CheckedSegDataset(ImageSet, BaseSegDataset):
    """MMSegmentation's ``BaseSegDataset``, with files checked at the start.

    It passes the number of classes to :class:`LoadLabelMap`. A line of
    ``ann_file`` names a picture and, after a tab, its label map, if that has
    another name.

    Args:
        upright (bool, optional): whether label maps that fit an image as
            stored and turned by its EXIF orientation are of the turned one.
            Defaults to None: as most others of the set, else as stored.
        values (Sequence[int], optional): the value of each class in the
            label maps, such as (0, 255). Defaults to None: 0, 1, 2, ...
        ignored (Sequence[int] | str): with ``values``: values of no class, or
            'others'. Further ones are an error. Defaults to (): none.
        skip_broken (float): as in :class:`ImageSet`. Defaults to 0.
        **kwargs: see :class:`mmseg.datasets.BaseSegDataset`.

    Raises:
        LabelMapError: if ``values`` are not one for each class, or stand
            beside ``reduce_zero_label``.
    """

    def __init__(
        self,
        upright: bool | None = None,
        values: Sequence[int] | None = None,
        ignored: Sequence[int] | str = (),
        **kwargs: Any,
    ) -> None:
        self.upright = upright
        self.values = values
        self.ignored = ignored
        super().__init__(**kwargs)

    def _check_values(self, classes: Sequence[str]) -> None:
        """Refuse too many classes, and values that do not match them."""
        most = IGNORED - 1 if self.reduce_zero_label else IGNORED
        if len(classes) > most:
            raise LabelMapError(
                f'The data set has {len(classes)} classes, and a label map in '
                f'training has at most {most}; join or leave out classes.'
            )
        if self.values is None and self.ignored:
            raise LabelMapError(
                f'ignored={self.ignored} of the data set needs values, one '
                'for each class; add values.'
            )
        if self.values is None:
            return
        if self.reduce_zero_label or not (
            len(self.values) == len({*self.values}) == len(classes)
        ):
            raise LabelMapError(
                f'values={self.values} of the data set must be one for each '
                f'of its {len(classes)} classes, without reduce_zero_label; '
                'correct them.'
            )
        if isinstance(self.ignored, str):
            if self.ignored != 'others':
                raise LabelMapError(
                    f'ignored={self.ignored!r} of the data set is no list of '
                    "values; list them, or set 'others'."
                )
        elif {*self.values} & {*self.ignored}:
            raise LabelMapError(
                f'values={self.values} and ignored={self.ignored} of the '
                'data set share a value; keep it in one of them.'
            )

    def load_data_list(self) -> list[dict]:
        """List the pairs; called by the base class.

        Raises:
            LabelMapError: if the list of pairs, all images or one file of a
                pair is missing, or the label maps do not fit the classes.
        """
        images = self.data_prefix['img_path']
        if self.ann_file and not os.path.isfile(self.ann_file):
            raise LabelMapError(
                f'There is no list of pairs {self.ann_file}; set data_root '
                'and ann_file of the data set.'
            )
        listed = self._pairs(images, self.data_prefix.get('seg_map_path'))
        if not listed:
            raise LabelMapError(
                f'There is no image *{self.img_suffix} in {images}; check '
                'data_root, data_prefix and img_suffix of the data set.'
            )
        if self.data_prefix.get('seg_map_path'):
            maps = self.data_prefix['seg_map_path']
            self._check_pairs(listed, images, maps)
            upright = prefer_upright(listed, maps, self.upright, LabelMapError)
            for pair in listed:
                pair['upright'] = upright
        # The classes in the files, including those that label_map drops.
        known = self.METAINFO.get('classes') or self.metainfo.get('classes')
        if known:
            self._check_values(known)
            for pair in listed:
                pair['num_classes'] = len(known)
                pair['values'] = self.values
                pair['ignored'] = self.ignored
            if self.data_prefix.get('seg_map_path'):
                check_label_maps(
                    listed, self.metainfo['classes'], self.backend_args
                )
        return listed

    def _pairs(self, images: str, maps: str | None) -> list[dict]:
        """List the pairs of ``ann_file``, else of the folder of images.

        A line names a picture, or after a tab its label map too.

        The OneDL fork takes what follows the last dot for the suffix, and
        leaves that suffix to the next pairs.
        """
        if self.ann_file:
            lines = list_from_file(
                self.ann_file, backend_args=self.backend_args
            )
            names = [
                line.strip().partition('\t')[::2]
                for line in lines
                if line.strip()
            ]
        else:
            found = sorted(self._files(images, self.img_suffix))
            names = [(name, '') for name in found]
        listed: list[dict] = []
        by_name: dict[str, str] = {}
        for name, named in names:
            stem, suffix = name.removesuffix(self.img_suffix), self.img_suffix
            if stem == name and self._is_file(os.path.join(images, name)):
                stem, suffix = os.path.splitext(name)
            pair = dict(
                img_path=os.path.join(images, stem + suffix),
                label_map=self.label_map,
                reduce_zero_label=self.reduce_zero_label,
                seg_fields=[],
            )
            if maps is not None:
                seg_map = named or stem + self.seg_map_suffix
                pair['seg_map_path'] = os.path.join(maps, seg_map)
            listed.append(pair)
            if not named:
                self._check_own_map(pair, by_name)
        return listed

    @staticmethod
    def _check_own_map(pair: dict, by_name: dict[str, str]) -> None:
        """Refuse images such as 1.jpg and 1.png, whose map is 1.png."""
        image, seg_map = pair['img_path'], pair.get('seg_map_path', '')
        other = by_name.setdefault(seg_map, image)
        if seg_map and other != image:
            raise LabelMapError(
                f'The images {other} and {image} have the same label map '
                f'{seg_map} by their names; rename one of them and its label '
                'map, or name the label map of each in ann_file.'
            )

    def _check_pairs(self, listed: list[dict], images: str, maps: str) -> None:
        there = {
            os.path.join(folder, name)
            for folder, suffix in ((images, ''), (maps, self.seg_map_suffix))
            for name in self._files(folder, suffix)
        }
        wanted = {p['img_path']: p['seg_map_path'] for p in listed}
        if not self.ann_file:
            for name in self._files(maps, self.seg_map_suffix):
                stem = name.removesuffix(self.seg_map_suffix)
                image = os.path.join(images, stem + self.img_suffix)
                wanted.setdefault(image, os.path.join(maps, name))
        missing = [
            path
            for image in sorted(wanted)
            for path in (image, wanted[image])
            if path not in there and not self._is_file(path)
        ]
        if missing:
            raise LabelMapError(
                f'Of {len(wanted)} pairs of image and label map '
                f'{len(missing)} lack one: there is no '
                f'{some(missing)}; add the files, or list '
                'the whole pairs in a text file and give it as ann_file.'
            )

    def _is_file(self, path: str) -> bool:
        return fileio.isfile(path, backend_args=self.backend_args)

    def _files(self, folder: str, suffix: str) -> list[str]:
        """Return the files below a folder, none if it is missing."""
        if not fileio.isdir(folder, backend_args=self.backend_args):
            return []
        names: Iterable[str] = fileio.list_dir_or_file(
            folder,
            list_dir=False,
            suffix=suffix or None,
            recursive=True,
            backend_args=self.backend_args,
        )
        return list(names)


@DATASETS.register_module()
class CheckedADE20KDataset(CheckedSegDataset, ADE20KDataset):
    """MMSegmentation's ``ADE20KDataset``, checked in the same way."""


@TRANSFORMS.register_module()
class LoadLabelMap(LoadAnnotations):
    """Load a label map, or raise an error that names its fault.

    Palette images are read as values, not as colours. MMSegmentation's own
    transform accepts any size, keeps the lower byte of 16-bit values, and
    leaves unknown classes to the loss (on a GPU, a device-side assertion).

    **Required Keys:** ``seg_map_path``, ``reduce_zero_label``,
    ``seg_fields``; ``ori_shape``, ``label_map`` and ``num_classes`` (from
    :class:`CheckedSegDataset`) if known. Without any of them, as from an
    inferencer, nothing is loaded.

    **Added Keys:** ``gt_seg_map`` (H, W) uint8, 255 ignored

    Args:
        **kwargs: see :class:`mmseg.datasets.transforms.LoadAnnotations`.
    """

    def _load_seg_map(self, results: dict) -> None:
        """Load a label map; called by the base class.

        Raises:
            LabelMapError: if the file cannot be read, holds colours, or has
                another size or other values than it should.
        """
        if not results.keys() & {'seg_map_path', 'seg_fields'}:
            return  # an image that is given to an inferencer
        wanted, path = self.reduce_zero_label, results.get('seg_map_path')
        if wanted not in (None, results.get('reduce_zero_label', wanted)):
            raise LabelMapError(
                f'LoadLabelMap has reduce_zero_label={wanted} and its data '
                'set another; set it in the data set alone.'
            )
        if path is None:
            raise LabelMapError(
                f'There is no label map of {results.get("img_path")}; set '
                'seg_map_path in data_prefix of the data set, or leave '
                'LoadLabelMap out of its pipeline.'
            )
        labels = read_label_map(path, self.backend_args)
        fault = _wrong_size(labels, results) or wrong_value(labels, results)
        if fault:
            raise LabelMapError(f'The label map {path} {fault}.')
        results['gt_seg_map'] = class_indices(labels, results)
        results['seg_fields'].append('gt_seg_map')


def _wrong_size(labels: np.ndarray, results: dict) -> str | None:
    """Return the fault of a label map's size as a clause, or None."""
    size = results.get('ori_shape', labels.shape)[:2]
    if labels.shape == tuple(size):
        return None
    (height, width), (rows, columns) = labels.shape, size
    return (
        f'has {width} x {height} pixels and its image '
        f'{results.get("img_path")} has {columns} x {rows}; make it '
        'anew from the image, or remove the pair'
    )

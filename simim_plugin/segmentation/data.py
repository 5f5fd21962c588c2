"""Segmentation data sets that check their files before a run starts.

Shape key: H rows, W columns.
"""

from __future__ import annotations

import io
import os
from typing import Any

import numpy as np
from mmengine import fileio
from mmseg.datasets import ADE20KDataset, BaseSegDataset
from mmseg.datasets.transforms import LoadAnnotations
from mmseg.registry import DATASETS, TRANSFORMS
from PIL import Image

from ..datasets.annotated import prefer_upright
from ..errors import SimimError

IGNORED = 255
"""Value of pixels that neither the loss nor a metric counts."""


class LabelMapError(SimimError):
    """Error of missing or wrong label maps; the message names them."""


@DATASETS.register_module()
class CheckedSegDataset(BaseSegDataset):
    """MMSegmentation's ``BaseSegDataset``, with files checked at the start.

    It passes the number of classes to :class:`LoadLabelMap`.

    Args:
        upright (bool, optional): whether label maps that fit an image as
            stored and turned by its EXIF orientation are of the turned one.
            Defaults to None: as most others of the set, else as stored.
        **kwargs: see :class:`mmseg.datasets.BaseSegDataset`.
    """

    def __init__(self, upright: bool | None = None, **kwargs: Any) -> None:
        self.upright = upright
        super().__init__(**kwargs)

    def load_data_list(self) -> list[dict]:
        """List the pairs; called by the base class.

        Raises:
            LabelMapError: if the list of pairs, all images or one file of a
                pair is missing.
        """
        images = self.data_prefix['img_path']
        if self.ann_file and not os.path.exists(self.ann_file):
            raise LabelMapError(
                f'There is no list of pairs {self.ann_file}; set data_root '
                'and ann_file of the data set.'
            )
        there = self.ann_file or self._is_folder(images)
        listed = super().load_data_list() if there else []
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
            for pair in listed:
                pair['num_classes'] = len(known)
        return listed

    def _check_pairs(self, listed: list[dict], images: str, maps: str) -> None:
        stems = {
            os.path.relpath(pair['img_path'], images).removesuffix(
                self.img_suffix
            )
            for pair in listed
        }
        present = [
            (folder, suffix, self._stems(folder, suffix))
            for folder, suffix in (
                (images, self.img_suffix),
                (maps, self.seg_map_suffix),
            )
        ]
        if not self.ann_file:
            stems |= present[1][2]
        missing = [
            os.path.join(folder, stem + suffix)
            for stem in sorted(stems)
            for folder, suffix, found in present
            if stem not in found
        ]
        if missing:
            more = ', ...' if len(missing) > 3 else ''
            raise LabelMapError(
                f'Of {len(stems)} pairs of image and label map '
                f'{len(missing)} lack one: there is no '
                f'{", ".join(missing[:3])}{more}; add the files, or list '
                'the whole pairs in a text file and give it as ann_file.'
            )

    def _is_folder(self, path: str) -> bool:
        return fileio.isdir(path, backend_args=self.backend_args)

    def _stems(self, folder: str, suffix: str) -> set[str]:
        """Return the files in a folder without suffix, none if missing."""
        if not self._is_folder(folder):
            return set()
        names = fileio.list_dir_or_file(
            folder,
            list_dir=False,
            suffix=suffix,
            recursive=True,
            backend_args=self.backend_args,
        )
        return {name.removesuffix(suffix) for name in names}


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
    :class:`CheckedSegDataset`) if known

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
        path = results['seg_map_path']
        try:
            data = fileio.get(path, backend_args=self.backend_args)
            labels = np.array(Image.open(io.BytesIO(data)))
        # Decoders raise anything from OSError to struct.error.
        except Exception as error:
            raise LabelMapError(
                f'Cannot read the label map {path} ({error}); replace the '
                'file, or remove it and its image.'
            ) from error
        fault = _fault(labels, results)
        if fault:
            raise LabelMapError(f'The label map {path} {fault}.')
        labels = labels.astype(np.uint8)
        if results['reduce_zero_label']:
            labels -= 1  # 0 becomes 255
            labels[labels == IGNORED - 1] = IGNORED
        if results.get('label_map') is not None:
            table = np.arange(256, dtype=np.uint8)
            for old, new in results['label_map'].items():
                table[old] = new
            labels = table[labels]
        results['gt_seg_map'] = labels
        results['seg_fields'].append('gt_seg_map')


def _fault(labels: np.ndarray, results: dict) -> str | None:
    """Return the fault of a label map as a clause, or None."""
    if labels.ndim != 2 or labels.dtype.kind not in 'bui':
        return (
            'holds colours where class indices are needed; save it as a '
            'greyscale or palette image of indices'
        )
    size = results.get('ori_shape', labels.shape)[:2]
    if labels.shape != tuple(size):
        (height, width), (rows, columns) = labels.shape, size
        return (
            f'has {width} x {height} pixels and its image '
            f'{results.get("img_path")} has {columns} x {rows}; make it '
            'anew from the image, or remove the pair'
        )
    count = results.get('num_classes', IGNORED - 1)
    highest = count if results['reduce_zero_label'] else count - 1
    counted = labels[labels != IGNORED]
    if counted.size and not 0 <= counted.min() <= counted.max() <= highest:
        wrong = counted.max() if counted.max() > highest else counted.min()
        return (
            f'holds the value {wrong}, beyond the {count} classes of the '
            f'data set (0 to {highest}, and {IGNORED} for ignored pixels); '
            'correct it, or the classes in metainfo and num_classes of the '
            'heads'
        )
    return None

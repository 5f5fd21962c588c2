"""Write the demo data: one folder of small scenes for every task.

::

    out/
      train/CLASS/000000.jpg      images, in the layout of ImageNet
      val/CLASS/000000.jpg
      label_maps/train/CLASS/000000.png   as in ADE20K, 0 is unlabelled
      label_maps/val/CLASS/000000.png
      annotations/instances_{train,val}.json   COCO
      annotations/lvis_v1_{train,val}.json     LVIS v1
      manifest.json               arguments, version, names of classes

File names in the annotations are relative to ``out``. Stock data sets read
the folder with these arguments:

* mmpretrain ``CustomDataset(data_root=out, data_prefix='train')``
* mmdet ``CocoDataset(data_root=out, data_prefix=dict(img=''),
  ann_file='annotations/instances_train.json',
  metainfo=dict(classes=CLASSES))``; ``LVISV1Dataset`` takes
  ``lvis_v1_train.json`` and ``LVIS_CLASSES`` instead
* mmseg ``BaseSegDataset(data_root=out, reduce_zero_label=True,
  data_prefix=dict(img_path='train', seg_map_path='label_maps/train'),
  metainfo=dict(classes=SEGMENTATION_CLASSES))``

The class shows in shape, texture, two hues and ground together. kNN on the
mean colour (k = 20) stays under twice chance: ``tools/demo.py`` reports it
for its run, docs/demo.md lists the figures, and ``pytest
tests/test_datasets/test_demo_scenes.py -k color`` asserts it on fewer scenes.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from tqdm import tqdm

from ..errors import SimimError
from ..files import complete_folder, full_disk_reported, read_text
from ..geometry import pair
from .annotations import (
    CLASSES,
    LVIS_CLASSES,
    SEGMENTATION_CLASSES,
    Objects,
    coco_instances,
    describe,
    label_map,
    lvis_v1,
)
from .scenes import Size, draw_scene

VERSION = 2
"""Increase it when the same arguments make other files."""

_MADE = {'train', 'val', 'label_maps', 'annotations', 'manifest.json'}

# No chroma subsampling: at 64 pixels it would blur the textures.
JPEG_OPTIONS = [
    cv2.IMWRITE_JPEG_QUALITY,
    95,
    cv2.IMWRITE_JPEG_SAMPLING_FACTOR,
    cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444,
]

_ADVICE = (
    'free some space, choose another folder, or ask for fewer or smaller '
    'images'
)


def make_demo_data(
    out: str | os.PathLike[str],
    train: int = 5000,
    val: int = 1000,
    size: int | Size = 64,
    seed: int = 0,
    overwrite: bool = False,
) -> bool:
    """Write the demo data, unless ``out`` has it already.

    ``out`` is complete or absent.

    Args:
        out (str | PathLike): folder to make.
        train (int): number of training images, at least 1.
        val (int): number of validation images, at least 1.
        size (int | tuple[int, int]): side, or height and width, of the
            images in pixels, at least 16.
        seed (int): at least 0.
        overwrite (bool): replace demo data made with other arguments.

    Returns:
        bool: whether anything was written.

    Raises:
        SimimError: for counts, sizes or seeds out of range, if ``out``
            holds other files, or if the disk is full.
        OSError: if ``out`` cannot be written for another reason.
    """
    out = Path(out).resolve()  # a link stays one
    shape = pair(size)
    if min(train, val) < 1 or seed < 0 or min(shape) < 16:
        raise SimimError(
            f'Cannot make demo data of {train} + {val} images of '
            f'{shape[0]} x {shape[1]} pixels with seed {seed}: ask for at '
            'least 1 image per split, 16 pixels and seed 0.'
        )
    parameters = dict(train=train, val=val, size=list(shape), seed=seed)
    if _is_up_to_date(out, parameters, overwrite):
        return False
    with full_disk_reported(out, _ADVICE), complete_folder(out) as partial:
        _write(partial, dict(train=train, val=val), shape, seed)
        _write_manifest(partial, parameters)
        if out.exists():
            shutil.rmtree(out)
    return True


def _is_up_to_date(
    out: Path, parameters: dict[str, Any], overwrite: bool
) -> bool:
    """Return whether ``out`` holds these demo data.

    Raises:
        SimimError: if it holds files that must not be replaced.
    """
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return False
    try:
        existing = json.loads(read_text(out / 'manifest.json'))
        found, version = existing['parameters'], existing['version']
    except (OSError, ValueError, KeyError, TypeError):
        # Never delete other files, not even with ``overwrite``.
        raise SimimError(
            f'{out} exists and is no demo data: choose another folder.'
        ) from None
    others = sorted({*os.listdir(out)} - _MADE)
    if others and overwrite:
        raise SimimError(
            f'{out} holds {others[0]} beside demo data, which --overwrite '
            'would remove; move it, or choose another folder.'
        )
    same = (found, version) == (parameters, VERSION)
    if not same and not overwrite:
        raise SimimError(
            f'{out} holds demo data of version {version} made with '
            f'{found}: choose another folder, or pass --overwrite.'
        )
    return same


def _write(root: Path, counts: dict[str, int], size: Size, seed: int) -> None:
    """Write images, label maps and annotations of all splits."""
    described: dict[str, list[Objects]] = {}
    with tqdm(total=sum(counts.values()), desc='demo data', unit='img') as bar:
        for number, (split, count) in enumerate(counts.items()):
            for name in CLASSES:
                (root / split / name).mkdir(parents=True)
                (root / 'label_maps' / split / name).mkdir(parents=True)
            described[split] = []
            for index in range(count):
                scene = draw_scene(seed, number, index, size)
                stem = f'{split}/{CLASSES[scene.label]}/{index:06d}'
                image, labels = scene.image[..., ::-1], label_map(scene)
                _write_image(root / f'{stem}.jpg', image, JPEG_OPTIONS)
                _write_image(root / f'label_maps/{stem}.png', labels)
                described[split].append(describe(scene, f'{stem}.jpg', index))
                bar.update()
    folder = root / 'annotations'
    folder.mkdir()
    for split, images in described.items():
        _write_json(folder / f'instances_{split}.json', coco_instances(images))
        _write_json(
            folder / f'lvis_v1_{split}.json',
            lvis_v1(images, described['train']),
        )


def _write_image(
    path: Path, image: np.ndarray, options: Sequence[int] = ()
) -> None:
    """Encode and write; unlike cv2.imwrite, raise if the disk is full."""
    _, data = cv2.imencode(path.suffix, image, options)
    path.write_bytes(data.tobytes())


def _write_manifest(root: Path, parameters: dict[str, Any]) -> None:
    manifest = {
        'version': VERSION,
        'parameters': parameters,
        'classes': CLASSES,
        'lvis_classes': LVIS_CLASSES,
        'segmentation_classes': SEGMENTATION_CLASSES,
    }
    _write_json(root / 'manifest.json', manifest)


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content))

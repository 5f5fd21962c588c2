"""The demo data set: one folder of scenes that every task can read.

The class shows through shape, texture, two hues and ground together. kNN on
the mean colour (k = 20) stays under twice chance: ``tools/demo.py`` prints it
for its run, docs/demo.md has the figures, and ``pytest
tests/test_datasets/test_demo_scenes.py -k color`` asserts it on fewer scenes.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from tqdm import tqdm

from ..errors import SimimError
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

VERSION = 1
"""Raise it whenever the same arguments make other files."""

# Whole colour: at 64 pixels halving it would blur the marks on an object.
JPEG_OPTIONS = [
    cv2.IMWRITE_JPEG_QUALITY,
    95,
    cv2.IMWRITE_JPEG_SAMPLING_FACTOR,
    cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444,
]

SPLITS = ('train', 'val')


def make_demo_data(
    out: str | os.PathLike[str],
    train: int = 5000,
    val: int = 1000,
    size: int | Size = 64,
    seed: int = 0,
    overwrite: bool = False,
) -> bool:
    """Write a labelled data set of small scenes, for every task at once.

    ::

        out/
          train/CLASS/000000.jpg      images, as ImageNet lays them out
          val/CLASS/000000.jpg
          label_maps/train/CLASS/000000.png   ADE20K-style, 0 unlabelled
          label_maps/val/CLASS/000000.png
          annotations/instances_{train,val}.json   COCO
          annotations/lvis_v1_{train,val}.json     LVIS v1
          manifest.json               arguments, version, names of classes

    File names in the annotations are relative to ``out``. Stock classes
    read it like this:

    * mmpretrain ``CustomDataset(data_root=out, data_prefix='train')``
    * mmdet ``CocoDataset(data_root=out, data_prefix=dict(img=''),
      ann_file='annotations/instances_train.json',
      metainfo=dict(classes=CLASSES))``; ``LVISV1Dataset`` likewise with
      ``lvis_v1_train.json`` and ``LVIS_CLASSES``
    * mmseg ``BaseSegDataset(data_root=out, reduce_zero_label=True,
      data_prefix=dict(img_path='train', seg_map_path='label_maps/train'),
      metainfo=dict(classes=SEGMENTATION_CLASSES))``

    Everything is written to a folder beside ``out`` that takes its name in
    the end, so that ``out`` is complete or absent. A folder made with the
    same arguments is left as it is.

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
            holds anything else, or if the disk is full.
        OSError: if ``out`` cannot be written for another reason.
    """
    out = Path(out).absolute()
    shape = (size, size) if isinstance(size, int) else (size[0], size[1])
    if min(train, val) < 1 or seed < 0 or min(shape) < 16:
        raise SimimError(
            f'Cannot make demo data of {train} + {val} images of '
            f'{shape[0]} x {shape[1]} pixels with seed {seed}: ask for at '
            'least 1 image per split, 16 pixels and seed 0.'
        )
    manifest = {
        'version': VERSION,
        'parameters': {
            'train': train,
            'val': val,
            'size': list(shape),
            'seed': seed,
        },
        'classes': CLASSES,
        'lvis_classes': LVIS_CLASSES,
        'segmentation_classes': SEGMENTATION_CLASSES,
    }
    if _is_up_to_date(out, manifest, overwrite):
        return False
    partial = out.with_name(f'.{out.name}.{os.getpid()}.partial')
    try:
        partial.mkdir(parents=True)
        _write(
            partial, dict(zip(SPLITS, (train, val), strict=True)), shape, seed
        )
        _write_json(partial / 'manifest.json', manifest)
        if out.exists():
            shutil.rmtree(out)
        partial.rename(out)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        raise SimimError(
            f'The disk of {out} is full: free some space, choose another '
            'folder, or ask for fewer or smaller images.'
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return True


def _is_up_to_date(
    out: Path, manifest: dict[str, Any], overwrite: bool
) -> bool:
    """Whether ``out`` is already what is asked for.

    Raises:
        SimimError: if it holds something that must not be replaced.
    """
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return False
    try:
        existing = json.loads((out / 'manifest.json').read_text())
        parameters, version = existing['parameters'], existing['version']
    except (OSError, ValueError, KeyError, TypeError):
        # Never delete what somebody else made, whatever was asked.
        raise SimimError(
            f'{out} exists and is no demo data: choose another folder.'
        ) from None
    same = (parameters, version) == (
        manifest['parameters'],
        manifest['version'],
    )
    if not same and not overwrite:
        raise SimimError(
            f'{out} holds demo data of version {version} made with '
            f'{parameters}: choose another folder, or pass --overwrite.'
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
                _write_image(
                    root / f'{stem}.jpg',
                    scene.image[..., ::-1],
                    JPEG_OPTIONS,
                )
                _write_image(
                    root / 'label_maps' / f'{stem}.png', label_map(scene), []
                )
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


def _write_image(path: Path, image: np.ndarray, options: list[int]) -> None:
    """Encode and write; unlike cv2.imwrite it raises when the disk is full."""
    _, data = cv2.imencode(path.suffix, image, options)
    path.write_bytes(data.tobytes())


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content))

"""Annotate the demo scenes in the formats of COCO, LVIS v1 and ADE20K.

COCO categories are the things. LVIS categories are the pairs of shape and
texture ('striped_disc'), some frequent, some common and some rare. Label
maps show things and grounds; as in ADE20K, 0 is unlabelled.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from .scenes import GROUNDS, SHAPES, TEXTURES, THINGS, Scene

Mask = NDArray[np.bool_]

CLASSES = tuple(thing.name for thing in THINGS)
"""Classes of the images, and COCO categories in the order of their ids."""

LVIS_CLASSES = tuple(
    f'{texture}_{shape}' for shape in SHAPES for texture in TEXTURES
)
"""LVIS categories, in the order of their ids from 1 ("kinds" below)."""

SEGMENTATION_CLASSES = CLASSES + GROUNDS
"""Classes of the label maps, in the order of their values from 1."""

URL_PREFIX = 'http://images.cocodataset.org/'
"""Prefix that MMDetection's ``LVISV1Dataset`` strips from ``coco_url``."""

RARE_SHARE, COMMON_SHARE = 0.002, 0.02
"""Largest shares of images of rare and common categories: LVIS's bounds of
10 and 100 images at the default 5,000 images."""

NEGATIVES = 4
"""Number of absent LVIS categories listed per image."""


def is_annotated(mask: Mask, area: int) -> bool:
    """Return whether enough of an object is visible to annotate it.

    Args:
        mask (NDArray[np.bool_]): (H, W), its visible pixels.
        area (int): number of its pixels without occlusion.
    """
    visible = np.count_nonzero(mask)
    return bool(visible >= max(8, 0.002 * mask.size, 0.15 * area))


def polygons(mask: Mask) -> list[list[int]]:
    """Outline a mask along the edges of its pixels, in COCO's format.

    Polygons have no holes: a mask is cut in two through each hole.

    Args:
        mask (NDArray[np.bool_]): (H, W), at least one pixel set.

    Returns:
        list[list[int]]: [x0, y0, x1, y1, ...] of each part, in pixels.
    """
    # At twice the size, even coordinates mark the near edge of a pixel and
    # odd ones the far edge.
    double = mask.astype(np.uint8).repeat(2, axis=0).repeat(2, axis=1)
    contours, hierarchy = cv2.findContours(
        double, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE
    )
    for contour, (_, _, _, parent) in zip(contours, hierarchy[0], strict=True):
        if parent >= 0:
            column = int(contour[:, 0, 0].mean() / 2) + 1
            left, right = mask.copy(), mask.copy()
            left[:, column:] = False
            right[:, :column] = False
            return polygons(left) + polygons(right)
    return [((points + 1) // 2).ravel().tolist() for points in contours]


def label_map(scene: Scene) -> NDArray[np.uint8]:
    """Return (H, W) labels: 1 + index into ``SEGMENTATION_CLASSES``, or 0.

    Clutter and objects that are too hidden to annotate are unlabelled, 0.
    """
    labels = np.where(scene.ground < 0, 0, scene.ground + 1 + len(CLASSES))
    for item in scene.instances:
        shown = is_annotated(item.mask, item.area)
        labels[item.mask] = item.thing + 1 if shown else 0
    return labels.astype(np.uint8)


@dataclass(frozen=True)
class Objects:
    """The annotated objects of one image.

    Args:
        file_name (str): path of the image, relative to the root.
        size (tuple[int, int]): height and width, pixels.
        annotations (tuple[dict[str, Any], ...]): COCO annotations with the
            indices ``thing`` (into ``CLASSES``) and ``kind`` (into
            ``LVIS_CLASSES``) instead of ids and category.
        hidden (tuple[int, ...]): kinds of the objects too hidden to
            annotate.
        absent (tuple[int, ...]): some kinds that are not in the image.
    """

    file_name: str
    size: tuple[int, int]
    annotations: tuple[dict[str, Any], ...]
    hidden: tuple[int, ...]
    absent: tuple[int, ...]


def describe(scene: Scene, file_name: str, index: int) -> Objects:
    """List the objects of scene number ``index`` of its split."""
    found, hidden, present = [], [], set()
    for item in scene.instances:
        kind = item.shape * len(TEXTURES) + item.texture
        present.add(kind)
        if not is_annotated(item.mask, item.area):
            hidden.append(kind)
            continue
        left, top, width, height = cv2.boundingRect(item.mask.view(np.uint8))
        found.append(
            {
                'thing': item.thing,
                'kind': kind,
                'bbox': [left, top, width, height],
                'area': int(np.count_nonzero(item.mask)),
                'segmentation': polygons(item.mask),
                'iscrowd': 0,
            }
        )
    # Absent kinds rotate with the index: every category gets some.
    count = len(LVIS_CLASSES)
    turns = ((NEGATIVES * index + i) % count for i in range(count))
    absent = [kind for kind in turns if kind not in present][:NEGATIVES]
    return Objects(
        file_name=file_name,
        size=scene.ground.shape,
        annotations=tuple(found),
        hidden=tuple(sorted(set(hidden))),
        absent=tuple(sorted(absent)),
    )


def coco_instances(images: Iterable[Objects]) -> dict[str, Any]:
    """Return the content of COCO's ``instances_*.json``, ids from 1."""
    categories = [
        {'id': i + 1, 'name': name, 'supercategory': 'thing'}
        for i, name in enumerate(CLASSES)
    ]
    listed = [
        {**_image(image_id, item), 'file_name': item.file_name}
        for image_id, item in enumerate(images, 1)
    ]
    return _content(listed, _annotations(images, 'thing'), categories)


def lvis_v1(
    images: Iterable[Objects], training: Iterable[Objects]
) -> dict[str, Any]:
    """Return the content of LVIS v1's json of a split, ids from 1.

    Args:
        images (Iterable[Objects]): the split.
        training (Iterable[Objects]): the training split. As in LVIS, its
            counts make a category rare, common or frequent.
    """
    listed = [
        {
            **_image(image_id, item),
            'coco_url': URL_PREFIX + item.file_name,
            'neg_category_ids': [kind + 1 for kind in item.absent],
            'not_exhaustive_category_ids': [k + 1 for k in item.hidden],
        }
        for image_id, item in enumerate(images, 1)
    ]
    categories = _lvis_categories(list(training))
    return _content(listed, _annotations(images, 'kind'), categories)


def _lvis_categories(training: list[Objects]) -> list[dict[str, Any]]:
    kinds = [[ann['kind'] for ann in item.annotations] for item in training]
    image_count = Counter(kind for found in kinds for kind in set(found))
    instance_count = Counter(kind for found in kinds for kind in found)
    categories = []
    for kind, name in enumerate(LVIS_CLASSES):
        words = name.replace('_', ' ')
        share = image_count[kind] / max(1, len(training))
        frequency = 'c' if share <= COMMON_SHARE else 'f'
        categories.append(
            {
                'id': kind + 1,
                'name': name,
                'synset': f'{name}.n.01',
                'synonyms': [name],
                'def': f'an object with the outline and marks of a {words}',
                'frequency': 'r' if share <= RARE_SHARE else frequency,
                'image_count': image_count[kind],
                'instance_count': instance_count[kind],
            }
        )
    return categories


def _content(images: list, annotations: list, categories: list) -> dict:
    return {
        'info': {'description': 'simim_plugin demo scenes'},
        'licenses': [],
        'images': images,
        'annotations': annotations,
        'categories': categories,
    }


def _image(image_id: int, item: Objects) -> dict[str, Any]:
    height, width = item.size
    return {'id': image_id, 'height': height, 'width': width}


def _annotations(
    images: Iterable[Objects], category: str
) -> list[dict[str, Any]]:
    """List all annotations; ``category`` (thing or kind) gives their id."""
    listed: list[dict[str, Any]] = []
    for image_id, item in enumerate(images, 1):
        for found in item.annotations:
            annotation = dict(found)
            annotation['id'] = len(listed) + 1
            annotation['image_id'] = image_id
            annotation['category_id'] = found[category] + 1
            del annotation['thing'], annotation['kind']
            listed.append(annotation)
    return listed

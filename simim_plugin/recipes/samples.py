"""Draw samples of the training set with their labels, boxes or masks.

Shape key: H rows, W columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from mmengine.config import Config
from mmengine.dataset import worker_init_fn
from mmengine.registry import DATASETS, DefaultScope
from mmengine.utils import import_modules_from_strings

from ..settings import apply_img_size, fit_channels
from ..text import in_plot
from ..visualization.style import (
    PALETTE,
    TEXT,
    hide_axes,
    new_figure,
    title,
)

IGNORED = 255  # in MMSegmentation
SHOWN = 12
_COLUMNS = 4
NAMED = 12
"""Classes whose colours are named."""


def draw_samples(file: Path, classes: Sequence[str] = ()) -> Figure:
    """Draw training samples of a config, after its transforms.

    Args:
        file (Path): the config.
        classes (Sequence[str]): names of the labels.

    Raises:
        SimimError: for wrong settings, pictures or annotations.
    """
    config = Config.fromfile(file)
    import_modules_from_strings(**config.custom_imports)
    apply_img_size(config)
    fit_channels(config)
    loader = config.get('train_dataloader') or config.test_cfg.train_dataloader
    given = config.model.get('data_preprocessor') or {}
    reverse = bool(given.get('bgr_to_rgb'))
    with DefaultScope.overwrite_default_scope(config.default_scope):
        dataset = DATASETS.build(loader.dataset)
        worker_init_fn(0, 1, 0, 0)  # the transforms draw from it
        count = min(SHOWN, len(dataset))
        order = np.random.default_rng(0).permutation(len(dataset))[:count]
        samples = [dataset[int(k)] for k in order]
    rows = -(-count // _COLUMNS)
    views = isinstance(samples[0]['inputs'], (list, tuple))
    height = 1.6 if views else 2.75
    figure = new_figure(2.6 * _COLUMNS, height * rows + 0.3)
    for place, sample in enumerate(samples, 1):
        axes = figure.add_subplot(rows, _COLUMNS, place)
        draw_sample(axes, sample, classes, reverse)
    if 'gt_sem_seg' in samples[0]['data_samples']:
        add_legend(figure, classes)
    return figure


def add_legend(figure: Figure, classes: Sequence[str]) -> None:
    """Name the colours of the classes above the pictures."""
    handles = [
        Patch(color=colour(k), label=in_plot(name))
        for k, name in enumerate(classes[:NAMED])
    ]
    figure.legend(
        handles=handles,
        loc='outside upper left',
        ncols=6,
        fontsize=TEXT,
        frameon=False,
    )


def draw_sample(
    axes: Axes, sample: dict[str, Any], classes: Sequence[str], reverse: bool
) -> None:
    """Draw one sample of a data set.

    Args:
        axes (Axes): where.
        sample (dict[str, Any]): ``inputs`` and ``data_samples``.
        classes (Sequence[str]): names of the labels.
        reverse (bool): whether the channels are BGR.
    """
    inputs, about = sample['inputs'], sample['data_samples']
    if isinstance(inputs, (list, tuple)):  # the views of a pretraining
        both = [_pixels(view, reverse) for view in inputs]
        axes.imshow(np.concatenate([both[0], both[1]], axis=1))
        title(axes, '', 'online view | target view')
        hide_axes(axes)
        return
    image = _pixels(inputs, reverse)
    axes.imshow(image)
    hide_axes(axes)
    if 'gt_instances' in about:
        _draw_objects(axes, about.gt_instances, classes)
    elif 'gt_sem_seg' in about:
        labels = about.gt_sem_seg.data[0].numpy()
        title(axes, '', draw_labels(axes, labels, classes) or 'no class')
    elif 'gt_label' in about:
        label = int(about.gt_label[0])
        title(axes, '', classes[label] if classes else str(label))


def _pixels(tensor: torch.Tensor, reverse: bool) -> np.ndarray:
    """Return (H, W, 3) uint8 RGB of an input (C, H, W)."""
    if tensor.shape[0] not in (1, 3):
        tensor = tensor[:3]  # of many channels, the first three
        reverse = False
    image = tensor.permute(1, 2, 0).numpy().clip(0, 255).astype(np.uint8)
    if image.shape[2] == 1:
        return image.repeat(3, axis=2)
    return image[..., ::-1] if reverse else image


def colour(label: int) -> str:
    """Return the colour of a class."""
    return PALETTE[label % len(PALETTE)]


def _draw_objects(axes: Axes, objects: Any, classes: Sequence[str]) -> None:
    boxes = objects.bboxes
    boxes = getattr(boxes, 'tensor', boxes).numpy()
    masks = objects.masks.to_ndarray() if 'masks' in objects else None
    for k, (box, label) in enumerate(zip(boxes, objects.labels, strict=True)):
        draw_box(axes, box, int(label), classes)
        if masks is not None:
            draw_mask(axes, masks[k].astype(bool), colour(int(label)))
    title(axes, '', f'{len(boxes)} object{"s" * (len(boxes) != 1)}')


def draw_box(
    axes: Axes,
    box: np.ndarray,
    label: int,
    classes: Sequence[str],
    note: str = '',
) -> None:
    """Draw a box (left, top, right, bottom) and the name of its class."""
    left, top, right, bottom = box
    low, high = axes.get_ylim()
    inside = top - high < 0.08 * (low - high)  # no room above the box
    shape = Rectangle(
        (left - 0.5, top - 0.5),
        right - left,
        bottom - top,
        fill=False,
        color=colour(label),
        linewidth=1.2,
    )
    axes.add_patch(shape)
    name = classes[label] if label < len(classes) else str(label)
    axes.annotate(
        in_plot(f'{name}{note}'),
        (left, top),
        (1, -1 if inside else 1),
        va='top' if inside else 'baseline',
        textcoords='offset points',
        fontsize=6,
        color='white',
        bbox=dict(facecolor=colour(label), edgecolor='none', pad=0.8),
        annotation_clip=True,
        clip_on=True,
    )


def draw_mask(axes: Axes, mask: np.ndarray, paint: str) -> None:
    """Tint the pixels of a mask (H, W) bool, and paint its border."""
    red, green, blue = (int(paint[k : k + 2], 16) for k in (1, 3, 5))
    layer = np.zeros((*mask.shape, 4), np.uint8)
    layer[mask] = (red, green, blue, 89)  # 35 %
    layer[_border(mask)] = (red, green, blue, 255)
    axes.imshow(layer)


def _border(mask: np.ndarray) -> np.ndarray:
    """Return the pixels (H, W) inside a mask that are near others."""
    inside = mask
    for _ in range(max(1, min(mask.shape) // 100)):
        around = np.pad(inside, 1, constant_values=True)
        inside = (
            inside
            & (around[:-2, 1:-1] & around[2:, 1:-1])
            & (around[1:-1, :-2] & around[1:-1, 2:])
        )
    return mask & ~inside


def draw_labels(axes: Axes, labels: np.ndarray, classes: Sequence[str]) -> str:
    """Tint a label map, and return the names of its first classes.

    Ignored pixels stay as they are.
    """
    present = [int(v) for v in np.unique(labels) if v != IGNORED]
    for value in present:
        draw_mask(axes, labels == value, colour(value))
    names = [classes[v] if v < len(classes) else str(v) for v in present]
    return ', '.join(names[:3])

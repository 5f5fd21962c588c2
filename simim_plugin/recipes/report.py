"""Test a trained model on data of one's own, and show what it does.

Shape key: K classes, H rows, W columns.
"""

from __future__ import annotations

import io
import json
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from matplotlib.figure import Figure
from mmengine.config import Config
from mmengine.evaluator import BaseMetric
from mmengine.registry import RUNNERS
from mmengine.utils import import_modules_from_strings

from ..errors import SimimError
from ..pictures import decode_to_draw, read_file
from ..text import in_plot
from ..visualization.style import (
    INK,
    PALETTE,
    TEXT,
    hide_axes,
    new_figure,
    title,
)
from .samples import IGNORED, add_legend, draw_box, draw_labels

SHOWN = 6
"""Pictures on each page of the best and the worst."""

_SURE = 0.3
"""Score from which a box is drawn and counted."""

_LONGEST = 800
"""Long side of the label maps that are drawn, pixels."""


@dataclass
class Tested:
    """A test of one model.

    Args:
        task (str): 'classification', 'detection' or 'segmentation'.
        classes (list[str]): names of the labels.
        metrics (dict[str, float]): of the config's evaluators.
        results (list[dict[str, Any]]): one for each picture, with ``score``,
            how good the prediction is, from 0 to 1. ``confusion`` has true
            classes, predicted classes and counts.
        curves (dict[str, np.ndarray]): precision at 101 steps of recall by
            class, IoU 0.5, of a detector.
    """

    task: str
    classes: list[str]
    metrics: dict[str, float]
    results: list[dict[str, Any]]
    curves: dict[str, np.ndarray] = field(default_factory=dict)

    def confusion(self) -> np.ndarray:
        """Return (K, K) counts: rows are true classes, columns predicted."""
        count = len(self.classes)
        total = np.zeros((count, count), np.int64)
        for result in self.results:
            true, predicted, pixels = result['confusion']
            np.add.at(total, (true, predicted), pixels)
        return total

    def by_class(self) -> dict[str, dict[str, float]]:
        """Return figures in percent for each class, NaN where undefined."""
        if self.task == 'detection':
            return {
                name: {'AP50': 100 * float(np.mean(curve))}
                for name, curve in self.curves.items()
            }
        table = self.confusion().astype(float)
        hits, true, predicted = np.diag(table), table.sum(1), table.sum(0)
        with np.errstate(divide='ignore', invalid='ignore'):
            columns = {
                'recall': 100 * hits / true,
                'precision': 100 * hits / predicted,
            }
            if self.task == 'segmentation':
                columns['IoU'] = 100 * hits / (true + predicted - hits)
        return {
            name: {key: float(values[k]) for key, values in columns.items()}
            for k, name in enumerate(self.classes)
        }


class _Keep(BaseMetric):
    """Keep what a report needs of each prediction."""

    def __init__(self, kind: str, count: int) -> None:
        super().__init__(collect_device='cpu')
        self.kind, self.count = kind, count

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        """Store one entry for each picture."""
        make = dict(
            classification=_classified,
            detection=_detected,
            segmentation=_segmented,
        )[self.kind]
        self.results += [make(sample, self.count) for sample in data_samples]

    def compute_metrics(self, results: list) -> dict[str, float]:
        """Return no metric; the report reads ``kept``."""
        self.kept = results
        return {}


def _classified(sample: Mapping[str, Any], count: int) -> dict[str, Any]:
    true = int(sample['gt_label'][0])
    return _scored(sample['img_path'], true, sample['pred_score'].cpu(), count)


def _scored(
    path: str, true: int, scores: torch.Tensor, count: int
) -> dict[str, Any]:
    """Return a picture's entry; classes that have no score count as 0.

    Raises:
        SimimError: for scores of more classes than the test set has.
    """
    if len(scores) > count:
        raise SimimError(
            f'The model has scores of {len(scores)} classes, and the test '
            f'set names {count}; complete its classes.'
        )
    scores = torch.nn.functional.pad(scores, (0, count - len(scores)))
    predicted = int(scores.argmax())
    return dict(
        path=path,
        true=true,
        predicted=predicted,
        sure=float(scores[predicted]),
        score=float(scores[true]),
        confusion=(true, predicted, 1),
    )


def _detected(sample: Mapping[str, Any], count: int) -> dict[str, Any]:
    found, objects = sample['pred_instances'], sample.get('instances')
    if objects is None:
        raise SimimError(
            'The test images of the config come without their objects; add '
            "'instances' to meta_keys of PackDetInputs in the test pipeline."
        )
    keep = found['scores'] >= _SURE
    objects = [one for one in objects if not one['ignore_flag']]
    boxes = np.array([one['bbox'] for one in objects], np.float32)
    predicted = dict(
        boxes=found['bboxes'][keep].cpu().numpy(),
        labels=found['labels'][keep].cpu().numpy(),
        scores=found['scores'][keep].cpu().numpy(),
    )
    right = dict(
        boxes=boxes.reshape(-1, 4),
        labels=np.array([one['bbox_label'] for one in objects], int),
    )
    return dict(
        path=sample['img_path'],
        number=sample['img_id'],
        turned=sample.get('upright', True),
        shape=tuple(sample['ori_shape']),
        predicted=predicted,
        true=right,
        score=_matched(predicted, right),
    )


def _matched(predicted: Mapping[str, Any], true: Mapping[str, Any]) -> float:
    """Return the F1 of boxes at IoU 0.5, 1 if there is none on both sides."""
    from torchvision.ops import box_iou

    if not len(predicted['boxes']) or not len(true['boxes']):
        return float(len(predicted['boxes']) == len(true['boxes']))
    overlap = box_iou(
        torch.as_tensor(predicted['boxes']), torch.as_tensor(true['boxes'])
    ).numpy()
    overlap[predicted['labels'][:, None] != true['labels'][None]] = 0
    free, hits = np.ones(overlap.shape[1], bool), 0
    for k in np.argsort(-predicted['scores']):
        best = int((overlap[k] * free).argmax())
        if free[best] and overlap[k, best] >= 0.5:
            free[best] = False
            hits += 1
    return 2 * hits / (len(predicted['boxes']) + len(true['boxes']))


def _segmented(sample: Mapping[str, Any], count: int) -> dict[str, Any]:
    predicted = sample['pred_sem_seg']['data'].squeeze(0).cpu().numpy()
    true = sample['gt_sem_seg']['data'].squeeze(0).cpu().numpy()
    valid = true != IGNORED
    pairs = count * true[valid].astype(int) + predicted[valid].astype(int)
    table = np.bincount(pairs, minlength=count * count).reshape(count, count)
    hits = np.diag(table)
    union = table.sum(0) + table.sum(1) - hits
    score = (
        float(np.mean(hits[union > 0] / union[union > 0]))
        if valid.any()
        else 1.0
    )
    # Every test picture is kept, and a page shows it small.
    step = -(-max(true.shape) // _LONGEST)
    return dict(
        path=sample['img_path'],
        predicted=predicted[::step, ::step].astype(np.uint8),
        true=true[::step, ::step].astype(np.uint8),
        turned=sample.get('upright', True),
        shape=true.shape,
        score=score,
        confusion=(*np.nonzero(table), table[table > 0]),
    )


_TASKS = dict(
    mmpretrain='classification', mmdet='detection', mmseg='segmentation'
)


def run_test(file: Path, checkpoint: Path) -> Tested:
    """Test a model on the test set of its config.

    Args:
        file (Path): the config.
        checkpoint (Path): of the trained model.

    Raises:
        SimimError: for a config whose test predicts nothing for a picture.
    """
    config = Config.fromfile(file)
    import_modules_from_strings(**config.custom_imports)
    task = _TASKS.get(config.get('default_scope', ''), '')
    frozen = (config.get('test_cfg') or {}).get('type') == 'FrozenFeatureLoop'
    tests = bool(config.get('test_dataloader'))
    if not task or not tests or 'projector' in config.model:
        raise SimimError(
            f'The test of {file} predicts nothing for a picture; a report '
            'needs a classifier, a detector or a segmentor.'
        )
    with tempfile.TemporaryDirectory() as folder:
        config.work_dir, config.load_from = folder, str(checkpoint)
        config.resume = False
        evaluators = config.test_evaluator
        if not isinstance(evaluators, list):
            evaluators = [evaluators]
        boxes = Path(folder, 'found')
        if task == 'detection':
            evaluators[0].update(outfile_prefix=str(boxes))
        config.test_evaluator = evaluators
        runner: Any = RUNNERS.get('SiameseIMRunner').from_cfg(config)
        classes = _classes(runner)
        if frozen:
            metrics, kept = _test_frozen(runner, len(classes))
        else:
            metrics, kept = _test(runner, task, len(classes))
        curves = {}
        if task == 'detection':
            found = Path(f'{boxes}.bbox.json')
            # Without a file MMDetection writes the objects of the images.
            truth = evaluators[0].get('ann_file') or f'{boxes}.gt.json'
            numbers = [one['number'] for one in kept]
            curves = _curves(truth, found, classes, numbers)
            metrics = metrics or none_found(evaluators)
    return Tested(task, classes, metrics, kept, curves)


def none_found(evaluators: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return the metrics of a detector without a prediction: all are 0.

    MMDetection returns none.

    Args:
        evaluators (Sequence[Mapping[str, Any]]): of the config.
    """
    kinds = evaluators[0].get('metric', 'bbox')
    kinds = [kinds] if isinstance(kinds, str) else kinds
    return {f'coco/{kind}_mAP': 0.0 for kind in kinds}


_Kept = tuple[dict[str, float], list[dict[str, Any]]]
"""Metrics, and one entry for each picture."""


def _test(runner: Any, task: str, count: int) -> _Kept:
    keep = _Keep(task, count)
    runner._test_loop = runner.build_test_loop(runner._test_loop)
    runner.test_loop.evaluator.metrics.append(keep)
    keep.dataset_meta = runner.test_loop.dataloader.dataset.metainfo
    return runner.test(), keep.kept


def _test_frozen(runner: Any, count: int) -> _Kept:
    """Test a classifier of frozen features, such as kNN."""
    loop = runner.test_loop
    classifier, *others = loop.classifiers
    if others:
        raise SimimError(
            f'test_cfg.classifier has {len(loop.classifiers)} classifiers, '
            'and a report shows the scores of one; keep one of them.'
        )
    if not hasattr(classifier, 'scores'):
        raise SimimError(
            f'{type(classifier).__name__} has no scores of classes, which a '
            'report shows; add a method like that of KNNClassifier.'
        )
    metrics = runner.test()
    train, (features, labels) = loop.features
    scores = classifier.scores(train, features)
    pictures = loop.dataloader.dataset
    return metrics, [
        _scored(pictures.get_data_info(k)['img_path'], int(true), row, count)
        for k, (true, row) in enumerate(zip(labels, scores, strict=True))
    ]


def _classes(runner: Any) -> list[str]:
    loader = runner._test_dataloader
    if isinstance(loader, dict):
        runner._test_dataloader = runner.build_dataloader(loader)
    pictures = runner._test_dataloader.dataset
    if 'img_path' not in pictures.get_data_info(0):
        raise SimimError(
            'The test pictures of the config are in no files of their own, '
            'and a report draws them from files; put them into class folders.'
        )
    names = pictures.metainfo.get('classes') or ()
    if not names:
        raise SimimError(
            'The test set of the config names no classes; set metainfo of '
            'the data set.'
        )
    return [*names]


def _curves(
    annotations: str,
    found: Path,
    classes: Sequence[str],
    images: Sequence[Any] | None = None,
) -> dict[str, np.ndarray]:
    """Return precision at 101 steps of recall by class, at IoU 0.5.

    ``images`` are the ids of those that were tested, None for all.
    """
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    from ..detection.ground_truth import number_annotations, without_mark

    with (
        redirect_stdout(io.StringIO()),
        without_mark(annotations) as file,
    ):
        truth = COCO(file)
        number_annotations(truth.dataset)
        truth.createIndex()
        boxes = json.loads(found.read_text()) if found.is_file() else []
        if not boxes:
            return {name: np.zeros(101) for name in classes}
        test = COCOeval(truth, truth.loadRes(boxes), 'bbox')
        ids = [truth.getCatIds(catNms=[name])[0] for name in classes]
        test.params.catIds = ids
        test.params.imgIds = images or test.params.imgIds
        test.evaluate()  # sorts the ids
        test.accumulate()
    precision = test.eval['precision'][0, :, :, 0, -1]  # (101, K)
    by_id = dict(zip(test.params.catIds, precision.T, strict=True))
    curves = {name: by_id[k] for name, k in zip(classes, ids, strict=True)}
    return {
        name: curve.clip(0)
        for name, curve in curves.items()
        if (curve >= 0).any()
    }


def draw_confusion(tested: Tested) -> Figure:
    """Draw the confusion matrix in percent of each true class."""
    table = tested.confusion().astype(float)
    table = 100 * table / np.maximum(table.sum(1, keepdims=True), 1)
    count = len(tested.classes)
    side = min(3 + 0.35 * count, 12)
    figure = new_figure(side + 1, side)
    axes = figure.add_subplot()
    axes.imshow(table, cmap='Blues', vmin=0, vmax=100)
    if count <= 40:
        names = [in_plot(name) for name in tested.classes]
        axes.set_xticks(range(count), names, rotation=90)
        axes.set_yticks(range(count), names)
    if count <= 15:
        for row, column in np.ndindex(table.shape):
            value = table[row, column]
            tint = 'white' if value > 55 else INK
            axes.text(
                *(column, row, f'{value:.0f}'),
                ha='center',
                va='center',
                fontsize=7,
                color=tint,
            )
    axes.set_xlabel('predicted')
    axes.set_ylabel('true')
    title(axes, 'Confusion', 'percent of each true class')
    return figure


def draw_precision(tested: Tested) -> Figure:
    """Draw precision against recall at IoU 0.5, a line for each class."""
    figure = new_figure(6.5, 4.2)
    axes = figure.add_subplot()
    steps = np.linspace(0, 1, 101)
    ordered = sorted(tested.curves.items(), key=lambda c: -c[1].mean())
    for k, (name, curve) in enumerate(ordered):
        label = f'{in_plot(name)} {100 * curve.mean():.0f}' if k < 10 else None
        axes.plot(
            steps, curve, color=PALETTE[k % len(PALETTE)], lw=1.2, label=label
        )
    axes.set(xlim=(0, 1), ylim=(0, 1.02), xlabel='recall', ylabel='precision')
    if ordered:
        axes.legend(
            frameon=False,
            fontsize=TEXT - 2,
            loc='center left',
            bbox_to_anchor=(1.01, 0.5),
        )
    title(axes, 'Precision and recall of boxes', 'IoU 0.5; AP50 beside names')
    return figure


def draw_pictures(tested: Tested, best: bool) -> Figure:
    """Draw the best or the worst predictions beside the truth."""
    order = sorted(tested.results, key=lambda r: r['score'], reverse=best)
    chosen = order[:SHOWN]
    single = tested.task == 'classification'
    columns = 6 if single else 4
    each = 1 if single else 2
    rows = -(-len(chosen) * each // columns)
    figure = new_figure(2.4 * columns, 2.6 * rows + 0.2)
    for k, result in enumerate(chosen):
        for part in range(each):
            axes = figure.add_subplot(rows, columns, k * each + part + 1)
            _draw_result(axes, tested, result, truth=part == 0)
    if tested.task == 'segmentation':
        add_legend(figure, tested.classes)
    return figure


def _draw_result(
    axes: Any, tested: Tested, result: dict[str, Any], truth: bool
) -> None:
    data = read_file(result['path'])
    if tested.task == 'classification':
        image = decode_to_draw(data, True, result['path'])
        axes.imshow(image)
        true, predicted = (
            tested.classes[result[key]] for key in ('true', 'predicted')
        )
        title(axes, '', f'{true}\n-> {predicted} {result["sure"]:.0%}')
    elif tested.task == 'detection':
        axes.imshow(_as_read(data, result))
        part = result['true' if truth else 'predicted']
        scores = part.get('scores')
        for k, (box, label) in enumerate(
            zip(part['boxes'], part['labels'], strict=True)
        ):
            note = '' if scores is None else f' {scores[k]:.0%}'
            draw_box(axes, box, int(label), tested.classes, note)
        name = 'truth' if truth else f'predicted, F1 {result["score"]:.2f}'
        title(axes, '', name)
    else:
        labels = result['true' if truth else 'predicted']
        size = labels.shape[1], labels.shape[0]
        image = _as_read(data, result)
        axes.imshow(cv2.resize(image, size, interpolation=cv2.INTER_AREA))
        names = draw_labels(axes, labels, tested.classes)
        score = f'predicted, IoU {result["score"]:.2f}'
        name = f'truth: {names}' if truth else score
        title(axes, '', name)
    hide_axes(axes)


def _as_read(data: bytes, result: Mapping[str, Any]) -> np.ndarray:
    """Decode a picture in the orientation in which the model has read it."""
    turned = bool(result['turned'])
    image = decode_to_draw(data, turned, result['path'])
    if image.shape[:2] != result['shape']:  # the predictions fit the other
        image = decode_to_draw(data, not turned, result['path'])
    return image


def tables(tested: Tested) -> tuple[list[list[str]], list[list[str]]]:
    """Return the metrics, and the figures of each class, as rows of cells."""
    metrics = [['metric', 'value']]
    for name, value in tested.metrics.items():
        metrics.append([name, f'{value:.4g}'])
    figures = tested.by_class()
    keys = [*next(iter(figures.values()), {})]
    rows = [['class', *keys]]
    for name, values in figures.items():
        cells = (
            'none' if np.isnan(values[key]) else f'{values[key]:.1f}'
            for key in keys
        )
        rows.append([name, *cells])
    return metrics, rows


def draw_report(tested: Tested) -> list[tuple[str, Figure]]:
    """Return the captions and figures of a report."""
    curve = (
        ('Precision and recall', draw_precision(tested))
        if tested.task == 'detection'
        else ('Confusion matrix', draw_confusion(tested))
    )
    measure = dict(
        classification='score of the true class',
        detection=f'F1 of boxes with a score of {_SURE} or more, IoU 0.5',
        segmentation='mean IoU of the classes in the picture',
    )[tested.task]
    return [
        curve,
        (f'Worst predictions, by {measure}', draw_pictures(tested, False)),
        (f'Best predictions, by {measure}', draw_pictures(tested, True)),
    ]

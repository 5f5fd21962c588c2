"""Robustness metrics.

=================  ====================================================
ImageNet-A and -R  top-1 over the data set's 200 classes, and over all
                   1000
ImageNet-Sketch    top-1 over 1000 classes: MMPretrain's ``Accuracy``
ImageNet-C         top-1 per corruption (mean of its 5 severities) and
                   the mean over the 15; mCE relative to AlexNet's
                   errors on ImageNet-1k
=================  ====================================================

Shape key: B batch, L classes.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import product
from statistics import fmean
from typing import Any

import torch
from mmengine.evaluator import BaseMetric
from mmpretrain.datasets.categories import IMAGENET_CATEGORIES
from mmpretrain.registry import METRICS
from torch import Tensor

from ..datasets.robustness import CLASS_LISTS, CORRUPTIONS, SEVERITIES
from ..errors import SimimError


def mean_corruption_error(accuracy: Mapping[str, float]) -> float:
    """Compute ImageNet-C's mCE (Hendrycks and Dietterich, 2019) in percent.

    The error on each of the 15 corruptions is divided by AlexNet's, then
    averaged. The paper's table lists 100 - mCE.

    Args:
        accuracy (Mapping[str, float]): corruption -> top-1 accuracy on
            ImageNet-C in percent, mean of the severities 1 to 5. Other
            corruptions are ignored.

    Raises:
        SimimError: if a corruption is missing.
    """
    missing = [name for name in CORRUPTIONS if name not in accuracy]
    if missing:
        raise SimimError(
            f'mCE is the mean of {len(CORRUPTIONS)} corruptions, and there '
            f'is no accuracy on {", ".join(missing)}; evaluate them all.'
        )
    file = CLASS_LISTS / 'imagenet_c_alexnet_errors.json'
    alexnet = json.loads(file.read_text())
    return 100 * fmean(
        (100 - accuracy[name]) / alexnet[name] for name in CORRUPTIONS
    )


def robustness_average(
    *,
    imagenet_a: float,
    imagenet_r: float,
    imagenet_sketch: float,
    imagenet_c: float,
) -> float:
    """Compute the paper's average robustness score in percent.

    Args:
        imagenet_a (float): top-1 accuracy among 200 classes, percent.
        imagenet_r (float): top-1 accuracy among 200 classes, percent.
        imagenet_sketch (float): top-1 accuracy, percent.
        imagenet_c (float): 100 - mCE, not the mean accuracy.
    """
    return fmean((imagenet_a, imagenet_r, imagenet_sketch, imagenet_c))


@METRICS.register_module()
class SubsetAccuracy(BaseMetric):
    """Top-1 accuracy among a data set's classes, and among all classes.

    :class:`ImageNetA` and :class:`ImageNetR` list their classes in
    ``metainfo['subset']``. Reports ``top1_200way``, the number to quote, and
    ``top1_1000way``, in percent.

    Args: see :class:`mmengine.evaluator.BaseMetric`.
    """

    default_prefix = 'accuracy'

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        """Record the hits of a batch by both rules."""
        meta = self.dataset_meta or {}
        if 'subset' not in meta:
            raise SimimError(
                'SubsetAccuracy needs a data set of a part of the classes, '
                "such as ImageNetA or ImageNetR; use type='Accuracy'."
            )
        scores, labels = _scores_and_labels(data_samples, meta)
        subset = torch.tensor(meta['subset'])
        among_subset = subset[scores[:, subset].argmax(dim=1)] == labels
        among_all = scores.argmax(dim=1) == labels
        self.results += zip(
            among_subset.tolist(), among_all.tolist(), strict=True
        )

    def compute_metrics(self, results: list) -> dict[str, float]:
        """Return the percentages of hits by both rules."""
        meta = self.dataset_meta or {}
        among_subset, among_all = zip(*results, strict=True)
        return {
            f'top1_{len(meta["subset"])}way': 100 * fmean(among_subset),
            f'top1_{len(meta["classes"])}way': 100 * fmean(among_all),
        }


@METRICS.register_module()
class CorruptionAccuracy(BaseMetric):
    """Top-1 accuracy per corruption of a :class:`CorruptedFolder`.

    Reports one number per corruption (the mean of its five severities) and
    their mean, ``mean_accuracy``, in percent.

    Args: see :class:`mmengine.evaluator.BaseMetric`.
    """

    default_prefix = 'corruption'

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        """Record the hits of a batch by corruption and severity."""
        if any('severity' not in sample for sample in data_samples):
            raise SimimError(
                f'{type(self).__name__} needs to know which corruption an '
                "image has; end the pipeline with dict(type='PackInputs', "
                "meta_keys=('corruption', 'severity'))."
            )
        scores, labels = _scores_and_labels(
            data_samples, self.dataset_meta or {}
        )
        hits = (scores.argmax(dim=1) == labels).tolist()
        self.results += [
            (sample['corruption'], sample['severity'], hit)
            for sample, hit in zip(data_samples, hits, strict=True)
        ]

    def compute_metrics(self, results: list) -> dict[str, float]:
        """Average over the severities, then over the corruptions."""
        seen = Counter((c, s) for c, s, _ in results)
        hits = Counter((c, s) for c, s, hit in results if hit)
        missing = [
            f'{c}/{s}'
            for c, s in product(CORRUPTIONS, SEVERITIES)
            if not seen[c, s]
        ]
        if missing:
            raise SimimError(
                f'No image was seen of {len(missing)} of the '
                f'{len(CORRUPTIONS) * len(SEVERITIES)} corruptions and '
                f'severities (such as {", ".join(missing[:3])}); evaluate '
                'the whole data set.'
            )
        metrics = {
            c: 100 * fmean(hits[c, s] / seen[c, s] for s in SEVERITIES)
            for c in CORRUPTIONS
        }
        return {**metrics, 'mean_accuracy': fmean(metrics.values())}


@METRICS.register_module()
class CorruptionError(CorruptionAccuracy):
    """mCE on ImageNet-C.

    Adds ``mCE`` and ``100-mCE`` (the paper's column) to
    :class:`CorruptionAccuracy`. AlexNet's errors are known for ImageNet-1k
    only; other data sets are refused.
    """

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        """Check that the classes are ImageNet-1k's, and record the hits."""
        classes = (self.dataset_meta or {}).get('classes', ())
        if tuple(classes) != IMAGENET_CATEGORIES:
            raise SimimError(
                "mCE is relative to AlexNet's errors on ImageNet-1k and has "
                f'no meaning on these {len(classes)} classes; use '
                "type='CorruptionAccuracy'."
            )
        super().process(data_batch, data_samples)

    def compute_metrics(self, results: list) -> dict[str, float]:
        """Return the accuracies, mCE and 100 - mCE."""
        metrics = super().compute_metrics(results)
        mce = mean_corruption_error(metrics)
        return {**metrics, 'mCE': mce, '100-mCE': 100 - mce}


def _scores_and_labels(
    data_samples: Sequence[dict], meta: Mapping
) -> tuple[Tensor, Tensor]:
    """Return scores (B, L) and labels (B,) of a batch, on the CPU.

    Raises:
        SimimError: if head and data set differ in their number of classes,
            or a score is not finite.
    """
    scores = torch.stack([sample['pred_score'] for sample in data_samples])
    labels = torch.cat([sample['gt_label'] for sample in data_samples])
    classes = meta.get('classes', ())
    if scores.shape[1] != len(classes):
        raise SimimError(
            f'The head has {scores.shape[1]} classes and the data set '
            f'{len(classes)}; set model.head.num_classes to that of the '
            'data the model was fine-tuned on, and check data_root.'
        )
    if not scores.isfinite().all():
        raise SimimError(
            "The model's scores are not finite (NaN or infinity); it has "
            'diverged, go back to an earlier checkpoint.'
        )
    return scores.cpu(), labels.cpu()

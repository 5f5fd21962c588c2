"""Compare the classes of a model with those of its data sets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.runner import Runner
from mmpretrain.registry import HOOKS

from ..datasets.image_set import inner_datasets
from ..datasets.labelled_folder import check_same_classes
from ..engine.unwrapping import unwrapped
from ..errors import SimimError
from ..text import some


@HOOKS.register_module()
class ClassCountHook(Hook):
    """Compare the class counts of a model's heads with the data sets'.

    MMPretrain's ``ClassNumCheckHook`` checks the validation set only after
    the first epoch and raises an AssertionError. With fewer classes than 5,
    the top-5 accuracy of the config is left out.

    Args:
        parts (Sequence[str]): parts of the model that hold heads for the
            classes of the data. Defaults to a classifier's ``head``.
    """

    def __init__(self, parts: Sequence[str] = ('head',)) -> None:
        self.parts = parts
        self.trained: list[str] = []

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Remember the classes that the checkpoint was trained on."""
        meta = checkpoint.get('meta') or {}
        self.trained = [
            *((meta.get('dataset_meta') or {}).get('classes') or ())
        ]

    def before_train(self, runner: Runner) -> None:
        """Check the training set, and the validation set if there is one.

        Raises:
            SimimError: if the class count of a head and a set, or the
                classes of the two sets, differ.
        """
        train = runner.train_dataloader.dataset
        self._check(runner, 'training', train)
        if runner.val_loop is not None:
            val = runner.val_dataloader.dataset
            self._check(runner, 'validation', val)
            check_same_classes(train, 'validation', val)
            leave_out_large_topk(runner.val_loop, val)

    def before_test(self, runner: Runner) -> None:
        """Check the test set.

        Raises:
            SimimError: if a head has another number of classes, or the
                checkpoint was trained on the same ones in another order, or
                on others, some of which have the same names.
        """
        dataset = runner.test_dataloader.dataset
        self._check(runner, 'test', dataset)
        weights = unwrapped(runner.model).named_parameters()
        if any(name.partition('.')[0] in self.parts for name, _ in weights):
            self._check_names(dataset)
        leave_out_large_topk(getattr(runner, 'test_loop', None), dataset)

    def _check_names(self, dataset: Any) -> None:
        """Compare the names of a trained head's classes with the test set's.

        Names that share none are those of another vocabulary, such as the
        numbers of WordNet.
        """
        classes = list(getattr(dataset, 'metainfo', {}).get('classes') or ())
        if classes == self.trained or len(classes) != len(self.trained):
            return
        if sorted(classes) == sorted(self.trained):
            raise SimimError(
                'The classes of the test set are in another order than those '
                f'of the checkpoint ({some(self.trained)}): '
                'labels would stand for others; set '
                'metainfo=dict(classes=...) of the data set to the order of '
                'the checkpoint.'
            )
        if not {*classes}.isdisjoint(self.trained):
            label, known, found = next(
                (k, *pair)
                for k, pair in enumerate(
                    zip(self.trained, classes, strict=True)
                )
                if pair[0] != pair[1]
            )
            raise SimimError(
                'The test set has other classes than the checkpoint: label '
                f'{label} is {found} in the set and {known} in the '
                'checkpoint; test on the classes of the training, or set '
                'metainfo=dict(classes=...) of the data set to their names.'
            )

    def _check(self, runner: Runner, name: str, dataset: Any) -> None:
        classes = getattr(dataset, 'metainfo', {}).get('classes')
        # Wrappers, such as RepeatDataset, have no lists and folders.
        sets = [*inner_datasets(dataset)]
        first, listed = sets[0], max(sets, key=_least_classes)
        least = _least_classes(listed)
        if classes is None and not least:
            return
        for path, head in unwrapped(runner.model).named_modules():
            count = getattr(head, 'num_classes', None)
            if path.partition('.')[0] not in self.parts or count is None:
                continue
            if classes is None and count < least:
                raise SimimError(
                    f'The list {listed.ann_file} has labels up to '
                    f"{least - 1}, and the model's {path} has {count} "
                    'classes, counted from 0; correct the labels, or set '
                    'num_classes of the model.'
                )
            if classes is not None and count != len(classes):
                place = getattr(first, 'ann_file', '') or first.data_root
                raise SimimError(
                    f"The model's {path} has {count} classes and the {name} "
                    f'set of {place} has {len(classes)}; set num_classes of '
                    'the model, or check the data set and its metainfo.'
                )


def _least_classes(dataset: Any) -> int:
    """Return the classes that the labels of a list need, 0 if unknown."""
    return getattr(dataset, 'least_classes', 0)


def leave_out_large_topk(loop: Any, dataset: Any) -> None:
    """Leave out the accuracies among more guesses than there are classes.

    MMPretrain's ``Accuracy`` raises a ValueError after the first epoch.

    Args:
        loop: of the evaluation, with its ``evaluator``.
        dataset: which it evaluates.

    Raises:
        SimimError: if none would be left.
    """
    classes = getattr(dataset, 'metainfo', {}).get('classes') or ()
    for metric in getattr(getattr(loop, 'evaluator', None), 'metrics', ()):
        topk = getattr(metric, 'topk', ())
        if not isinstance(topk, Sequence):
            continue  # of several labels: one number, or None
        possible = tuple(k for k in topk if k <= len(classes))
        if classes and topk and not possible:
            raise SimimError(
                f'There are {len(classes)} classes and the evaluator has '
                f'topk={tuple(topk)}; set it to at most {len(classes)}.'
            )
        if classes and possible != tuple(topk):
            metric.topk = possible
            print_log(
                f'There are {len(classes)} classes: of the top-k accuracies '
                f'{", ".join(f"top-{k}" for k in possible)} is reported.',
                'current',
            )

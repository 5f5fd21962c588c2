"""Test loop of frozen features, for ``mim test`` and tools/test.py."""

from __future__ import annotations

import logging
from collections.abc import Sequence, Sized
from dataclasses import dataclass
from typing import cast

import torch
from mmengine.device import get_device
from mmengine.dist import all_gather
from mmengine.evaluator import Evaluator
from mmengine.logging import print_log
from mmengine.runner import Runner, TestLoop, autocast
from mmpretrain.registry import LOOPS, TASK_UTILS
from torch import Tensor
from torch.utils.data import DataLoader

from ..datasets.labelled_folder import check_same_classes
from ..engine.unwrapping import unwrapped
from ..errors import SimimError
from .features import Labelled, Pool, extract_features
from .knn import KS, knn_accuracy, knn_scores
from .logistic import Solver, logistic_accuracy, logistic_scores


@TASK_UTILS.register_module()
@dataclass
class KNNClassifier:
    """Weighted k nearest neighbours; see :func:`knn_accuracy`.

    Args:
        ks (Sequence[int]): numbers of neighbours.
        temperature (float): of the votes. Defaults to 0.07.
    """

    ks: Sequence[int] = KS
    temperature: float = 0.07

    def __call__(self, train: Labelled, test: Labelled) -> dict[str, float]:
        """Return the accuracy in percent for every k, as ``knn/top1_k20``."""
        features, labels = train
        beyond = [str(k) for k in self.ks if k > len(labels)]
        if beyond:
            print_log(
                f'There are {len(labels)} training images, and k = '
                f'{", ".join(beyond)} take all of them.',
                logger='current',
                level=logging.WARNING,
            )
        accuracy = knn_accuracy(
            features.to(get_device()), labels, *test, self.ks, self.temperature
        )
        return {f'knn/top1_k{k}': value for k, value in accuracy.items()}

    def scores(self, train: Labelled, features: Tensor) -> Tensor:
        """Return the votes of the classes (V, L) for 20 neighbours.

        Without 20 among ``ks``, for the most of them. A row adds up to 1.
        """
        known, labels = train
        k = 20 if 20 in self.ks else max(self.ks)
        found = knn_scores(
            known.to(get_device()), labels, features, k, self.temperature
        )
        return found.cpu()


@TASK_UTILS.register_module()
@dataclass
class LogisticClassifier:
    """Logistic regression; see :func:`logistic_accuracy`.

    Args:
        l2 (float, optional): weight of the penalty; 0.1 over the number of
            training images if None.
        solver (str): 'sklearn' or 'cyanure'. Defaults to 'sklearn'.
    """

    l2: float | None = None
    solver: Solver = 'sklearn'

    def __call__(self, train: Labelled, test: Labelled) -> dict[str, float]:
        """Return the accuracy in percent, ``logistic/top1``."""
        accuracy = logistic_accuracy(*train, *test, self.l2, self.solver)
        return {'logistic/top1': accuracy}

    def scores(self, train: Labelled, features: Tensor) -> Tensor:
        """Return the probabilities of the classes (V, L)."""
        labels, logits = logistic_scores(
            *train, features, self.l2, self.solver
        )
        found = torch.zeros(len(features), int(labels.max()) + 1)
        found[:, labels] = torch.as_tensor(logits).softmax(dim=1).float()
        return found


@LOOPS.register_module()
class FrozenFeatureLoop(TestLoop):
    """Fit classifiers to features of training images and test them.

    After a test ``features`` has those of the training and the test images.

    The model is not changed. Each process encodes its share of the images
    once; all processes return the same metrics.

    Args:
        runner (Runner): the runner.
        dataloader (DataLoader | dict): of the test images.
        evaluator (Evaluator | list): empty; the classifiers return the
            metrics.
        train_dataloader (DataLoader | dict): of the training images.
        classifier (dict | list[dict]): config of ``KNNClassifier``,
            ``LogisticClassifier`` or another member of ``TASK_UTILS`` with
            the same call; or those of several classifiers.
        pool (str): 'mean' of the patch tokens, or the 'cls' token.
            Defaults to 'mean'.
        fp16 (bool): encode under autocast. Defaults to False.
    """

    def __init__(
        self,
        runner: Runner,
        dataloader: DataLoader | dict,
        evaluator: Evaluator | list,
        train_dataloader: DataLoader | dict,
        classifier: dict | Sequence[dict],
        pool: Pool = 'mean',
        fp16: bool = False,
    ) -> None:
        super().__init__(runner, dataloader, evaluator, fp16)
        self.train_dataloader = runner.build_dataloader(
            train_dataloader, seed=runner.seed
        )
        configs = [classifier] if isinstance(classifier, dict) else classifier
        self.classifiers = [TASK_UTILS.build(config) for config in configs]
        self.pool = pool

    def run(self) -> dict[str, float]:
        """Run the test.

        Raises:
            SimimError: if features cannot be computed or fitted, if the
                classes of training and test images differ, or if two
                classifiers return a metric of one name.
        """
        train, test = self.train_dataloader.dataset, self.dataloader.dataset
        check_same_classes(train, 'test', test)
        self.runner.call_hook('before_test')
        self.runner.call_hook('before_test_epoch')
        self.features = (
            self._features(self.train_dataloader),
            self._features(self.dataloader),
        )
        metrics: dict[str, float] = {}
        for classifier in self.classifiers:
            found = classifier(*self.features)
            for name in found.keys() & metrics.keys():
                raise SimimError(
                    f'Two classifiers of test_cfg.classifier return {name}; '
                    'keep one of them, and test the other by itself.'
                )
            metrics |= found
        self.runner.call_hook('after_test_epoch', metrics=metrics)
        self.runner.call_hook('after_test')
        return metrics

    def _features(self, loader: DataLoader) -> Labelled:
        """Return features and labels of all images."""
        model = unwrapped(self.runner.model)
        with autocast(enabled=self.fp16):
            share = extract_features(model, loader, self.pool)
        # The sampler assigns images to processes in turn. It repeats the first
        # images to give all processes the same number.
        features, labels = (
            torch.stack(all_gather(part), dim=1).flatten(0, 1)
            for part in share
        )
        count = len(cast(Sized, loader.dataset))
        return features[:count], labels[:count]

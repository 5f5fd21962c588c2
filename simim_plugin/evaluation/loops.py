"""Evaluate frozen features by a test config: ``mim test``, tools/test.py.

Shape key: M images of a data set, C channels.
"""

from __future__ import annotations

from collections.abc import Sequence, Sized
from typing import cast

import torch
from mmengine.device import get_device
from mmengine.dist import all_gather
from mmengine.evaluator import Evaluator
from mmengine.runner import Runner, TestLoop, autocast
from mmpretrain.registry import LOOPS, TASK_UTILS
from torch import Tensor
from torch.utils.data import DataLoader

from ..datasets.labelled_folder import check_same_classes
from ..engine.unwrapping import unwrapped
from .features import Pool, extract_features
from .knn import KS, knn_accuracy
from .logistic import Solver, logistic_accuracy


@TASK_UTILS.register_module()
class KNNClassifier:
    """Weighted k nearest neighbours; see :func:`knn_accuracy`.

    Args:
        ks (Sequence[int]): numbers of neighbours.
        temperature (float): of the votes. Defaults to 0.07.
    """

    def __init__(
        self, ks: Sequence[int] = KS, temperature: float = 0.07
    ) -> None:
        self.ks = ks
        self.temperature = temperature

    def __call__(
        self, train: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor]
    ) -> dict[str, float]:
        """Accuracy in percent, ``knn/top1_k20`` and the like.

        Args:
            train (tuple[Tensor, Tensor]): features (M, C), labels (M,).
            test (tuple[Tensor, Tensor]): likewise.
        """
        features, labels = train
        accuracy = knn_accuracy(
            features.to(get_device()),
            labels,
            *test,
            ks=self.ks,
            temperature=self.temperature,
        )
        return {f'knn/top1_k{k}': value for k, value in accuracy.items()}


@TASK_UTILS.register_module()
class LogisticClassifier:
    """Logistic regression; see :func:`logistic_accuracy`.

    Args:
        l2 (float, optional): weight of the penalty; 0.1 / M if None.
        solver (str): 'sklearn' or 'cyanure'. Defaults to 'sklearn'.
    """

    def __init__(
        self, l2: float | None = None, solver: Solver = 'sklearn'
    ) -> None:
        self.l2 = l2
        self.solver = solver

    def __call__(
        self, train: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor]
    ) -> dict[str, float]:
        """Accuracy in percent, ``logistic/top1``.

        Args:
            train (tuple[Tensor, Tensor]): features (M, C), labels (M,).
            test (tuple[Tensor, Tensor]): likewise.
        """
        accuracy = logistic_accuracy(
            *train, *test, l2=self.l2, solver=self.solver
        )
        return {'logistic/top1': accuracy}


@LOOPS.register_module()
class FrozenFeatureLoop(TestLoop):
    """Fit a classifier on features of training images, test it on others.

    The model stays as it was loaded. With several processes each encodes
    its share of the images, and all of them get the same metrics.

    Args:
        runner (Runner): the runner.
        dataloader (DataLoader | dict): of the test images.
        evaluator (Evaluator | list): empty; the classifier counts.
        train_dataloader (DataLoader | dict): of the training images.
        classifier (dict): of type ``KNNClassifier`` or
            ``LogisticClassifier``, or any of ``TASK_UTILS`` that is called
            like them.
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
        classifier: dict,
        pool: Pool = 'mean',
        fp16: bool = False,
    ) -> None:
        super().__init__(runner, dataloader, evaluator, fp16)
        self.train_dataloader = runner.build_dataloader(
            train_dataloader, seed=runner.seed
        )
        self.classifier = TASK_UTILS.build(classifier)
        self.pool = pool

    def run(self) -> dict[str, float]:
        """Launch the test.

        Raises:
            SimimError: if features cannot be had or fitted, or the classes
                of training and test images differ.
        """
        train, test = self.train_dataloader.dataset, self.dataloader.dataset
        check_same_classes(train, 'test', test)
        self.runner.call_hook('before_test')
        self.runner.call_hook('before_test_epoch')
        metrics = self.classifier(
            self._features(self.train_dataloader),
            self._features(self.dataloader),
        )
        self.runner.call_hook('after_test_epoch', metrics=metrics)
        self.runner.call_hook('after_test')
        return metrics

    def _features(self, loader: DataLoader) -> tuple[Tensor, Tensor]:
        """Features (M, C) and labels (M,) of all images, on the CPU."""
        model = unwrapped(self.runner.model)
        with autocast(enabled=self.fp16):
            share = extract_features(model, loader, self.pool)
        # The sampler deals the images out one by one, and starts again to
        # give all processes as many.
        features, labels = (
            torch.stack(all_gather(part), dim=1).flatten(0, 1)
            for part in share
        )
        count = len(cast(Sized, loader.dataset))
        return features[:count], labels[:count]

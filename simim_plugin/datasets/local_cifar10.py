"""CIFAR-10 from local files, without a download."""

from __future__ import annotations

import os
from typing import Any

from mmpretrain.datasets import CIFAR10
from mmpretrain.registry import DATASETS

from ..files import check_regular


def steps_of_files(size: int = 32) -> list[dict]:
    """Return the steps that make files images as those of CIFAR-10.

    Args:
        size (int): height and width, to which others are resized. Defaults
            to that of CIFAR-10.
    """
    return [
        dict(type='LoadRGBImage'),
        dict(
            type='ResizeEdge',
            scale=size,
            backend='pillow',
            interpolation='bicubic',
        ),
        dict(type='CenterCrop', crop_size=size),
    ]


@DATASETS.register_module()
class LocalCIFAR10(CIFAR10):
    """MMPretrain's ``CIFAR10`` that never downloads.

    Args:
        data_root (str): folder that holds ``cifar-10-batches-py``.
        split (str): 'train' or 'test'. Defaults to 'train'.
        **kwargs: as in MMPretrain's class.

    Raises:
        FileNotFoundError: if a file is missing or is not the published one.
    """

    def __init__(
        self, data_root: str, split: str = 'train', **kwargs: Any
    ) -> None:
        super().__init__(data_root, split, download=False, **kwargs)

    def load_data_list(self) -> list[dict]:
        """List one ``dict(img=..., gt_label=...)`` per image, in RGB."""
        root = self.data_root
        for name, _ in [*self.train_list, *self.test_list]:
            check_regular(os.path.join(root, self.base_folder, name))
        # The base class would advise to download the files.
        if not self._check_integrity():
            raise FileNotFoundError(
                f'No CIFAR-10 in {root!r}: unpack its Python version there '
                f'({root}/{self.base_folder} with data_batch_1 to 5, '
                'test_batch and batches.meta; not ours to download), or set '
                "data_root of the config's data sets, as by --cfg-options "
                'train_dataloader.dataset.data_root=/my/cifar10.'
            )
        return super().load_data_list()

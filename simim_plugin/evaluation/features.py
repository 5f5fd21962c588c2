"""Features of frozen backbones, and the images they are taken from.

Shape key: B batch, M images, N patches, C channels.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, cast

import torch
from mmengine.dataset import default_collate
from mmengine.dist import get_rank
from mmengine.model import BaseModel
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from ..datasets import LabelledFolder, LoadRGBImage
from ..errors import SimimError

Pool = Literal['mean', 'cls']

QUIET_SECONDS = 5.0


def evaluation_transforms(size: int) -> list[dict]:
    """Resize, centre crop and pack a loaded RGB image, as on ImageNet.

    The short edge goes to 256 / 224 of ``size`` by antialiased bicubic
    interpolation; images for models of less than 96 px have no border to
    spare and keep all of it.

    Args:
        size (int): height and width that the model sees, pixels.
    """
    edge = round(size * 256 / 224) if size >= 96 else size
    return [
        dict(type='NumpyToPIL', to_rgb=False),
        dict(type='torchvision/Resize', size=edge, interpolation='bicubic'),
        dict(type='torchvision/CenterCrop', size=size),
        dict(type='PackInputs'),
    ]


def folder_dataset(root: str | Path, size: int) -> LabelledFolder:
    """The labelled images of a folder with one sub-folder per class.

    Args:
        root (str | Path): a folder of ``CLASS/*.jpg`` or other images.
        size (int): height and width that the model sees, pixels.

    Raises:
        SimimError: if there is no such folder, or no image in it.
    """
    pipeline = [LoadRGBImage(), *evaluation_transforms(size)]
    return LabelledFolder(data_root=str(root), pipeline=pipeline)


def image_loader(
    dataset: Dataset | Sequence[dict],
    batch_size: int = 64,
    num_workers: int = 0,
) -> DataLoader:
    """Batches in the order of a dataset, for :func:`extract_features`.

    Args:
        dataset (Dataset | Sequence[dict]): gives packed images, one by one.
        batch_size (int): images encoded at once.
        num_workers (int): processes that load them; 0 loads in this one.
    """
    return DataLoader(
        cast(Dataset, dataset),
        batch_size=batch_size,
        num_workers=num_workers,
        collate_fn=default_collate,
    )


def extract_features(
    model: BaseModel,
    loader: DataLoader,
    pool: Pool = 'mean',
    device: torch.device | str | None = None,
) -> tuple[Tensor, Tensor]:
    """One feature per image from a frozen backbone, without gradient.

    Args:
        model (BaseModel): an MMPretrain model with a ``data_preprocessor``
            and a ViT as ``backbone`` that returns all its tokens
            (``out_type='raw'``).
        loader (DataLoader): of :func:`image_loader`.
        pool (str): 'mean' of the patch tokens, or the 'cls' token.
        device (torch.device | str, optional): where to compute; the model
            stays there. Where the model is if None.

    Returns:
        tuple[Tensor, Tensor]: features (M, C) float32 and labels (M,)
        int64, both on the CPU, in the order of the dataset.

    Raises:
        SimimError: if the backbone does not return its tokens or has no
            cls token to pool, or an image has no label.
    """
    if device is not None:
        model.to(device)
    features, labels = [], []
    with frozen(model):
        for batch in _with_progress(loader):
            data = model.data_preprocessor(batch, False)
            tokens = encode_tokens(model, data['inputs'])
            features.append(_pooled(model, tokens, pool).float().cpu())
            labels += [_label(sample) for sample in batch['data_samples']]
    return torch.cat(features), torch.tensor(labels)


@contextmanager
def frozen(model: BaseModel) -> Iterator[None]:
    """Evaluation mode without gradient; afterwards all is as before."""
    training = [part for part in model.modules() if part.training]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for part in training:
            part.training = True


def encode_tokens(model: BaseModel, images: Tensor) -> Tensor:
    """All tokens (B, extra + N, C) that the backbone makes of images.

    Args:
        model (BaseModel): see :func:`extract_features`.
        images (Tensor): (B, 3, H, W), normalised.

    Raises:
        SimimError: if the backbone returns anything but its tokens.
    """
    tokens = model.backbone(images)[-1]
    if tokens.ndim != 3:
        raise SimimError(
            f'The backbone {type(model.backbone).__name__} returns features '
            f'of shape {tuple(tokens.shape)} where batch x tokens x channels '
            "are needed; build it with out_type='raw'."
        )
    return tokens


def _with_progress(loader: DataLoader) -> tqdm:
    """A bar on a terminal; in a log a line now and then.

    Of several processes the first one draws it.
    """
    silent = get_rank() != 0
    if sys.stderr.isatty():
        return tqdm(
            loader, 'features', unit='batch', leave=False, disable=silent
        )
    line = '{desc}: batch {n_fmt} of {total_fmt}, {remaining} left\n'
    return tqdm(
        loader,
        'features',
        leave=False,
        disable=silent,
        delay=QUIET_SECONDS,
        mininterval=QUIET_SECONDS,
        bar_format=line,
    )


def _pooled(model: BaseModel, tokens: Tensor, pool: Pool) -> Tensor:
    """(B, C) of (B, extra + N, C)."""
    extra = model.backbone.num_extra_tokens
    if pool == 'mean':
        return tokens[:, extra:].mean(dim=1)
    if pool == 'cls' and extra:
        return tokens[:, 0]
    raise SimimError(
        f'Cannot pool {pool!r} from {extra} cls and '
        f"{tokens.shape[1] - extra} patch tokens; use 'mean', or 'cls' with "
        'a backbone that has a cls token.'
    )


def _label(sample: Any) -> int:
    if 'gt_label' not in sample or sample.gt_label.numel() != 1:
        raise SimimError(
            f'The image {sample.get("img_path", "?")} has no single class '
            'label; use a dataset with one label per image.'
        )
    return int(sample.gt_label)

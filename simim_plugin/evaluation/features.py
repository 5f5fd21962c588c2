"""Features of a frozen backbone, and the images they are computed from.

Shape key: B batch, M images, N patches, C channels.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from mmengine.dataset import default_collate
from mmengine.dist import get_rank
from mmengine.model import BaseModel
from mmpretrain.models import MAEViT
from mmpretrain.structures import DataSample
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from ..datasets import LabelledFolder, LoadRGBImage
from ..errors import SimimError
from ..pictures import Window
from ..runs.stopping import outlive_stop

Pool = Literal['mean', 'cls']
Labelled = tuple[Tensor, Tensor]
"""Features (M, C) float32 and labels (M,) int64 of images, on the CPU."""

QUIET_SECONDS = 5.0
"""Seconds between progress lines in a log."""


def evaluation_transforms(size: int, channels: int = 3) -> list[dict]:
    """Return ImageNet's resize, centre crop and packing of an image.

    The short edge is resized to 256 / 224 of ``size`` by antialiased bicubic
    interpolation. Below 96 px it is resized to ``size`` and keeps its border.

    Args:
        size (int): height and width of the model's input, pixels.
        channels (int): of the image. Defaults to 3, which Pillow resizes.
    """
    edge = round(size * 256 / 224) if size >= 96 else size
    if channels != 3:
        crop = dict(type='EvaluationCrop', size=size, edge=edge)
        return [crop, dict(type='PackInputs')]
    return [
        dict(type='NumpyToPIL', to_rgb=False),
        dict(type='torchvision/Resize', size=edge, interpolation='bicubic'),
        dict(type='torchvision/CenterCrop', size=size),
        dict(type='PackInputs'),
    ]


def folder_dataset(
    root: str | Path,
    size: int,
    channels: int = 3,
    window: Window | None = None,
) -> LabelledFolder:
    """Return the labelled images of a folder with one sub-folder per class.

    Args:
        root (str | Path): folder of ``CLASS/*.jpg`` or other images.
        size (int): height and width of the model's input, pixels.
        channels (int): of the model's input. Defaults to 3.
        window (tuple[float, float], optional): of
            :class:`simim_plugin.datasets.LoadRGBImage`. Defaults to None.

    Raises:
        SimimError: if the folder is missing or contains no image.
    """
    load = LoadRGBImage(channels=channels, window=window)
    pipeline = [load, *evaluation_transforms(size, channels)]
    return LabelledFolder(data_root=str(root), pipeline=pipeline)


def image_loader(
    dataset: Dataset | Sequence[dict],
    batch_size: int = 64,
    num_workers: int = 0,
) -> DataLoader:
    """Return batches for :func:`extract_features` in the dataset's order.

    Args:
        dataset (Dataset | Sequence[dict]): packed images.
        batch_size (int): images per batch.
        num_workers (int): loader processes; 0 loads in the main process.
    """
    return DataLoader(
        cast(Dataset, dataset),
        batch_size=batch_size,
        num_workers=num_workers,
        collate_fn=default_collate,
        worker_init_fn=outlive_stop,
    )


def extract_features(
    model: BaseModel,
    loader: DataLoader,
    pool: Pool = 'mean',
    device: torch.device | str | None = None,
) -> Labelled:
    """Compute one feature per image with a frozen backbone.

    Args:
        model (BaseModel): an MMPretrain model with a ``data_preprocessor``
            and a ViT ``backbone`` that returns all tokens
            (``out_type='raw'``).
        loader (DataLoader): see :func:`image_loader`.
        pool (str): 'mean' of the patch tokens, or the 'cls' token.
        device (torch.device | str, optional): moves the model there first.

    Returns:
        Labelled: features and labels in the order of the dataset.

    Raises:
        SimimError: if the backbone does not return tokens or has no cls
            token to pool, or if an image has no label.
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
    """Set evaluation mode without gradients; restore all modes at the end."""
    training = [part for part in model.modules() if part.training]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for part in training:
            part.training = True


def encode_tokens(model: BaseModel, images: Tensor) -> Tensor:
    """Encode images to all tokens of the backbone, (B, extra + N, C).

    Args:
        model (BaseModel): see :func:`extract_features`.
        images (Tensor): (B, 3, H, W), normalised.

    Raises:
        SimimError: if the backbone does not return tokens.
    """
    # MAE's encoder masks images unless it is given no mask.
    mask = dict(mask=None) if isinstance(model.backbone, MAEViT) else {}
    tokens = model.backbone(images, **mask)[-1]
    if tokens.ndim != 3:
        raise SimimError(
            f'The backbone {type(model.backbone).__name__} returns features '
            f'of shape {tuple(tokens.shape)} where batch x tokens x channels '
            "are needed; build it with out_type='raw'."
        )
    return tokens


def encode_images(model: BaseModel, images: Sequence[np.ndarray]) -> Tensor:
    """Normalise and encode B images (H, W, 3) uint8 RGB of one size.

    See :func:`encode_tokens`.
    """
    pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)
    samples = [DataSample() for _ in images]
    data = model.data_preprocessor(dict(inputs=pixels, data_samples=samples))
    return encode_tokens(model, data['inputs'])


def _with_progress(loader: DataLoader) -> tqdm:
    """Show a bar on a terminal or lines in a log, in the main process only."""
    style: dict[str, Any] = {}
    if not sys.stderr.isatty():
        style = dict(
            delay=QUIET_SECONDS,
            mininterval=QUIET_SECONDS,
            bar_format='{desc}: batch {n_fmt} of {total_fmt}, '
            '{remaining} left\n',
        )
    return tqdm(
        loader,
        'features',
        unit='batch',
        leave=False,
        disable=get_rank() != 0,
        **style,
    )


def _pooled(model: BaseModel, tokens: Tensor, pool: Pool) -> Tensor:
    """Pool tokens (B, extra + N, C) to (B, C)."""
    extra = model.backbone.num_extra_tokens
    if pool == 'mean':
        return tokens[:, extra:].mean(dim=1)
    if pool == 'cls' and model.backbone.with_cls_token:
        return tokens[:, 0]
    raise SimimError(
        f'Cannot pool {pool!r} from {extra} extra and '
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

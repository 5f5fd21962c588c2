"""Parts of a step beside plainer code for the same numbers.

Shape key: M tokens, B images, T tokens of an image, N patches, D channels.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from multiprocessing.reduction import ForkingPickler
from statistics import median
from time import perf_counter, sleep
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from mmpretrain.models.utils import MultiheadAttention
from mmpretrain.registry import DATASETS, MODELS
from mmpretrain.structures import DataSample

from ..config_files import config_path
from ..datasets.collating import PairSamples
from ..engine.seeding import SeededDataset, SeededSampler
from ..geometry import PairGeometry, View
from ..models import RelativePositionDecoder
from ..models.positions import relative_embedding
from ..vit import UnboundAttention
from .timing import DEVICE, median_seconds, peak_megabytes
from .training import RECIPE, dense_loss, random_tokens

GRID, DIMS, MASKED = (14, 14), 768, 118
_Action = Callable[[], object]


def plain_loss(tokens: int, dim: int = DIMS) -> _Action:
    """Prepare the loss with its gradient by autograd."""
    prediction, target = random_tokens(tokens, dim)

    def run() -> None:
        t = F.layer_norm(target, (dim,))
        correlation = t.T @ t / len(t)
        positive = (prediction - t).square().sum() / len(t)
        similar = (prediction @ correlation) * prediction
        ((positive + 0.02 * similar.sum() / len(t)) / dim).backward()

    return run


def mask_tokens(batch: int, whole: bool) -> _Action:
    """Prepare the decoder's mask tokens, forward and backward.

    Args:
        batch (int): B.
        whole (bool): map the concatenated relative embedding (B, N, 2 D)
            instead of its parts.
    """
    neck = RelativePositionDecoder(GRID, DIMS, depth=0).to(DEVICE)
    geometry = PairGeometry.stack(
        [sample.geometry for sample in samples(batch)]
    ).to(DEVICE)
    gradient = torch.randn(batch, GRID[0] * GRID[1], DIMS, device=DEVICE)

    def run() -> None:
        if whole:
            relative = relative_embedding(geometry, GRID, GRID, DIMS)
            made = neck.mask_token + neck.relative_map(relative)
        else:
            made = neck.mask_tokens(geometry)
        made.backward(gradient)

    return run


def attention(kind: type[MultiheadAttention], batch: int) -> _Action:
    """Prepare the decoder's attention, forward and backward."""
    layer = kind(DIMS, 16).to(DEVICE)
    count = 1 + 2 * GRID[0] * GRID[1] - MASKED
    tokens = torch.randn(batch, count, DIMS, device=DEVICE)
    tokens.requires_grad_()
    return lambda: layer(tokens).sum().backward()


def samples(count: int) -> list[DataSample]:
    """Draw data samples as the pipeline of ImageNet makes them."""
    draw = torch.Generator().manual_seed(0)
    patches = GRID[0] * GRID[1]
    drawn = []
    for k in range(count):
        boxes = (torch.rand(2, 4, generator=draw) * 200 + 20).tolist()
        order = torch.randperm(patches, generator=draw)
        meta = dict(
            img_path=f'data/imagenet/train/n01440764/{k}.JPEG',
            img_shape=(224, 224),
            sample_idx=k,
        )
        sample = DataSample(metainfo=meta)
        sample.set_mask((order < MASKED).numpy())
        sample.geometry = PairGeometry(
            View.of(boxes[0], k % 2 == 0), View.of(boxes[1], k % 3 == 0)
        )
        drawn.append(sample)
    return drawn


def arrival(batch: int, joined: bool) -> _Action:
    """Prepare what the training process does with samples of a worker.

    Args:
        batch (int): B.
        joined (bool): the worker has collated them to two tensors.
    """
    drawn: Any = samples(batch)
    sent = ForkingPickler.dumps(PairSamples.of(drawn) if joined else drawn)
    if joined:  # the file of a tensor can be opened once
        kept = PairSamples.of(drawn)
        rest = ForkingPickler.dumps(kept.records)
        return lambda: (pickle.loads(rest), kept.visible, kept.pairs)
    return lambda: PairSamples.of(pickle.loads(sent))


def target_update(listed: bool) -> _Action:
    """Prepare the target's update without its arithmetic.

    Args:
        listed (bool): the places of the parameters are listed already.
    """
    init_default_scope('mmpretrain')
    with torch.device('meta'):
        model = MODELS.build(Config.fromfile(config_path(RECIPE)).model)
    model.to('meta')

    def run() -> None:
        for _ in range(10):
            if listed:
                model.update_target(0.995)
                continue
            online = (
                *model.backbone.parameters(),
                *model.projector.parameters(),
            )
            old = [*model.target.parameters()]
            torch._foreach_lerp_(old, [*online], 0.005)

    return run


def measure_savings(tokens: int, batch: int, rounds: int) -> dict[str, float]:
    """Measure the parts beside plainer code, in turns.

    Args:
        tokens (int): M of the loss.
        batch (int): B of the others; data samples are 512.
        rounds (int): counted runs of each.

    Returns:
        dict[str, float]: milliseconds, ratios, and MB of the loss and the
        mask tokens.
    """
    kinds: dict[str, tuple[Callable[..., _Action], tuple, tuple]] = {
        'loss': (_loss, (tokens, False), (tokens, True)),
        'mask tokens': (mask_tokens, (batch, False), (batch, True)),
        'attention': (
            attention,
            (UnboundAttention, batch),
            (MultiheadAttention, batch),
        ),
        'arrival of 512 samples': (arrival, (512, True), (512, False)),
        'ten target updates, arithmetic left out': (
            target_update,
            (True,),
            (False,),
        ),
    }
    figures: dict[str, float] = {}
    for name, (prepare, ours, plain) in kinds.items():
        seconds = median_seconds(
            {'ours': prepare(*ours), 'plain': prepare(*plain)}, rounds
        )
        figures[f'{name}: ms'] = seconds['ours'] * 1e3
        figures[f'{name}, plainly: ms'] = seconds['plain'] * 1e3
        ratio = seconds['ours'] / seconds['plain']
        figures[f'{name}: ratio'] = ratio
        if name in ('loss', 'mask tokens'):
            figures[f'{name}: MB'] = peak_megabytes(prepare, *ours)
            figures[f'{name}, plainly: MB'] = peak_megabytes(prepare, *plain)
    return figures


def _loss(tokens: int, plain: bool) -> _Action:
    return plain_loss(tokens) if plain else dense_loss(tokens)


def measure_refill(images: str, batch: int, rounds: int) -> dict[str, float]:
    """Measure how long the first step of an epoch waits for its batch.

    Instead of a training step the process sleeps for the time that
    two loaders need for a batch.

    Args:
        images (str): folder of images.
        batch (int): images a step.
        rounds (int): counted epochs of each kind.

    Returns:
        dict[str, float]: medians of the seconds of the first wait, where the
        loader goes on through the epochs and where it begins each anew.
    """
    config = Config.fromfile(config_path(RECIPE))
    init_default_scope('mmpretrain')
    dataset = dict(config.train_dataloader.dataset, data_root=images)
    dataset['indices'] = 8 * batch
    settings = dict(
        batch_size=batch,
        num_workers=2,
        persistent_workers=True,
        sampler=dict(type='SeededSampler', shuffle=True),
        collate_fn=dict(type='collate_pairs'),
        dataset=SeededDataset(DATASETS.build(dataset)),
    )
    waits: dict[bool, list[float]] = {True: [], False: []}
    for goes_on, found in waits.items():
        loader = Runner.build_dataloader(settings, seed=0)
        found += _first_waits(loader, goes_on, rounds + 1)[1:]
        del loader
    ours, plain = (median(waits[kind]) for kind in (True, False))
    return {
        'first batch of an epoch: s': ours,
        'first batch of an epoch, loader begun anew: s': plain,
    }


def _first_waits(loader: Any, goes_on: bool, epochs: int) -> list[float]:
    """Return the wait for the first batch of each epoch."""
    sampler: SeededSampler = loader.sampler
    waits, step, batches = [], 0.0, None
    for epoch in range(epochs):
        if batches is None or not goes_on:
            sampler.start(epoch, 0, epochs - 1 if goes_on else None)
            begun = perf_counter()
            batches = iter(loader)
        for number in range(len(loader)):
            begun = begun if number == 0 and not goes_on else perf_counter()
            next(batches)
            if number == 0:
                waits.append(perf_counter() - begun)
                began = perf_counter()
            sleep(step)
        step = step or 1.2 * (perf_counter() - began) / (len(loader) - 1)
    return waits

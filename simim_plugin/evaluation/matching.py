"""Nearest patches in the other view of an image.

Each target patch with its centre inside the online view is compared with all
online patches by the cosine of their backbone tokens. Neither view is masked.
A match is correct if the nearest patch is within one patch of the position
given by the geometry.

Shape key: P pairs, R x C patches of either view, D channels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.dist import all_gather_object
from mmengine.model import BaseModel
from torch import Tensor

from ..engine.random_state import same_random_state
from ..errors import SimimError
from ..geometry import Grid, PairGeometry
from ..models.colours import apply_colours
from .features import encode_images, frozen


@dataclass(frozen=True)
class PatchMatches:
    """True and nearest positions of target patches in the online view.

    Args:
        true (Tensor): (P, R, C, 2) row and column of the centre of each
            target patch, in online patches.
        nearest (Tensor): (P, R, C, 2) row and column of the online patch
            with the most similar token, integers.
        grid (tuple[int, int]): rows and columns of online patches.
    """

    true: Tensor
    nearest: Tensor
    grid: tuple[int, int]

    def __getitem__(self, pairs: Tensor) -> PatchMatches:
        """Return the matches of the pairs with indices (K,)."""
        return PatchMatches(self.true[pairs], self.nearest[pairs], self.grid)

    @property
    def inside(self) -> Tensor:
        """(P, R, C) bool, True if the centre is in the online view."""
        end = self.true.new_tensor(self.grid) - 0.5
        return ((self.true >= -0.5) & (self.true <= end)).all(dim=-1)

    @property
    def correct(self) -> Tensor:
        """(P, R, C) bool, True if nearest is within one patch of true."""
        return ((self.nearest - self.true).abs() <= 1).all(dim=-1)

    @property
    def accuracy(self) -> float:
        """Percentage of correct patches inside; NaN if none is inside."""
        return 100 * self.correct[self.inside].double().mean().item()

    @property
    def chance(self) -> float:
        """Accuracy of a random choice of online patches, percent."""
        cells = torch.cartesian_prod(*(torch.arange(n) for n in self.grid))
        near = (cells - self.true[self.inside][:, None]).abs() <= 1
        return 100 * near.all(dim=-1).double().mean().item()


def match_patches(
    model: BaseModel,
    pairs: Sequence[dict[str, Any]],
    batch_size: int = 64,
    grid: Grid | None = None,
    target_grid: Grid | None = None,
    place: Sequence[Tensor] | None = None,
) -> PatchMatches:
    """Find the nearest online patch of every target patch.

    Args:
        model (BaseModel): an MMPretrain model with ``data_preprocessor``
            and a ViT ``backbone`` that returns all tokens.
        pairs (Sequence[dict]): see :func:`draw_pairs`; ``img`` is the online
            and the target view (H, W, 3) uint8 RGB, ``geometry`` is a
            :class:`~simim_plugin.geometry.PairGeometry`.
        batch_size (int): pairs per batch.
        grid (tuple[int, int], optional): rows and columns of the patches of
            a view. Defaults to those of the backbone's ``img_size``.
        target_grid (tuple[int, int], optional): the same of the target view.
            Defaults to ``grid``.
        place (Sequence[Tensor], optional): the part of each token that only
            depends on its place in the view, from :func:`place_means`, to
            subtract before the comparison. Defaults to None: compare whole
            tokens.

    Raises:
        SimimError: if there are no pairs.
    """
    if not pairs:
        raise SimimError('There are no pairs of views to match; pass some.')
    grid = grid or tuple(model.backbone.patch_resolution)
    target_grid = target_grid or grid
    means = place or [torch.zeros(()), torch.zeros(())]
    nearest = []
    with frozen(model):
        for batch in _encoded(model, pairs, batch_size):
            online, target = (
                F.normalize(tokens - mean.to(tokens), dim=-1)
                for tokens, mean in zip(batch, means, strict=True)
            )
            similarity = target @ online.mT  # (P, R * C, online patches)
            nearest.append(similarity.argmax(dim=-1).cpu())
    index = torch.cat(nearest).unflatten(1, target_grid)  # (P, R, C)
    geometry = PairGeometry.stack([pair['geometry'] for pair in pairs])
    rows, cols = geometry.positions(target_grid, grid)
    true = torch.stack(
        torch.broadcast_tensors(rows[..., :, None], cols[..., None, :]),
        dim=-1,
    )
    where = torch.stack([index // grid[1], index % grid[1]], dim=-1)
    return PatchMatches(true, where, grid)


def place_means(
    model: BaseModel,
    pairs: Sequence[dict[str, Any]],
    batch_size: int = 64,
    shared: bool = False,
) -> list[Tensor]:
    """Return the mean token of each place in the online and target view.

    Encoders that predict masked patches give the place of a patch in its
    view a large share of its token. The same part of an image has another
    place in the other view, so that this share hides the match. A hundred
    pairs give means whose own error hardly counts.

    Args:
        model (BaseModel): see :func:`match_patches`.
        pairs (Sequence[dict]): see :func:`match_patches`.
        batch_size (int): pairs per batch.
        shared (bool): take the mean over the pairs of all processes, which
            must all call this. Defaults to False.

    Returns:
        list[Tensor]: two of (R * C, D) float64, on the CPU.

    Raises:
        SimimError: if there are fewer than two pairs.
    """
    sums: list[Any] = [0.0, 0.0]
    with frozen(model):
        for batch in _encoded(model, pairs, batch_size):
            sums = [
                total + tokens.double().sum(dim=0).cpu()
                for total, tokens in zip(sums, batch, strict=True)
            ]
    parts = [(len(pairs), *sums)]
    if shared:
        parts = all_gather_object(parts[0])
    count, *sums = (sum(part) for part in zip(*parts, strict=True))
    if count < 2:
        raise SimimError(
            f'The mean token of a place needs at least 2 pairs, not {count}: '
            'the mean of one is the pair itself.'
        )
    return [total / count for total in sums]


def draw_pairs(
    transform: Callable[[dict], Any],
    images: Sequence[str | Mapping[str, Any]],
    seed: int,
) -> list[dict[str, Any]]:
    """Draw one pair of views per image, reproducibly.

    Args:
        transform (Callable): the pair pipeline without packing, with or
            without masks; takes ``img_path``, returns ``img`` and
            ``geometry``. Colours that are only drawn (``defer`` of
            :class:`simim_plugin.datasets.PairedViews`) are applied.
        images (Sequence[str | Mapping[str, Any]]): image files, or what
            ``transform`` takes.
        seed (int): of the draw. The global random states do not change.
    """
    with same_random_state(seed):
        return [
            _coloured(
                transform(
                    dict(image)
                    if isinstance(image, Mapping)
                    else dict(img_path=str(image))
                )
            )
            for image in images
        ]


def _coloured(pair: dict[str, Any]) -> dict[str, Any]:
    """Apply the colours that a pair of views has drawn only."""
    draws = pair.pop('colours', None)
    if draws is not None:
        pixels = [torch.from_numpy(view)[None] for view in pair['img']]
        pair['img'] = [
            apply_colours(view.permute(0, 3, 1, 2), draw[None])[0]
            .permute(1, 2, 0)
            .to(torch.uint8)
            .numpy()
            for view, draw in zip(pixels, draws, strict=True)
        ]
    return pair


def _encoded(
    model: BaseModel, pairs: Sequence[dict[str, Any]], batch_size: int
) -> Iterator[list[Tensor]]:
    """Yield the patch tokens (P, R * C, D) of both views of each batch."""
    extra = model.backbone.num_extra_tokens
    for start in range(0, len(pairs), batch_size):
        batch = [pair['img'] for pair in pairs[start : start + batch_size]]
        yield [
            encode_images(model, views)[:, extra:]
            for views in zip(*batch, strict=True)
        ]

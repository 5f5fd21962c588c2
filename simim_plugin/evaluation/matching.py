"""Do patches find their partner in the other view of the image?

Every target patch whose centre lies inside the online view is compared, by
the cosine of backbone tokens, with all online patches; both views are whole,
nothing is masked. It has found its partner if the nearest one lies within
one patch of where the geometry says it is.

Shape key: P pairs, R x C patches of either view, D channels.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from mmengine.model import BaseModel
from mmpretrain.structures import DataSample
from torch import Tensor

from ..errors import SimimError
from ..geometry import PairGeometry
from .features import encode_tokens, frozen


@dataclass(frozen=True)
class PatchMatches:
    """Where target patches lie in the online view, and what they resemble.

    Args:
        true (Tensor): (P, R, C, 2) row and column of the centre of every
            target patch, in online patches.
        nearest (Tensor): (P, R, C, 2) row and column of the online patch
            with the most similar token, whole numbers.
        grid (tuple[int, int]): rows and columns of online patches.
    """

    true: Tensor
    nearest: Tensor
    grid: tuple[int, int]

    def __getitem__(self, pairs: Tensor) -> PatchMatches:
        """The matches of some of the pairs, by their indices (K,)."""
        return PatchMatches(self.true[pairs], self.nearest[pairs], self.grid)

    @property
    def inside(self) -> Tensor:
        """(P, R, C) bool: the patch's centre lies in the online view."""
        end = self.true.new_tensor(self.grid) - 0.5
        return ((self.true >= -0.5) & (self.true <= end)).all(dim=-1)

    @property
    def correct(self) -> Tensor:
        """(P, R, C) bool: the nearest patch is within one patch of true."""
        return ((self.nearest - self.true).abs() <= 1).all(dim=-1)

    @property
    def accuracy(self) -> float:
        """Correct share of the patches inside, percent; NaN without any."""
        return 100 * self.correct[self.inside].double().mean().item()

    @property
    def chance(self) -> float:
        """The accuracy of guessing an online patch at random, percent."""
        cells = torch.cartesian_prod(*(torch.arange(n) for n in self.grid))
        near = (cells - self.true[self.inside][:, None]).abs() <= 1
        return 100 * near.all(dim=-1).double().mean().item()


def match_patches(
    model: BaseModel, pairs: Sequence[dict[str, Any]], batch_size: int = 64
) -> PatchMatches:
    """Find the nearest online patch of every target patch.

    Args:
        model (BaseModel): an MMPretrain model with ``data_preprocessor``
            and a ViT ``backbone`` that returns all its tokens.
        pairs (Sequence[dict]): of :func:`draw_pairs`: per pair ``img``, the
            online and target view (H, W, 3) uint8 RGB, and ``geometry``, a
            :class:`~simim_plugin.geometry.PairGeometry`.
        batch_size (int): pairs encoded at once.

    Raises:
        SimimError: if there are no pairs.
    """
    if not pairs:
        raise SimimError('There are no pairs of views to match; pass some.')
    grid = tuple(model.backbone.patch_resolution)
    nearest = []
    with frozen(model):
        for start in range(0, len(pairs), batch_size):
            batch = [pair['img'] for pair in pairs[start : start + batch_size]]
            online, target = (
                _unit_patches(model, views)
                for views in zip(*batch, strict=True)
            )
            index = (target @ online.mT).argmax(dim=-1).cpu()  # (P, R * C)
            nearest.append(index)
    index = torch.cat(nearest).unflatten(1, grid)  # (P, R, C)
    geometry = PairGeometry.stack([pair['geometry'] for pair in pairs])
    rows, cols = geometry.positions(grid, grid)
    true = torch.stack(
        torch.broadcast_tensors(rows[..., :, None], cols[..., None, :]),
        dim=-1,
    )
    where = torch.stack([index // grid[1], index % grid[1]], dim=-1)
    return PatchMatches(true, where, grid)


def draw_pairs(
    transform: Callable[[dict], Any],
    image_paths: Sequence[str],
    seed: int,
) -> list[dict[str, Any]]:
    """Make one pair of views per image, the same for the same seed.

    Args:
        transform (Callable): the pair pipeline up to the views, masks
            included or not: takes ``img_path``, returns ``img`` and
            ``geometry``.
        image_paths (Sequence[str]): image files.
        seed (int): of the draw; the global random states stay untouched.
    """
    with _seeded(seed):
        return [transform(dict(img_path=str(path))) for path in image_paths]


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Fix the global random states, and give the old ones back."""
    python, array = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(array)


def _unit_patches(model: BaseModel, views: Sequence[np.ndarray]) -> Tensor:
    """Patch tokens (P, R * C, D) of unit length of uint8 RGB views."""
    images = torch.from_numpy(np.stack(views)).permute(0, 3, 1, 2)
    samples = [DataSample() for _ in views]
    data = model.data_preprocessor(dict(inputs=images, data_samples=samples))
    tokens = encode_tokens(model, data['inputs'])
    return F.normalize(tokens[:, model.backbone.num_extra_tokens :], dim=-1)

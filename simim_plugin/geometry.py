"""Where two views of one image lie, and what that says of their patches.

A view is a crop of the image, possibly mirrored. Its frame is normalised:
(0, 0) is the top-left corner of the view as the network sees it, (1, 1) the
bottom-right one. Everything is derived from the box and the flip flag in
units of the un-flipped original image.

Paper eq. 2 and 3, with the half-pixel offset and the flip that the released
code adds (the paper prints neither).

Shape key: B any batch shape, N = rows x columns patches of the target view.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Grid = tuple[int, int]
"""Rows and columns of patches."""


@dataclass(frozen=True)
class View:
    """A crop of an image, mirrored or not.

    Args:
        box (Tensor): (*B, 4) float64: top, left, height and width in pixels
            of the un-flipped original image.
        flip (Tensor): (*B,) bool: the view shows the box mirrored left-right.
    """

    box: Tensor
    flip: Tensor

    @classmethod
    def of(cls, box: Sequence[float], flip: bool) -> View:
        """Make one view from plain numbers: (top, left, height, width)."""
        return _view(list(box), bool(flip))

    def __reduce__(self) -> tuple:
        # Loader workers hand over each tensor as an open file: a few in
        # every sample would pass the limit of files, and the loader would
        # wait for ever. So views travel as plain numbers.
        return _view, (self.box.tolist(), self.flip.tolist())

    @property
    def size(self) -> Tensor:
        """(*B, 2): height and width, pixels."""
        return self.box[..., 2:]

    @property
    def center(self) -> Tensor:
        """(*B, 2): centre of the box (y, x), pixels."""
        return self.box[..., :2] + self.size / 2

    @property
    def direction(self) -> Tensor:
        """(*B, 2): +1, or -1 where the view's axis runs against the image's.

        Only the horizontal axis is ever mirrored.
        """
        x = 1.0 - 2.0 * self.flip.to(self.box.dtype)
        return torch.stack([torch.ones_like(x), x], dim=-1)

    def mirrored(self, image_width: float | Tensor) -> View:
        """The same view of the image mirrored left-right.

        Args:
            image_width (float | Tensor): width of the image in pixels.
        """
        top, left, height, width = self.box.unbind(-1)
        left = image_width - left - width
        box = torch.stack([top, left, height, width], dim=-1)
        return View(box, ~self.flip)

    def to_image(self, points: Tensor) -> Tensor:
        """Map normalised view points (*B, ..., 2) (y, x) to image pixels."""
        center, step = self._aligned(points)
        return center + step * (points - 0.5)

    def from_image(self, points: Tensor) -> Tensor:
        """Map image pixels (*B, ..., 2) (y, x) to normalised view points."""
        center, step = self._aligned(points)
        return 0.5 + (points - center) / step

    def _aligned(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Centre and signed size with singleton axes to match ``points``."""
        shape = self.flip.shape + (1,) * (points.ndim - self.box.ndim) + (2,)
        return (
            self.center.reshape(shape),
            (self.direction * self.size).reshape(shape),
        )


def _view(box: list, flip: list | bool) -> View:
    return View(torch.tensor(box, dtype=torch.float64), torch.tensor(flip))


@dataclass(frozen=True)
class PairGeometry:
    """How the target view lies in the frame of the online view.

    Args:
        online (View): the masked view that predicts.
        target (View): the whole view that is predicted.
    """

    online: View
    target: View

    @classmethod
    def stack(cls, pairs: Sequence[PairGeometry]) -> PairGeometry:
        """Join the geometries of several samples along a new first axis."""

        def join(views: list[View]) -> View:
            return View(
                torch.stack([view.box for view in views]),
                torch.stack([view.flip for view in views]),
            )

        return cls(
            join([pair.online for pair in pairs]),
            join([pair.target for pair in pairs]),
        )

    def to(self, *args: Any, **kwargs: Any) -> PairGeometry:
        """Move every tensor; arguments as of :meth:`torch.Tensor.to`.

        A type is for the boxes: flips remain flags.
        """

        def move(view: View) -> View:
            box = view.box.to(*args, **kwargs)
            return View(box, view.flip.to(box.device))

        return PairGeometry(move(self.online), move(self.target))

    def inverse(self) -> PairGeometry:
        """The same pair with the roles of the views swapped."""
        return PairGeometry(online=self.target, target=self.online)

    def then(self, following: PairGeometry) -> PairGeometry:
        """Compose: this pair maps target to online, ``following`` maps its
        own target to this pair's target; the result maps that to online.

        Raises:
            ValueError: if the two pairs do not meet in one view.
        """
        here, there = self.target, following.online
        if not (
            torch.equal(here.box, there.box)
            and torch.equal(here.flip, there.flip)
        ):
            raise ValueError(
                'Cannot compose two pair geometries that do not meet: the '
                'target view of the first must be the online view of the '
                'second; pass the pairs in the order (a, b), (b, c).'
            )
        return PairGeometry(online=self.online, target=following.target)

    @property
    def scale(self) -> Tensor:
        """(*B, 2): target height / online height, and the same for width."""
        return self.target.size / self.online.size

    def to_online(self, points: Tensor) -> Tensor:
        """Map normalised target points (*B, ..., 2) to the online frame."""
        return self.online.from_image(self.target.to_image(points))

    def positions(
        self, target_grid: Grid, online_grid: Grid
    ) -> tuple[Tensor, Tensor]:
        """Target patch centres in units of online patches.

        Rows and columns separate, so that a grid of R x C patches needs
        only R + C numbers. Position 0 is the centre of the first online
        patch, so that equal views give 0, 1, 2, ...

        Args:
            target_grid (tuple[int, int]): rows R and columns C of patches
                in the target view.
            online_grid (tuple[int, int]): the same of the online view.

        Returns:
            tuple[Tensor, Tensor]: y (*B, R) and x (*B, C), float64.
        """
        rows, cols = target_grid
        # Along the diagonal both coordinates of a point can differ freely.
        length = max(rows, cols)
        index = torch.arange(length, dtype=torch.float64) + 0.5
        index = index.to(self.online.box.device)
        points = torch.stack([index / rows, index / cols], dim=-1)
        points = points.expand(*self.online.flip.shape, length, 2)
        points = self.to_online(points)
        y = points[..., :rows, 0] * online_grid[0] - 0.5
        x = points[..., :cols, 1] * online_grid[1] - 0.5
        return y, x

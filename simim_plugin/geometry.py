"""The geometry of a pair of views, and the relative position of patches.

A view is a crop of an image, possibly mirrored. Its frame is normalised:
(0, 0) is the top-left corner of the view as the network sees it, (1, 1) the
bottom-right corner. All values derive from the box, in pixels of the original
image, and the flip flag.

Paper eq. 2 and 3, with the half-pixel offset and the flip of the released
code, which the paper does not print (docs/method.md, "Relative positions").

Shape key: B any batch shape.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

__all__ = ['PairGeometry', 'View']

Grid = tuple[int, int]
"""Rows and columns of patches."""


def pair(size: Any) -> tuple[int, int]:
    """Return height and width of a size given as one or two numbers."""
    return (size, size) if isinstance(size, int) else (size[0], size[1])


@dataclass(frozen=True)
class View:
    """A crop of an image, mirrored or not.

    Args:
        box (Tensor): (B, 4) float64: top, left, height and width in pixels
            of the original image, before any flip.
        flip (Tensor): (B,) bool: the view is mirrored left-right.
    """

    box: Tensor
    flip: Tensor

    @classmethod
    def of(cls, box: Sequence, flip: bool | Sequence) -> View:
        """Make a view from plain numbers: (top, left, height, width)."""
        return cls(
            torch.tensor(box, dtype=torch.float64),
            torch.as_tensor(flip, dtype=torch.bool),
        )

    def __reduce__(self) -> tuple:
        # Loader workers pass each tensor as an open file. A few per sample
        # exceed the limit of open files, and the loader hangs. Views are
        # therefore pickled as plain numbers.
        return View.of, (self.box.tolist(), self.flip.tolist())

    @property
    def size(self) -> Tensor:
        """(B, 2): height and width in pixels."""
        return self.box[..., 2:]

    @property
    def center(self) -> Tensor:
        """(B, 2): centre of the box (y, x) in pixels."""
        return self.box[..., :2] + self.size / 2

    @property
    def direction(self) -> Tensor:
        """(B, 2): sign of each axis (y, x): -1 on a mirrored x, else +1."""
        x = 1.0 - 2.0 * self.flip.to(self.box.dtype)
        return torch.stack([torch.ones_like(x), x], dim=-1)

    def mirrored(self, image_width: float | Tensor) -> View:
        """Return the same view of the image mirrored left-right.

        Args:
            image_width (float | Tensor): width of the image in pixels.
        """
        top, left, height, width = self.box.unbind(-1)
        left = image_width - left - width
        box = torch.stack([top, left, height, width], dim=-1)
        return View(box, ~self.flip)

    def to_image(self, points: Tensor) -> Tensor:
        """Map normalised view points (B, ..., 2) (y, x) to image pixels."""
        center, step = self._aligned(points)
        return center + step * (points - 0.5)

    def from_image(self, points: Tensor) -> Tensor:
        """Map image pixels (B, ..., 2) (y, x) to normalised view points."""
        center, step = self._aligned(points)
        return 0.5 + (points - center) / step

    def _aligned(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Return centre and signed size, broadcastable to ``points``."""
        shape = self.flip.shape + (1,) * (points.ndim - self.box.ndim) + (2,)
        step = self.direction * self.size
        return self.center.reshape(shape), step.reshape(shape)


@dataclass(frozen=True)
class PairGeometry:
    """The position of the target view in the frame of the online view.

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
        """Move in one copy; the arguments are those of ``Tensor.to``.

        A dtype applies to the boxes; the flips stay bool.
        """
        return self.unpacked(self.packed().to(*args, **kwargs))

    def packed(self) -> Tensor:
        """Return the pairs as one tensor (B, 2, 5), online and target.

        Each has top, left, height, width and the flip, 0 or 1.
        """
        views = [
            torch.cat([view.box, view.flip[..., None].to(view.box)], dim=-1)
            for view in (self.online, self.target)
        ]
        return torch.stack(views, dim=-2)

    @classmethod
    def unpacked(cls, pairs: Tensor) -> PairGeometry:
        """Return the pairs of :meth:`packed`."""
        online, target = (
            View(view[..., :4], view[..., 4] > 0) for view in pairs.unbind(-2)
        )
        return cls(online, target)

    def inverse(self) -> PairGeometry:
        """Return the same pair with the roles of the views swapped."""
        return PairGeometry(online=self.target, target=self.online)

    @property
    def scale(self) -> Tensor:
        """(B, 2): size of the target / size of the online view."""
        return self.target.size / self.online.size

    def to_online(self, points: Tensor) -> Tensor:
        """Map normalised target points (B, ..., 2) to the online frame."""
        return self.online.from_image(self.target.to_image(points))

    def positions(
        self, target_grid: Grid, online_grid: Grid
    ) -> tuple[Tensor, Tensor]:
        """Return the target patch centres in units of online patches.

        Position 0 is the centre of the first online patch, so equal views
        give 0, 1, 2, ... Rows and columns are separable: R x C patches need
        only R + C numbers.

        Args:
            target_grid (tuple[int, int]): rows R and columns C of patches
                of the target view.
            online_grid (tuple[int, int]): the same for the online view.

        Returns:
            tuple[Tensor, Tensor]: y (B, R) and x (B, C), float64.
        """
        rows, cols = target_grid
        # Points on the diagonal give every row and every column once.
        length = max(rows, cols)
        box = self.online.box  # a copy from the CPU would wait for its device
        index = torch.arange(
            0.5, length, dtype=torch.float64, device=box.device
        )
        points = torch.stack([index / rows, index / cols], dim=-1)
        points = points.expand(*self.online.flip.shape, length, 2)
        points = self.to_online(points)
        y = points[..., :rows, 0] * online_grid[0] - 0.5
        x = points[..., :cols, 1] * online_grid[1] - 0.5
        return y, x

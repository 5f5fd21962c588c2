"""Adapt patch kernels to images of another number of channels.

Shape key: C width, N channels, h x w a patch.
"""

from __future__ import annotations

from torch import Tensor

from .reading import CheckpointError

HOW = ('mean', 'repeat')


def adapt_channels(kernels: Tensor, channels: int, how: str) -> Tensor:
    """Return patch kernels for another number of channels, as timm does.

    Both ways scale by the old number over the new one, so that features keep
    their size.

    Args:
        kernels (Tensor): (C, N, h, w).
        channels (int): the new N.
        how (str): 'mean' gives every new channel the mean of the old ones;
            'repeat' gives them the old ones in turn, and one new channel
            their sum.

    Raises:
        CheckpointError: if ``how`` is neither.
    """
    if how not in HOW:
        raise CheckpointError(
            f'There is no way {how!r} to adapt channels; use one of '
            f'{", ".join(HOW)}.'
        )
    old = kernels.shape[1]
    if how == 'mean' or channels == 1:
        adapted = kernels.mean(dim=1, keepdim=True)
        adapted = adapted.repeat(1, channels, 1, 1)
    else:
        times = -(-channels // old)  # rounded up
        adapted = kernels.repeat(1, times, 1, 1)[:, :channels]
    return adapted * (old / channels)

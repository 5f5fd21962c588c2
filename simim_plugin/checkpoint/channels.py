"""Adapt patch kernels to images of another number of channels.

Shape key: C width, N channels, h x w a patch.
"""

from __future__ import annotations

from collections.abc import MutableMapping

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


def adapt_all_channels(
    state: MutableMapping[str, Tensor], channels: int, how: str | None
) -> list[str]:
    """Adapt the patch kernels of all branches of a model, in place.

    Args:
        state (MutableMapping[str, Tensor]): tensors of a whole model.
        channels (int): N of the model that they fill.
        how (str, optional): see :func:`adapt_channels`; None changes nothing.

    Returns:
        list[str]: the names of the kernels of another number of channels.
    """
    others = [
        name
        for name, kernels in state.items()
        if name.endswith('patch_embed.projection.weight')
        and kernels.ndim == 4
        and kernels.shape[1] != channels
    ]
    for name in others if how is not None else ():
        state[name] = adapt_channels(state[name], channels, str(how))
    return others

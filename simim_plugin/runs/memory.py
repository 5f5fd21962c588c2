"""Name the settings that a run without memory can change."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from ..errors import SimimError, Trouble

_ON_A_CPU = 'DefaultCPUAllocator'
"""It names itself in the error of a CPU, which has no class of its own."""


@contextmanager
def explain_full_memory() -> Iterator[None]:
    """Turn the errors of a full memory into one sentence.

    Raises:
        SimimError: if a GPU or the machine has no memory left for a tensor.
            Other errors pass unchanged.
    """
    try:
        yield
    except RuntimeError as error:
        on_a_gpu = isinstance(error, torch.cuda.OutOfMemoryError)
        if not on_a_gpu and _ON_A_CPU not in str(error):
            raise
        where = 'GPU' if on_a_gpu else 'machine'
        raise SimimError(
            f'The {where} is out of memory; halve train_dataloader.batch_size '
            'and double optim_wrapper.accumulative_counts; see '
            f'{Trouble.OUT_OF_MEMORY}.'
        ) from error

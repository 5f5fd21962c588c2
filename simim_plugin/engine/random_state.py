"""Random numbers drawn on the side."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from mmengine.runner import set_random_seed


@contextmanager
def same_random_state(seed: int | None = None) -> Iterator[None]:
    """Restore the states of Python, NumPy and torch at the end.

    Args:
        seed (int, optional): seeds all three at the start.
    """
    python, numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(range(torch.cuda.device_count())):
            if seed is not None:
                set_random_seed(seed)
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)

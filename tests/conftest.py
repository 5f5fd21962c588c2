"""What all tests share: the reference folder, two threads, no deadlines."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ['OMP_NUM_THREADS'] = '2'  # before numpy and torch start theirs

import numpy as np
import pytest
import torch
from hypothesis import settings

ROOT = Path(__file__).resolve().parent.parent

torch.set_num_threads(2)
settings.register_profile('simim_plugin', deadline=None)
settings.load_profile('simim_plugin')

Golden = Callable[[str], tuple[dict[str, np.ndarray], dict[str, Any]]]


@pytest.fixture(scope='session')
def shared() -> Path:
    """The folder of reference numbers and photographs beside the clone."""
    folder = ROOT.parent / 'shared'
    if not folder.is_dir():
        message = (
            f'{folder} is missing: put the shared reference folder beside '
            'the repository to run this test.'
        )
        if os.environ.get('CI') == 'true':
            pytest.fail(message)
        pytest.skip(message)
    return folder


@pytest.fixture(scope='session')
def golden(shared: Path) -> Golden:
    """Numbers of the released code: name -> (arrays, what they are).

    A name without arrays gives an empty dictionary of them.
    """

    def load(name: str) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        base = shared / 'golden' / 'siamese_im' / name
        described = json.loads(base.with_suffix('.json').read_text())
        arrays = base.with_suffix('.npz')
        if not arrays.exists():
            return {}, described
        with np.load(arrays) as file:
            return dict(file), described

    return load

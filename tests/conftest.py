"""What all tests share: the reference folder, one thread, no deadlines."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

# One for each of the test processes; before numpy and torch start theirs.
os.environ['OMP_NUM_THREADS'] = '1'
# The suite is for CPUs. CUDA_VISIBLE_DEVICES=0 pytest -m gpu is for a GPU.
os.environ.setdefault('CUDA_VISIBLE_DEVICES', '')

import numpy as np
import pytest
import torch
from hypothesis import settings

ROOT = Path(__file__).resolve().parent.parent

torch.set_num_threads(1)
settings.register_profile('simim_plugin', deadline=None)
settings.load_profile('simim_plugin')


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that take minutes: the others run beside them.

    Where no GPU is shown, tests that need one are skipped.
    """
    skip = pytest.mark.skip(reason='no GPU, or CUDA_VISIBLE_DEVICES hides it')
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker('gpu'):
                item.add_marker(skip)
    long = {item.path for item in items if item.get_closest_marker('minutes')}
    items.sort(key=lambda item: item.path not in long)


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


@pytest.fixture(scope='module', autouse=True)
def scope_of_its_own():
    """Leave mmengine's default scope as it was before the test file."""
    from mmengine.registry import DefaultScope

    before = DefaultScope._instance_dict.copy()
    yield
    DefaultScope._instance_dict.clear()
    DefaultScope._instance_dict.update(before)

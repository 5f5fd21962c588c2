"""Settings and fixtures of all tests: one thread, the reference folder."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# One thread per test process, set before numpy and torch start theirs.
os.environ['OMP_NUM_THREADS'] = '1'
# The suite runs on CPUs; CUDA_VISIBLE_DEVICES=0 pytest -m gpu on a GPU.
os.environ.setdefault('CUDA_VISIBLE_DEVICES', '')

import cv2
import numpy as np
import pytest
import torch
from hypothesis import settings

ROOT = Path(__file__).resolve().parent.parent

torch.set_num_threads(1)
settings.register_profile('simim_plugin', deadline=None)
settings.load_profile('simim_plugin')


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the files that take minutes first, then those of slow tests.

    What is left for the end is short, so that no process waits for another.

    Without a visible GPU, skip the tests that need one.
    """
    skip = pytest.mark.skip(reason='no GPU, or CUDA_VISIBLE_DEVICES hides it')
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker('gpu'):
                item.add_marker(skip)
    ranks = ('minutes', 'slow')
    held = {
        (item.path, rank)
        for item in items
        for rank in ranks
        if item.get_closest_marker(rank)
    }
    items.sort(key=lambda item: [(item.path, r) not in held for r in ranks])


@pytest.fixture
def logged(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the list of the lines that the loader logs."""
    lines: list[str] = []
    monkeypatch.setattr(
        'simim_plugin.checkpoint.loading.print_log',
        lambda line, logger: lines.append(line),
    )
    return lines


@pytest.fixture(scope='session')
def images(tmp_path_factory) -> Path:
    """Write a folder of 24 small images."""
    folder = tmp_path_factory.mktemp('images')
    generator = np.random.default_rng(0)
    for k in range(24):
        coarse = generator.integers(0, 256, (6, 6, 3), np.uint8)
        cv2.imwrite(str(folder / f'{k}.png'), cv2.resize(coarse, (64, 64)))
    return folder


Golden = Callable[[str], tuple[dict[str, np.ndarray], dict[str, Any]]]


@pytest.fixture(scope='session')
def shared() -> Path:
    """Return the reference numbers and photographs beside the clone."""
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
    """Load numbers of the released code: name -> (arrays, description).

    The arrays are an empty dictionary if the name has none.
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
def restored_default_scope():
    """Restore mmengine's default scope after each test file."""
    from mmengine.registry import DefaultScope

    with _restored(DefaultScope):
        yield


@pytest.fixture(scope='module', autouse=True)
def restored_loggers_of_fixtures():
    """Forget the loggers of a test file's fixtures after it."""
    from mmengine.logging import MMLogger

    with _restored(MMLogger):
        yield


@pytest.fixture(autouse=True)
def restored_loggers():
    """Forget the loggers of a test: their streams close with its capture."""
    from mmengine.logging import MMLogger

    with _restored(MMLogger):
        yield


@contextmanager
def _restored(kind: Any) -> Iterator[None]:
    """Restore the instances that mmengine keeps of a class."""
    before = kind._instance_dict.copy()
    try:
        yield
    finally:
        kind._instance_dict.clear()
        kind._instance_dict.update(before)

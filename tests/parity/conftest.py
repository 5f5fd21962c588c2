"""Reference numbers from tests/reference, or from ../shared."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

REFERENCE = Path(__file__).resolve().parents[1] / 'reference'
Load = Callable[[str], dict[str, np.ndarray]]


@pytest.fixture
def reference(request: pytest.FixtureRequest) -> Load:
    """Load the arrays of a case; a case in ../shared skips without it."""

    def load(name: str) -> dict[str, np.ndarray]:
        file = REFERENCE / f'{name}.npz'
        if not file.exists():
            shared = request.getfixturevalue('shared') / 'golden'
            (file,) = shared.glob(f'*/{name}.npz')
        with np.load(file) as arrays:
            return dict(arrays)

    return load

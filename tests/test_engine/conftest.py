"""A fixture that trains a small model."""

import pytest

from .training import trainer


@pytest.fixture
def train(tmp_path):
    """Train with the given hooks and return the Runner."""
    return trainer(tmp_path)

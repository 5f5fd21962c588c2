"""What the tests of the loader share."""

import pytest


@pytest.fixture
def logged(monkeypatch):
    """Return the list of the lines that the loader logs."""
    lines = []
    monkeypatch.setattr(
        'simim_plugin.checkpoint.loading.print_log',
        lambda line, logger: lines.append(line),
    )
    return lines

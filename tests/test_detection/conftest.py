"""All tests of this folder look names up in MMDetection first."""

import pytest
from mmengine.registry import DefaultScope


@pytest.fixture(autouse=True)
def scope():
    with DefaultScope.overwrite_default_scope('mmdet'):
        yield

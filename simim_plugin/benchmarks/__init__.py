"""Measure speed and memory beside yardsticks, for tools/benchmark.py.

Every ``measure_...`` function returns figures by name.
"""

from .. import operators  # noqa: F401  # before mmdet and mmseg import mmcv's

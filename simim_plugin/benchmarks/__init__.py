"""Measure speed and memory beside yardsticks, for tools/benchmark.py.

Every ``measure_...`` function returns figures by name.
"""

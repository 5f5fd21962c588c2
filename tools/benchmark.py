"""Measure speed and memory: python tools/benchmark.py [--help]."""

from simim_plugin.commands import run

if __name__ == '__main__':
    run('benchmark', 'pretraining')

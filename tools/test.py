"""Test a model: python tools/test.py CONFIG CHECKPOINT [--help]."""

from simim_plugin.commands import run

if __name__ == '__main__':
    run('test', 'classification')

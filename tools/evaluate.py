"""Evaluate an encoder: python tools/evaluate.py CHECKPOINT [--help]."""

from pathlib import Path

from simim_plugin.commands import run

if __name__ == '__main__':
    run('evaluate', 'classification', tools=Path(__file__).parent)

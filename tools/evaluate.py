"""Evaluate an encoder: python tools/evaluate.py CHECKPOINT [--help]."""

from pathlib import Path

from simim_plugin.environment import require
from simim_plugin.errors import told_in_a_sentence

if __name__ == '__main__':
    with told_in_a_sentence():
        require('classification')
    from simim_plugin.commands.evaluate import main

    main(tools=Path(__file__).parent)

"""Evaluate an encoder: python tools/evaluate.py CHECKPOINT [--help]."""

from pathlib import Path

from simim_plugin.environment import require
from simim_plugin.errors import one_line_errors

if __name__ == '__main__':
    with one_line_errors():
        require('classification')
    from simim_plugin.commands.evaluate import main

    main(tools=Path(__file__).parent)

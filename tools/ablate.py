"""Run rows of the ablations and compare them: tools/ablate.py [--help]."""

from pathlib import Path

from simim_plugin.environment import require
from simim_plugin.errors import one_line_errors

if __name__ == '__main__':
    with one_line_errors():
        require('classification')
    from simim_plugin.commands.ablate import main

    main(tools=Path(__file__).parent)

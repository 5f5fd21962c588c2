"""Test a model: python tools/test.py CONFIG CHECKPOINT [--help]."""

from simim_plugin.environment import require, share_cores
from simim_plugin.errors import one_line_errors

if __name__ == '__main__':
    share_cores()
    with one_line_errors():
        require('classification')
    from simim_plugin.commands.test import main

    main()

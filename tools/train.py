"""Train a model: python tools/train.py CONFIG [--help]."""

from simim_plugin.environment import require, share_cores
from simim_plugin.errors import one_line_errors

if __name__ == '__main__':
    share_cores()
    with one_line_errors():
        require('pretraining')
    from simim_plugin.commands.train import main

    main()

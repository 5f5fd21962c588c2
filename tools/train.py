"""Train a model: python tools/train.py CONFIG [--help]."""

from simim_plugin.environment import require, share_cores
from simim_plugin.errors import told_in_a_sentence

if __name__ == '__main__':
    share_cores()
    with told_in_a_sentence():
        require('pretraining')
    from simim_plugin.commands.train import main

    main()

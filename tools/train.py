"""Train a model: python tools/train.py CONFIG [--help]."""

from simim_plugin.environment import require
from simim_plugin.errors import told_in_a_sentence

if __name__ == '__main__':
    with told_in_a_sentence():
        require('pretraining')
    from simim_plugin.engine.train import main

    main()

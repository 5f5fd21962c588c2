"""Train a model: python tools/train.py CONFIG [--help]."""

from simim_plugin.commands import run

if __name__ == '__main__':
    run('train', 'pretraining')

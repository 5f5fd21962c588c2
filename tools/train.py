"""Train a model: python tools/train.py CONFIG [--help]."""

from simim_plugin.engine.train import main

if __name__ == '__main__':
    main()

"""Draw: python tools/visualize.py pair|match|pca|attention|curves [--help]."""

from simim_plugin.commands import run

if __name__ == '__main__':
    run('visualize', 'classification')

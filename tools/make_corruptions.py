"""Corrupt images: python tools/make_corruptions.py CLEAN OUT [--help]."""

from simim_plugin.commands import run

if __name__ == '__main__':
    run('corrupt', 'pretraining')

"""Write a config for your own data: python tools/configure.py [--help]."""

from pathlib import Path

from simim_plugin.commands import run

if __name__ == '__main__':
    run('configure', 'pretraining', tools=Path(__file__).parent)

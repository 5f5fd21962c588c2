"""Watch SiameseIM learn: python tools/demo.py [--help]."""

from pathlib import Path

from simim_plugin.commands import run

if __name__ == '__main__':
    run('demo', tools=Path(__file__).parent)

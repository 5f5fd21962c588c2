"""Compare rows of the ablations: python tools/ablate.py [--help]."""

from pathlib import Path

from simim_plugin.commands import run

if __name__ == '__main__':
    run('ablate', 'classification', tools=Path(__file__).parent)

"""Convert weights: python tools/convert.py IN OUT --to FORMAT."""

from simim_plugin.commands import run

if __name__ == '__main__':
    run('convert', 'classification')

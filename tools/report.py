"""Report on a trained model: python tools/report.py CONFIG CHECKPOINT."""

from simim_plugin.commands import run

if __name__ == '__main__':
    run('report', 'classification')

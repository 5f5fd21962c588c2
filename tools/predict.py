"""Predict pictures: python tools/predict.py CONFIG CHECKPOINT PICTURES..."""

from simim_plugin.commands import run

if __name__ == '__main__':
    run('predict', 'classification')

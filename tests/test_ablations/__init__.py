"""The rows of the paper's table 3 and our own."""

from pathlib import Path

from mmengine.config import Config

ROWS = Path(__file__).resolve().parents[2] / 'configs' / 'ablations'
FILES = sorted(ROWS.glob('*.py'))
NAMES = [file.stem.removeprefix('siamese_im_row-') for file in FILES]
SCALES = ('in1k', 'cifar10', 'demo')


def load(name: str, scale: str, monkeypatch) -> Config:
    monkeypatch.setenv('SIMIM_SCALE', scale)
    return Config.fromfile(ROWS / f'siamese_im_row-{name}.py')

"""The rows of the ablations, the rivals among them, and their configs."""

from __future__ import annotations

from pathlib import Path

from ..config_files import config_path

PREFIX = 'siamese_im_row-'
RIVAL = 'siamese_im_rival-'
UNTRAINED = 'untrained'
SIAMESE_IM = 'siamese-im'
"""Another name of row (i)."""
MATCHES = 'matches'
CONTENT_MATCHES = 'matches-without-place'
SEGMENTATION = 'segmentation'

PAPER_LINEAR = {
    'mae': 62.5,
    'a': 62.3,
    'b': 48.7,
    'c': 59.9,
    'd': 46.2,
    'e': 69.6,
    'f': 73.1,
    'g': 73.6,
    'h': 74.7,
    'i': 76.8,
    'j': 76.5,
    'k': 72.0,
    'mocov3': 72.2,
}
"""Linear probe in the paper's table 3, by row: ViT-B/16, 400 epochs."""

METRICS = {
    'knn': ('kNN (k = 20)', 'knn/top1_k20'),
    'linear': ('linear', 'accuracy/top1'),
    'logistic': ('linear by logistic regression', 'logistic/top1'),
    MATCHES: ('patches matched', ''),
    CONTENT_MATCHES: ('patches matched without the place', ''),
    SEGMENTATION: ('mIoU, kNN of patches', 'mIoU'),
}
"""By task, the heading of its column and the metric in its results."""

COSTED = 16
"""Images of a step whose costs are measured."""


def row_names() -> list[str]:
    """Return the packaged rows: those of the paper, our own, the rivals."""
    found = _packaged(PREFIX, 'i') - set(PAPER_LINEAR)
    return [*PAPER_LINEAR, *sorted(found), *rival_names()]


def rival_names() -> list[str]:
    """Return the packaged rivals."""
    return sorted(_packaged(RIVAL, 'dino'))


def _packaged(prefix: str, one: str) -> set[str]:
    """Return the names after ``prefix`` beside the config of ``one``."""
    folder = Path(config_path(f'{prefix}{one}.py')).parent
    return {f.stem.removeprefix(prefix) for f in folder.glob(f'{prefix}*.py')}


def config_of(row: str) -> str:
    """Return the config file of a row or a rival."""
    prefix = RIVAL if row in rival_names() else PREFIX
    return config_path(f'{prefix}{row}.py')

"""Predict pictures by a config and a checkpoint, for every task."""

from .finding import Picture, find_pictures
from .models import build_predictor
from .predictors import Predictor

__all__ = [
    'Picture',
    'Predictor',
    'build_predictor',
    'find_pictures',
]

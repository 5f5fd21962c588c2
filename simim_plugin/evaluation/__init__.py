"""Evaluation of encoders: frozen features, probes and robustness metrics.

Importing this package registers the components of classification and
pretraining configs in MMPretrain::

    custom_imports = dict(imports=['simim_plugin.evaluation'])
"""

from .. import pretraining  # noqa: F401  # registers components
from .classes import ClassCountHook
from .drawing import NamedPicturesHook
from .features import extract_features, folder_dataset, image_loader
from .knn import knn_accuracy
from .lars import ProbeLARS
from .logistic import logistic_accuracy
from .loops import FrozenFeatureLoop, KNNClassifier, LogisticClassifier
from .matching import PatchMatches, draw_pairs, match_patches, place_means
from .metrics import (
    CorruptionAccuracy,
    CorruptionError,
    SubsetAccuracy,
    robustness_average,
)
from .online_knn import OnlineKNN
from .online_matches import OnlineMatches
from .probe_head import ProbeHead

__all__ = [
    'ClassCountHook',
    'CorruptionAccuracy',
    'CorruptionError',
    'FrozenFeatureLoop',
    'KNNClassifier',
    'LogisticClassifier',
    'NamedPicturesHook',
    'OnlineKNN',
    'OnlineMatches',
    'PatchMatches',
    'ProbeHead',
    'ProbeLARS',
    'SubsetAccuracy',
    'draw_pairs',
    'extract_features',
    'folder_dataset',
    'image_loader',
    'knn_accuracy',
    'logistic_accuracy',
    'match_patches',
    'place_means',
    'robustness_average',
]

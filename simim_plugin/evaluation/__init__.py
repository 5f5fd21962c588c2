"""What a representation is worth: frozen, probed, fine-tuned, corrupted."""

from .features import (
    evaluation_transforms,
    extract_features,
    folder_dataset,
    image_loader,
)
from .knn import knn_accuracy
from .logistic import logistic_accuracy
from .loops import FrozenFeatureLoop, KNNClassifier, LogisticClassifier
from .matching import PatchMatches, draw_pairs, match_patches
from .robustness import (
    CorruptionAccuracy,
    CorruptionError,
    SubsetAccuracy,
    robustness_average,
)

__all__ = [
    'CorruptionAccuracy',
    'CorruptionError',
    'FrozenFeatureLoop',
    'KNNClassifier',
    'LogisticClassifier',
    'PatchMatches',
    'SubsetAccuracy',
    'draw_pairs',
    'evaluation_transforms',
    'extract_features',
    'folder_dataset',
    'image_loader',
    'knn_accuracy',
    'logistic_accuracy',
    'match_patches',
    'robustness_average',
]

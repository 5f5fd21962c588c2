"""What a representation is worth, without training it further."""

from .features import (
    evaluation_transforms,
    extract_features,
    folder_dataset,
    image_loader,
)
from .knn import knn_accuracy
from .matching import PatchMatches, draw_pairs, match_patches

__all__ = [
    'PatchMatches',
    'draw_pairs',
    'evaluation_transforms',
    'extract_features',
    'folder_dataset',
    'image_loader',
    'knn_accuracy',
    'match_patches',
]

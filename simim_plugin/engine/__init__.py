"""What runs around a training step, registered in MMPretrain."""

from .hooks import MomentumHook, ThroughputHook
from .optim import AutocastOptimWrapper, LayerDecayConstructor
from .runner import SiameseIMRunner
from .schedule import WarmupCosineLR

__all__ = [
    'AutocastOptimWrapper',
    'LayerDecayConstructor',
    'MomentumHook',
    'SiameseIMRunner',
    'ThroughputHook',
    'WarmupCosineLR',
]

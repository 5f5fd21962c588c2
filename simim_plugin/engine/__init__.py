"""What runs around a training step, registered in MMPretrain."""

from .checkpointing import SafeCheckpointHook
from .guard import NonFiniteGuard
from .hooks import ClassCountHook, MomentumHook, ThroughputHook
from .lars import ProbeLARS
from .loop import ExactEpochLoop
from .monitors import CollapseMonitor
from .optim import AutocastOptimWrapper, LayerDecayConstructor
from .runner import SiameseIMRunner
from .schedule import WarmupCosineLR
from .seeding import SeededDataset, SeededSampler

__all__ = [
    'AutocastOptimWrapper',
    'ClassCountHook',
    'CollapseMonitor',
    'ExactEpochLoop',
    'LayerDecayConstructor',
    'MomentumHook',
    'NonFiniteGuard',
    'ProbeLARS',
    'SafeCheckpointHook',
    'SeededDataset',
    'SeededSampler',
    'SiameseIMRunner',
    'ThroughputHook',
    'WarmupCosineLR',
]

"""Runner, training loop, hooks, optimizers and schedules of a run."""

from .checkpointing import SafeCheckpointHook
from .collapse import CollapseMonitor
from .holding import HoldBackboneHook
from .loop import ExactEpochLoop
from .momentum import MomentumHook
from .nonfinite import NonFiniteGuard
from .optim import AutocastOptimWrapper, LayerDecayConstructor
from .runner import SiameseIMRunner
from .schedule import WarmupCosineLR
from .seeding import SeededDataset, SeededSampler
from .sharding import FullyShard
from .small_views import SmallViewsFirst
from .throughput import ThroughputHook

__all__ = [
    'AutocastOptimWrapper',
    'CollapseMonitor',
    'ExactEpochLoop',
    'FullyShard',
    'HoldBackboneHook',
    'LayerDecayConstructor',
    'MomentumHook',
    'NonFiniteGuard',
    'SafeCheckpointHook',
    'SeededDataset',
    'SeededSampler',
    'SiameseIMRunner',
    'SmallViewsFirst',
    'ThroughputHook',
    'WarmupCosineLR',
]

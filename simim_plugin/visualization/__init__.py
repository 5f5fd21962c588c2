"""Pictures of training views, training curves and learned features."""

from .curves import draw_loss, draw_runs, read_run, read_scalars
from .tokens import draw_across, draw_attention, draw_tokens
from .views import draw_matches, draw_pair

__all__ = [
    'draw_across',
    'draw_attention',
    'draw_loss',
    'draw_matches',
    'draw_pair',
    'draw_runs',
    'draw_tokens',
    'read_run',
    'read_scalars',
]

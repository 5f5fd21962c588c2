"""Pictures of what the method sees, learns and finds."""

from .curves import draw_loss, read_scalars
from .views import draw_matches, draw_pair

__all__ = ['draw_loss', 'draw_matches', 'draw_pair', 'read_scalars']

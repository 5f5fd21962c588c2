"""What our Runner watches in every run, of whatever task."""

from .finite_loss import FiniteLoss
from .history import BoundedHistory
from .open_files import explain_open_files

__all__ = ['BoundedHistory', 'FiniteLoss', 'explain_open_files']

"""Read one picture: its format, levels, channels and orientation."""

from .arrays import array_to_rgb
from .drawing import as_shown, decode_to_draw
from .files import UnreadableImageError, naming, read_file, window_of
from .levels import Window, check_measured, check_window, given_window
from .orientation import Header, header_of, read_header, turn
from .reading import decode

__all__ = [
    'Header',
    'UnreadableImageError',
    'Window',
    'array_to_rgb',
    'as_shown',
    'check_measured',
    'check_window',
    'decode',
    'decode_to_draw',
    'given_window',
    'header_of',
    'naming',
    'read_file',
    'read_header',
    'turn',
    'window_of',
]

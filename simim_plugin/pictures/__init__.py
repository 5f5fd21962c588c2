"""Read one picture: its format, levels, channels and orientation."""

from .arrays import array_to_rgb
from .drawing import as_shown, decode_to_draw
from .files import UnreadableImageError, naming, read_file, window_of
from .levels import Window, check_measured, check_window, given_window
from .orientation import Header, header_of, read_header, turn
from .reading import decode

"""Find images below a folder, see :mod:`simim_plugin.pictures.walking`."""

from ..pictures.walking import EXTENSIONS, class_labels, list_images

__all__ = ['EXTENSIONS', 'class_labels', 'list_images']

"""The former name of :mod:`simim_plugin.checkpoint.names`."""

from .names import from_official, to_hugging_face, to_official, to_timm

__all__ = ['from_official', 'to_hugging_face', 'to_official', 'to_timm']

"""The former name of :mod:`simim_plugin.checkpoint.names`."""

from .names import (  # noqa: F401
    from_official,
    to_hugging_face,
    to_official,
    to_timm,
)

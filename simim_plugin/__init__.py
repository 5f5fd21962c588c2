"""Siamese Image Modeling (SiameseIM) for OpenMMLab."""

from typing import Any

from simim_plugin.config_files import ablation_base, config_path

__all__ = ['__version__', 'ablation_base', 'config_path', 'configure']

__version__ = '0.1.0'


def __getattr__(name: str) -> Any:
    """Import ``configure`` when it is used; configs need none of it."""
    if name == 'configure':
        from simim_plugin.recipes import configure

        return configure
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')

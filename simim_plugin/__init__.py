"""Siamese Image Modeling (SiameseIM) for OpenMMLab."""

from simim_plugin.packaged import config_path

__all__ = ['__version__', 'config_path']

__version__ = '0.1.0'

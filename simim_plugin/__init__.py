"""Siamese Image Modeling (SiameseIM) for OpenMMLab."""

from simim_plugin.config_files import ablation_base, config_path

__all__ = ['__version__', 'ablation_base', 'config_path']

__version__ = '0.1.0'

"""Import this module to register everything that pretraining needs.

It registers the method, the data sets and transforms, and the hooks in
MMPretrain::

    custom_imports = dict(imports=['simim_plugin.pretraining'])

``simim_plugin.evaluation``, ``simim_plugin.ablations``,
``simim_plugin.detection`` and ``simim_plugin.segmentation`` each register what
their configs need in the same way; one import is enough.
"""

from . import datasets, engine, models

__all__ = ['datasets', 'engine', 'models']

"""Register everything that pretraining needs in MMPretrain.

The method, the data sets with their transforms, and the hooks::

    custom_imports = dict(imports=['simim_plugin.pretraining'])

``simim_plugin.evaluation``, ``simim_plugin.ablations``,
``simim_plugin.detection`` and ``simim_plugin.segmentation`` each register what
their own configs need; a config imports one of the five.
"""

from .runs.terminal import noted_notices

with noted_notices():  # OpenMMLab's libraries print some when imported
    from . import datasets, engine, models

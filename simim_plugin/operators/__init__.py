"""The operators of mmcv without a compiler, by torchvision and PyTorch.

mmcv compiles its operators against one torch, one CUDA and one compiler. An
mmcv installed by pip alone has none; most of MMDetection and parts of
MMSegmentation then fail to import. Importing this package supplies the
operators that their models call. It changes nothing where mmcv has usable
operators. A config of any OpenMMLab project needs one line::

    custom_imports = dict(imports=['simim_plugin.operators'])

A script imports this package before ``mmcv.ops``. For programs that import
``mmcv.ops`` before they read a config, run ``python -m
simim_plugin.commands.operators`` once: it writes a file into mmcv. The package
depends on torch, torchvision, mmcv and NumPy, and not on the rest of
simim_plugin.

Half and bfloat16 inputs are computed in float32 and rounded once. mmcv
refuses bfloat16 in most operators, and half on a CPU in some.
"""

from .placing import place

place()

__all__ = ['place']

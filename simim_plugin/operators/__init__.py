"""The operators of mmcv without a compiler: by torchvision and PyTorch.

mmcv compiles its operators against one torch, one CUDA and one compiler. An
mmcv that is installed by pip alone has none, and then most of MMDetection and
parts of MMSegmentation do not import. Importing this package supplies the
operators that their models call; where mmcv has usable operators of its own,
it changes nothing. A config of any OpenMMLab project needs one line::

    custom_imports = dict(imports=['simim_plugin.operators'])

A script imports this package before ``mmcv.ops``. For programs that import
``mmcv.ops`` before they read a config, run ``python -m
simim_plugin.commands.operators`` once: it writes a file into mmcv. The package
depends on torch, torchvision and mmcv, and on nothing else of simim_plugin.

Half and bfloat16 inputs are computed in float32 and rounded once; mmcv
refuses bfloat16 in most operators, and half on a CPU in some.
"""

from .placing import COMPILED, build_command, place

place()

__all__ = ['COMPILED', 'build_command', 'place']

"""Packaging of simim_plugin.

mim (OpenMMLab's launcher) looks for an installed package's configs and tools
in a folder ``.mim``. Here the build writes them into the wheel, never into
the source tree, so nothing can go stale. An editable install needs no copy:
mim and ``config_path`` read ``configs/`` and ``tools/`` of the checkout. (A
link to them would make mim find every config twice, and refuse.)
"""

import re
import shutil
import tempfile
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build import build
from setuptools.command.build_py import build_py

try:
    from setuptools.command.bdist_wheel import bdist_wheel
except ImportError:  # below 70.1, as torch 2.1 wants it
    from wheel.bdist_wheel import bdist_wheel

ROOT = Path(__file__).resolve().parent
MIM_FOLDERS = ['configs', 'tools']
MIM_FILES = ['model-index.yml']


def write_mim(folder):
    """Copy configs, tools and the model index to ``folder/.mim``."""
    target = Path(folder, '.mim')
    ignore = shutil.ignore_patterns('__pycache__', '*.pyc', '.*')
    for name in MIM_FOLDERS:
        shutil.copytree(ROOT / name, target / name, ignore=ignore)
    for name in MIM_FILES:
        shutil.copy2(ROOT / name, target)


class Build(build):
    """Builds in a fresh folder: a left-over ``build/`` would be packaged."""

    def initialize_options(self):
        super().initialize_options()
        self._fresh = tempfile.TemporaryDirectory(prefix='simim_plugin_')
        self.build_base = self._fresh.name


class BuildPy(build_py):
    """Adds ``.mim`` to the package."""

    def run(self):
        super().run()
        if not self.editable_mode:
            write_mim(Path(self.build_lib, 'simim_plugin'))


class BdistWheel(bdist_wheel):
    """Adds ``.mim`` to the wheel's ``.dist-info`` as well.

    onedl-mim takes the first name in the sorted list of installed files for
    the package's folder. Where package and distribution share one name, that
    is the ``.dist-info`` folder ('-' sorts before '/').
    """

    def write_wheelfile(self, wheelfile_base, *args, **kwargs):
        super().write_wheelfile(wheelfile_base, *args, **kwargs)
        if 'editable_wheel' not in self.distribution.command_obj:
            write_mim(wheelfile_base)


def version():
    """Read the version without importing the package."""
    text = (ROOT / 'simim_plugin' / '__init__.py').read_text()
    return re.search(r"^__version__ = '(.+)'$", text, re.M).group(1)


def long_description():
    """The README, where there is one."""
    readme = ROOT / 'README.md'
    return readme.read_text(encoding='utf-8') if readme.exists() else ''


# Two distributions of each OpenMMLab library exist under one import name.
# Neither is required: it would overwrite the files of the other.
dense = ['ftfy', 'lvis', 'pycocotools', 'regex']
onedl = [
    *dense,
    'onedl-mim',
    'onedl-mmcv',
    'onedl-mmdetection',
    'onedl-mmengine',
    'onedl-mmpretrain',
    'onedl-mmsegmentation',
]
openmmlab = [
    *dense,
    'mmcv-lite>=2,<2.2',
    'mmdet>=3',
    'mmengine',
    'mmpretrain>=1',
    'mmsegmentation>=1',
]
evaluation = ['imagecorruptions-imaug', 'scikit-learn']
dicom = ['pydicom']
multispectral = ['tifffile']
convert = [
    'onnx',
    'onnxruntime',
    'onnxscript',
    'safetensors',
    'timm',
    'transformers',
]
# Sphinx 9 and what it needs are there from Python 3.11.
docs = [
    f'{name}; python_version >= "3.11"'
    for name in ('furo', 'myst-nb', 'sphinx', 'sphinx-copybutton')
]
test = [
    *evaluation,
    *convert,
    *dicom,
    *multispectral,
    'cyanure; python_version < "3.13"',  # no wheel for later ones
    'hypothesis',
    'pytest',
    'pytest-timeout',
    'pytest-xdist',
    'tensorboard',
]

setup(
    name='simim_plugin',
    version=version(),
    description='Siamese Image Modeling (SiameseIM) for OpenMMLab',
    long_description=long_description(),
    long_description_content_type='text/markdown',
    license='Apache-2.0',
    license_files=['LICENSE'],
    python_requires='>=3.10',
    packages=find_packages(include=['simim_plugin', 'simim_plugin.*']),
    package_data={'simim_plugin.datasets': ['class_lists/*']},
    install_requires=[
        'matplotlib',
        'numpy',
        'opencv-python-headless',
        'pillow',
        'simplejpeg',
        'torch',
        'torchvision',
        'tqdm',
    ],
    extras_require={
        'onedl': onedl,
        'openmmlab': openmmlab,
        'evaluation': evaluation,
        'convert': convert,
        'dicom': dicom,
        'multispectral': multispectral,
        'tensorboard': ['tensorboard'],
        'test': test,
        'docs': docs,
        'dev': [*test, *docs, 'mypy', 'ruff'],
    },
    classifiers=[
        'Programming Language :: Python :: 3',
        'Topic :: Scientific/Engineering :: Artificial Intelligence',
    ],
    cmdclass={'build': Build, 'build_py': BuildPy, 'bdist_wheel': BdistWheel},
    zip_safe=False,
)

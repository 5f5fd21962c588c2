"""Find the config files of this package."""

from __future__ import annotations

import difflib
import os
from pathlib import Path
from typing import Any

from .errors import SimimError

ABLATION_SCALES = ('in1k', 'cifar10', 'cifar10-micro', 'demo')


def config_path(name: str) -> str:
    """Return the path of a config of this package, for ``_base_``.

    MMEngine evaluates ``_base_`` before the rest of the file, so the
    expression cannot use a name that the file imports. These forms work::

        _base_ = __import__('simim_plugin').config_path('NAME.py')
        _base_ = [
            __import__('simim_plugin').config_path('siamese_im/NAME.py'),
            './my_data.py',
        ]

    Args:
        name (str): basename of the config, or its path below ``configs/``
            with forward slashes.

    Returns:
        str: absolute path; it works for a wheel, an editable install and a
        plain checkout.

    Raises:
        FileNotFoundError: if no config has this name; the message lists the
            closest names.
    """
    root = _config_root()
    known = {
        path.relative_to(root).as_posix(): path for path in root.rglob('*.py')
    }
    for relative, path in known.items():
        if name in (relative, path.name):
            return str(path)
    names = [path.name for path in known.values()] + list(known)
    close = difflib.get_close_matches(name, names, n=3, cutoff=0.4)
    hint = (
        f'pass one of the closest names: {", ".join(close)}'
        if close
        else f'see {root} for the names'
    )
    raise FileNotFoundError(
        f"simim_plugin has no config called '{name}'; {hint}."
    )


def ablation_base() -> str:
    """Return the base of the ablation rows, for ``_base_`` of a row.

    The environment variable ``SIMIM_SCALE`` selects it: 'in1k' (the
    default), 'cifar10', 'cifar10-micro' or 'demo'. One config per row serves
    every scale.

    Returns:
        str: absolute path of ``configs/_base_/ablation_{scale}.py``.

    Raises:
        SimimError: if the scale is unknown.
    """
    scale = os.environ.get('SIMIM_SCALE', 'in1k')
    if scale not in ABLATION_SCALES:
        raise SimimError(
            f'The ablations have no scale {scale!r}; set the environment '
            f'variable SIMIM_SCALE to one of {", ".join(ABLATION_SCALES)}.'
        )
    return config_path(f'_base_/ablation_{scale}.py')


def write_plainly(config: Any) -> None:
    """Let mmengine write a config as text without yapf.

    A run writes its config into its folder, its log and every checkpoint,
    and yapf takes seconds for a config with many classes.

    Args:
        config (Config): mmengine's config, which keeps the choice when it is
            copied.
    """
    # An attribute that is set the usual way becomes a setting.
    object.__setattr__(config, '_format_python_code', False)


def register_model_names() -> None:
    """Add our configs to ``mmpretrain.list_models`` and ``get_model``."""
    from mmpretrain.apis import ModelHub

    root = _config_root().parent
    ModelHub.register_model_index(root / 'model-index.yml', config_prefix=root)


def _config_root() -> Path:
    """Return ``.mim/configs`` of a wheel or ``configs/`` of a checkout."""
    package = Path(__file__).resolve().parent
    packaged = package / '.mim' / 'configs'
    return packaged if packaged.is_dir() else package.parent / 'configs'

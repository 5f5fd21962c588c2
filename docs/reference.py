"""Write the pages of the reference: public names, configs and commands."""

from __future__ import annotations

import io
import re
import sys
from contextlib import redirect_stdout, suppress
from importlib import import_module
from pathlib import Path

from simim_plugin import environment

ROOT = Path(__file__).resolve().parents[1]

PUBLIC = {
    'simim_plugin': 'paths and configs',
    'simim_plugin.recipes': 'configs for your own data',
    'simim_plugin.errors': 'the error of every wrong input',
    'simim_plugin.geometry': 'views of an image, and where they lie',
    'simim_plugin.models': 'the method',
    'simim_plugin.datasets': 'images, pairs of views, masks, colours',
    'simim_plugin.engine': 'Runner, training loop, hooks, schedules',
    'simim_plugin.evaluation': 'kNN, probes, matches',
    'simim_plugin.detection': 'ViTDet in MMDetection',
    'simim_plugin.segmentation': 'UPerNet and probes in MMSegmentation',
    'simim_plugin.ablations': 'variants of the method',
    'simim_plugin.rivals': 'DINO, iBOT, MoCo-v3, DenseCL, MSN, BEiT',
    'simim_plugin.checkpoint': 'weights',
    'simim_plugin.prediction': 'classes, boxes and masks of pictures',
    'simim_plugin.visualization': 'pictures of views, curves and features',
    'simim_plugin.operators': "mmcv's operators without a compiler",
}
"""The packages whose ``__all__`` is public, and what they are for."""

COMMANDS = sorted({p.stem for p in (ROOT / 'tools').glob('*.py')} - {'launch'})
"""Names of the scripts that a user starts."""

PICTURES = ('pair', 'match', 'pca', 'attention', 'curves')
"""The commands of ``tools/visualize.py``."""

CONFIGS = {
    'siamese_im': 'Pretraining',
    'classification': 'Classification',
    'detection': 'Detection',
    'segmentation': 'Segmentation',
    'robustness': 'Robustness',
    'ablations': 'Ablations',
    'rivals': 'Rivals',
}
"""Folders of configs, and the headings of their lists."""


def write(folder: Path) -> None:
    """Write all generated pages into a folder.

    Args:
        folder (Path): made if it is missing.
    """
    folder.mkdir(exist_ok=True)
    environment.import_mmpretrain_fast()
    pages = {f'{name}.md': _module(name) for name in PUBLIC}
    pages['configs.md'] = _configs()
    pages['commands.md'] = _commands()
    pages['public.inc'] = _public()
    for name, text in pages.items():
        path = folder / name
        # An unchanged file keeps its time, and Sphinx its page.
        if not path.is_file() or path.read_text() != text:
            path.write_text(text)


def _module(name: str) -> str:
    module = import_module(name)
    # Not what a package imports when it is used, such as configure.
    names = [n for n in module.__all__ if n in vars(module)]
    options = f':members: {", ".join(names)}'
    return (
        f'# {name}: {PUBLIC[name]}\n\n'
        f'```{{eval-rst}}\n.. automodule:: {name}\n   {options}\n```\n'
    )


def _public() -> str:
    """Return a table of all public names, with links."""
    lines = ['| package | for | names |', '|---|---|---|']
    for name, purpose in PUBLIC.items():
        names = ', '.join(
            f'{{py:obj}}`{n} <{name}.{n}>`'
            for n in import_module(name).__all__
        )
        page = f'[{name}](generated/{name}.md)'
        lines.append(f'| {page} | {purpose} | {names} |')
    return '\n'.join(lines) + '\n'


def _configs() -> str:
    lines = [
        '# Configs',
        'Every command takes a config by its name. To inherit one, write '
        "`_base_ = __import__('simim_plugin').config_path('NAME.py')`.",
    ]
    for folder, heading in CONFIGS.items():
        lines.append(f'## {heading}')
        for path in sorted((ROOT / 'configs' / folder).glob('*.py')):
            lines.append(f'- `{path.name}`: {_comment(path)}')
    return '\n\n'.join(lines) + '\n'


def _comment(path: Path) -> str:
    """Return the first comment of a config as a paragraph."""
    found = re.search(r'^(#.*\n)+', path.read_text(), re.M)
    if not found:
        raise SystemExit(f'{path} has no comment on top; write one.')
    return ' '.join(line.strip('# ') for line in found[0].splitlines())


def _commands() -> str:
    parts = [
        '# Commands',
        'Each command is a script of `tools/`. Without the checkout, '
        '`python -m simim_plugin.doctor` checks the machine, and `mim` runs '
        'configs.',
    ]
    for name in COMMANDS:
        parts.append(f'## tools/{name}.py\n\n```text\n{_help(name)}```')
        for picture in PICTURES if name == 'visualize' else ():
            parts.append(f'```text\n{_help(name, picture)}```')
    for path in sorted((ROOT / 'tools').glob('*.sh')):
        usage = path.read_text().split('set -euo')[0]
        lines = re.findall(r'^# ?(.*)', usage.partition('\n')[2], re.M)
        text = '\n'.join(lines)
        parts.append(f'## tools/{path.name}\n\n```text\n{text}\n```')
    return '\n\n'.join(parts) + '\n'


def _help(name: str, *words: str) -> str:
    module = dict(make_corruptions='corrupt').get(name, name)
    main = import_module(f'simim_plugin.commands.{module}').main
    printed, before = io.StringIO(), sys.argv
    sys.argv = [f'{name}.py']  # argparse prints it
    try:
        with redirect_stdout(printed), suppress(SystemExit):
            main([*words, '--help'])
    finally:
        sys.argv = before
    return printed.getvalue()

"""Report what works in this installation, and the commands that repair it.

The doctor needs Python alone. :mod:`simim_plugin.environment` finds missing
libraries, and :mod:`.imports` those that do not import.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import shutil
import sys
from collections.abc import Sequence
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

from .. import __version__, environment
from ..environment import (
    STACKS,
    Finding,
    cpu_has_bf16,
    distribution_of,
    distributions,
    usable_cores,
)
from .imports import explain, probe

PACKAGE = Path(__file__).resolve().parents[1]
CHECKOUT = PACKAGE.parent if (PACKAGE.parent / 'configs').is_dir() else None

TASKS = {
    'pretraining': ('pretraining',),
    'classification': ('classification', 'logistic regression'),
    'COCO': ('detection',),
    'LVIS': ('detection', 'LVIS evaluation'),
    'ADE20k': ('segmentation',),
    'robustness': ('classification', 'image corruption'),
    'export': (
        'classification',
        'use of safetensors',
        'export to timm',
        'export to Hugging Face',
        'export to ONNX',
    ),
}
"""Keys of ``environment.TASKS``: the first for all of a task, the others for
parts of it."""

LIBRARIES = ('numpy', 'PIL', 'cv2', 'matplotlib', 'tqdm')
"""Small libraries that the plugin imports for every task."""

OPERATORS = 'simim_plugin.operators'
STACK = ('torch', 'torchvision', *STACKS, OPERATORS)
"""Modules to import, in this order."""

TRIED_PYTHON = (3, 10), (3, 13)
FEW_GIB = 5.0
SHARED = '/dev/shm'
"""Memory through which loader workers pass images."""

SMALL_SHARED_GIB = 1.0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Returns:
        int: exit code, 0 if the named tasks work in full.
    """
    parser = argparse.ArgumentParser(
        prog='doctor',
        description='Report which tasks of simim_plugin work here, and the '
        'commands that repair the others. Exits with 0 if the named tasks '
        'work, else with 1.',
    )
    names = {task.lower(): task for task in TASKS}
    parser.add_argument(
        'tasks',
        nargs='*',
        type=str.lower,
        metavar='TASK',
        help=f'{", ".join(TASKS)}, or all. Defaults to pretraining; the '
        'others are reported too',
    )
    asked = parser.parse_args(argv).tasks or ['pretraining']
    if unknown := set(asked) - {*names, 'all'}:
        parser.error(
            f'there is no task called {", ".join(sorted(unknown))}; name '
            f'some of {", ".join(TASKS)}, or all'
        )
    wanted = list(TASKS) if 'all' in asked else [names[t] for t in asked]
    checkup = Checkup()
    for heading, lines in (
        ('Machine', checkup.machine()),
        ('Packages', checkup.packages()),
        ('Tasks', checkup.tasks()),
        ('To fix it', checkup.problems()),
        ('Worth knowing', checkup.notes()),
    ):
        if lines:
            print(f'{heading}\n  ' + '\n  '.join(lines) + '\n')
    broken = [task for task in wanted if checkup.findings(task)]
    if broken:
        print(f'Asked for, and not working in full: {", ".join(broken)}.')
    else:
        print(f'All that was asked for works: {", ".join(wanted)}.')
    return int(bool(broken))


class Checkup:
    """Everything that is known about this installation."""

    def __init__(self) -> None:
        self.found = {n: environment.check(n) for n in environment.TASKS}
        missing = {f.module for found in self.found.values() for f in found}
        self.facts, errors = probe([m for m in STACK if m not in missing])
        # Report each cause once: modules that import it fail with its error.
        causes = {e: m for m, e in reversed(errors.items())}
        broken = [explain(module, error) for error, module in causes.items()]
        broken = [*_check_pairs(), *reversed(broken)]
        for need, modules in environment.TASKS.items():
            self.found[need] += [f for f in broken if f.module in modules]
        self.plugin = _check_plugin()
        self.gpus = self.facts.get('torch', {}).get('gpus', [])

    def findings(self, task: str) -> list[Finding]:
        """Return all problems of a task, each once."""
        found = [f for need in TASKS[task] for f in self.found[need]]
        return list(dict.fromkeys([*self.plugin, *found]))

    def machine(self) -> list[str]:
        """Describe Python, processor, GPUs and free space."""
        bf16 = {None: 'unknown', True: 'in hardware', False: 'not in hardware'}
        gpus = [
            f'GPU {i}: {name}, {_gib(memory)}, '
            f'{"" if capability >= [8, 0] else "no "}bf16'
            for i, (name, memory, *capability) in enumerate(self.gpus)
        ]
        return [
            f'Python {platform.python_version()} ({sys.executable})',
            f'{platform.system()} {platform.machine()}, {usable_cores()} CPU '
            f'cores, bf16 {bf16[cpu_has_bf16()]}',
            *(gpus or ['no GPU in use']),
            f'{_gib(_free("."))} free on the disk of {Path.cwd()}',
            f'{_gib(_free(SHARED))} of shared memory',
        ]

    def packages(self) -> list[str]:
        """List version, distribution and build of the stack's libraries."""
        rows = [('simim_plugin', __version__, _layout() or 'without configs')]
        for module in ('torch', 'torchvision', 'numpy', *STACKS):
            owners = distributions(module)
            version = ' and '.join(dict.fromkeys(owners.values())) or '-'
            rows.append((module, version, self._about(module, [*owners])))
        return [
            f'{module:13} {version:14} {about}'.rstrip()
            for module, version, about in rows
        ]

    def _about(self, module: str, owners: list[str]) -> str:
        if module == 'torch' and 'torch' in self.facts:
            cuda = self.facts['torch']['cuda']
            return f'built for CUDA {cuda}' if cuda else 'for the CPU alone'
        if not owners:
            return 'not installed'
        if module not in STACKS:
            return ''
        about = ' and '.join(owners)
        if STACKS[module][0] not in owners:
            about += ' (upstream)'
        elif len(owners) == 1:
            about += ' (OneDL fork)'
        if module == 'mmcv' and OPERATORS in self.facts:
            ours = self.facts[OPERATORS]['ours']
            kind = 'operators by torchvision' if ours else 'compiled operators'
            about += f', {kind}'
        return about

    def tasks(self) -> list[str]:
        """List the state of each task."""
        lines = []
        for task, (whole, *_) in TASKS.items():
            state = 'works'
            if self.findings(task):
                in_part = not self.plugin and not self.found[whole]
                state = 'works in part' if in_part else 'does not work'
            lines.append(f'{task:15} {state}')
        return lines

    def problems(self) -> list[str]:
        """List each problem with the tasks it stops and its command."""
        stopped: dict[Finding, list[str]] = {}
        for task in TASKS:
            for finding in self.findings(task):
                stopped.setdefault(finding, []).append(task)
        lines: list[str] = []
        for tasks in dict.fromkeys(map(tuple, stopped.values())):
            findings = [f for f, own in stopped.items() if tuple(own) == tasks]
            where = 'all tasks' if len(tasks) == len(TASKS) else None
            for finding in _in_one(findings):
                lines += [
                    f'{finding.problem} ({where or ", ".join(tasks)}):',
                    f'    {finding.command}',
                ]
        return lines

    def notes(self) -> list[str]:
        """List what stops no task but may surprise."""
        python, (low, high) = sys.version_info[:2], TRIED_PYTHON
        cuda = self.facts.get('torch', {}).get('cuda')
        old = next((g[0] for g in self.gpus if g[2:] < [8, 0]), '')
        nvidia = Path('/dev/nvidiactl').exists()
        unused = 'torch' in self.facts and not self.gpus and nvidia
        notes = {
            f'Python {platform.python_version()} was never tried; 3.{low[1]} '
            f'to 3.{high[1]} were.': not low <= python <= high,
            'There is an NVIDIA GPU that torch does not use: torch is built '
            'for the CPU alone.': unused and not cuda,
            'There is an NVIDIA GPU that torch does not use: its driver is '
            f'older than CUDA {cuda} needs, or CUDA_VISIBLE_DEVICES hides '
            'it.': unused and cuda,
            f'{old} has no bf16: take the fp16 configs, or leave --amp '
            'out.': old,
            'This CPU emulates bf16, which is slower than float32: leave '
            '--amp out.': not self.gpus and cpu_has_bf16() is False,
            f'Less than {FEW_GIB:.0f} GiB are free here, where work_dirs/ '
            'with the checkpoints will be: choose another --work-dir.': (
                _free('.') < FEW_GIB * 2**30
            ),
            f'/dev/shm has {_gib(_free(SHARED))} free, through which loader '
            'workers hand over images: start the container with '
            '--shm-size=8g, or set num_workers=0.': (
                0 < _free(SHARED) < SMALL_SHARED_GIB * 2**30
            ),
        }
        warned = self.facts.get(OPERATORS, {}).get('warned', [])
        return warned + [note for note, applies in notes.items() if applies]


def _check_pairs() -> list[Finding]:
    """Find versions that are incompatible by their own metadata."""
    found = []
    torch = ''.join(distributions('torch').values()).partition('+')[0]
    vision = ''.join(distributions('torchvision').values())
    wanted = metadata.requires('torchvision') if vision else None
    pin = re.search(r'torch\s*\(?==\s*([\w.]+)', ' '.join(wanted or ()))
    if pin and torch and pin[1] != torch:
        problem = (
            f'torchvision {vision} is built for torch {pin[1]}, and {torch} '
            'is installed'
        )
        command = f'pip install torch=={torch} torchvision'
        found.append(Finding('torchvision', problem, command))
    users = [m for m in ('mmengine', 'openmim') if m in distributions(m)]
    if users and find_spec('pkg_resources') is None:
        problem = (
            f'{" and ".join(users)} of upstream OpenMMLab need '
            'pkg_resources, which new setuptools have no more'
        )
        command = f'pip install {distribution_of("pkg_resources")}'
        found.append(Finding('mmengine', problem, command))
    return found


def _check_plugin() -> list[Finding]:
    """Find problems of the plugin itself and its small libraries."""
    found = []
    if not distributions('simim_plugin'):
        problem = 'simim_plugin is only in a folder, not installed'
        command = f'pip install -e "{CHECKOUT}[{environment.stack()}]"'
        found.append(Finding('simim_plugin', problem, command))
    found += filter(None, map(environment.check_module, LIBRARIES))
    if _layout() is None:
        problem = 'the configs and tools of simim_plugin are gone'
        command = 'pip install --no-deps --force-reinstall '
        command += f'simim_plugin=={__version__}'
        found.append(Finding('simim_plugin', problem, command))
    return found


def _in_one(findings: list[Finding]) -> list[Finding]:
    """Merge the findings of libraries that are merely not installed."""
    missing = [f for f in findings if f.problem.endswith(' is not installed')]
    if len(missing) < 2:
        return findings
    names = ', '.join(f.module for f in missing)
    words = [f.command.removeprefix('pip install ') for f in missing]
    merged = Finding(
        names, f'{names} are not installed', f'pip install {" ".join(words)}'
    )
    return [merged, *(f for f in findings if f not in missing)]


def _layout() -> str | None:
    """Describe where the plugin's configs and tools are, if anywhere."""
    if (PACKAGE / '.mim' / 'configs').is_dir():
        return 'wheel: configs and tools in .mim'
    return f'source: configs and tools of {CHECKOUT}' if CHECKOUT else None


def _free(folder: str) -> int:
    """Return the bytes free on a disk, 0 if the folder does not exist."""
    return shutil.disk_usage(folder).free if os.path.isdir(folder) else 0


def _gib(size: int) -> str:
    return f'{size / 2**30:.1f} GiB'

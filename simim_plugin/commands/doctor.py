"""What is wrong with this installation, and the commands that mend it.

Needs nothing but Python. What is missing, :mod:`simim_plugin.environment`
says. Here what is there is imported, in a process of its own that may crash
or hang, and the machine is looked at.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from .. import __version__, environment
from ..environment import (
    STACKS,
    Finding,
    distribution_of,
    distributions,
)

_PACKAGE = Path(__file__).resolve().parent.parent

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
"""Keys of ``environment.TASKS``: first what all of a task needs, then what
parts of it need."""

LIBRARIES = ('numpy', 'PIL', 'cv2', 'matplotlib', 'tqdm')
"""Small ones that the plugin itself imports, for whatever task."""

OPERATORS = 'simim_plugin.operators'
STACK = ('torch', 'torchvision', *STACKS, OPERATORS)
"""What is imported, in this order."""

TRIED_PYTHON = (3, 10), (3, 13)
IMPORT_SECONDS = 300.0
FEW_GIB = 5.0
SHARED = '/dev/shm'
"""Through which loader workers hand over images."""

SMALL_SHARED_GIB = 1.0

# Runs on its own: imports the modules it is given, one after the other, and
# writes one line of JSON for each, so that the one that kills it is known.
_PROBE = r"""
import importlib, json, sys, warnings
sys.path.append(sys.argv[2])

def look_at(name, module):
    if name == 'simim_plugin.operators':
        ext = sys.modules['mmcv._ext']
        return dict(ours=type(ext).__name__ == 'Operators',
                    warned=[str(w.message) for w in warned
                            if 'operators of mmcv' in str(w.message)])
    if name != 'torch':
        return {}
    try:
        import numpy
        module.from_numpy(numpy.zeros(1))
    except ImportError:
        pass
    cuda = module.version.cuda
    gpus = []
    for i in range(module.cuda.device_count() if cuda else 0):
        it = module.cuda.get_device_properties(i)
        gpus.append([it.name, it.total_memory, it.major, it.minor])
    return dict(cuda=cuda, gpus=gpus)

with open(sys.argv[1], 'a', buffering=1) as report, \
        warnings.catch_warnings(record=True) as warned:
    print('started', file=report)
    for name in sys.argv[3:]:
        try:
            facts = look_at(name, importlib.import_module(name))
            print(json.dumps([name, facts]), file=report)
        except BaseException as error:
            text = ' '.join(str(error).split())
            text = f'{type(error).__name__}: {text}'[:300]
            print(json.dumps([name, text]), file=report)
            if name == 'torch':
                break  # a second try gives another error
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Returns:
        int: exit code, 0 if all that was asked for works.
    """
    parser = argparse.ArgumentParser(
        prog='doctor',
        description='Say what of simim_plugin works here, and what mends the '
        'rest. Exits with 0 if all that was asked for works, else with 1.',
    )
    names = {task.lower(): task for task in TASKS}
    parser.add_argument(
        'tasks',
        nargs='*',
        type=str.lower,
        metavar='TASK',
        help=f'what you need: {", ".join(TASKS)}, or all. Defaults to '
        'pretraining; the others are reported all the same',
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
        ('To mend it', checkup.problems()),
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
    """All that was found out about this installation."""

    def __init__(self) -> None:
        self.found = {n: environment.check(n) for n in environment.TASKS}
        missing = {f.module for found in self.found.values() for f in found}
        self.facts, errors = probe([m for m in STACK if m not in missing])
        # Modules that fail alike fail for the first one's reason.
        causes = {e: m for m, e in reversed(errors.items())}
        broken = [explain(module, error) for error, module in causes.items()]
        broken = [*_check_pairs(), *reversed(broken)]
        for need, modules in environment.TASKS.items():
            self.found[need] += [f for f in broken if f.module in modules]
        self.plugin = _check_plugin()
        self.gpus = self.facts.get('torch', {}).get('gpus', [])

    def findings(self, task: str) -> list[Finding]:
        """All that is wrong with a task, each once."""
        found = [f for need in TASKS[task] for f in self.found[need]]
        return list(dict.fromkeys([*self.plugin, *found]))

    def machine(self) -> list[str]:
        """Python, processor, GPUs and free space."""
        says = {None: 'unknown', True: 'in hardware', False: 'not in hardware'}
        lines = [
            f'Python {platform.python_version()} ({sys.executable})',
            f'{platform.system()} {platform.machine()}, {cores()} CPU cores, '
            f'bf16 {says[cpu_has_bf16()]}',
        ]
        for i, (name, memory, *capability) in enumerate(self.gpus):
            bf16 = '' if capability >= [8, 0] else 'no '
            lines.append(f'GPU {i}: {name}, {_gib(memory)}, {bf16}bf16')
        here = f'{_gib(_free("."))} free on the disk of {Path.cwd()}'
        shared = f'{_gib(_free(SHARED))} of shared memory'
        return [
            *(lines if self.gpus else [*lines, 'no GPU in use']),
            here,
            shared,
        ]

    def packages(self) -> list[str]:
        """Version, distribution and build of every library of the stack."""
        rows = [('simim_plugin', __version__, _layout() or 'without configs')]
        for module in ('torch', 'torchvision', 'numpy', *STACKS):
            owners = distributions(module)
            version = ' and '.join(dict.fromkeys(owners.values())) or '-'
            about = '' if owners else 'not installed'
            if owners and module in STACKS:
                about = ' and '.join(owners)
                if STACKS[module][0] not in owners:
                    about += ' (upstream)'
                elif len(owners) == 1:
                    about += ' (OneDL fork)'
            if module == 'torch' and 'torch' in self.facts:
                cuda = self.facts['torch']['cuda']
                about = (
                    f'built for CUDA {cuda}' if cuda else 'for the CPU alone'
                )
            if module == 'mmcv' and OPERATORS in self.facts:
                ours = self.facts[OPERATORS]['ours']
                about += ', operators by torchvision' if ours else ''
                about += '' if ours else ', compiled operators'
            rows.append((module, version, about))
        return [
            f'{module:13} {version:14} {about}'.rstrip()
            for module, version, about in rows
        ]

    def tasks(self) -> list[str]:
        """One line for each task."""
        lines = []
        for task, (all_of_it, *_) in TASKS.items():
            state = 'works'
            if self.findings(task):
                whole = not self.plugin and not self.found[all_of_it]
                state = 'works in part' if whole else 'does not work'
            lines.append(f'{task:15} {state}')
        return lines

    def problems(self) -> list[str]:
        """Each problem with its tasks and its command; alike ones as one."""
        stopped: dict[Finding, str] = {}
        for task in TASKS:
            for finding in self.findings(task):
                before = stopped.get(finding)
                stopped[finding] = f'{before}, {task}' if before else task
        lines = []
        for tasks in dict.fromkeys(stopped.values()):
            findings = [f for f, those in stopped.items() if those == tasks]
            plain = [f for f in findings if _is_plain(f)]
            where = 'all tasks' if tasks == ', '.join(TASKS) else tasks
            if plain:
                names = ', '.join(f.module for f in plain)
                are = 'is' if len(plain) == 1 else 'are'
                lines.append(f'{names} {are} not installed ({where}):')
                words = ' '.join(f.command.split()[-1] for f in plain)
                lines.append(f'    pip install {words}')
            for finding in findings:
                if finding not in plain:
                    lines.append(f'{finding.problem} ({where}):')
                    lines.append(f'    {finding.command}')
        return lines

    def notes(self) -> list[str]:
        """What stops no task but may surprise."""
        python, (low, high) = sys.version_info[:2], TRIED_PYTHON
        cuda = self.facts.get('torch', {}).get('cuda')
        old = next((g[0] for g in self.gpus if g[2:] < [8, 0]), '')
        unused = 'torch' in self.facts and not self.gpus
        notes = {
            f'Python {platform.python_version()} was never tried; 3.{low[1]} '
            f'to 3.{high[1]} were.': not low <= python <= high,
            'There is an NVIDIA GPU that torch does not use: torch is built '
            'for the CPU alone.': unused and _has_nvidia() and not cuda,
            'There is an NVIDIA GPU that torch does not use: its driver is '
            f'older than CUDA {cuda} needs, or CUDA_VISIBLE_DEVICES hides '
            'it.': unused and _has_nvidia() and cuda,
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


def probe(
    modules: Sequence[str], seconds: float = IMPORT_SECONDS
) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """Import modules in another process, and again without one that kills it.

    Args:
        modules (Sequence[str]): in the order of import.
        seconds (float): after which an import counts as hanging.

    Returns:
        tuple[dict, dict]: by module, what it says of itself if it imports;
        and else the error, as 'ImportError: message'.
    """
    facts: dict[str, dict[str, Any]] = {}
    failures: dict[str, str] = {}
    left = list(modules)
    flags = [
        *['-S'] * sys.flags.no_site,
        *['-E'] * sys.flags.ignore_environment,
    ]
    root = str(_PACKAGE.parent)
    quiet = subprocess.DEVNULL
    # In an empty folder, what is not installed is not found.
    with tempfile.TemporaryDirectory() as folder:
        report = str(Path(folder, 'report'))
        while left and 'torch' not in failures:  # which all others need
            Path(report).write_text('')
            command = [sys.executable, *flags, '-c', _PROBE, report, root]
            try:
                code = subprocess.run(
                    [*command, *left],
                    cwd=folder,
                    stdin=quiet,
                    stdout=quiet,
                    stderr=quiet,
                    timeout=seconds,
                ).returncode
                name = signal.Signals(-code).name if code < 0 else ''
                end = f'Crash: {name or f"exit code {code}"}'
            except subprocess.TimeoutExpired:
                end = f'TimeoutError: not done after {seconds:.0f} s'
            started, *lines = [*Path(report).read_text().splitlines(), '']
            for name, result in map(json.loads, filter(None, lines)):
                known = failures if isinstance(result, str) else facts
                known[name] = result
                left.remove(name)
            if left and 'torch' not in failures:
                # It did not come back from this one, or died before it.
                failures[left.pop(0)] = end
            if not started:  # so it would be for every other
                break
    return facts, failures


_TOGETHER = 'pip uninstall -y torch torchvision && pip install torch{}'
_IMPORT_ERRORS = (
    (
        r'torchvision::\w+ does not exist|different CUDA',
        ': it was built for another torch, or for a GPU where torch is not',
        _TOGETHER.format(' torchvision'),
    ),
    (
        r'libGL|libgthread',
        ': this OpenCV needs a window system',
        'pip install --no-deps --force-reinstall opencv-python-headless',
    ),
    (
        r'(?i)numpy is not available|numpy\.core\.multiarray|_ARRAY_API'
        r'|numpy\.dtype size changed',
        ': it was built for NumPy 1',
        'pip install "numpy<2"',
    ),
)
"""What imports are known to raise, why, and what mends it."""

_INCOMPATIBLE = re.compile(
    r'(?P<library>mm\w+)==\S+ is used but incompatible.*install '
    r'\w+(?P<low>>=?[\w.]+), ?(?P<high><=?[\w.]*\w)',
    re.IGNORECASE,
)
"""How OpenMMLab's libraries refuse each other's versions."""


def explain(module: str, error: str) -> Finding:
    """What to do about a library that is there and does not import.

    Args:
        module (str): import name of the library.
        error (str): what the import raised, as 'ImportError: message'.
    """
    name, version = next(iter(distributions(module).items()), (module, ''))
    problem = f'{f"{module} {version}".strip()} does not import ({error})'
    for pattern, why, command in _IMPORT_ERRORS:
        if re.search(pattern, error):
            return Finding(module, problem + why, command)
    command = f'pip install --no-deps --force-reinstall {name}'
    command += f'=={version}' * bool(version)
    if found := re.search(r"No module named '(\w+)'", error):
        command = f'pip install {distribution_of(found[1])}'
    elif found := _INCOMPATIBLE.search(error):
        needed = distribution_of(found['library'].lower())
        command = f'pip install "{needed}{found["low"]},{found["high"]}"'
    elif error.startswith('TimeoutError') or module.startswith('simim_'):
        # Nothing to install: let the user see where it stops.
        command = f'python -v -c "import {module}"'
    return Finding(module, problem, command)


def _check_pairs() -> list[Finding]:
    """Versions that do not go together, by what they say of themselves."""
    found = []
    torch = ''.join(distributions('torch').values()).partition('+')[0]
    vision = ''.join(distributions('torchvision').values())
    wanted = metadata.requires('torchvision') if vision else None
    pin = re.search(r'torch\s*\(?==\s*([\w.]+)', ' '.join(wanted or ()))
    if pin and torch and pin[1] != torch:
        found.append(
            Finding(
                'torchvision',
                f'torchvision {vision} is built for torch {pin[1]}, and '
                f'{torch} is installed',
                f'pip install torch=={torch} torchvision',
            )
        )
    users = [name for name in ('mmengine', 'openmim') if distributions(name)]
    users = [name for name in users if name in distributions(name)]
    if users and find_spec('pkg_resources') is None:
        found.append(
            Finding(
                'mmengine',
                f'{" and ".join(users)} of upstream OpenMMLab need '
                'pkg_resources, which new setuptools have no more',
                f'pip install {distribution_of("pkg_resources")}',
            )
        )
    return found


def _check_plugin() -> list[Finding]:
    """What is wrong with the plugin itself and its small libraries."""
    found = []
    if not distributions('simim_plugin'):
        found.append(
            Finding(
                'simim_plugin',
                'simim_plugin is only in a folder, not installed',
                f'pip install -e "{_checkout()}[{environment.stack()}]"',
            )
        )
    found += filter(None, map(environment.check_module, LIBRARIES))
    if _layout() is None:
        found.append(
            Finding(
                'simim_plugin',
                'the configs and tools of simim_plugin are gone',
                'pip install --no-deps --force-reinstall '
                f'simim_plugin=={__version__}',
            )
        )
    return found


def _is_plain(finding: Finding) -> bool:
    """Whether all that it takes is to install one distribution."""
    return bool(re.fullmatch(r'pip install [\w.-]+', finding.command)) and (
        finding.problem.endswith(' is not installed')
    )


def cores() -> int:
    """CPU cores that this process may use."""
    if hasattr(os, 'sched_getaffinity'):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def cpu_has_bf16(info: str = '/proc/cpuinfo') -> bool | None:
    """Whether the CPU computes in bf16 itself; None if it does not tell."""
    try:
        words = set(Path(info).read_text().split())
    except OSError:
        return None
    return bool(words & {'amx_bf16', 'avx512_bf16', 'bf16'})


def _checkout() -> Path | None:
    """The folder of the plugin's source, if it runs from there."""
    folder = _PACKAGE.parent
    return folder if (folder / 'configs').is_dir() else None


def _layout() -> str | None:
    """Where configs and tools of the plugin are, if anywhere."""
    if (_PACKAGE / '.mim' / 'configs').is_dir():
        return 'wheel: configs and tools in .mim'
    if (checkout := _checkout()) is not None:
        return f'source: configs and tools of {checkout}'
    return None


def _free(folder: str) -> int:
    """Bytes free on the disk of a folder, 0 if there is no such folder."""
    return shutil.disk_usage(folder).free if os.path.isdir(folder) else 0


def _has_nvidia() -> bool:
    return Path('/dev/nvidiactl').exists()


def _gib(size: int) -> str:
    return f'{size / 2**30:.1f} GiB'


if __name__ == '__main__':
    sys.exit(main())

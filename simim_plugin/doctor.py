"""What is wrong with this installation, and the commands that mend it.

Needs nothing but Python. The judgement and its sentences are those of
:mod:`simim_plugin.environment`; here the imports are tried, in a process of
their own that may crash or hang, and the machine is looked at.
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
from pathlib import Path
from typing import Any

from . import __version__, environment
from .environment import OPERATORS, STACKS, Finding

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
"""Of the keys of ``environment.TASKS`` the one that all of a task needs, and
those that parts of it need."""

OWN_MODULES = {
    'pretraining': ('models', 'datasets', 'engine'),
    'classification': ('models', 'datasets', 'engine', 'evaluation'),
    'detection': ('detection',),
    'segmentation': ('segmentation',),
}
"""The packages of the plugin that ``--thorough`` imports as well."""

TRIED_PYTHON = (3, 10), (3, 12)
IMPORT_SECONDS = 300.0
FEW_GIB = 5.0
SMALL_SHARED_GIB = 1.0

# Runs on its own: imports the modules it is given, one after the other, and
# writes one line of JSON for each, so that the one that kills it is known.
_PROBE = r"""
import importlib, json, sys

def say(**facts):
    report.write(json.dumps(facts) + '\n')
    report.flush()

def look_at(name, module):
    if name == 'torch':
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
    if name == 'mmcv._ext':
        return dict(built_for=module.get_compiling_cuda_version())
    return {}

with open(sys.argv[1], 'a') as report:
    for name in sys.argv[2:]:
        say(trying=name)
        try:
            say(done=name, **look_at(name, importlib.import_module(name)))
        except BaseException as error:
            text = ' '.join(str(error).split())
            say(failed=name, error=f'{type(error).__name__}: {text}')
            if name == 'torch':
                break  # a second try gives another error
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Returns:
        int: exit code, 0 if all that was asked for works.
    """
    args = parse_args(argv)
    checkup = Checkup(args.thorough)
    for heading, lines in (
        ('Machine', checkup.machine()),
        ('Packages', checkup.packages()),
        ('Tasks', checkup.tasks()),
        ('To mend it', checkup.commands()),
        ('Worth knowing', checkup.notes()),
    ):
        if lines:
            print(f'{heading}\n  ' + '\n  '.join(lines) + '\n')
    broken = [task for task in args.tasks if checkup.findings(task)]
    if broken:
        print(f'Asked for, and not working in full: {", ".join(broken)}.')
    else:
        print(f'All that was asked for works: {", ".join(args.tasks)}.')
    return int(bool(broken))


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Options of the command."""
    parser = argparse.ArgumentParser(
        prog='doctor',
        description='Say what of simim_plugin works here, and what mends the '
        'rest. Exits with 0 if all that was asked for works, else with 1.',
    )
    names = {task.lower(): task for task in TASKS}
    parser.add_argument(
        'tasks',
        nargs='*',
        metavar='TASK',
        help=f'what you need: {", ".join(TASKS)}, or all. Defaults to '
        'pretraining; the others are reported all the same',
    )
    parser.add_argument(
        '--thorough',
        action='store_true',
        help="import the plugin's own modules and the optional libraries "
        'too (takes longer)',
    )
    args = parser.parse_args(argv)
    tasks = [task.lower() for task in args.tasks] or ['pretraining']
    unknown = [task for task in tasks if task not in {*names, 'all'}]
    if unknown:
        parser.error(
            f'there is no task called {", ".join(unknown)}; name some of '
            f'{", ".join(TASKS)}, or all'
        )
    args.tasks = (
        list(TASKS) if 'all' in tasks else [names[task] for task in tasks]
    )
    return args


class Checkup:
    """All that was found out about this installation.

    Args:
        thorough (bool): whether to import the plugin's own modules and the
            optional libraries too.
    """

    def __init__(self, thorough: bool = False) -> None:
        self.thorough = thorough
        self.missing = {
            need: environment.check(need) for need in environment.TASKS
        }
        self.facts, failures = probe(self._modules())
        self.pairs = environment.check_pairs()
        self.broken = self._explained(failures)
        built = self.facts.get(OPERATORS, {}).get('built_for')
        if self._gpus() and built == 'not available':
            self.broken.append(environment.operators_for_cpu_only())
        self.plugin = environment.check_plugin(_checkout())
        if _layout() is None:
            self.plugin.append(environment.without_configs(__version__))
        self.mends = self._number_commands()

    def findings(self, task: str) -> list[Finding]:
        """All that is wrong with a task, each mending command once."""
        found = list(self.plugin)
        for need in TASKS[task]:
            found += self._findings_of(need)
        return list({f.command: f for f in reversed(found)}.values())[::-1]

    def machine(self) -> list[str]:
        """Python, processor, GPUs and free space."""
        lines = [
            f'Python {platform.python_version()} ({sys.executable})',
            f'{platform.system()} {platform.machine()}, {cores()} CPU cores, '
            f'bf16 {self._cpu_bf16()}',
        ]
        for i, (name, memory, *capability) in enumerate(self._gpus()):
            bf16 = '' if capability >= [8, 0] else 'no '
            lines.append(
                f'GPU {i}: {name}, {_gib(memory)}, {bf16}bf16 in hardware'
            )
        if not self._gpus():
            lines.append('no GPU in use')
        here = shutil.disk_usage('.').free
        space = f'{_gib(here)} free on the disk of {Path.cwd()}'
        shared = _shared_memory()
        if shared is not None:
            space += f', {_gib(shared)} of shared memory'
        return [*lines, space]

    def packages(self) -> list[str]:
        """Version, distribution and build of every library of the stack."""
        rows = [('simim_plugin', __version__, _layout() or 'without configs')]
        for module in ('torch', 'torchvision', 'numpy', *STACKS):
            owners = environment.distributions(module)
            version = ' and '.join(dict.fromkeys(owners.values())) or '-'
            about = ''
            if module in STACKS:
                about = ' and '.join(owners) or 'not installed'
                if owners and set(owners) <= {STACKS[module][0]}:
                    about += ' (OneDL fork)'
                elif owners and STACKS[module][0] not in owners:
                    about += ' (upstream)'
            elif not owners:
                about = 'not installed'
            rows.append((module, version, about + self._build(module)))
        return [
            f'{module:13} {version:14} {about}'.rstrip()
            for module, version, about in rows
        ]

    def tasks(self) -> list[str]:
        """One line for each task; a problem is told once, then numbered."""
        lines, told = [], set[int]()
        for task, (all_of_it, *_) in TASKS.items():
            problems = dict[int, list[str]]()
            for finding in self.findings(task):
                number = [*self.mends].index(self._mend(finding)) + 1
                problems.setdefault(number, []).append(finding.problem)
            whole = not self.plugin and not self._findings_of(all_of_it)
            state = 'works'
            if problems:
                state = 'works in part: ' if whole else 'does not work: '
                state += '; '.join(
                    f'[{number}]'
                    if number in told
                    else f'{_joined(clauses)} [{number}]'
                    for number, clauses in problems.items()
                )
            told |= problems.keys()
            lines.append(f'{task:15} {state}')
        return lines

    def commands(self) -> list[str]:
        """The mending commands, numbered as in :meth:`tasks`."""
        return [f'[{i}] {c}' for i, c in enumerate(self.mends.values(), 1)]

    def notes(self) -> list[str]:
        """What stops no task but may surprise."""
        notes = []
        low, high = TRIED_PYTHON
        if not low <= sys.version_info[:2] <= high:
            notes.append(
                f'Python {platform.python_version()} was never tried; the '
                'test suite ran on 3.11, and 3.10 and 3.12 were installed on.'
            )
        if 'torch' in self.facts and not self._gpus() and _has_nvidia():
            built = self.facts['torch']['cuda']
            why = (
                f'its driver is older than CUDA {built} needs, or '
                'CUDA_VISIBLE_DEVICES hides it'
                if built
                else 'torch is built for the CPU alone'
            )
            notes.append(
                f'There is an NVIDIA GPU that torch does not use: {why}.'
            )
        old = [gpu for gpu in self._gpus() if gpu[2:] < [8, 0]]
        if old:
            notes.append(
                f'{old[0][0]} has no bf16: take the fp16 configs, '
                'or leave --amp out.'
            )
        if not self._gpus() and cpu_has_bf16() is False:
            notes.append(
                'This CPU emulates bf16, which is slower than float32: '
                'leave --amp out.'
            )
        if shutil.disk_usage('.').free < FEW_GIB * 2**30:
            notes.append(
                f'Less than {FEW_GIB:.0f} GiB are free here, where '
                'work_dirs/ with the checkpoints will be: choose another '
                '--work-dir.'
            )
        shared = _shared_memory()
        if shared is not None and shared < SMALL_SHARED_GIB * 2**30:
            notes.append(
                f'/dev/shm has {_gib(shared)} free, through which loader '
                'workers hand over images: start the container with '
                '--shm-size=8g, or set num_workers=0.'
            )
        return notes

    def _modules(self) -> list[str]:
        """What to import: all that is not known to be missing."""
        missing = {f.module for found in self.missing.values() for f in found}
        wanted = list(
            dict.fromkeys(
                module
                for needs in environment.TASKS.values()
                for module in needs
                if self.thorough or module in _QUICK
            )
        )
        # The operators need torch in memory, and so come last of the stack.
        own = [
            f'simim_plugin.{name}'
            for need, names in OWN_MODULES.items()
            if self.thorough and not self.missing[need]
            for name in names
        ]
        found = [module for module in wanted if module not in missing]
        if 'mmcv' in missing and OPERATORS in found:
            found.remove(OPERATORS)
        return [*found, *dict.fromkeys(own)]

    def _explained(self, failures: dict[str, str]) -> list[Finding]:
        """One finding for each cause: what imports it fails as it does."""
        known = {f.module for f in self.pairs}
        seen = set[str]()
        found = []
        for module, error in failures.items():
            if error not in seen and module not in known:
                found.append(environment.explain(module, error))
            seen.add(error)
        return found

    def _findings_of(self, need: str) -> list[Finding]:
        """What is missing, does not go together, or does not import."""
        own = [f'simim_plugin.{name}' for name in OWN_MODULES.get(need, ())]
        modules = {*environment.TASKS[need], *own}
        return self.missing[need] + [
            finding
            for finding in [*self.pairs, *self.broken]
            if finding.module in modules
        ]

    def _number_commands(self) -> dict[str, str]:
        """The commands, with one for all that the same tasks lack."""
        commands = dict[str, str]()
        for task in TASKS:
            for finding in self.findings(task):
                key = self._mend(finding)
                if key not in commands:
                    commands[key] = finding.command
                elif _plain(finding) and _plain(finding) not in (
                    commands[key].split()
                ):
                    commands[key] += f' {_plain(finding)}'
        return commands

    def _mend(self, finding: Finding) -> str:
        """What findings share that are mended by one command."""
        if not _plain(finding):
            return finding.command
        return ' '.join(
            task
            for task in TASKS
            if finding.command in {f.command for f in self.findings(task)}
        )

    def _gpus(self) -> list[list[Any]]:
        return self.facts.get('torch', {}).get('gpus', [])

    def _build(self, module: str) -> str:
        """What a library was built for, as it says itself."""
        facts = self.facts.get(module, {})
        if module == 'torch' and 'cuda' in facts:
            cuda = facts['cuda']
            return f'built for CUDA {cuda}' if cuda else 'for the CPU alone'
        if module == 'mmcv' and environment.distributions('mmcv'):
            built = self.facts.get(OPERATORS, {}).get('built_for')
            if built is None:
                return ', no usable operators'
            cuda = 'the CPU' if built == 'not available' else f'CUDA {built}'
            return f', operators for {cuda}'
        return ''

    def _cpu_bf16(self) -> str:
        has = cpu_has_bf16()
        return (
            'unknown'
            if has is None
            else ('' if has else 'not ') + ('in hardware')
        )


_QUICK = {'torch', 'torchvision', *STACKS, OPERATORS}


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
    with tempfile.TemporaryDirectory() as folder:
        while left and 'torch' not in failures:  # which all others need
            report = Path(folder, 'report')
            report.unlink(missing_ok=True)
            end = _run_probe([str(report), *left], folder, seconds)
            text = report.read_text() if report.exists() else ''
            for line in text.splitlines():
                said = json.loads(line)
                if 'failed' in said:
                    failures[said['failed']] = said['error'][:300]
                elif 'done' in said:
                    facts[said.pop('done')] = said
            known = {*facts, *failures}
            left = [module for module in left if module not in known]
            if left and 'torch' not in failures:
                # It did not come back from this one, or died before it.
                failures[left.pop(0)] = end
            if not text:  # so it would be for every other
                break
    return facts, failures


def _run_probe(words: list[str], folder: str, seconds: float) -> str:
    """Run the process; how it ended, if it did not as it should."""
    quiet = subprocess.DEVNULL
    try:
        # From an empty folder: what is not installed is not found there.
        done = subprocess.run(
            [sys.executable, *_flags(), '-c', _PROBE, *words],
            cwd=folder,
            stdout=quiet,
            stderr=quiet,
            stdin=quiet,
            timeout=seconds,
        )
    except subprocess.TimeoutExpired:
        return f'TimeoutError: not done after {seconds:.0f} s'
    if done.returncode < 0:
        return f'Crash: {signal.Signals(-done.returncode).name}'
    return f'Crash: exit code {done.returncode}'


def _flags() -> list[str]:
    """The isolation that this process was started with."""
    flags = dict(S=sys.flags.no_site, E=sys.flags.ignore_environment)
    return [f'-{name}' for name, is_set in flags.items() if is_set]


def cores() -> int:
    """CPU cores that this process may use."""
    if hasattr(os, 'sched_getaffinity'):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def cpu_has_bf16(info: str = '/proc/cpuinfo') -> bool | None:
    """Whether the CPU computes in bf16 itself; None if it does not tell."""
    try:
        text = Path(info).read_text()
    except OSError:
        return None
    words = set(text.split())
    return bool(words & {'amx_bf16', 'avx512_bf16', 'bf16'})


def _plain(finding: Finding) -> str:
    """The distribution, if all that it takes is to install one."""
    found = re.fullmatch(r'pip install ([\w.-]+)', finding.command)
    return found[1] if found else ''


def _joined(problems: Sequence[str]) -> str:
    """Problems with one command, in as few words as possible."""
    end = ' is not installed'
    if len(problems) == 1 or not all(p.endswith(end) for p in problems):
        return '; '.join(problems)
    names = ', '.join(p.removesuffix(end) for p in problems)
    return f'{names} are not installed'


def _checkout() -> Path | None:
    """The folder of the plugin's source, if it runs from there."""
    folder = Path(__file__).resolve().parent.parent
    return folder if (folder / 'configs').is_dir() else None


def _layout() -> str | None:
    """Where configs and tools of the plugin are, if anywhere."""
    package = Path(__file__).resolve().parent
    if (package / '.mim' / 'configs').is_dir():
        return 'wheel: configs and tools in .mim'
    if (checkout := _checkout()) is not None:
        return f'source: configs and tools of {checkout}'
    return None


def _shared_memory() -> int | None:
    """Bytes free for what processes hand to each other."""
    try:
        return shutil.disk_usage('/dev/shm').free
    except OSError:
        return None


def _has_nvidia() -> bool:
    return Path('/dev/nvidiactl').exists()


def _gib(size: int) -> str:
    return f'{size / 2**30:.1f} GiB'


if __name__ == '__main__':
    sys.exit(main())

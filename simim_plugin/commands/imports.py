"""Import libraries in another process, and explain those that fail."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..environment import Finding, distribution_of, distributions

SCRIPT = Path(__file__).resolve().with_name('import_probe.py')
IMPORT_SECONDS = 300.0


def probe(
    modules: Sequence[str], seconds: float = IMPORT_SECONDS
) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """Import modules in another process, and again without one that kills it.

    Args:
        modules (Sequence[str]): in the order of import.
        seconds (float): limit after which an import counts as hanging.

    Returns:
        tuple[dict, dict]: the facts of each module that imports, and the
        error of each other one, as 'ImportError: message'.
    """
    facts: dict[str, dict[str, Any]] = {}
    failures: dict[str, str] = {}
    left = list(modules)
    flags = ['-S'] * sys.flags.no_site + ['-E'] * sys.flags.ignore_environment
    script = [sys.executable, *flags, str(SCRIPT), str(SCRIPT.parents[2])]
    quiet = subprocess.DEVNULL
    while left and 'torch' not in failures:  # all others need torch
        try:
            done = subprocess.run(
                [*script, *left],
                stdin=quiet,
                stdout=subprocess.PIPE,
                stderr=quiet,
                timeout=seconds,
            )
            output, code = done.stdout, done.returncode
            name = signal.Signals(-code).name if code < 0 else ''
            end = f'Crash: {name or f"exit code {code}"}'
        except subprocess.TimeoutExpired as error:
            output = error.stdout or b''
            end = f'TimeoutError: not done after {seconds:.0f} s'
        for name, result in map(json.loads, output.splitlines()):
            known = failures if isinstance(result, str) else facts
            known[name] = result
            left.remove(name)
        if left and 'torch' not in failures:
            failures[left.pop(0)] = end
    return facts, failures


_IMPORT_ERRORS = (
    (
        r'torchvision::\w+ does not exist|different CUDA',
        ': it was built for another torch, or for a GPU where torch is not',
        'pip uninstall -y torch torchvision && pip install torch torchvision',
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
"""Known errors of imports, their causes, and the commands for them."""

_INCOMPATIBLE = re.compile(
    r'(?P<library>mm\w+)==\S+ is used but incompatible.*install '
    r'\w+(?P<low>>=?[\w.]+), ?(?P<high><=?[\w.]*\w)',
    re.IGNORECASE,
)
"""The errors by which OpenMMLab's libraries refuse each other."""


def explain(module: str, error: str) -> Finding:
    """Return the finding for an installed library that does not import.

    Args:
        module (str): import name of the library.
        error (str): of the import, as 'ImportError: message'.
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
        # No install helps: show the user where the import stops.
        command = f'python -v -c "import {module}"'
    return Finding(module, problem, command)

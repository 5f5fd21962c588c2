"""The one check that the libraries a task needs are there and whole.

Every OpenMMLab library exists as two distributions that install files of the
same names: upstream's (``mmengine``) and the maintained OneDL fork's
(``onedl-mmengine``). Installed over each other, or half removed, they fail
far from the cause. The check looks at modules and at distributions, imports
neither, and so works where nothing can be imported. The sentences about what
goes wrong at import stand here too; ``doctor.py`` tries the imports.
"""

from __future__ import annotations

import os
import platform
import re
import sys
from dataclasses import dataclass
from importlib import metadata
from importlib.machinery import PathFinder
from importlib.util import find_spec
from pathlib import Path

from .errors import SimimError

ONEDL, OPENMMLAB = 0, 1
STACKS: dict[str, tuple[str, str]] = {
    'mmengine': ('onedl-mmengine', 'mmengine'),
    'mmcv': ('onedl-mmcv', 'mmcv'),
    'mmpretrain': ('onedl-mmpretrain', 'mmpretrain'),
    'mmdet': ('onedl-mmdetection', 'mmdet'),
    'mmseg': ('onedl-mmsegmentation', 'mmsegmentation'),
}
"""Import name to distribution, in the OneDL stack and in upstream's."""

VARIANTS = {
    'mmengine': ['mmengine-lite'],
    'mmcv': ['mmcv-full', 'mmcv-lite'],
    'imagecorruptions': ['imagecorruptions'],
}
"""Further distributions that own the same import name."""

RENAMED = {
    'PIL': 'pillow',
    'cv2': 'opencv-python-headless',
    'imagecorruptions': 'imagecorruptions-imaug',
    'pkg_resources': 'setuptools',
    'skimage': 'scikit-image',
    'sklearn': 'scikit-learn',
    'yaml': 'pyyaml',
}
"""Import name to distribution, of other libraries where the two differ."""

OPERATORS = 'mmcv._ext'
"""The module of mmcv's compiled operators."""

_BASE = ('torch', 'torchvision', 'mmengine', 'mmcv', 'mmpretrain')
LIBRARIES = ('numpy', 'PIL', 'cv2', 'matplotlib', 'tqdm')
"""Small ones that the plugin itself imports, for whatever task."""

TASKS: dict[str, tuple[str, ...]] = {
    'pretraining': _BASE,
    'classification': _BASE,
    'detection': (*_BASE, 'mmdet'),
    # Upstream's mmseg imports ftfy and regex without asking for them.
    'segmentation': (*_BASE, 'mmseg', 'ftfy', 'regex'),
    'LVIS evaluation': ('lvis',),
    'logistic regression': ('sklearn',),
    'logistic regression with cyanure': ('cyanure',),
    'image corruption': ('imagecorruptions',),
    'use of safetensors': ('safetensors',),
    'export to timm': ('timm',),
    'export to Hugging Face': ('transformers',),
    'export to ONNX': ('onnx', 'onnxscript', 'onnxruntime'),
}
"""The modules that each task imports."""


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong with the environment.

    Args:
        module (str): import name of the library concerned.
        problem (str): what is wrong, a clause without full stop.
        command (str): the command that mends it.
    """

    module: str
    problem: str
    command: str


class MissingDependency(ImportError):
    """A library that a task needs is missing, damaged or there twice.

    Args:
        task (str): what was to be done.
        findings (list[Finding]): everything that is wrong, at least one.
    """

    def __init__(self, task: str, findings: list[Finding]) -> None:
        self.findings = findings
        problems = '; '.join(finding.problem for finding in findings)
        commands = ' && '.join(finding.command for finding in findings)
        super().__init__(
            f'Cannot do {task}: {problems}; mend it with `{commands}`.'
        )


def share_cores() -> None:
    """Let waiting OpenMP threads sleep instead of spin.

    Spinning ones starve each other as soon as anything else runs: beside
    other jobs on 2 cores a training step took 0.6 instead of 3.9 s with
    this. Has an effect only before torch is imported.
    """
    os.environ.setdefault('OMP_WAIT_POLICY', 'PASSIVE')


def require(task: str) -> None:
    """Raise unless all that a task needs is installed, once and whole.

    Args:
        task (str): a key of ``TASKS``.

    Raises:
        MissingDependency: in one sentence, with the mending command.
        ValueError: if there is no such task.
    """
    findings = check(task)
    if findings:
        raise MissingDependency(task, findings)


def require_in_configs(task: str) -> None:
    """As :func:`require`, for modules that configs import.

    Of an ImportError in ``custom_imports`` mmengine tells another sentence.

    Args:
        task (str): a key of ``TASKS``.

    Raises:
        SimimError: in one sentence, with the mending command.
    """
    try:
        require(task)
    except MissingDependency as error:
        raise SimimError(str(error)) from None


def check(task: str) -> list[Finding]:
    """List what is wrong with the libraries a task needs.

    Args:
        task (str): a key of ``TASKS``.

    Returns:
        list[Finding]: in the order of import; empty if all is well.

    Raises:
        ValueError: if there is no such task.
    """
    if task not in TASKS:
        raise ValueError(
            f"There is no task called '{task}': use one of {', '.join(TASKS)}."
        )
    findings = [_check_module(module) for module in TASKS[task]]
    return [finding for finding in findings if finding is not None]


def check_plugin(checkout: Path | None) -> list[Finding]:
    """List what is wrong with the plugin itself and its small libraries.

    Args:
        checkout (Path, optional): the folder of its source, if it is used
            from there.
    """
    extra = ('onedl', 'openmmlab')[_stack()]
    found = []
    if _version('simim_plugin') is None:
        found.append(
            Finding(
                'simim_plugin',
                'simim_plugin is only in a folder, not installed',
                f'pip install -e "{checkout or "."}[{extra}]"',
            )
        )
    found += [
        Finding(
            module,
            f'{module} is not installed',
            f'pip install {_name(module)}',
        )
        for module in LIBRARIES
        if not _is_whole(module)
    ]
    return found


def without_configs(version: str) -> Finding:
    """What to do if the plugin's configs are gone."""
    return Finding(
        'simim_plugin',
        'the configs and tools of simim_plugin are gone',
        f'pip install --no-deps --force-reinstall simim_plugin=={version}',
    )


def operators_for_cpu_only() -> Finding:
    """What to do about operators without CUDA where there is a GPU."""
    return Finding(
        OPERATORS,
        'the compiled operators of mmcv are for the CPU alone, and there is '
        'a GPU',
        f'export FORCE_CUDA=1 && {build_operators()}',
    )


def check_pairs() -> list[Finding]:
    """List the versions that are known not to work together.

    Judged by what the distributions say of themselves: a build of one's own
    may work all the same, so no task is refused for it.

    Returns:
        list[Finding]: ``module`` is the library that fails.
    """
    pairs = (
        _check_torchvision(),
        _check_numpy(),
        _check_generation(),
        _check_setuptools(),
    )
    return [finding for finding in pairs if finding is not None]


def explain(module: str, error: str) -> Finding:
    """What to do about a library that is there and does not import.

    Args:
        module (str): import name of the library, or ``OPERATORS``.
        error (str): what the import raised, as 'ImportError: message'.
    """
    owners = distributions(module.partition('.')[0])
    name, version = next(iter(owners.items()), (module, ''))
    problem = f'{f"{module} {version}".strip()} does not import ({error})'
    for pattern, why, command in _IMPORT_ERRORS:
        if found := re.search(pattern, error):
            return Finding(
                module, problem + why, command.format(*found.groups())
            )
    if found := re.search(r"No module named '(\w+)'", error):
        return Finding(module, problem, f'pip install {_name(found[1])}')
    if found := _INCOMPATIBLE.search(error):
        needed = _name(found['library'].lower())
        bounds = f'{found["low"]},{found["high"]}'
        return Finding(module, problem, f'pip install "{needed}{bounds}"')
    if error.startswith('TimeoutError') or module.startswith('simim_plugin.'):
        # Nothing to install: let the user see where it stops.
        return Finding(module, problem, f'python -v -c "import {module}"')
    if module == OPERATORS:
        why = ': its operators were built for another torch'
        return Finding(module, problem + why, build_operators())
    pinned = f'{name}=={version}' if version else name
    return Finding(
        module,
        problem,
        f'pip install --no-deps --force-reinstall {pinned}',
    )


_TOGETHER = 'pip uninstall -y torch torchvision && pip install torch{}'
_IMPORT_ERRORS = (
    (
        r'torchvision::\w+ does not exist',
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


def distributions(module: str) -> dict[str, str]:
    """The installed distributions that own a module, name to version.

    Args:
        module (str): import name of a library.

    Returns:
        dict[str, str]: more than one entry means that the files of one were
        overwritten by the other.
    """
    own = (RENAMED.get(module, module),)
    names = [*STACKS.get(module, own), *VARIANTS.get(module, [])]
    found = {}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _check_module(module: str) -> Finding | None:
    """What is wrong with one library, if anything."""
    if module == OPERATORS:
        return _check_operators()
    owners = distributions(module)
    if len(owners) > 1:
        # The first is the OneDL fork where it is there: the tested one.
        keep, version = next(iter(owners.items()))
        return Finding(
            module,
            f'{module} is installed from {" and ".join(owners)}, each of '
            "which overwrites the other's files",
            f'pip uninstall -y {" ".join(owners)} && '
            f'pip install --no-deps {keep}=={version}',
        )
    if _is_whole(module):
        return _check_transformers() if module == 'mmpretrain' else None
    if owners:
        ((name, version),) = owners.items()
        return Finding(
            module,
            f'{name} is installed, but files of {module} are gone',
            f'pip install --no-deps --force-reinstall {name}=={version}',
        )
    return Finding(
        module, f'{module} is not installed', f'pip install {_name(module)}'
    )


def _check_transformers() -> Finding | None:
    """Whether mmpretrain's multimodal models, if it has them, import."""
    version = _version('transformers')
    if _version('pycocotools') is None or _numbers(version) < (5,):
        return None
    return Finding(
        'mmpretrain',
        f'mmpretrain does not import beside transformers {version}',
        'pip install "transformers<5"',
    )


def _name(module: str) -> str:
    """The distribution to install a library from."""
    if module in STACKS:
        return STACKS[module][_stack()]
    return RENAMED.get(module, module)


def _check_operators() -> Finding | None:
    """Whether mmcv, where it is whole, has its compiled operators."""
    spec = find_spec('mmcv')
    if spec is None or spec.origin is None:
        return None  # reported as mmcv
    if PathFinder.find_spec(OPERATORS, spec.submodule_search_locations):
        return None
    return Finding(
        OPERATORS,
        f'mmcv has no compiled operators ({OPERATORS})',
        build_operators(),
    )


def build_operators() -> str:
    """The command that builds mmcv's operators for the installed torch."""
    name = STACKS['mmcv'][_stack()]
    owners = distributions('mmcv')
    if name in owners:
        name = f'{name}=={owners[name]}'
    # torch 2.1, the last that upstream's mmcv was built for, needs an old one.
    bounds = ('>=80,<82', '<70')[_stack()]
    return (
        f'pip install "setuptools{bounds}" wheel packaging ninja psutil && '
        'pip install --no-deps --force-reinstall --no-cache-dir '
        f'--no-build-isolation {name}'
    )


def _check_torchvision() -> Finding | None:
    """Whether torchvision was built for this very torch."""
    torch, vision = _version('torch'), _version('torchvision')
    if not torch or not vision:
        return None
    builds = _build(torch), _build(vision)
    # 'CUDA' is some version of it.
    alike = builds[0].startswith(builds[1]) or builds[1].startswith(builds[0])
    if not alike:
        return Finding(
            'torchvision',
            f'torch {torch} is built for {builds[0]} and torchvision '
            f'{vision} for {builds[1]}',
            _TOGETHER.format(f'=={_public(torch)} torchvision'),
        )
    for wanted in metadata.requires('torchvision') or ():
        pin = re.match(r'torch\s*\(?==\s*([^\s;)]+)', wanted)
        if pin and _public(pin[1]) != _public(torch):
            return Finding(
                'torchvision',
                f'torchvision {vision} is built for torch {pin[1]}, and '
                f'{torch} is installed',
                f'pip install torch=={_public(torch)} torchvision',
            )
    return None


def _check_numpy() -> Finding | None:
    """Whether torch, built for NumPy 1 until 2.2, meets NumPy 2."""
    torch, numpy = _version('torch'), _version('numpy')
    if not torch or _numbers(torch) >= (2, 3) or _numbers(numpy) < (2,):
        return None
    return Finding(
        'torch',
        f'torch {torch} cannot exchange arrays with numpy {numpy}',
        'pip install "numpy<2"',
    )


def _check_generation() -> Finding | None:
    """Whether mmcv is of the generation before MMEngine."""
    for name, version in distributions('mmcv').items():
        if _numbers(version) < (2,):
            return Finding(
                'mmcv',
                f'{name} {version} is of the generation before MMEngine',
                f'pip uninstall -y {name} && pip install {_name("mmcv")}',
            )
    return None


def _check_setuptools() -> Finding | None:
    """Whether upstream's mmengine and mim find ``pkg_resources``."""
    users = [
        name for name in ('mmengine', 'openmim') if _version(name) is not None
    ]
    if not users or find_spec('pkg_resources') is not None:
        return None
    return Finding(
        'mmengine',
        f'{" and ".join(users)} of upstream OpenMMLab need pkg_resources, '
        'which new setuptools have no more',
        'pip install "setuptools<70"',
    )


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _public(version: str) -> str:
    """Without the local part, such as ``+cu126``."""
    return version.partition('+')[0]


def _numbers(version: str | None) -> tuple[int, ...]:
    """The release as numbers, () of nothing."""
    return tuple(map(int, re.findall(r'\d+', (version or '').split('+')[0])))


def _build(version: str) -> str:
    """What a torch or torchvision is built for, '' if it does not tell."""
    local = version.partition('+')[2]
    if cuda := re.match(r'cu(\d+)\d$', local):
        return f'CUDA {cuda[1]}'
    if local == 'cpu':
        return 'the CPU alone'
    # The package index has CUDA builds for these machines only.
    common = sys.platform == 'linux' and platform.machine() == 'x86_64'
    return 'CUDA' if common and not local else ''


def _is_whole(module: str) -> bool:
    """Whether the module can be found with its ``__init__``.

    What an uninstall leaves behind (caches, say) is found too, as a
    namespace package, which has no origin.
    """
    spec = find_spec(module)
    return spec is not None and spec.origin is not None


def _stack() -> int:
    """The stack to install from: upstream's if only that one is in use."""
    owners = {name for module in STACKS for name in distributions(module)}
    forks = {names[ONEDL] for names in STACKS.values()}
    return OPENMMLAB if owners and not owners & forks else ONEDL

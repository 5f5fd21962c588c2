"""The one check that the libraries a task needs are there and whole.

Every OpenMMLab library exists as two distributions that install files of the
same names: upstream's (``mmengine``) and the maintained OneDL fork's
(``onedl-mmengine``). Installed over each other, or half removed, they fail
far from the cause. The check looks at modules and at distributions, imports
neither, and so works where nothing can be imported.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import metadata
from importlib.machinery import PathFinder
from importlib.util import find_spec

ONEDL, OPENMMLAB = 0, 1
STACKS: dict[str, tuple[str, str]] = {
    'mmengine': ('onedl-mmengine', 'mmengine'),
    'mmcv': ('onedl-mmcv', 'mmcv'),
    'mmpretrain': ('onedl-mmpretrain', 'mmpretrain'),
    'mmdet': ('onedl-mmdetection', 'mmdet'),
    'mmseg': ('onedl-mmsegmentation', 'mmsegmentation'),
}
"""Import name to distribution, in the OneDL stack and in upstream's."""

VARIANTS = {'mmengine': ['mmengine-lite'], 'mmcv': ['mmcv-full', 'mmcv-lite']}
"""Further distributions of upstream's that own the same import name."""

OPERATORS = 'mmcv._ext'
"""The module of mmcv's compiled operators."""

_BASE = ('torch', 'torchvision', 'mmengine', 'mmcv', 'mmpretrain')
TASKS: dict[str, tuple[str, ...]] = {
    'pretraining': _BASE,
    'classification': _BASE,
    'detection': (*_BASE, 'mmdet', OPERATORS),
    'segmentation': (*_BASE, 'mmseg', OPERATORS),
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


def distributions(module: str) -> dict[str, str]:
    """The installed distributions that own a module, name to version.

    Args:
        module (str): import name of a library.

    Returns:
        dict[str, str]: more than one entry means that the files of one were
        overwritten by the other.
    """
    names = [*STACKS.get(module, (module,)), *VARIANTS.get(module, [])]
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
        return None
    if owners:
        ((name, version),) = owners.items()
        return Finding(
            module,
            f'{name} is installed, but files of {module} are gone',
            f'pip install --no-deps --force-reinstall {name}=={version}',
        )
    name = STACKS[module][_stack()] if module in STACKS else module
    return Finding(module, f'{module} is not installed', f'pip install {name}')


def _check_operators() -> Finding | None:
    """Whether mmcv, where it is whole, has its compiled operators."""
    spec = find_spec('mmcv')
    if spec is None or spec.origin is None:
        return None  # reported as mmcv
    if PathFinder.find_spec(OPERATORS, spec.submodule_search_locations):
        return None
    name = STACKS['mmcv'][_stack()]
    owners = distributions('mmcv')
    if name in owners:
        name = f'{name}=={owners[name]}'
    return Finding(
        OPERATORS,
        f'mmcv has no compiled operators ({OPERATORS})',
        'pip install "setuptools>=80,<82" wheel packaging ninja psutil && '
        'pip install --no-deps --force-reinstall --no-cache-dir '
        f'--no-build-isolation {name}',
    )


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

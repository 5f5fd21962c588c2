"""The one check that the libraries a task needs are there and whole.

Every OpenMMLab library exists as two distributions that install files of the
same names: upstream's (``mmengine``) and the maintained OneDL fork's
(``onedl-mmengine``). Installed over each other, or half removed, they fail
far from the cause. The check looks at modules and at distributions and
imports neither; ``doctor.py`` tries the imports.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec

from .errors import SimimError

STACKS: dict[str, tuple[str, str]] = {
    'mmengine': ('onedl-mmengine', 'mmengine'),
    'mmcv': ('onedl-mmcv', 'mmcv-lite'),
    'mmpretrain': ('onedl-mmpretrain', 'mmpretrain'),
    'mmdet': ('onedl-mmdetection', 'mmdet'),
    'mmseg': ('onedl-mmsegmentation', 'mmsegmentation'),
}
"""Import name to distribution, in the OneDL stack and in upstream's."""

VARIANTS = {
    'mmengine': ['mmengine-lite'],
    'mmcv': ['mmcv', 'mmcv-full'],
    'imagecorruptions': ['imagecorruptions'],
}
"""Further distributions that own the same import name."""

RENAMED = {
    'PIL': 'pillow',
    'cv2': 'opencv-python-headless',
    'imagecorruptions': 'imagecorruptions-imaug',
    # Newer ones have it no more; upstream's mmengine and mim import it.
    'pkg_resources': '"setuptools<70"',
    'skimage': 'scikit-image',
    'sklearn': 'scikit-learn',
    'yaml': 'pyyaml',
}
"""Import name to distribution, of other libraries where the two differ."""

_BASE = ('torch', 'torchvision', 'mmengine', 'mmcv', 'mmpretrain')

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
    'export to Hugging Face': ('safetensors', 'transformers'),
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


def leave_out_multimodal() -> None:
    """Import mmpretrain without its multimodal models where they fail.

    They use what transformers 5 no longer has, and all of mmpretrain fails
    with them. Has an effect only before ``mmpretrain.models`` is imported.
    """
    transformers = distributions('transformers').get('transformers', '0')
    if int(transformers.partition('.')[0]) >= 5:
        from mmpretrain.utils import dependency

        dependency.WITH_MULTIMODAL = False


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
    findings = [check_module(module) for module in TASKS[task]]
    return [finding for finding in findings if finding is not None]


def check_module(module: str) -> Finding | None:
    """What is wrong with one library, if anything.

    Args:
        module (str): import name of the library.
    """
    owners = distributions(module)
    # The first is the OneDL fork where it is there: the tested one.
    keep, version = next(iter(owners.items()), ('', ''))
    if len(owners) > 1:
        return Finding(
            module,
            f'{module} is installed from {" and ".join(owners)}, each of '
            "which overwrites the other's files",
            f'pip uninstall -y {" ".join(owners)} && '
            f'pip install --no-deps {keep}=={version}',
        )
    # What an uninstall leaves behind (caches, say) is found too, as a
    # namespace package, which has no origin.
    spec = find_spec(module)
    if spec is not None and spec.origin is not None:
        return None
    if owners:
        return Finding(
            module,
            f'{keep} is installed, but files of {module} are gone',
            f'pip install --no-deps --force-reinstall {keep}=={version}',
        )
    return Finding(
        module,
        f'{module} is not installed',
        f'pip install {distribution_of(module)}',
    )


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


def distribution_of(module: str) -> str:
    """The distribution to install a library from, in the stack in use.

    Args:
        module (str): import name of the library.
    """
    if module not in STACKS:
        return RENAMED.get(module, module)
    return STACKS[module][('onedl', 'openmmlab').index(stack())]


def stack() -> str:
    """The extra to install with: 'openmmlab' if only upstream's is in use."""
    owners = {name for module in STACKS for name in distributions(module)}
    forks = {fork for fork, _ in STACKS.values()}
    return 'openmmlab' if owners and not owners & forks else 'onedl'

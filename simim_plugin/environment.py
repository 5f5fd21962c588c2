"""Check that the libraries of a task are installed, each of them once.

Every OpenMMLab library exists as two distributions that install the same
files: upstream (``mmengine``) and the maintained OneDL fork
(``onedl-mmengine``). If both are installed, or one is partly removed, errors
appear far from the cause. The check inspects modules and distributions
without importing them; ``tools/doctor.py`` tries the imports, too.
"""

from __future__ import annotations

import importlib
import os
import re
import sys
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

from .errors import SimimError, Trouble

STACKS: dict[str, tuple[str, str]] = {
    'mmengine': ('onedl-mmengine', 'mmengine'),
    'mmcv': ('onedl-mmcv', 'mmcv-lite'),
    'mmpretrain': ('onedl-mmpretrain', 'mmpretrain'),
    'mmdet': ('onedl-mmdetection', 'mmdet'),
    'mmseg': ('onedl-mmsegmentation', 'mmsegmentation'),
}
"""Import name to distribution, in the OneDL and the upstream stack."""

VARIANTS = {
    'mmengine': ['mmengine-lite'],
    'mmcv': ['mmcv', 'mmcv-full'],
    'imagecorruptions': ['imagecorruptions'],
}
"""Import name to other distributions that provide it."""

RENAMED = {
    'PIL': 'pillow',
    'cv2': 'opencv-python-headless',
    'imagecorruptions': 'imagecorruptions-imaug',
    # Upstream's mmengine and mim import it; newer setuptools lack it.
    'pkg_resources': '"setuptools<70"',
    'skimage': 'scikit-image',
    'sklearn': 'scikit-learn',
    'yaml': 'pyyaml',
}
"""Import name to distribution, for other libraries with two names."""

_BASE = ('torch', 'torchvision', 'mmengine', 'mmcv', 'mmpretrain')

TASKS: dict[str, tuple[str, ...]] = {
    'pretraining': _BASE,
    'classification': _BASE,
    'detection': (*_BASE, 'mmdet'),
    # Upstream's mmseg imports ftfy and regex but does not require them.
    'segmentation': (*_BASE, 'mmseg', 'ftfy', 'regex'),
    'LVIS evaluation': ('lvis',),
    'logistic regression': ('sklearn',),
    'logistic regression with cyanure': ('cyanure',),
    'image corruption': ('imagecorruptions',),
    'reading of DICOM': ('pydicom',),
    'reading of more than three channels': ('tifffile',),
    'use of safetensors': ('safetensors',),
    'export to timm': ('timm',),
    'export to Hugging Face': ('safetensors', 'transformers'),
    'export to ONNX': ('onnx', 'onnxscript', 'onnxruntime'),
}
"""Task to the modules that it imports."""


@dataclass(frozen=True)
class Finding:
    """A fault of the environment.

    Args:
        module (str): import name of the library.
        problem (str): the fault, a clause without full stop.
        command (str): the command that repairs it.
    """

    module: str
    problem: str
    command: str


class MissingDependency(ImportError):
    """A library of a task is missing, damaged or installed twice.

    Args:
        task (str): a key of ``TASKS``.
        findings (list[Finding]): all faults, at least one.
    """

    def __init__(self, task: str, findings: list[Finding]) -> None:
        self.findings = findings
        problems = '; '.join(finding.problem for finding in findings)
        commands = ' && '.join(finding.command for finding in findings)
        super().__init__(
            f'Cannot do {task}: {problems}; fix it with `{commands}`; see '
            f'{Trouble.WRONG_STACK}.'
        )


def share_cores() -> None:
    """Let waiting OpenMP threads sleep instead of spin.

    Spinning threads starve each other when another process runs: beside other
    jobs on 2 cores, this shortened a training step from 3.9 to 0.6 s. It takes
    effect only before torch is imported.
    """
    os.environ.setdefault('OMP_WAIT_POLICY', 'PASSIVE')


def leave_out_multimodal() -> None:
    """Import mmpretrain without its multimodal models if they would fail.

    They need names that transformers 5 removed, and mmpretrain cannot be
    imported with them. This takes effect only before ``mmpretrain.models`` is
    imported.
    """
    transformers = distributions('transformers').get('transformers', '0')
    if int(transformers.partition('.')[0]) >= 5:
        from mmpretrain.utils import dependency

        dependency.WITH_MULTIMODAL = False


def import_mmpretrain_fast() -> None:
    """Import mmpretrain's models without mmdet and the multimodal models.

    mmpretrain imports all of mmdet for one layer (``ResLayerExtraNorm``), and
    transformers for its multimodal models. No command of this package needs
    either, and each starts in 0.6 times the CPU time without them. This has no
    effect on a library that is imported already.
    """
    if 'mmpretrain.models' in sys.modules:
        return
    from mmpretrain.utils import dependency

    dependency.WITH_MULTIMODAL = False
    hidden = 'mmdet' not in sys.modules
    if hidden:
        sys.modules['mmdet'] = None  # type: ignore[assignment]
    try:
        importlib.import_module('mmpretrain.models')
    finally:
        if hidden:
            del sys.modules['mmdet']


def require(task: str) -> None:
    """Raise unless all libraries of a task are installed, each of them once.

    Args:
        task (str): a key of ``TASKS``.

    Raises:
        MissingDependency: with the faults and the commands that repair them.
        ValueError: if there is no such task.
    """
    findings = check(task)
    if findings:
        raise MissingDependency(task, findings)


def require_in_configs(task: str) -> None:
    """Do the same as :func:`require` in modules that configs import.

    MMEngine replaces the message of an ImportError in ``custom_imports``.

    Args:
        task (str): a key of ``TASKS``.

    Raises:
        SimimError: with the message of the :class:`MissingDependency`.
    """
    try:
        require(task)
    except MissingDependency as error:
        raise SimimError(str(error)) from None


def check(task: str) -> list[Finding]:
    """List the faults of the libraries of a task.

    Args:
        task (str): a key of ``TASKS``.

    Returns:
        list[Finding]: in the order of import; empty if there are none.

    Raises:
        ValueError: if there is no such task.
    """
    if task not in TASKS:
        raise ValueError(
            f"There is no task called '{task}': use one of {', '.join(TASKS)}."
        )
    findings = map(check_module, TASKS[task])
    return [finding for finding in findings if finding is not None]


def check_module(module: str) -> Finding | None:
    """Return the fault of a library, or None.

    Args:
        module (str): import name of the library.
    """
    owners = distributions(module)
    # The OneDL fork, which we test most, comes first.
    keep, version = next(iter(owners.items()), ('', ''))
    if len(owners) > 1:
        return Finding(
            module,
            f'{module} is installed from {" and ".join(owners)}, each of '
            "which overwrites the other's files",
            f'pip uninstall -y {" ".join(owners)} && '
            f'pip install --no-deps {keep}=={version}',
        )
    # A folder that an uninstall leaves behind is found as a namespace
    # package, without origin.
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
    """Return the installed distributions that provide a module.

    Args:
        module (str): import name of a library.

    Returns:
        dict[str, str]: name to version. If there are several, one has
        overwritten the files of the others.
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
    """Return the distribution that provides a library in the present stack.

    Args:
        module (str): import name of the library.
    """
    if module not in STACKS:
        return RENAMED.get(module, module)
    return STACKS[module][('onedl', 'openmmlab').index(stack())]


def stack() -> str:
    """Return the extra of the present stack: 'onedl' or 'openmmlab'."""
    owners = {name for module in STACKS for name in distributions(module)}
    forks = {fork for fork, _ in STACKS.values()}
    return 'openmmlab' if owners and not owners & forks else 'onedl'


def cpu_has_bf16(info: str = '/proc/cpuinfo') -> bool | None:
    """Return whether the CPU computes in bf16; None if that is unknown."""
    try:
        words = set(Path(info).read_text().split())
    except OSError:
        return None
    return bool(words & {'amx_bf16', 'avx512_bf16', 'bf16'})


def usable_cores() -> int:
    """Return the number of CPU cores that this process may use."""
    if hasattr(os, 'sched_getaffinity'):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def resident_peak() -> int:
    """Return the largest resident memory of this process so far, bytes."""
    status = Path('/proc/self/status')
    if status.is_file():  # ru_maxrss is inherited from the parent there
        found = re.search(r'VmHWM:\s+(\d+) kB', status.read_text())
        if found:
            return int(found[1]) * 1024
    import resource  # Windows has none

    unit = 1 if sys.platform == 'darwin' else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit

"""The check and the doctor on fake installations with one fault each."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from simim_plugin import environment
from simim_plugin.commands import doctor, imports
from simim_plugin.commands.doctor import LIBRARIES
from simim_plugin.environment import STACKS

ROOT = Path(__file__).resolve().parent.parent
ONEDL, OPENMMLAB = 0, 1
TORCH = """
class version: cuda = None
class cuda:
    def device_count(): return 0
def from_numpy(array): return array
"""
GPU = """
class version: cuda = '12.6'
class cuda:
    def device_count(): return 1
    def get_device_properties(index):
        class gpu: name, total_memory, major, minor = 'Card', 2**34, {}, 0
        return gpu
def from_numpy(array): return array
"""
NEEDED = {m for modules in environment.TASKS.values() for m in modules}
OPTIONAL = NEEDED - {'torch', 'torchvision', *STACKS}


class Site:
    """A folder with the only packages that a bare Python finds."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def put(
        self,
        module: str,
        code: str = '',
        *,
        name: str = '',
        version: str = '2.1.0',
        requires: str = '',
    ) -> None:
        """Install a module, in place of an older one."""
        name = name or environment.RENAMED.get(module, module)
        known = f'{name.replace("-", "_")}-*.dist-info'
        for old in self.folder.glob(known):
            shutil.rmtree(old)
        info = self.folder / known.replace('*', version)
        info.mkdir()
        text = f'Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n'
        text += f'Requires-Dist: {requires}\n' if requires else ''
        (info / 'METADATA').write_text(text)
        self.write(module, code)

    def write(self, module: str, code: str) -> None:
        """Write a module's code, in place of an older one and its bytecode.

        Python takes bytecode for fresh if the source has the same length and
        the same second of change.
        """
        shutil.rmtree(self.folder / module, ignore_errors=True)
        (self.folder / module).mkdir()
        (self.folder / module / '__init__.py').write_text(code)

    def remove(self, module: str) -> None:
        shutil.rmtree(self.folder / module)
        for owner in self.folder.glob(f'*{module}-*.dist-info'):
            shutil.rmtree(owner)

    def stack(self, index: int = ONEDL) -> None:
        """Install all libraries of all tasks."""
        self.put('torch', TORCH)
        self.put('torchvision', requires='torch (==2.1.0)')
        for module in (*LIBRARIES, *OPTIONAL):
            self.put(module)
        zeros = 'def zeros(size): return size'
        self.put('numpy', zeros, version='1.26.4')
        for module, names in STACKS.items():
            self.put(module, name=names[index])
        self.write('pkg_resources', '')
        self.put('simim_plugin')
        shutil.rmtree(self.folder / 'simim_plugin')

    def python(self, *words: str, source: Path = ROOT) -> tuple[int, str]:
        """Return exit code and output of a Python with this site alone."""
        path = os.pathsep.join([str(self.folder), str(source)])
        done = subprocess.run(
            [sys.executable, '-S', *words],
            env={**os.environ, 'PYTHONPATH': path},
            cwd=self.folder,
            capture_output=True,
            text=True,
        )
        return done.returncode, done.stdout + done.stderr

    def doctor(self, *tasks: str, code: int, source: Path = ROOT) -> str:
        """Return the output of the doctor, which must exit with a code."""
        command = ('-m', 'simim_plugin.doctor', *tasks)
        ended, printed = self.python(*command, source=source)
        assert ended == code, printed
        assert code == 2 or 'Traceback' not in printed
        return printed

    def refusal(self, task: str) -> str:
        """Return the error sentence of a command that needs the task."""
        code = (
            f'from simim_plugin.environment import require as r; r({task!r})'
        )
        ended, printed = self.python('-c', code)
        assert ended == 1
        return printed.splitlines()[-1].partition('MissingDependency: ')[2]


@pytest.fixture
def site(tmp_path: Path) -> Site:
    folder = tmp_path / 'site'
    folder.mkdir()
    return Site(folder)


def tasks(printed: str) -> dict[str, str]:
    """Return the reported state of each task."""
    part = printed.split('Tasks\n')[1].split('\n\n')[0]
    return dict(line.split(maxsplit=1) for line in part.splitlines())


@pytest.mark.parametrize('index', [ONEDL, OPENMMLAB])
def test_a_whole_stack_works(site: Site, index: int) -> None:
    site.stack(index)
    printed = site.doctor('all', code=0)
    assert tasks(printed) == dict.fromkeys(doctor.TASKS, 'works')
    owner = ('(OneDL fork)', '(upstream)')[index]
    assert printed.count(owner) == len(STACKS)
    assert 'To fix it' not in printed
    assert f'source: configs and tools of {ROOT}' in printed


def test_nothing_but_python(site: Site) -> None:
    printed = site.doctor(code=1)
    for task, state in tasks(printed).items():
        assert state == 'does not work', task
    assert f'pip install -e "{ROOT}[onedl]"\n' in printed
    assert (
        '  numpy, PIL, cv2, matplotlib, tqdm, torch, torchvision, mmengine, '
        'mmcv, mmpretrain are not installed (all tasks):\n'
        '      pip install numpy pillow opencv-python-headless matplotlib '
        'tqdm torch torchvision onedl-mmengine onedl-mmcv onedl-mmpretrain\n'
    ) in printed
    assert '      pip install onedl-mmsegmentation ftfy regex\n' in printed


def test_the_script_runs_where_the_plugin_is_not_installed(
    site: Site,
) -> None:
    code, printed = site.python(str(ROOT / 'tools' / 'doctor.py'))
    assert code == 1 and 'Traceback' not in printed
    assert 'simim_plugin is only in a folder, not installed' in printed


@pytest.mark.parametrize('module', list(STACKS))
def test_two_stacks_over_each_other(site: Site, module: str) -> None:
    site.stack()
    fork, upstream = STACKS[module]
    site.put(module, name=upstream, version='0.9')
    task = {'mmdet': 'detection', 'mmseg': 'segmentation'}.get(
        module, 'pretraining'
    )
    assert site.refusal(task) == (
        f'Cannot do {task}: {module} is installed from {fork} and '
        f"{upstream}, each of which overwrites the other's files; fix it "
        f'with `pip uninstall -y {fork} {upstream} && '
        f'pip install --no-deps {fork}==2.1.0`; see '
        'docs/troubles.md#wrong-stack.'
    )
    assert f'{fork} and {upstream}\n' in site.doctor('all', code=1)


def test_a_variant_of_upstream_is_a_second_owner(site: Site) -> None:
    site.stack(OPENMMLAB)
    site.put('mmcv', name='mmcv-full')
    assert 'mmcv-lite and mmcv-full' in site.refusal('pretraining')


@pytest.mark.parametrize(
    ('index', 'name'), [(ONEDL, 'onedl-mmdetection'), (OPENMMLAB, 'mmdet')]
)
def test_a_missing_library_comes_from_the_stack_in_use(
    site: Site, index: int, name: str
) -> None:
    site.stack(index)
    shutil.rmtree(site.folder / 'mmdet')
    (owner,) = site.folder.glob(f'{name.replace("-", "_")}-*')
    shutil.rmtree(owner)
    assert site.refusal('detection') == (
        'Cannot do detection: mmdet is not installed; fix it with '
        f'`pip install {name}`; see docs/troubles.md#wrong-stack.'
    )
    printed = site.doctor('pretraining', 'lvis', code=1)
    assert printed.endswith('Asked for, and not working in full: LVIS.\n')
    assert f'(COCO, LVIS):\n      pip install {name}\n' in printed


def test_files_gone_or_only_leftovers(site: Site) -> None:
    site.stack()
    shutil.rmtree(site.folder / 'mmengine')
    (site.folder / 'mmpretrain' / '__init__.py').unlink()
    printed = site.refusal('pretraining')
    assert (
        'onedl-mmengine is installed, but files of mmengine are gone'
        in printed
    )
    assert '--force-reinstall onedl-mmengine==2.1.0 &&' in printed
    assert 'files of mmpretrain are gone' in printed


def test_an_unknown_task_is_an_error(site: Site) -> None:
    with pytest.raises(ValueError, match=r"'dreaming'.*pretraining"):
        environment.check('dreaming')
    assert 'no task called dreaming' in site.doctor('dreaming', code=2)


def test_check_imports_none_of_the_libraries() -> None:
    code = (
        'import sys, simim_plugin.environment as e\n'
        'for task in e.TASKS: e.check(task)\n'
        'modules = {m for task in e.TASKS.values() for m in task}\n'
        'assert not modules & set(sys.modules), modules & set(sys.modules)\n'
    )
    subprocess.run([sys.executable, '-c', code], check=True)


@pytest.mark.parametrize(
    ('module', 'error', 'printed', 'command'),
    [
        (
            'torchvision',
            'RuntimeError("operator torchvision::nms does not exist")',
            'it was built for another torch, or for a GPU where torch is not',
            'pip uninstall -y torch torchvision && pip install torch '
            'torchvision',
        ),
        (
            'mmcv',
            'ImportError("libGL.so.1: cannot open shared object file")',
            'this OpenCV needs a window system',
            '--force-reinstall opencv-python-headless',
        ),
        (
            'mmpretrain',
            'AssertionError("MMCV==1.7.2 is used but incompatible. Please '
            'install mmcv>=2.0.0rc4, <2.2.0.")',
            'mmpretrain 2.1.0 does not import (AssertionError: MMCV==1.7.2',
            'pip install "onedl-mmcv>=2.0.0rc4,<2.2.0"',
        ),
        (
            'mmcv',
            'ModuleNotFoundError("No module named \'yaml\'")',
            'mmcv 2.1.0 does not import (ModuleNotFoundError',
            'pip install pyyaml',
        ),
        (
            'mmcv',
            'SystemExit("no")',
            'mmcv 2.1.0 does not import (SystemExit: no)',
            'pip install --no-deps --force-reinstall onedl-mmcv==2.1.0',
        ),
    ],
)
def test_a_library_that_does_not_import(
    site: Site, module: str, error: str, printed: str, command: str
) -> None:
    site.stack()
    site.write(module, f'raise {error}')
    site.write('mmseg', f'import {module}')
    output = site.doctor(code=1)
    assert printed in output
    assert f'{command}\n' in output
    # Modules that import it fail with the same error.
    assert 'mmseg 2.1.0 does not import' not in output


@pytest.mark.parametrize(
    ('fault', 'end'),
    [('os.abort()', 'SIGABRT'), ('os._exit(3)', 'exit code 3')],
)
def test_a_library_that_kills_its_process(
    site: Site, fault: str, end: str
) -> None:
    site.stack()
    site.write('mmcv', f'import os; {fault}')
    printed = site.doctor(code=1)
    assert f'mmcv 2.1.0 does not import (Crash: {end})' in printed
    assert tasks(printed)['COCO'] == 'does not work'


def test_a_broken_torch_is_not_blamed_on_what_imports_it(site: Site) -> None:
    site.stack()
    site.write('torch', 'raise ImportError("libcudart.so.12: not there")')
    site.write('mmengine', 'raise ImportError("another error, as of torch")')
    printed = site.doctor(code=1)
    assert 'torch 2.1.0 does not import (ImportError: libcudart' in printed
    assert 'mmengine 2.1.0 does not import' not in printed


def test_a_hanging_import_is_reported(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.put('slow_one', 'import time; time.sleep(600)')
    site.put('fast_one')
    monkeypatch.setenv('PYTHONPATH', str(site.folder))
    facts, failures = imports.probe(['slow_one', 'fast_one'], seconds=3)
    assert facts == {'fast_one': {}}
    assert failures == {'slow_one': 'TimeoutError: not done after 3 s'}
    finding = imports.explain('slow_one', failures['slow_one'])
    assert finding.command == 'python -v -c "import slow_one"'


def test_a_python_that_dies_at_its_start_is_reported(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    (site.folder / 'sitecustomize.py').write_text('import os; os._exit(3)')
    monkeypatch.setenv('PYTHONPATH', str(site.folder))
    facts, failures = imports.probe(['torch', 'mmengine'])
    assert facts == {}
    assert failures == {'torch': 'Crash: exit code 3'}


def test_torch_and_torchvision_of_two_releases(site: Site) -> None:
    site.stack()
    site.put('torch', TORCH, version='2.2.0+cpu')
    printed = site.doctor(code=1)
    assert (
        'torchvision 2.1.0 is built for torch 2.1.0, and 2.2.0 is' in printed
    )
    assert 'pip install torch==2.2.0 torchvision\n' in printed


def test_arrays_that_torch_refuses(site: Site) -> None:
    site.stack()
    refuses = 'raise RuntimeError("Numpy is not available")'
    site.write('torch', TORCH.replace('return array', refuses))
    assert 'pip install "numpy<2"\n' in site.doctor(code=1)


def test_upstream_without_pkg_resources(site: Site) -> None:
    site.stack(OPENMMLAB)
    shutil.rmtree(site.folder / 'pkg_resources')
    site.put('openmim')
    printed = site.doctor(code=1)
    assert 'mmengine and openmim of upstream OpenMMLab need pkg_res' in printed
    assert 'pip install "setuptools<70"\n' in printed


def test_gpus(site: Site) -> None:
    site.stack()
    site.write('torch', GPU.format(8))
    printed = site.doctor(code=0)
    assert 'GPU 0: Card, 16.0 GiB, bf16\n' in printed
    assert 'built for CUDA 12.6' in printed
    site.write('torch', GPU.format(7))
    assert 'Card has no bf16: take the fp16 configs' in site.doctor(code=0)


def test_parts_of_a_task(site: Site) -> None:
    site.stack()
    site.remove('timm')
    printed = site.doctor(code=0)
    assert tasks(printed)['export'] == 'works in part'
    assert (
        'timm is not installed (export):\n      pip install timm\n' in printed
    )
    site.doctor('export', code=1)


def test_configs_are_gone_or_in_a_wheel(site: Site, tmp_path: Path) -> None:
    site.stack()
    package = tmp_path / 'installed' / 'simim_plugin'
    package.mkdir(parents=True)
    for file in (ROOT / 'simim_plugin').glob('*.py'):
        shutil.copy(file, package)
    shutil.copytree(ROOT / 'simim_plugin/commands', package / 'commands')
    printed = site.doctor(code=1, source=package.parent)
    assert 'the configs and tools of simim_plugin are gone' in printed
    (package / '.mim' / 'configs').mkdir(parents=True)
    printed = site.doctor(code=0, source=package.parent)
    assert 'wheel: configs and tools in .mim' in printed


@pytest.mark.parametrize(
    ('flags', 'expected'),
    [
        ('flags : sse2 avx512_bf16 amx_tile', True),
        ('Features : fp asimd bf16', True),
        ('flags : sse2 avx2 avx512f', False),
    ],
)
def test_bf16_of_the_cpu(tmp_path: Path, flags: str, expected: bool) -> None:
    (tmp_path / 'cpuinfo').write_text(f'model name : some\n{flags}\n')
    assert doctor.cpu_has_bf16(str(tmp_path / 'cpuinfo')) is expected
    assert doctor.cpu_has_bf16(str(tmp_path / 'none')) is None


def test_little_space_is_worth_knowing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(doctor, 'probe', lambda modules: ({}, {}))
    monkeypatch.setattr(doctor, 'cpu_has_bf16', lambda: False)
    monkeypatch.setattr(doctor, '_free', lambda folder: 2**26)
    notes = ' '.join(doctor.Checkup().notes())
    assert re.search('Less than .* GiB are free here', notes)
    assert '/dev/shm has 0.1 GiB free' in notes
    assert 'This CPU emulates bf16' in notes


@pytest.mark.slow
def test_mmpretrain_beside_transformers_5(site: Site) -> None:
    """Its multimodal models do not import there and are left out."""
    site.put('transformers', version='5.0.0')
    shutil.rmtree(site.folder / 'transformers')  # the real one is imported
    code = (
        f'import sys; sys.path.insert(0, {str(site.folder)!r})\n'
        'import simim_plugin.checkpoint, simim_plugin.models\n'
        'import mmpretrain.models.multimodal as m\n'
        'assert not hasattr(m, "blip")\n'
    )
    subprocess.run([sys.executable, '-c', code], check=True)


@pytest.mark.slow
def test_here_pretraining_works(capsys: pytest.CaptureFixture) -> None:
    assert doctor.main([]) == 0
    printed = capsys.readouterr().out
    assert tasks(printed)['pretraining'] == 'works'
    assert (
        'operators by torchvision' in printed
        or 'compiled operators' in printed
    )

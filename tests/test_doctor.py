"""The doctor on fake installations, each with one fault caused on purpose."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from simim_plugin import doctor, environment
from simim_plugin.environment import LIBRARIES, ONEDL, OPENMMLAB, STACKS

ROOT = Path(__file__).resolve().parent.parent
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
OPERATORS = 'def get_compiling_cuda_version(): return {!r}'
OPTIONAL = {
    module
    for needs in environment.TASKS.values()
    for module in needs
    if module not in {'torch', 'torchvision', *STACKS, environment.OPERATORS}
}


class Site:
    """A folder of packages that a bare Python sees, and nothing else."""

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
        """Install a module, or install it anew."""
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
        (self.folder / module).mkdir(exist_ok=True)
        (self.folder / module / '__init__.py').write_text(code)

    def operators(self, code: str) -> None:
        (self.folder / 'mmcv' / '_ext.py').write_text(code)

    def stack(self, index: int = ONEDL) -> None:
        """All that any task needs, whole."""
        self.put('torch', TORCH)
        self.put('torchvision', requires='torch (==2.1.0)')
        for module in (*LIBRARIES, *OPTIONAL):
            self.put(module)
        zeros = 'def zeros(size): return size'
        self.put('numpy', zeros, version='1.26.4')
        for module, names in STACKS.items():
            self.put(module, name=names[index])
        self.operators(OPERATORS.format('not available'))
        self.put('simim_plugin')
        shutil.rmtree(self.folder / 'simim_plugin')

    def doctor(self, *tasks: str, code: int, source: Path = ROOT) -> str:
        """What the doctor says; it must end with an exit code."""
        path = os.pathsep.join([str(self.folder), str(source)])
        done = subprocess.run(
            [sys.executable, '-S', '-m', 'simim_plugin.doctor', *tasks],
            env={**os.environ, 'PYTHONPATH': path},
            cwd=self.folder,
            capture_output=True,
            text=True,
        )
        assert done.returncode == code, done.stdout + done.stderr
        assert code == 2 or not done.stderr
        return done.stdout


@pytest.fixture
def site(tmp_path: Path) -> Site:
    folder = tmp_path / 'site'
    folder.mkdir()
    return Site(folder)


def tasks(said: str) -> dict[str, str]:
    """What was said of each task."""
    part = said.split('Tasks\n')[1].split('\n\n')[0]
    return dict(line.split(maxsplit=1) for line in part.splitlines())


@pytest.mark.parametrize('index', [ONEDL, OPENMMLAB])
def test_a_whole_stack_works(site: Site, index: int) -> None:
    site.stack(index)
    site.write('pkg_resources', '')
    said = site.doctor('all', code=0)
    assert tasks(said) == dict.fromkeys(doctor.TASKS, 'works')
    owner = ('(OneDL fork)', '(upstream)')[index]
    assert said.count(owner) == len(STACKS)
    assert 'To mend it' not in said
    assert f'source: configs and tools of {ROOT}' in said


def test_nothing_but_python(site: Site) -> None:
    said = site.doctor(code=1)
    for task, state in tasks(said).items():
        assert state.startswith('does not work'), task
    assert f'pip install -e "{ROOT}[onedl]"' in said
    assert (
        'pip install numpy pillow opencv-python-headless matplotlib tqdm '
        'torch torchvision onedl-mmengine onedl-mmcv onedl-mmpretrain\n'
    ) in said
    assert '] pip install onedl-mmsegmentation ftfy regex\n' in said
    # Told in words once, by its number then.
    assert said.count('torchvision, mmengine, mmcv, mmpretrain are not') == 1


def test_the_script_runs_where_the_plugin_is_not_installed(
    tmp_path: Path,
) -> None:
    done = subprocess.run(
        [sys.executable, '-S', str(ROOT / 'tools' / 'doctor.py')],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1 and not done.stderr
    assert 'simim_plugin is only in a folder, not installed' in done.stdout


def test_two_stacks_over_each_other(site: Site) -> None:
    site.stack()
    site.put('mmengine', name='mmengine', version='0.10.7')
    site.write('pkg_resources', '')
    said = site.doctor(code=1)
    assert '2.1.0 and 0.10.7 onedl-mmengine and mmengine\n' in said
    assert 'installed from onedl-mmengine and mmengine' in said
    assert 'pip uninstall -y onedl-mmengine mmengine' in said


def test_without_operators_dense_tasks_alone_do_not_work(site: Site) -> None:
    site.stack()
    (site.folder / 'mmcv' / '_ext.py').unlink()
    states = tasks(site.doctor(code=0))
    assert [task for task, state in states.items() if state != 'works'] == [
        'COCO',
        'LVIS',
        'ADE20k',
    ]
    assert 'mmcv has no compiled operators (mmcv._ext)' in states['COCO']
    said = site.doctor('pretraining', 'lvis', code=1)
    assert said.endswith('Asked for, and not working in full: LVIS.\n')
    assert '--no-build-isolation onedl-mmcv==2.1.0\n' in said


def test_operators_of_another_torch(site: Site) -> None:
    site.stack()
    error = 'undefined symbol: _ZN3c106detail23torchInternalAssertFailE'
    site.operators(f'raise ImportError({error!r})')
    said = site.doctor('coco', code=1)
    assert error in said
    assert 'its operators were built for another torch [1]' in said
    assert '--no-build-isolation onedl-mmcv==2.1.0\n' in said
    assert 'no usable operators' in said
    site.doctor('pretraining', 'classification', code=0)


@pytest.mark.skipif(
    sys.platform != 'linux' or os.uname().machine != 'x86_64',
    reason='elsewhere untagged builds are for the CPU',
)
def test_torch_for_the_cpu_with_torchvision_for_cuda(site: Site) -> None:
    site.stack()
    site.put('torch', TORCH, version='2.1.0+cpu')
    site.write(
        'torchvision',
        'raise RuntimeError("operator torchvision::nms does not exist")',
    )
    said = site.doctor(code=1)
    assert 'torch 2.1.0+cpu is built for the CPU alone and torchvision' in said
    assert (
        'pip uninstall -y torch torchvision && '
        'pip install torch==2.1.0 torchvision\n'
    ) in said
    assert '[2]' not in said


def test_torchvision_without_its_operators(site: Site) -> None:
    site.stack()
    error = 'raise RuntimeError("operator torchvision::nms does not exist")'
    site.write('torchvision', error)
    site.write('mmpretrain', 'import torchvision')
    said = site.doctor(code=1)
    assert 'torchvision 2.1.0 does not import (RuntimeError: operator' in said
    assert 'mmpretrain 2.1.0 does not import' not in said


@pytest.mark.parametrize(
    ('torch', 'vision', 'wanted', 'fine'),
    [
        ('2.1.0', '0.16.0', '2.1.0', True),
        ('2.2.0', '0.16.0', '2.1.0', False),
        ('2.1.0+cu118', '0.16.0+cu126', '2.1.0', False),
        ('2.1.0+cu126', '0.16.0+cu128', '2.1.0', True),
        ('2.1.0+cu118', '0.16.0', '2.1.0', True),
        ('2.1.0+cu118', '0.16.0+cpu', '2.1.0', False),
        ('2.1.0a0+nv.25', '0.16.0', '2.1.0a0', True),
    ],
)
def test_torch_and_torchvision_of_two_releases(
    site: Site, torch: str, vision: str, wanted: str, fine: bool
) -> None:
    site.stack()
    site.put('torch', TORCH, version=torch)
    site.put('torchvision', version=vision, requires=f'torch=={wanted}')
    said = site.doctor(code=int(not fine))
    assert ('torchvision 0.16.0' in tasks(said)['pretraining']) != fine


@pytest.mark.parametrize(
    ('torch', 'numpy', 'fine'),
    [('2.2.2', '2.0.1', False), ('2.2.2', '1.26.4', True),
     ('2.3.0', '2.0.1', True)],
)  # fmt: skip
def test_numpy_2_with_an_older_torch(
    site: Site, torch: str, numpy: str, fine: bool
) -> None:
    site.stack()
    site.put('torch', TORCH, version=torch)
    site.put('torchvision')
    site.put('numpy', 'def zeros(size): return size', version=numpy)
    said = site.doctor(code=int(not fine))
    sentence = f'torch {torch} cannot exchange arrays with numpy {numpy}'
    assert (sentence in said) != fine
    assert ('pip install "numpy<2"\n' in said) != fine


def test_arrays_that_torch_refuses_whatever_the_versions(site: Site) -> None:
    site.stack()
    refuses = 'raise RuntimeError("Numpy is not available")'
    site.write('torch', TORCH.replace('return array', refuses))
    assert 'pip install "numpy<2"\n' in site.doctor(code=1)


def test_mmcv_of_the_first_generation(site: Site) -> None:
    site.stack()
    site.put('mmcv', name='onedl-mmcv', version='1.7.2')
    said = site.doctor(code=1)
    assert 'onedl-mmcv 1.7.2 is of the generation before MMEngine' in said


def test_upstream_without_pkg_resources(site: Site) -> None:
    site.stack(OPENMMLAB)
    site.put('mim', name='openmim')
    said = site.doctor(code=1)
    assert 'mmengine and openmim of upstream OpenMMLab need pkg_res' in said
    assert 'pip install "setuptools<70"\n' in said


def test_version_wall(site: Site) -> None:
    site.stack(OPENMMLAB)
    site.write('pkg_resources', '')
    wall = 'MMCV==2.2.0 is used but incompatible. '
    wall += 'Please install mmcv>=2.0.0rc4, <2.2.0.'
    site.write('mmdet', f'assert False, {wall!r}')
    said = site.doctor('COCO', code=1)
    assert 'pip install "mmcv>=2.0.0rc4,<2.2.0"\n' in said
    assert tasks(said)['ADE20k'] == 'works'


@pytest.mark.parametrize(
    ('fault', 'command'),
    [
        ('import os; os.abort()', '--force-reinstall onedl-mmcv==2.1.0'),
        ('import os; os._exit(3)', '--force-reinstall onedl-mmcv==2.1.0'),
        ('import sys; sys.exit("no")', '--force-reinstall onedl-mmcv==2.1.0'),
        ('import addict', 'pip install addict'),
        ('import yaml', 'pip install pyyaml'),
        (
            'raise ImportError("libGL.so.1: cannot open shared object file")',
            '--force-reinstall opencv-python-headless',
        ),
        ('import mmengine.none', '--force-reinstall onedl-mmcv==2.1.0'),
    ],
)
def test_a_library_broken_at_import(
    site: Site, fault: str, command: str
) -> None:
    site.stack()
    site.write('mmcv', fault)
    said = site.doctor(code=1)
    assert 'mmcv 2.1.0 does not import' in said
    assert f'{command}\n' in said
    assert 'mmpretrain 2.1.0 does not import' not in said


def test_a_broken_torch_is_not_blamed_on_what_imports_it(site: Site) -> None:
    site.stack()
    site.write('torch', 'raise ImportError("libcudart.so.12: not there")')
    site.write('mmengine', 'raise ImportError("another error, as of torch")')
    said = site.doctor(code=1)
    assert 'torch 2.1.0 does not import (ImportError: libcudart' in said
    assert 'mmengine 2.1.0 does not import' not in said


def test_a_hanging_import_is_told(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.put('slow_one', 'import time; time.sleep(600)')
    site.put('fast_one')
    monkeypatch.setenv('PYTHONPATH', str(site.folder))
    facts, failures = doctor.probe(['slow_one', 'fast_one'], seconds=3)
    assert facts == {'fast_one': {}}
    assert failures == {'slow_one': 'TimeoutError: not done after 3 s'}
    finding = environment.explain('slow_one', failures['slow_one'])
    assert finding.command == 'python -v -c "import slow_one"'


def test_a_python_that_dies_at_its_start_is_told(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    (site.folder / 'sitecustomize.py').write_text('import os; os._exit(3)')
    monkeypatch.setenv('PYTHONPATH', str(site.folder))
    facts, failures = doctor.probe(['torch', 'mmengine'])
    assert facts == {}
    assert failures == {'torch': 'Crash: exit code 3'}


def test_operators_for_the_cpu_beside_a_gpu(site: Site) -> None:
    site.stack()
    site.write('torch', GPU.format(8))
    said = site.doctor('ADE20k', code=1)
    assert 'GPU 0: Card, 16.0 GiB, bf16 in hardware' in said
    assert 'operators of mmcv are for the CPU alone, and there is' in said
    assert 'export FORCE_CUDA=1 && pip install' in said
    site.operators(OPERATORS.format('12.6'))
    assert 'operators for CUDA 12.6' in site.doctor('ADE20k', code=0)


def test_gpu_without_bf16_is_worth_knowing(site: Site) -> None:
    site.stack()
    site.write('torch', GPU.format(7))
    said = site.doctor(code=0)
    assert 'Card has no bf16: take the fp16 configs' in said


def test_parts_of_a_task(site: Site) -> None:
    site.stack()
    shutil.rmtree(site.folder / 'timm')
    shutil.rmtree(site.folder / 'timm-2.1.0.dist-info')
    said = site.doctor(code=0)
    assert tasks(said)['export'] == (
        'works in part: timm is not installed [1]'
    )
    site.doctor('export', code=1)


def test_configs_are_gone_or_in_a_wheel(site: Site, tmp_path: Path) -> None:
    site.stack()
    package = tmp_path / 'installed' / 'simim_plugin'
    package.mkdir(parents=True)
    for file in (ROOT / 'simim_plugin').glob('*.py'):
        shutil.copy(file, package)
    said = site.doctor(code=1, source=package.parent)
    assert 'the configs and tools of simim_plugin are gone' in said
    (package / '.mim' / 'configs').mkdir(parents=True)
    said = site.doctor(code=0, source=package.parent)
    assert 'wheel: configs and tools in .mim' in said


def test_unknown_task(site: Site) -> None:
    site.doctor('dreaming', code=2)


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
    monkeypatch.setattr(doctor, '_shared_memory', lambda: 2**26)
    monkeypatch.setattr(doctor, 'FEW_GIB', 1e9)
    notes = ' '.join(doctor.Checkup().notes())
    assert re.search('Less than .* GiB are free here', notes)
    assert '/dev/shm has 0.1 GiB free' in notes
    assert 'This CPU emulates bf16' in notes


@pytest.mark.slow
def test_here_pretraining_works(capsys: pytest.CaptureFixture) -> None:
    assert doctor.main([]) == 0
    assert tasks(capsys.readouterr().out)['pretraining'] == 'works'

"""What is built and installed, as a user gets it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from collections import Counter
from importlib import metadata
from pathlib import Path

import pytest
from filelock import FileLock
from mmengine import Config
from packaging.requirements import Requirement

import simim_plugin
from simim_plugin import config_path

from . import UPSTREAM

ROOT = Path(__file__).resolve().parent.parent
CONFIGS = sorted((ROOT / 'configs').rglob('*.py'))
RUNNABLE = [path for path in CONFIGS if '_base_' not in path.parts]
STACKS = ('onedl', 'upstream')
DEMO = 'siamese_im/siamese_im_vit-micro-p8_demo.py'
DIST_INFO = f'simim_plugin-{simim_plugin.__version__}.dist-info'


def run(*command: str | Path, cwd: Path | None = None) -> str:
    """Output of a command, which must succeed."""
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-4000:]
    return done.stdout


def copy_source(target: Path) -> Path:
    """What a clone holds, without what was made in it since."""
    ignore = shutil.ignore_patterns(
        *('.git', '.venv*', '*_cache', '__pycache__', '.hypothesis'),
        *('build', 'dist', '*.egg-info', 'work_dirs', 'data', '.mim'),
    )
    for name in ('setup.py', 'pyproject.toml', 'MANIFEST.in', 'LICENSE'):
        target.mkdir(exist_ok=True)
        shutil.copy2(ROOT / name, target)
    for name in ('README.md', 'Makefile', 'model-index.yml'):
        shutil.copy2(ROOT / name, target)
    (target / 'docs').mkdir()
    shutil.copy2(ROOT / 'docs/evidence.py', target / 'docs')
    for name in ('configs', 'requirements', 'tests', 'tools'):
        shutil.copytree(ROOT / name, target / name, ignore=ignore)
    ignore = shutil.ignore_patterns('__pycache__', '.mim')
    shutil.copytree(
        ROOT / 'simim_plugin', target / 'simim_plugin', ignore=ignore
    )
    return target


def files(folder: Path) -> set[str]:
    """Every file below a folder, relative."""
    found = (path for path in folder.rglob('*') if path.is_file())
    return {path.relative_to(folder).as_posix() for path in found}


def build_wheel(source: Path, target: Path) -> Path:
    """Build with this environment's setuptools: no network."""
    run(
        *[sys.executable, '-m', 'pip', 'wheel', '--no-deps'],
        *['--no-build-isolation', '--wheel-dir', target, source],
    )
    (wheel,) = target.glob('*.whl')
    return wheel


def names(wheel: Path) -> set[str]:
    return set(zipfile.ZipFile(wheel).namelist())


@pytest.fixture(scope='session')
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy_source(tmp_path_factory.mktemp('a clone') / 'simim plugin')


@pytest.fixture(scope='session')
def wheel(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build one for all processes of pytest-xdist."""
    folder = tmp_path_factory.getbasetemp()
    if 'PYTEST_XDIST_WORKER' in os.environ:
        folder = folder.parent  # of all processes
    folder /= 'wheel'
    with FileLock(f'{folder}.lock'):
        if not folder.exists():
            before = files(source)
            build_wheel(source, folder)
            left = {name.split('/')[0] for name in files(source) - before}
            assert left <= {'simim_plugin.egg-info'}
    (wheel,) = folder.glob('*.whl')
    return wheel


def test_wheel_holds_the_package_and_mim_and_nothing_else(
    source: Path, wheel: Path
) -> None:
    package = {
        f'simim_plugin/{name}' for name in files(source / 'simim_plugin')
    }
    mim = {'.mim/model-index.yml'}
    for folder in ('configs', 'tools'):
        mim |= {f'.mim/{folder}/{name}' for name in files(source / folder)}
    assert '.mim/tools/train.py' in mim
    assert f'.mim/configs/{DEMO}' in mim
    # mim looks in one or in the other, by the order of the installed files.
    mim = {
        f'{home}/{name}'
        for home in ('simim_plugin', DIST_INFO)
        for name in mim
    }
    about = {
        f'{DIST_INFO}/{name}'
        for name in ('METADATA', 'RECORD', 'WHEEL', 'top_level.txt')
    } | {f'{DIST_INFO}/{"" if UPSTREAM else "licenses/"}LICENSE'}
    assert names(wheel) == package | mim | about


def test_sdist_builds_the_same_wheel(
    source: Path, wheel: Path, tmp_path: Path
) -> None:
    code = (
        f'from setuptools.build_meta import *; build_sdist({str(tmp_path)!r})'
    )
    run(sys.executable, '-c', code, cwd=source)
    (sdist,) = tmp_path.glob('*.tar.gz')
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, filter='data')
    unpacked = tmp_path / sdist.name.removesuffix('.tar.gz')
    needed = {'Makefile', 'requirements/install.sh', 'docs/evidence.py'}
    assert needed <= files(unpacked)
    assert names(build_wheel(unpacked, tmp_path)) == names(wheel)


def test_a_second_build_holds_nothing_stale(
    source: Path, tmp_path: Path
) -> None:
    again = shutil.copytree(source, tmp_path / 'again')
    build_wheel(again, tmp_path / 'first')
    (again / 'configs' / DEMO).unlink()
    (again / 'simim_plugin' / 'geometry.py').unlink()
    held = names(build_wheel(again, tmp_path / 'second'))
    assert not [name for name in held if name.endswith((DEMO, 'geometry.py'))]


def make_site(folder: Path, *what: str | Path) -> Path:
    """A virtual environment that borrows all but the plugin from this one.

    Returns:
        Path: its Python, with ``what`` installed by pip.
    """
    venv.create(folder, symlinks=True)
    python = folder / 'bin' / 'python'
    code = 'import sysconfig; print(sysconfig.get_path("purelib"))'
    (Path(run(python, '-c', code).strip()) / 'borrowed.pth').write_text(
        # A line of a .pth file borrows modules, but no .pth file in turn, and
        # so not the editable install of the plugin.
        sysconfig.get_path('purelib') + '\n'
    )
    run(
        *[sys.executable, '-m', 'pip', '--python', python, 'install'],
        *['--no-deps', '--no-build-isolation', *what],
    )
    return python


@pytest.mark.slow
@pytest.mark.parametrize('kind', ['wheel', 'folder', 'editable'])
def test_mim_finds_config_and_tool(
    kind: str, source: Path, tmp_path: Path
) -> None:
    if UPSTREAM and kind == 'editable':
        pytest.skip('openmim does not find packages installed as editable')
    clone = shutil.copytree(source, tmp_path / 'clone')
    (clone / 'tools' / 'train.py').write_text(
        'import sys; print("RAN", *sys.argv, sep="|")'
    )
    what = {
        'wheel': lambda: [build_wheel(clone, tmp_path)],
        'folder': lambda: [clone],
        'editable': lambda: ['--editable', clone],
    }[kind]()
    python = make_site(tmp_path / 'venv', *what)
    away = tmp_path / 'away'
    away.mkdir()
    home = clone if kind == 'editable' else tmp_path / 'venv'
    name = Path(DEMO).name
    printed = run(python, '-m', 'mim', 'train', 'simim_plugin', name, cwd=away)
    (ran,) = re.findall(r'^RAN\|(.*)$', printed, re.M)
    tool, config, *_ = (Path(part) for part in ran.split('|'))
    assert tool.is_relative_to(home)
    assert config.is_relative_to(home)
    assert config.read_text() == (ROOT / 'configs' / DEMO).read_text()

    code = f'import simim_plugin as s; print(s.config_path({name!r}))'
    config = Path(run(python, '-c', code, cwd=away).strip())
    assert config.is_relative_to(home)
    assert config.as_posix().endswith(f'configs/{DEMO}')


@pytest.mark.slow
def test_project_of_ones_own_inherits_a_config(
    wheel: Path, tmp_path: Path
) -> None:
    python = make_site(tmp_path / 'venv', wheel)
    project = tmp_path / 'my project'
    project.mkdir()
    code = (
        'import cv2, numpy as np\n'
        'for i in range(8):\n'
        '    image = np.random.default_rng(i).integers(0, 256, (80, 96, 3))\n'
        '    assert cv2.imwrite(f"images/{i}.png", image)\n'
    )
    (project / 'images').mkdir()
    run(python, '-c', code, cwd=project)
    (project / 'mine.py').write_text(
        f"_base_ = __import__('simim_plugin').config_path('{DEMO}')\n"
        'train_dataloader = dict(batch_size=4, num_workers=0,\n'
        "    persistent_workers=False, dataset=dict(data_root='images'))\n"
        'model = dict(head=dict(negative_weight=0.5))\n'
        'train_cfg = dict(max_epochs=1)\n'
        'default_hooks = dict(logger=dict(interval=1),\n'
        '    checkpoint=dict(interval=1))\n'
    )
    printed = run(
        *[python, '-m', 'mim', 'train', 'mmpretrain', 'mine.py'],
        *['--work-dir', 'run'],
        cwd=project,
    )
    epoch = r'Epoch\(train\)\s+\[1\]\[2/2\]'
    assert re.search(epoch, printed), printed[-4000:]
    (dump,) = (project / 'run').glob('*.py')
    resolved = Config.fromfile(dump)
    assert resolved.model.head.negative_weight == 0.5
    assert resolved.model.type == 'SiameseIM'
    assert (project / 'run' / 'epoch_1.pth').exists()


@pytest.mark.parametrize(
    'base',
    [
        f"__import__('simim_plugin').config_path('{DEMO}')",
        f"[__import__('simim_plugin').config_path('{Path(DEMO).name}')]",
        f"[__import__('simim_plugin').config_path('{DEMO}'), './more.py']",
    ],
)
def test_config_path_in_base(base: str, tmp_path: Path) -> None:
    (tmp_path / 'more.py').write_text('more = 1\n')
    mine = tmp_path / 'mine.py'
    mine.write_text(f'_base_ = {base}\ntrain_cfg = dict(max_epochs=7)\n')
    expected = Config.fromfile(ROOT / 'configs' / DEMO)
    config = Config.fromfile(mine)
    assert config.train_cfg.max_epochs == 7
    assert config.model == expected.model


def test_config_path_names_the_closest() -> None:
    wrong = Path(DEMO).name.replace('micro', 'mcro')
    with pytest.raises(FileNotFoundError) as caught:
        config_path(wrong)
    assert f"'{wrong}'" in str(caught.value)
    assert f': {Path(DEMO).name}' in str(caught.value)


def test_config_path_of_nothing_alike_says_where_to_look() -> None:
    with pytest.raises(FileNotFoundError, match=r'see .*configs for'):
        config_path('@')


def test_basenames_of_configs_are_unique() -> None:
    counts = Counter(path.name for path in CONFIGS)
    assert max(counts.values()) == 1, counts.most_common(3)


def test_basenames_of_configs_are_no_other_file() -> None:
    """In an editable install mim searches the whole checkout by basename."""
    others = {
        path.name
        for folder in ('simim_plugin', 'tools', 'tests')
        for path in (ROOT / folder).rglob('*.py')
    }
    assert not others & {path.name for path in RUNNABLE}


@pytest.mark.parametrize('path', RUNNABLE, ids=lambda path: path.name)
def test_every_config_imports_the_plugin(path: Path) -> None:
    imports = Config.fromfile(path).custom_imports
    assert any(name.startswith('simim_plugin.') for name in imports['imports'])
    assert imports['allow_failed_imports'] is False


def test_requirements_name_no_index_host() -> None:
    for path in (ROOT / 'requirements').glob('*.txt'):
        for line in path.read_text().splitlines():
            line = line.partition('#')[0]
            assert not re.search(r'https?:|//|^\s*-|@', line), (path, line)


def pins(stack: str) -> list[Requirement]:
    """What a stack is pinned to."""
    return [
        Requirement(line)
        for name in ('constraints', stack)
        for line in (ROOT / 'requirements' / f'{name}.txt')
        .read_text()
        .splitlines()
        if line and not line.startswith('#')
    ]


def test_every_requirement_is_pinned() -> None:
    known = {pin.name for stack in STACKS for pin in pins(stack)}
    for requirement in metadata.requires('simim_plugin') or ():
        assert Requirement(requirement).name in known


@pytest.mark.parametrize('stack', STACKS)
@pytest.mark.parametrize('python', ['3.10', '3.11', '3.12', '3.13'])
def test_one_exact_pin_for_each_python(python: str, stack: str) -> None:
    environment = {'python_version': python}
    found = pins(stack)
    assert all(str(pin.specifier).startswith('==') for pin in found)
    counts = Counter(
        pin.name
        for pin in found
        if pin.marker is None or pin.marker.evaluate(environment)
    )
    assert set(counts.values()) == {1}
    assert {pin.name for pin in found} == set(counts)


def test_the_suite_runs_with_the_pinned_versions() -> None:
    for pin in pins('upstream' if UPSTREAM else 'onedl'):
        if pin.marker is None or pin.marker.evaluate():
            try:
                found = metadata.distribution(pin.name)
            except metadata.PackageNotFoundError:
                continue
            # setuptools, once imported, shows copies of its own.
            if '_vendor' not in Path(str(found.locate_file(''))).parts:
                assert pin.specifier.contains(found.version), pin


STUB = """#!{python}
import sys
from pathlib import Path
words = sys.argv[1:]
with open({log!r}, 'a') as log:
    print(*words, file=log)
if words == ['-V']:
    print('Python 3.11.0')
elif words[:2] == ['-m', 'venv']:
    target = Path(words[-1], 'bin')
    target.mkdir(parents=True)
    (target / 'python').write_text(Path(__file__).read_text())
    (target / 'python').chmod(0o755)
elif {fail!r} in words:
    sys.exit(7)
"""


def test_the_install_script(source: Path, tmp_path: Path) -> None:
    """What stands is left alone; a failed step, or another folder, is not."""
    clone = shutil.copytree(source, tmp_path / 'a clone')
    log = tmp_path / 'log'
    stub = tmp_path / 'python'

    def install(fail: str = '', home: Path = clone) -> tuple[int, list[str]]:
        log.write_text('')
        text = STUB.format(python=sys.executable, log=str(log), fail=fail)
        for python in (stub, home / '.venv' / 'bin' / 'python'):
            if python.parent.exists():
                python.write_text(text)
                python.chmod(0o755)
        done = subprocess.run(
            [
                home / 'requirements' / 'install.sh',
                stub,
                '.venv',
                'onedl',
                'x',
            ],
        )
        steps = log.read_text().splitlines()
        return done.returncode, [s for s in steps if 'pip install' in s]

    code, steps = install(fail='.[x]')
    assert code == 7 and len(steps) == 2
    code, steps = install()
    assert code == 0 and len(steps) == 3
    assert steps[1].endswith('--no-build-isolation --editable .[x]')
    assert all('--constraint requirements/onedl.txt' in s for s in steps)
    assert install() == (0, [])
    moved = clone.rename(tmp_path / 'moved')
    assert len(install(home=moved)[1]) == 3
    assert install(home=moved) == (0, [])
    (moved / 'requirements' / 'onedl.txt').write_text('')
    assert len(install(home=moved)[1]) == 3


def test_import_is_light() -> None:
    code = (
        'import sys, simim_plugin\n'
        'heavy = {"torch", "numpy", "mmengine", "mmcv", "mmpretrain",'
        ' "mmdet", "mmseg"}\n'
        'assert not heavy & set(sys.modules), heavy & set(sys.modules)\n'
    )
    run(sys.executable, '-c', code, cwd=ROOT)

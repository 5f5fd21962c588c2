"""Fake distributions on an empty path: each state gives its sentence."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path

import pytest

from simim_plugin import environment
from simim_plugin.environment import MissingDependency, check, require

Install = Callable[..., Path]
SUFFIX = sysconfig.get_config_var('EXT_SUFFIX')


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """A path with nothing but what ``install`` puts there."""
    monkeypatch.setattr(sys, 'path', [str(tmp_path)])
    monkeypatch.setattr(
        sys,
        'meta_path',
        # Without the finders that editable installs add.
        [
            f
            for f in sys.meta_path
            if getattr(f, '__module__', '').startswith(
                ('_frozen_importlib', 'importlib')
            )
        ],
    )
    for task in environment.TASKS.values():
        for module in task:
            monkeypatch.delitem(sys.modules, module, raising=False)

    def put(
        distribution: str, module: str | None, version: str = '1.0'
    ) -> Path:
        name = distribution.replace('-', '_')
        info = tmp_path / f'{name}-{version}.dist-info'
        info.mkdir()
        (info / 'METADATA').write_text(
            f'Metadata-Version: 2.1\nName: {distribution}\n'
            f'Version: {version}\n'
        )
        if module:
            folder = tmp_path / module
            folder.mkdir(exist_ok=True)
            (folder / '__init__.py').write_text('raise RuntimeError')
        return tmp_path

    return put


def stack(install: Install, index: int, *modules: str) -> Path:
    """Install torch, torchvision and libraries of one of the two stacks."""
    for module in ('torch', 'torchvision', 'ftfy', 'regex'):
        install(module, module)
    for module in modules:
        folder = install(environment.STACKS[module][index], module)
    return folder


BASE = ('mmengine', 'mmcv', 'mmpretrain')


@pytest.mark.parametrize('index', [environment.ONEDL, environment.OPENMMLAB])
def test_either_stack_alone_is_fine(install: Install, index: int) -> None:
    folder = stack(install, index, *BASE, 'mmdet', 'mmseg')
    (folder / 'mmcv' / f'_ext{SUFFIX}').touch()
    for task in ('pretraining', 'classification', 'detection', 'segmentation'):
        assert check(task) == []
        require(task)


def test_mmcv_without_operators_does_for_pretraining_only(
    install: Install,
) -> None:
    stack(install, environment.ONEDL, *BASE, 'mmdet', 'mmseg')
    require('pretraining')
    require('classification')
    for task in ('detection', 'segmentation'):
        with pytest.raises(MissingDependency) as caught:
            require(task)
        assert 'mmcv has no compiled operators' in str(caught.value)
        assert '--no-build-isolation onedl-mmcv==1.0`.' in str(caught.value)
        assert [f.module for f in caught.value.findings] == ['mmcv._ext']


def test_mmpretrain_beside_a_new_transformers(install: Install) -> None:
    stack(install, environment.ONEDL, *BASE)
    install('transformers', 'transformers', '5.17.0')
    assert not check('pretraining')  # it looks for it with pycocotools only
    install('pycocotools', 'pycocotools')
    with pytest.raises(MissingDependency) as raised:
        require('pretraining')
    assert str(raised.value) == (
        'Cannot do pretraining: mmpretrain does not import beside '
        'transformers 5.17.0; mend it with `pip install "transformers<5"`.'
    )


@pytest.mark.parametrize('module', list(environment.STACKS))
def test_two_stacks_over_each_other(install: Install, module: str) -> None:
    folder = stack(install, environment.ONEDL, *environment.STACKS)
    (folder / 'mmcv' / f'_ext{SUFFIX}').touch()
    fork, upstream = environment.STACKS[module]
    install(upstream, module, '0.9')
    task = {'mmdet': 'detection', 'mmseg': 'segmentation'}.get(
        module, 'pretraining'
    )
    (finding,) = check(task)
    assert finding.module == module
    assert f'{fork} and {upstream}' in finding.problem
    assert finding.command == (
        f'pip uninstall -y {fork} {upstream} && '
        f'pip install --no-deps {fork}==1.0'
    )


def test_variant_of_upstream_counts_as_a_second_owner(
    install: Install,
) -> None:
    stack(install, environment.OPENMMLAB, *BASE)
    install('mmcv-full', 'mmcv')
    (finding,) = check('pretraining')
    assert 'mmcv and mmcv-full' in finding.problem


@pytest.mark.parametrize(
    ('index', 'name'),
    [
        (environment.ONEDL, 'onedl-mmdetection'),
        (environment.OPENMMLAB, 'mmdet'),
    ],
)
def test_missing_library_is_asked_for_from_the_stack_in_use(
    install: Install, index: int, name: str
) -> None:
    folder = stack(install, index, *BASE)
    (folder / 'mmcv' / f'_ext{SUFFIX}').touch()
    with pytest.raises(MissingDependency) as caught:
        require('detection')
    assert str(caught.value) == (
        'Cannot do detection: mmdet is not installed; mend it with '
        f'`pip install {name}`.'
    )


def test_nothing_installed_names_everything_once(install: Install) -> None:
    findings = check('detection')
    assert [f.module for f in findings] == [
        'torch',
        'torchvision',
        *BASE,
        'mmdet',
    ]
    assert findings[2].command == 'pip install onedl-mmengine'


def test_files_gone_or_only_leftovers(install: Install) -> None:
    folder = stack(install, environment.ONEDL, 'mmcv', 'mmpretrain')
    install('onedl-mmengine', None, '2.5')  # its files were removed
    (folder / 'mmpretrain' / '__init__.py').unlink()
    (folder / 'mmpretrain' / '__pycache__').mkdir()
    gone, leftover = check('pretraining')
    assert gone.module == 'mmengine'
    assert gone.command.endswith('--force-reinstall onedl-mmengine==2.5')
    assert leftover.module == 'mmpretrain'
    assert 'files of mmpretrain are gone' in leftover.problem


def test_unknown_task_is_named() -> None:
    with pytest.raises(ValueError, match=r"'dreaming'.*pretraining"):
        check('dreaming')


def test_check_imports_none_of_the_libraries() -> None:
    code = (
        'import sys\n'
        'import simim_plugin.environment as e\n'
        'for task in e.TASKS: e.check(task)\n'
        'modules = {m for task in e.TASKS.values() for m in task}\n'
        'assert not modules & set(sys.modules), modules & set(sys.modules)\n'
    )
    subprocess.run([sys.executable, '-c', code], check=True)


def test_this_environment_can_pretrain() -> None:
    assert check('pretraining') == []


def test_packages_of_another_name_are_named_as_pip_knows_them(
    install: Install,
) -> None:
    (finding,) = check('logistic regression')
    assert finding.command == 'pip install scikit-learn'
    install('scikit-learn', 'sklearn')
    install('imagecorruptions', 'imagecorruptions')
    assert check('logistic regression') == check('image corruption') == []

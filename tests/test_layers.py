"""The package has layers; an import never runs up."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / 'simim_plugin'

# Lowest first. A module imports from its own folder and from lower layers.
LAYERS = (
    {'text'},
    {'errors'},
    {
        *('files', 'environment', 'freezing', 'geometry', 'tensors'),
        'config_files',
    },
    {'pictures', 'settings', 'vit'},
    {'inference', 'runs'},
    {'checkpoint', 'datasets', 'operators'},
    {'models', 'engine'},
    {'pretraining'},
    {'rivals'},
    {'ablations', 'evaluation'},
    {'detection', 'segmentation', 'visualization'},
    {'demo', 'prediction', 'recipes'},
    {'benchmarks'},
    {'commands'},
    {'doctor'},  # the entry point `python -m simim_plugin.doctor`
)
HEIGHT = {name: k for k, layer in enumerate(LAYERS) for name in layer}
MODULES = sorted(PACKAGE.rglob('*.py'))
# Top-level names of the package that are attributes, not modules.
ATTRIBUTES = {'__version__', 'ablation_base', 'config_path', 'configure'}


def room(file: Path) -> str:
    """Return the folder or top-level module below the package."""
    return file.relative_to(PACKAGE).with_suffix('').parts[0]


def imported(file: Path) -> Iterator[str]:
    """Yield the full name of every import, late ones included."""
    package = ('simim_plugin', *file.relative_to(PACKAGE).parts[:-1])
    for node in ast.walk(ast.parse(file.read_text(encoding='utf-8'))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) + 1 - node.level]
            base = [*above] if node.level else []
            base += [node.module] if node.module else []
            yield from ('.'.join([*base, alias.name]) for alias in node.names)


def test_every_room_has_a_layer():
    rooms = {room(file) for file in MODULES} - {'__init__'}
    assert rooms == HEIGHT.keys()


@pytest.mark.parametrize(
    'file', MODULES, ids=lambda f: f.relative_to(PACKAGE).as_posix()
)
def test_no_import_runs_up(file):
    here = room(file)
    for name in imported(file):
        parts = name.split('.')
        if parts[0] != 'simim_plugin' or len(parts) == 1:
            continue
        there = parts[1]
        if there in ATTRIBUTES or there == here:
            continue
        if here == '__init__':
            assert there in ('config_files', 'recipes'), name  # late
        else:
            assert HEIGHT[there] < HEIGHT[here], f'{here} imports {name}'


def test_imports_are_found():
    """The reader resolves relative, absolute and late imports."""
    found = set(imported(PACKAGE / 'models' / 'siamese_im.py'))
    assert 'simim_plugin.geometry.PairGeometry' in found
    found = set(imported(PACKAGE / 'config_files.py'))
    assert 'mmpretrain.apis.ModelHub' in found  # inside a function
    found = set(imported(PACKAGE / '__init__.py'))
    assert 'simim_plugin.config_files.config_path' in found


def test_only_commands_parse_arguments_and_start_processes():
    offenders = []
    for file in MODULES:
        if HEIGHT.get(room(file), 0) >= HEIGHT['commands']:
            continue
        tree = ast.parse(file.read_text(encoding='utf-8'))
        names = {
            n.attr for n in ast.walk(tree) if isinstance(n, ast.Attribute)
        }
        names |= {name.rpartition('.')[2] for name in imported(file)}
        # `argparse.Namespace` is a class that released checkpoints hold.
        if names & {'ArgumentParser', 'subprocess'} or any(
            name.startswith('subprocess') for name in imported(file)
        ):
            offenders.append(file.relative_to(PACKAGE).as_posix())
    assert not offenders


@pytest.mark.slow
def test_training_imports_no_evaluation():
    code = 'import sys, simim_plugin.commands.train; print(*sys.modules)'
    result = subprocess.run(
        [sys.executable, '-c', code],
        cwd=PACKAGE.parent,
        capture_output=True,
        text=True,
        check=True,
    )
    loaded = {
        name.split('.')[1]
        for name in result.stdout.split()
        if name.startswith('simim_plugin.')
    }
    assert 'commands' in loaded
    assert not loaded & {
        'evaluation',
        'visualization',
        'demo',
        'benchmarks',
        'detection',
        'segmentation',
    }

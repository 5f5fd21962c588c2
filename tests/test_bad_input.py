"""Bad input ends in one sentence, exit code 1, and nothing half-written."""

import errno
import os
import subprocess
import sys

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from simim_plugin.errors import SimimError, one_line_errors

from . import UPSTREAM
from .test_runs import (  # noqa: F401
    CIFAR,
    DEMO,
    ROOT,
    TRAIN,
    images,
    options,
)

pytestmark = pytest.mark.slow
CIFAR_FINE_TUNING = 'siamese_im_vit-tiny-p4_ft-1xb128-amp-coslr-50e_cifar10.py'


def refuse(folder, *words, command=TRAIN, environment=()) -> str:
    """Run a command that must fail: the one sentence that it says."""
    done = subprocess.run(
        [*command, *map(str, words)],
        cwd=folder,
        env=dict(os.environ, **dict(environment)),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 1, done.stdout[-2000:] + done.stderr[-2000:]
    assert 'Traceback' not in done.stderr, done.stderr[-3000:]
    (line,) = [
        line for line in done.stderr.splitlines() if line.startswith('error: ')
    ]
    assert not list(folder.rglob('*.pth*'))
    return line.removeprefix('error: ')


def test_missing_folder(tmp_path):
    said = refuse(tmp_path, DEMO, *options(tmp_path / 'none'))
    assert str(tmp_path / 'none') in said
    assert 'data_root=' in said


def test_folder_without_images(tmp_path):
    (tmp_path / 'notes.txt').write_text('no image')
    said = refuse(tmp_path, DEMO, *options(tmp_path))
    assert 'No image' in said
    assert str(tmp_path) in said


@pytest.mark.parametrize('config', [CIFAR, CIFAR_FINE_TUNING])
def test_cifar10_without_its_files(tmp_path, config):
    said = refuse(tmp_path, config)
    assert "No CIFAR-10 in 'data/cifar10'" in said
    assert 'data/cifar10/cifar-10-batches-py' in said
    assert 'data_root' in said


def test_fewer_images_than_a_batch(tmp_path, images):  # noqa: F811
    few = options(images, 'train_dataloader.batch_size=25')
    said = refuse(tmp_path, DEMO, *few)
    assert '24 images' in said
    assert 'train_dataloader.batch_size' in said


@pytest.mark.parametrize('workers', [0, 1])
def test_unreadable_image(tmp_path, images, workers):  # noqa: F811
    folder = tmp_path / 'broken'
    folder.mkdir()
    for k, file in enumerate(images.iterdir()):
        content = file.read_bytes()
        name = 'bad.png' if k == 5 else file.name
        (folder / name).write_bytes(content[:50] if k == 5 else content)
    said = refuse(
        tmp_path,
        DEMO,
        *options(folder, f'train_dataloader.num_workers={workers}'),
    )
    assert f'{folder}/bad.png' in said
    assert 'skip_broken' in said


def test_a_share_of_unreadable_images_may_be_skipped(
    tmp_path,
    images,  # noqa: F811
):
    folder = tmp_path / 'broken'
    folder.mkdir()
    for file in images.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    (folder / 'bad.png').write_bytes(b'')
    skip = 'train_dataloader.dataset.skip_broken=0.05'
    done = subprocess.run(
        [*TRAIN, DEMO, *options(folder, skip)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    (folder / 'bad2.png').write_bytes(b'')
    (folder / 'epoch_1.pth').unlink(missing_ok=True)
    for file in tmp_path.rglob('*.pth'):
        file.unlink()
    said = refuse(tmp_path, DEMO, *options(folder, skip))
    assert '2 of the 26 images' in said


def test_every_kind_of_image_is_accepted(tmp_path):
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 256, (70, 90, 3), np.uint8)
    image = Image.fromarray(pixels)
    image.convert('L').save(tmp_path / 'grey.jpg')
    image.convert('CMYK').save(tmp_path / 'cmyk.jpg')
    image.convert('RGBA').save(tmp_path / 'rgba.png')
    image.quantize(16).save(tmp_path / 'palette.png')
    image.resize((9, 5)).save(tmp_path / 'smaller_than_the_crop.png')
    cv2.imwrite(
        str(tmp_path / 'deep.png'),
        generator.integers(0, 2**16, (64, 64), np.uint16),
    )
    done = subprocess.run(
        [
            *TRAIN,
            DEMO,
            *options(tmp_path, 'train_dataloader.batch_size=6'),
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]


def test_wrong_config_name(tmp_path):
    said = refuse(tmp_path, 'siamese_im_vit-tiny_demo.py')
    assert "'siamese_im_vit-tiny_demo.py'" in said
    assert DEMO in said


def test_missing_package(tmp_path):
    # A folder whose mmpretrain hides the real one, as a damaged install.
    (tmp_path / 'hidden' / 'mmpretrain').mkdir(parents=True)
    hide = (
        'import sys, runpy\n'
        'from importlib.machinery import PathFinder\n'
        'find = PathFinder.find_spec\n'
        'def no(name, *rest):\n'
        '    return None if name == "mmpretrain" else find(name, *rest)\n'
        'PathFinder.find_spec = no\n'
        f'sys.argv = [{TRAIN[1]!r}, {DEMO!r}]\n'
        f'runpy.run_path({TRAIN[1]!r}, run_name="__main__")\n'
    )
    said = refuse(tmp_path, command=[sys.executable, '-c', hide])
    assert 'mmpretrain' in said
    assert 'pip install' in said


def test_two_stacks_over_each_other(tmp_path):
    other = 'onedl-mmengine' if UPSTREAM else 'mmengine'
    info = tmp_path / 'site' / f'{other.replace("-", "_")}-0.10.7.dist-info'
    info.mkdir(parents=True)
    (info / 'METADATA').write_text(
        f'Metadata-Version: 2.1\nName: {other}\nVersion: 0.10.7\n'
    )
    path = f'{tmp_path / "site"}{os.pathsep}{ROOT}'
    said = refuse(tmp_path, DEMO, environment=dict(PYTHONPATH=path))
    assert 'onedl-mmengine and mmengine' in said
    assert 'pip uninstall' in said


@pytest.mark.parametrize('option', ['--pretrained', '--resume'])
def test_checkpoint_of_another_architecture(
    tmp_path,
    images,  # noqa: F811
    option,
):
    file = tmp_path / 'other.pt'
    torch.save(dict(state_dict={'fc.weight': torch.zeros(2)}), file)
    said = refuse(tmp_path, DEMO, option, file, *options(images))
    assert str(file) in said
    assert 'does not fit the model' in said
    assert 'fc.weight' in said


def test_float16_without_a_gpu(tmp_path):
    if torch.cuda.is_available():
        pytest.skip('there is a GPU')
    said = refuse(
        tmp_path, 'siamese_im_vit-base-p16_8xb512-fp16-coslr-1600e_in1k.py'
    )
    assert 'needs a GPU' in said
    assert '--amp' in said


def test_out_of_disk(tmp_path, images):  # noqa: F811
    """What a full disk does to a write, at the point of writing."""
    script = (
        'import errno, os, sys, runpy\n'
        'from mmengine.fileio import LocalBackend\n'
        'def put(self, obj, filepath):\n'
        '    open(filepath, "wb").write(obj[:100])\n'
        '    full = errno.ENOSPC\n'
        '    raise OSError(full, os.strerror(full), filepath)\n'
        'LocalBackend.put = put\n'
        f'sys.argv = [{TRAIN[1]!r}, {DEMO!r}, *{options(images)!r}]\n'
        f'runpy.run_path({TRAIN[1]!r}, run_name="__main__")\n'
    )
    said = refuse(tmp_path, command=[sys.executable, '-c', script])
    assert 'The disk is full' in said
    assert not list(tmp_path.rglob('*.part'))


def test_a_fault_of_the_program_keeps_its_traceback(capsys):
    with pytest.raises(ZeroDivisionError), one_line_errors():
        1 / 0  # noqa: B018
    for error, words in (
        (SimimError('A sentence.'), 'A sentence.'),
        (OSError(errno.ENOSPC, 'No space left on device', '/x'), '/x'),
        (TimeoutError(), 'error: TimeoutError'),
        (ImportError('\n'), 'error: ImportError'),
    ):
        with pytest.raises(SystemExit) as end, one_line_errors():
            raise error
        assert end.value.code == 1
        assert words in capsys.readouterr().err

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
from .test_runs import CIFAR, ROOT, TRAIN
from .training_processes import DEMO, Run, end_all, short

pytestmark = pytest.mark.slow
CIFAR_FINE_TUNING = 'siamese_im_vit-tiny-p4_ft-1xb128-amp-coslr-50e_cifar10.py'


@pytest.fixture(autouse=True)
def no_run_is_left():
    yield
    end_all()


def refuse(folder, *words, config=DEMO, before=None) -> str:
    """Train with arguments that must fail and return the one sentence."""
    printed = Run(folder, *words, config=config, before=before).end(1)
    return sentence(folder, printed)


def refuse_command(folder, *command, **environment) -> str:
    """Run a command that must fail and return the one sentence."""
    done = subprocess.run(
        command,
        cwd=folder,
        env=dict(os.environ, **environment),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 1, done.stdout[-2000:] + done.stderr[-2000:]
    return sentence(folder, done.stderr)


def sentence(folder, printed) -> str:
    assert 'Traceback' not in printed, printed[-3000:]
    (line,) = [
        line for line in printed.splitlines() if line.startswith('error: ')
    ]
    assert not list(folder.rglob('*.pth*'))
    return line.removeprefix('error: ')


def test_missing_folder(tmp_path):
    message = refuse(tmp_path, *short(tmp_path / 'none'))
    assert str(tmp_path / 'none') in message
    assert 'data_root=' in message


def test_folder_without_images(tmp_path):
    (tmp_path / 'notes.txt').write_text('no image')
    message = refuse(tmp_path, *short(tmp_path))
    assert 'No image' in message
    assert str(tmp_path) in message


@pytest.mark.parametrize('config', [CIFAR, CIFAR_FINE_TUNING])
def test_cifar10_without_its_files(tmp_path, config):
    message = refuse(tmp_path, config=config)
    assert "No CIFAR-10 in 'data/cifar10'" in message
    assert 'data/cifar10/cifar-10-batches-py' in message
    assert 'data_root' in message


def test_fewer_images_than_a_batch(tmp_path, images):
    few = short(images, 'train_dataloader.batch_size=25')
    message = refuse(tmp_path, *few)
    assert '24 images' in message
    assert 'train_dataloader.batch_size' in message


@pytest.mark.parametrize('workers', [0, 1])
def test_unreadable_image(tmp_path, images, workers):
    folder = tmp_path / 'broken'
    folder.mkdir()
    for k, file in enumerate(images.iterdir()):
        content = file.read_bytes()
        name = 'bad.png' if k == 5 else file.name
        (folder / name).write_bytes(content[:50] if k == 5 else content)
    message = refuse(
        tmp_path,
        *short(folder, f'train_dataloader.num_workers={workers}'),
    )
    assert f'{folder}/bad.png' in message
    assert 'skip_broken' in message


def test_a_share_of_unreadable_images_may_be_skipped(tmp_path, images):
    folder = tmp_path / 'broken'
    folder.mkdir()
    for file in images.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    (folder / 'bad.png').write_bytes(b'')
    skip = 'train_dataloader.dataset.skip_broken=0.05'
    Run(tmp_path, *short(folder, skip), config=DEMO).end()
    (folder / 'bad2.png').write_bytes(b'')
    for file in tmp_path.rglob('*.pth'):
        file.unlink()
    message = refuse(tmp_path, *short(folder, skip))
    assert '2 of the 26 images' in message


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
    options = short(tmp_path, 'train_dataloader.batch_size=6')
    Run(tmp_path, *options, config=DEMO).end()


def test_wrong_config_name(tmp_path):
    message = refuse_command(tmp_path, *TRAIN, 'siamese_im_vit-tiny_demo.py')
    assert "'siamese_im_vit-tiny_demo.py'" in message
    assert DEMO in message


def test_missing_package(tmp_path):
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
    message = refuse_command(tmp_path, sys.executable, '-c', hide)
    assert 'mmpretrain' in message
    assert 'pip install' in message


def test_two_stacks_over_each_other(tmp_path):
    other = 'onedl-mmengine' if UPSTREAM else 'mmengine'
    info = tmp_path / 'site' / f'{other.replace("-", "_")}-0.10.7.dist-info'
    info.mkdir(parents=True)
    (info / 'METADATA').write_text(
        f'Metadata-Version: 2.1\nName: {other}\nVersion: 0.10.7\n'
    )
    path = f'{tmp_path / "site"}{os.pathsep}{ROOT}'
    message = refuse_command(tmp_path, *TRAIN, DEMO, PYTHONPATH=path)
    assert 'onedl-mmengine and mmengine' in message
    assert 'pip uninstall' in message


@pytest.mark.parametrize('option', ['--pretrained', '--resume'])
def test_checkpoint_of_another_architecture(tmp_path, images, option):
    file = tmp_path / 'other.pt'
    torch.save(dict(state_dict={'fc.weight': torch.zeros(2)}), file)
    message = refuse(tmp_path, option, file, *short(images))
    assert str(file) in message
    assert 'does not fit the model' in message
    assert 'fc.weight' in message


def test_float16_without_a_gpu(tmp_path):
    if torch.cuda.is_available():
        pytest.skip('there is a GPU')
    message = refuse(
        tmp_path,
        config='siamese_im_vit-base-p16_8xb512-fp16-coslr-1600e_in1k.py',
    )
    assert 'needs a GPU' in message
    assert '--amp' in message


def fill_disk():
    """Make mmengine's writes fail half-way, as on a full disk."""
    from mmengine.fileio import LocalBackend

    def put(self, obj, filepath):
        with open(filepath, 'wb') as file:
            file.write(obj[:100])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), filepath)

    LocalBackend.put = put


def test_out_of_disk(tmp_path, images):
    message = refuse(tmp_path, *short(images), before=fill_disk)
    assert 'The disk is full' in message
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

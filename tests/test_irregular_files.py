"""A pipe, a socket or a device in place of a file blocks nothing."""

import os
import signal
import socket
from pathlib import Path

import pytest
from PIL import Image

from simim_plugin.checkpoint import CheckpointError, read_checkpoint
from simim_plugin.commands.command_line import find_config
from simim_plugin.commands.visualize import find_images, read_image
from simim_plugin.datasets import (
    ImageFolder,
    LabelledFolder,
    LocalCIFAR10,
    UnreadableImageError,
)
from simim_plugin.errors import SimimError
from simim_plugin.evaluation import folder_dataset
from simim_plugin.files import check_regular, complete_file, last_checkpoint
from simim_plugin.visualization import read_run

LOAD = [dict(type='LoadRGBImage')]


@pytest.fixture(autouse=True)
def limited():
    """Fail after 20 s instead of blocking for ever."""

    def fail(*_):
        raise AssertionError('blocked')

    before = signal.signal(signal.SIGALRM, fail)
    signal.alarm(20)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def put_pipe(path: Path) -> None:
    os.mkfifo(path)


def put_socket(path: Path) -> None:
    bound = socket.socket(socket.AF_UNIX)
    before = os.getcwd()
    os.chdir(path.parent)  # the address of a socket is short
    bound.bind(path.name)
    os.chdir(before)
    bound.close()


def put_device(path: Path) -> None:
    path.symlink_to('/dev/zero')


KINDS = {
    'a named pipe': put_pipe,
    'a socket': put_socket,
    'a device': put_device,
}
blocking = pytest.mark.parametrize('kind', KINDS)


def put(kind: str, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    KINDS[kind](path)
    return path


@blocking
def test_regular_files_and_links_to_them_pass(tmp_path, kind):
    file = tmp_path / 'file'
    file.touch()
    link = tmp_path / 'link'
    link.symlink_to(file)
    for path in (file, link, tmp_path / 'none', 's3://bucket/x', 'x' * 300):
        check_regular(path)
    with pytest.raises(OSError, match=f'{kind}, not a regular file'):
        check_regular(put(kind, tmp_path / 'other'))


@blocking
def test_pictures(tmp_path, kind):
    place = put(kind, tmp_path / 'train' / 'a' / 'x.jpg')
    Image.new('RGB', (40, 40)).save(tmp_path / 'train' / 'a' / 'y.png')
    match = f'{place} .{kind}, not a regular file'
    data = ImageFolder(str(tmp_path), pipeline=LOAD)
    with pytest.raises(UnreadableImageError, match=match):
        data[0]
    data = ImageFolder(str(tmp_path), pipeline=LOAD, skip_broken=0.5)
    assert data[0]['img_path'].endswith('y.png')
    train = tmp_path / 'train'
    for data in (
        LabelledFolder(str(train), pipeline=LOAD),
        folder_dataset(train, 32),
    ):
        with pytest.raises(UnreadableImageError, match=match):
            data[0]
    with pytest.raises(UnreadableImageError, match=match):
        read_image(find_images([place], 1)[0])


@blocking
def test_lists_and_annotations(tmp_path, kind):
    folder = tmp_path / 'train' / 'a'
    folder.mkdir(parents=True)
    Image.new('RGB', (40, 40)).save(folder / 'y.png')
    root = str(tmp_path / 'train')
    for name in ('list.txt', 'list.gz'):
        file = str(put(kind, tmp_path / name))
        with pytest.raises(SimimError, match=f'{kind}, not a regular file'):
            LabelledFolder(root, list_file=file)
    with pytest.raises(SimimError, match=f'{kind}, not a regular file'):
        LabelledFolder(root, ann_file=file)
    put(kind, tmp_path / 'cifar-10-batches-py' / 'data_batch_1')
    with pytest.raises(OSError, match=f'{kind}, not a regular file'):
        LocalCIFAR10(str(tmp_path))


@blocking
def test_checkpoints_configs_and_logs(tmp_path, kind):
    with pytest.raises(CheckpointError, match='There is no checkpoint file'):
        read_checkpoint(put(kind, tmp_path / 'x.pth'))
    with pytest.raises(FileNotFoundError, match='no config called'):
        find_config(put(kind, tmp_path / 'x.py'))
    put(kind, tmp_path / 'last_checkpoint')
    with pytest.raises(OSError, match=kind):
        last_checkpoint(tmp_path)
    put(kind, tmp_path / '1' / 'vis_data' / 'scalars.json')
    with pytest.raises(OSError, match=kind):
        read_run(tmp_path)


@blocking
def test_dense_data_sets(tmp_path, kind):
    pytest.importorskip('mmdet')
    pytest.importorskip('mmseg')
    from simim_plugin.detection.datasets import CheckedCocoDataset, _names
    from simim_plugin.segmentation.data import CheckedSegDataset, LabelMapError

    file = put(kind, tmp_path / 'x.json')
    with pytest.raises(SimimError, match='no annotation file'):
        CheckedCocoDataset(ann_file=str(file))
    assert not _names(str(tmp_path))
    with pytest.raises(LabelMapError, match='no list of pairs'):
        CheckedSegDataset(
            ann_file=str(file), data_prefix=dict(img_path='images')
        )


def test_names_that_are_too_long(tmp_path):
    name = 'x' * 300
    with pytest.raises(CheckpointError, match='no checkpoint file'):
        read_checkpoint(tmp_path / f'{name}.pth')
    with pytest.raises(FileNotFoundError, match='no config called'):
        find_config(f'{name}.py')
    with pytest.raises(SimimError, match='no image or folder'):
        find_images([tmp_path / name], 1)


def test_names_of_255_bytes(tmp_path):
    name = 'ü' * 125 + 'x.png'
    assert len(os.fsencode(name)) == 255
    path = tmp_path / name
    with complete_file(path) as part:
        Image.new('RGB', (40, 40)).save(part, 'PNG')
    assert list(tmp_path.iterdir()) == [path]
    assert ImageFolder(str(tmp_path), pipeline=LOAD)[0]['img'].shape[0] == 40

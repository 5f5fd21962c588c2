"""No file hangs the reader, ends the process or takes its memory."""

import subprocess
import sys
import zipfile

import pytest
import torch

from simim_plugin.checkpoint import CheckpointError, read_checkpoint

from ..conftest import ROOT
from .helpers import Call
from .hostile import PAYLOADS, as_pickle, as_stream, as_zip

MODULE = 'tests.test_checkpoint.hostile'


def read_each(*arguments) -> list[list[str]]:
    """Read files in a process of little memory and time."""
    done = subprocess.run(
        [sys.executable, '-m', MODULE, *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    lines = [
        line.removeprefix('FILE ').split(maxsplit=2)
        for line in done.stdout.splitlines()
        if line.startswith('FILE ')  # and not a warning of a library
    ]
    assert done.returncode == 0, (lines[-1:], done.stderr[-2000:])
    return lines


@pytest.mark.slow
def test_costly_files_are_refused_in_a_sentence(tmp_path):
    for number, payload in enumerate(PAYLOADS.values()):
        data = as_pickle(payload)
        (tmp_path / f'{number:02}.pkl').write_bytes(data)
        (tmp_path / f'{number:02}.pth').write_bytes(as_zip(data))
        (tmp_path / f'{number:02}_old.pth').write_bytes(as_stream(data))
    lines = read_each(tmp_path)
    assert len(lines) == 3 * len(PAYLOADS)
    for name, end, *sentence in lines:
        case = [*PAYLOADS][int(name[:2])]
        assert end == 'refused', (name, case)
        assert len(sentence[0]) < 400, (name, case)
        assert '\\n' not in sentence[0]


@pytest.mark.parametrize(
    ('data', 'words'),
    [
        (as_zip(as_pickle(b'}'), compressed=True), 'does not compress'),
        (
            as_zip(as_pickle(b'}')).replace(
                b'\x04\x00\x00\x00\x04\x00\x00\x00', b'\xff\xff\xff\x00' * 2
            ),
            'larger than the file',
        ),
    ],
    ids=['compressed', 'larger than stated'],
)
def test_members_of_a_zip(tmp_path, data, words):
    file = tmp_path / 'file.pth'
    file.write_bytes(data)
    with pytest.raises(CheckpointError, match=words):
        read_checkpoint(file)


@pytest.mark.parametrize(
    'size',
    [(2**20, 2**20), (5,), (2, 3), (-1,), (2**62, 2**62)],
    ids=str,
)
def test_a_tensor_is_no_larger_than_its_storage(tmp_path, size):
    """Strides of 0 repeat a number without memory."""
    file = tmp_path / 'file.pth'
    zeros = (0,) * len(size)
    storage = torch.ones(4).storage()
    rebuild = torch._utils._rebuild_tensor_v2
    torch.save({'x': Call(rebuild, storage, 0, size, zeros, False, {})}, file)
    with pytest.raises(CheckpointError, match=r'storage|negative'):
        read_checkpoint(file)


@pytest.mark.parametrize('count', [64, 5000])
def test_tensors_share_a_storage(tmp_path, count):
    """Tied weights do; a check of each tensor of many would never end."""
    file = tmp_path / 'file.pth'
    weight = torch.ones(2**18)
    content = {str(n): weight[:-1] for n in range(count)}
    torch.save(content, file)
    if count == 64:
        assert len(read_checkpoint(file)) == count
    else:
        with pytest.raises(CheckpointError, match='more tensors'):
            read_checkpoint(file)


def test_members_that_overlap(tmp_path):
    """Many entries of the directory may point to one member."""
    file = tmp_path / 'file.pth'
    torch.save({'x': torch.ones(1000)}, file)
    with zipfile.ZipFile(file, 'a') as archive:
        info = archive.getinfo(f'{file.stem}/data/0')
        for number in range(1, 9):
            copy = zipfile.ZipInfo(f'{file.stem}/data/{number}')
            for name in ('header_offset', 'CRC', 'file_size', 'compress_size'):
                setattr(copy, name, getattr(info, name))
            archive.filelist.append(copy)
        archive._didModify = True
    with pytest.raises(CheckpointError, match='larger than the file'):
        read_checkpoint(file)

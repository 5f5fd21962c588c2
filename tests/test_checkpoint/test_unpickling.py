"""Files of torch.save read without torch.load, and what they cannot do."""

import pickle
import tarfile
from argparse import Namespace
from collections import Counter, OrderedDict

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer
from torch import nn

from simim_plugin.checkpoint import CheckpointError, read_checkpoint
from simim_plugin.checkpoint.unpickling import _CALLED, _DTYPES, _KNOWN

from .helpers import Malicious


def same(a, b):
    if isinstance(a, torch.Tensor):
        assert type(a) is type(b)
        assert a.dtype == b.dtype
        assert a.requires_grad == b.requires_grad
        assert a.stride() == b.stride()
        assert torch.equal(a, b)
    elif isinstance(a, dict):
        assert type(a) is type(b)
        assert list(a) == list(b)
        for name in a:
            same(a[name], b[name])
    elif isinstance(a, (list, tuple)):
        assert type(a) is type(b)
        for one, other in zip(a, b, strict=True):
            same(one, other)
    else:
        assert a == b


@pytest.mark.parametrize('new', [True, False])
def test_both_formats_as_torch_reads_them(tmp_path, new):
    file = tmp_path / 'file.pth'
    numbers = torch.arange(12).reshape(3, 4)
    content = dict(
        state=OrderedDict(nn.Linear(3, 2).state_dict()),
        dtypes=[numbers.to(dtype) for dtype in _DTYPES.values()],
        views=(numbers, numbers.T, numbers[1:, 2], torch.tensor(3.5)),
        parameters=[nn.Parameter(torch.ones(2)), torch.empty(0, 3)],
        grad=torch.ones(2, requires_grad=True),
        plain={
            'x': [1, 2.5, None, True, 'text', b'b', b'', (), {3}, 1j, 2**70]
        },
        steps=Counter([8, 11, 11]),
        bytes=bytearray(b'bytes'),
        size=numbers.shape,
        device=torch.device('cpu'),
        dtype=torch.float16,
    )
    torch.save(content, file, _use_new_zipfile_serialization=new)
    found = read_checkpoint(file)
    same(found, content)
    first, turned, *_ = found['views']
    first[0, 1] = 99
    assert turned[1, 0] == 99  # they still share their memory
    file.write_bytes(file.read_bytes()[:-50])
    with pytest.raises(CheckpointError, match='truncated'):
        read_checkpoint(file)


@pytest.mark.parametrize('new', [True, False])
def test_history_and_arguments(tmp_path, new):
    file = tmp_path / 'file.pth'
    history = HistoryBuffer([1, 2.5], [1, 1])
    content = dict(history=history, args=Namespace(lr=0.1, betas=(0.9, 1)))
    torch.save(content, file, _use_new_zipfile_serialization=new)
    for _ in range(2):
        found = read_checkpoint(file)
        assert found['history'].mean() == 1.75
        assert found['history'].statistics('max') == 2.5
        assert vars(found['args']) == dict(lr=0.1, betas=(0.9, 1))
        torch.save(found, file, _use_new_zipfile_serialization=new)
    assert b'simim_plugin' not in file.read_bytes()


def test_torchscript_is_not_run(tmp_path):
    file = tmp_path / 'file.pth'
    torch.jit.save(torch.jit.trace(nn.ReLU(), torch.ones(1)), file)
    with pytest.raises(CheckpointError, match=r'__torch__.*may run code'):
        read_checkpoint(file)


def test_tar_archives_are_not_unpacked(tmp_path):
    witness, file = tmp_path / 'witness', tmp_path / 'file.pth'
    (tmp_path / 'storages').write_bytes(pickle.dumps(Malicious(witness)))
    with tarfile.open(file, 'w') as archive:
        archive.add(tmp_path / 'storages', 'storages')
    with pytest.raises(CheckpointError, match='another format'):
        read_checkpoint(file)
    assert not witness.exists()


@pytest.mark.parametrize('name', [*_KNOWN, *_CALLED])
def test_a_file_changes_nothing_that_it_names(tmp_path, name):
    """As unpickling plainly would: it sets what attributes it is told."""
    module, _, name = name.rpartition('.')
    state = pickle.dumps((None, {'injected': 1}), protocol=2)[2:-1]
    file = tmp_path / 'file.pkl'
    file.write_bytes(f'c{module}\n{name}\n'.encode() + state + b'b.')
    with pytest.raises(CheckpointError):
        read_checkpoint(file)
    for known in _KNOWN.values():
        assert not hasattr(known, 'injected')


def test_a_dtype_keeps_its_meaning(tmp_path):
    """A dtype that claims to hold references would free them."""

    class Claim:
        def __reduce__(self):
            flags = (3, '<', None, None, None, -1, -1, 63)
            return np.dtype, ('f8', False, True), flags

    class Array:
        def __reduce__(self):
            return (
                np.zeros(0).__reduce__()[0],
                (np.ndarray, (0,), b'b'),
                (1, (2,), Claim(), False, bytes(16)),
            )

    file = tmp_path / 'file.pth'
    torch.save({'x': Array()}, file)
    array = read_checkpoint(file)['x']
    assert array.dtype.flags == np.dtype('f8').flags
    assert (array == [0, 0]).all()

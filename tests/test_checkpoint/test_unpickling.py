"""The reader of torch.save files: what it reads, and what it refuses."""

import codecs
import io
import pickle
import pickletools
import tarfile
import zipfile
from argparse import Namespace
from collections import Counter, OrderedDict

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer
from torch import nn

from simim_plugin.checkpoint import CheckpointError, read_checkpoint
from simim_plugin.checkpoint.unpickling import _DTYPES, _NAMES

from .helpers import Call, Malicious


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


@pytest.mark.parametrize('protocol', [2, 3, 4, 5])
@pytest.mark.parametrize('new', [True, False])
def test_both_formats_and_all_protocols(tmp_path, new, protocol):
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
    torch.save(
        content,
        file,
        pickle_protocol=protocol,
        _use_new_zipfile_serialization=new,
    )
    found = read_checkpoint(file)
    same(found, content)
    first, turned, *_ = found['views']
    first[0, 1] = 99
    assert turned[1, 0] == 99  # they still share their memory
    file.write_bytes(file.read_bytes()[:-50])
    with pytest.raises(CheckpointError, match='truncated'):
        read_checkpoint(file)


@pytest.mark.parametrize('protocol', [2, 4])
@pytest.mark.parametrize('new', [True, False])
def test_history_and_arguments_are_read_and_written_again(
    tmp_path, new, protocol
):
    how = dict(_use_new_zipfile_serialization=new, pickle_protocol=protocol)
    file = tmp_path / 'file.pth'
    history = HistoryBuffer([1, 2.5], [1, 1])
    content = dict(history=history, args=Namespace(lr=0.1, betas=(0.9, 1)))
    torch.save(content, file, **how)
    for _ in range(2):
        found = read_checkpoint(file)
        assert found['history'].mean() == 1.75
        assert found['history'].statistics('max') == 2.5
        assert vars(found['args']) == dict(lr=0.1, betas=(0.9, 1))
        torch.save(found, file, **how)
    assert b'simim_plugin' not in file.read_bytes()
    plain = torch.load(file, weights_only=False)['history']
    assert type(plain) is HistoryBuffer
    assert plain.statistics('mean') == 1.75


def test_a_history_registers_no_statistics(tmp_path):
    history = HistoryBuffer([1], [1])
    history._statistics_methods = {'mean': bytes, 'injected': bytes}
    torch.save({'history': history}, tmp_path / 'file.pth')
    found = read_checkpoint(tmp_path / 'file.pth')['history']
    assert found.statistics('mean') == 1
    assert 'injected' not in HistoryBuffer._statistics_methods


@pytest.mark.parametrize(
    'then',
    [
        pickle.dumps((None, {'__defaults__': (9,)}), protocol=2)[2:-1] + b'b',
        b'(c__builtin__\nset\ntR',
    ],
    ids=['state', 'call'],
)
def test_a_method_of_the_history_is_not_reached(tmp_path, then):
    name = b'mean' if then.endswith(b'b') else b'register_statistics'
    history = b'mmengine.logging.history_buffer\nHistoryBuffer'
    file = tmp_path / 'file.pkl'
    method = b"c__builtin__\ngetattr\n(c%b\nS'%b'\ntR" % (history, name)
    file.write_bytes(method + then + b'.')
    with pytest.raises(CheckpointError):
        read_checkpoint(file)
    assert HistoryBuffer.mean.__defaults__ == (None,)
    assert 'set' not in HistoryBuffer._statistics_methods


def test_torchscript_is_not_run(tmp_path):
    file = tmp_path / 'file.pth'
    torch.jit.save(torch.jit.trace(nn.ReLU(), torch.ones(1)), file)
    with pytest.raises(CheckpointError, match=r'object of __torch__'):
        read_checkpoint(file)


def test_tar_archives_are_not_unpacked(tmp_path):
    witness, file = tmp_path / 'witness', tmp_path / 'file.pth'
    (tmp_path / 'storages').write_bytes(pickle.dumps(Malicious(witness)))
    with tarfile.open(file, 'w') as archive:
        archive.add(tmp_path / 'storages', 'storages')
    with pytest.raises(CheckpointError, match='another format'):
        read_checkpoint(file)
    assert not witness.exists()


@pytest.mark.parametrize('new', [True, False])
@pytest.mark.parametrize(
    'call',
    [
        Call(torch.Tensor, 5),  # uninitialised memory
        Call(torch.UntypedStorage, 5),
        Call(torch._tensor._rebuild_from_type_v2, torch.Tensor, int, (), {}),
        Call(torch._utils._rebuild_meta_tensor_no_storage, 1, 2, 3, 4),
        Call(codecs.encode, 'x', 'rot13'),
        torch.ones(2).to_sparse(),
        torch.empty(2, device='meta'),
        Call(
            torch._utils._rebuild_tensor_v2,
            torch.ones(2).storage(),
            *(0, (9,), (1,), False, OrderedDict()),  # beyond its storage
        ),
    ],
    ids=lambda call: getattr(call, 'reduced', [type(call)])[0].__name__,
)
def test_calls_that_torch_may_allow(tmp_path, call, new):
    file = tmp_path / 'file.pth'
    torch.save({'x': call}, file, _use_new_zipfile_serialization=new)
    with pytest.raises(CheckpointError):
        read_checkpoint(file)


def added_by_another_library(path):
    """Write a file when torch.load calls it."""
    open(path, 'w').close()


@pytest.mark.skipif(
    not hasattr(torch.serialization, 'safe_globals'),
    reason='this torch has no safe globals',
)
def test_globals_that_others_added_are_not_called(tmp_path):
    witness, file = tmp_path / 'witness', tmp_path / 'file.pth'
    torch.save({'x': Call(added_by_another_library, str(witness))}, file)
    with torch.serialization.safe_globals([added_by_another_library]):
        read_checkpoint(file)
        assert not witness.exists()
        torch.load(file, weights_only=True)
        assert witness.exists()


def test_a_storage_shorter_than_its_count_is_refused(tmp_path):
    whole, file = tmp_path / 'whole.pth', tmp_path / 'file.pth'
    torch.save({'x': torch.arange(4)}, whole)
    with zipfile.ZipFile(whole) as old, zipfile.ZipFile(file, 'w') as new:
        for name in old.namelist():
            data = old.read(name)
            new.writestr(name, data[:8] if '/data/' in name else data)
    with pytest.raises(CheckpointError, match='cut off'):
        read_checkpoint(file)


def test_a_storage_without_data_is_refused(tmp_path):
    """The old format lists the storages that it has data for."""
    file = tmp_path / 'file.pth'
    torch.save(
        {'x': torch.ones(2)}, file, _use_new_zipfile_serialization=False
    )
    with file.open('rb') as whole:
        for _ in range(3):
            pickle.load(whole)
        pickletools.dis(whole, io.StringIO())
        start = whole.tell()
    file.write_bytes(file.read_bytes()[:start] + pickle.dumps([]))
    with pytest.raises(CheckpointError, match='cut off'):
        read_checkpoint(file)


@pytest.mark.parametrize('name', _NAMES)
def test_a_file_does_not_set_attributes_of_what_it_names(tmp_path, name):
    module, _, name = name.rpartition('.')
    state = pickle.dumps((None, {'injected': 1}), protocol=2)[2:-1]
    file = tmp_path / 'file.pkl'
    file.write_bytes(f'c{module}\n{name}\n'.encode() + state + b'b.')
    with pytest.raises(CheckpointError):
        read_checkpoint(file)
    for known in _NAMES.values():
        assert not hasattr(known, 'injected')


def test_a_dtype_keeps_its_meaning(tmp_path):
    """An array whose dtype claims to hold references would free them."""

    flags = (3, '<', None, None, None, -1, -1, 63)
    claim = Call(np.dtype, 'f8', False, True, state=flags)
    build, arguments, _ = np.zeros(0).__reduce__()
    array = Call(build, *arguments, state=(1, (2,), claim, False, bytes(16)))
    file = tmp_path / 'file.pth'
    torch.save({'x': array}, file)
    array = read_checkpoint(file)['x']
    assert array.dtype.flags == np.dtype('f8').flags
    assert (array == [0, 0]).all()

"""Checkpoints from a server are read like those from a disk."""

import json
import shutil
import ssl
import subprocess
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from mmengine.runner import CheckpointLoader, load_checkpoint

import simim_plugin.models  # noqa: F401
from simim_plugin.checkpoint import CheckpointError

from .helpers import Malicious

SCHEMES = ['http', 'open-mmlab', 'openmmlab', 'mmcls', 'local']


class Handler(SimpleHTTPRequestHandler):
    """Serve a folder, and half of each file named half.pth."""

    def log_message(self, *_):
        pass

    def copyfile(self, source, outputfile):
        data = source.read()
        half = self.path.endswith('half.pth')
        outputfile.write(data[: len(data) // 2] if half else data)


def certificate(folder):
    """Make a certificate of 127.0.0.1, signed by itself, with its key."""
    file = folder / 'certificate.pem'
    command = f'openssl req -x509 -newkey rsa:2048 -nodes -keyout {file}.key'
    command += f' -out {file} -days 2 -subj /CN=test -addext'
    subprocess.run(
        [*command.split(), 'subjectAltName=IP:127.0.0.1'],
        check=True,
        capture_output=True,
    )
    file.write_text(file.read_text() + Path(f'{file}.key').read_text())
    return file


@pytest.fixture(params=['http'])
def server(request, tmp_path, monkeypatch):
    """Serve a folder on this machine; caches are folders of the test."""
    folder = tmp_path / 'served'
    folder.mkdir()
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'torch'))
    monkeypatch.setenv('MMENGINE_HOME', str(tmp_path / 'mmengine'))
    monkeypatch.setenv('no_proxy', '*')
    handler = partial(Handler, directory=str(folder))
    with ThreadingHTTPServer(('127.0.0.1', 0), handler) as server:
        if request.param == 'https':
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate(tmp_path))
            server.socket = context.wrap_socket(
                server.socket, server_side=True
            )
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield folder, f'{request.param}://127.0.0.1:{server.server_port}'
        server.shutdown()
        thread.join()


def save(folder, name, prefix='', **more):
    state = torch.nn.Linear(2, 2).state_dict()
    state = {prefix + key: torch.ones_like(state[key]) for key in state}
    torch.save(dict(state_dict=state, **more), folder / name)


def address(tmp_path, monkeypatch, server, scheme, name):
    """Return what a user passes, of each scheme."""
    root = server[1]
    home = tmp_path / 'mmengine'
    home.mkdir(exist_ok=True)
    known = dict(remote=f'{root}/{name}', local=f'../served/{name}')
    (home / 'open_mmlab.json').write_text(json.dumps(known))
    monkeypatch.setattr(
        'mmengine.runner.checkpoint.get_mmcls_models', lambda: known
    )
    return dict(
        local='open-mmlab://local', http=f'{root}/{name}'
    ).get(scheme, f'{scheme}://remote')  # fmt: skip


@pytest.mark.parametrize('scheme', SCHEMES)
def test_a_good_file_is_loaded(tmp_path, monkeypatch, server, scheme):
    # MMEngine takes the backbone alone by that scheme.
    prefix = 'backbone.' if scheme == 'mmcls' else ''
    save(server[0], 'good.pth', prefix)
    name = address(tmp_path, monkeypatch, server, scheme, 'good.pth')
    model = torch.nn.Linear(2, 2)
    load_checkpoint(model, name)
    assert model.weight.eq(1).all()
    (server[0] / 'good.pth').rename(server[0] / 'moved.pth')
    if scheme != 'local':  # it is downloaded once
        load_checkpoint(torch.nn.Linear(2, 2), name)


@pytest.mark.parametrize('scheme', SCHEMES)
@pytest.mark.parametrize('legacy', [False, True], ids=['zip', 'stream'])
def test_code_is_not_run(tmp_path, monkeypatch, server, scheme, legacy):
    witness = tmp_path / 'witness'
    content = dict(state_dict={}, payload=Malicious(witness))
    torch.save(
        content,
        server[0] / 'bad.pth',
        _use_new_zipfile_serialization=not legacy,
    )
    name = address(tmp_path, monkeypatch, server, scheme, 'bad.pth')
    for _ in range(2):
        with pytest.raises(CheckpointError, match='run code'):
            CheckpointLoader.load_checkpoint(name)
        with pytest.raises(CheckpointError):
            load_checkpoint(torch.nn.Linear(2, 2), name)
    assert not witness.exists()


def test_what_cannot_be_downloaded(tmp_path, server):
    folder, root = server
    save(folder, 'half.pth')
    for name, words in (
        (f'{root}/missing.pth', r'Cannot download .*404'),
        ('http://127.0.0.1:1/file.pth', 'Cannot download'),
        ('http:///file.pth', 'Cannot download'),
        ('http://127.0.0.1:x/file.pth', 'Cannot download'),
        (f'{root}/', 'names no file'),
        (f'{root}/..', 'names no file'),
        (f'{root}/half.pth', r'half\.pth'),
        ('open-mmlab://unheard-of', 'knows no checkpoint'),
        ('s3://bucket/file.pth', 'cannot be read safely'),
    ):
        with pytest.raises(CheckpointError, match=words) as error:
            CheckpointLoader.load_checkpoint(name)
        assert '\n' not in str(error.value)
    # What is cut off is downloaded again.
    assert not list((tmp_path / 'torch').rglob('*.pth*'))


def test_another_file_of_the_same_name_is_not_taken(server):
    folder, root = server
    for name in ('one', 'other'):
        (folder / name).mkdir()
        save(folder / name, 'epoch_1.pth', meta=dict(name=name))
    first = CheckpointLoader.load_checkpoint(f'{root}/one/epoch_1.pth')
    assert first['meta']['name'] == 'one'
    with pytest.raises(CheckpointError, match=r'is from .*one.* not from'):
        CheckpointLoader.load_checkpoint(f'{root}/other/epoch_1.pth')


@pytest.mark.skipif(not shutil.which('openssl'), reason='makes certificates')
@pytest.mark.parametrize('server', ['https'], indirect=True)
def test_a_server_with_a_certificate(tmp_path, monkeypatch, server):
    folder, root = server
    save(folder, 'good.pth')
    save(folder, 'bad.pth', payload=Malicious(tmp_path / 'witness'))
    with pytest.raises(CheckpointError, match=r'Cannot .*CERTIFICATE') as end:
        load_checkpoint(torch.nn.Linear(2, 2), f'{root}/good.pth')
    assert '\n' not in str(end.value)
    assert not list((tmp_path / 'torch').rglob('*.pth*'))
    monkeypatch.setenv('SSL_CERT_FILE', str(tmp_path / 'certificate.pem'))
    # From Python 3.13 on, the opener of an earlier test keeps certificates.
    monkeypatch.setattr('urllib.request._opener', None)
    model = torch.nn.Linear(2, 2)
    load_checkpoint(model, f'{root}/good.pth')
    assert model.weight.eq(1).all()
    with pytest.raises(CheckpointError, match='run code'):
        load_checkpoint(model, f'{root}/bad.pth')
    assert not (tmp_path / 'witness').exists()

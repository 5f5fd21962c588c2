"""Archives that are open are read by several threads at once."""

import tarfile
import zipfile

import pytest

from simim_plugin.pictures import archives
from simim_plugin.pictures.archives import list_archive, read_member


@pytest.mark.parametrize('ending', ['zip', 'tar'])
def test_a_handle_stays_open_while_it_is_read(ending, tmp_path, monkeypatch):
    """Another thread may open the archive at once, and keep its handle."""
    file = tmp_path / f'a.{ending}'
    if ending == 'zip':
        with zipfile.ZipFile(file, 'w') as archive:
            archive.writestr('a.png', b'bytes')
    else:
        (tmp_path / 'a.png').write_bytes(b'bytes')
        with tarfile.open(file, 'w') as archive:
            archive.add(tmp_path / 'a.png', 'a.png')
    monkeypatch.setattr(archives, '_open', lambda p, *_: archives._Handle(p))
    member = list_archive(str(file))['a.png']
    assert read_member(str(file), member) == b'bytes'

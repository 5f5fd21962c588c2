"""Folders that are complete whenever they exist."""

import pytest

from simim_plugin.files import complete_folder


def test_two_writers_have_folders_of_their_own(tmp_path):
    out = tmp_path / 'data'
    with complete_folder(out) as first:
        with complete_folder(tmp_path / 'other') as second:
            assert first != second
        (first / 'a').touch()
        with pytest.raises(OSError), complete_folder(out) as third:
            assert third != first
            raise OSError
        assert first.is_dir()
    assert [path.name for path in out.iterdir()] == ['a']
    assert {path.name for path in tmp_path.iterdir()} == {'data', 'other'}


def test_a_link_to_an_empty_folder_stays_a_link(tmp_path):
    (tmp_path / 'scratch' / 'data').mkdir(parents=True)
    link = tmp_path / 'data'
    link.symlink_to(tmp_path / 'scratch' / 'data')
    for resume in (False, True):
        with complete_folder(link, resume) as part:
            (part / 'a').touch()
        assert link.is_symlink()
        assert [path.name for path in link.iterdir()] == ['a']
        (link / 'a').unlink()

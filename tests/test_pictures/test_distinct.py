"""Names of drawn pictures."""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simim_plugin.pictures.distinct import distinct_names

CASES = {
    'unique': (['/d/a.jpg', '/d/e/b.png'], ['a', 'b']),
    'folders': (
        ['/d/l/0.jpg', '/d/r/0.jpg', '/d/r/1.jpg'],
        ['l/0.jpg', 'r/0.jpg', '1'],
    ),
    'endings': (['/d/a.jpg', '/d/a.png'], ['a.jpg', 'a.png']),
    'case': (['/d/a.jpg', '/d/A.png'], ['a.jpg', 'A.png']),
    'case of folders': (['/d/x/a.jpg', '/d/X/a.jpg'], ['x/a.jpg', 'X/a.jpg']),
    'dots': (['/d/v.1.jpg', '/d/v.2.jpg'], ['v.1', 'v.2']),
    'a name of a repeated one': (
        ['/d/a.jpg', '/d/a.png', '/d/e/a.jpg.png'],
        ['a.jpg', 'a.png', 'e/a.jpg.png'],
    ),
    'twice': (['/d/a.jpg', '/d/e/../a.jpg'], ['a', 'a']),
}


@pytest.mark.parametrize('case', CASES)
def test_names(case):
    paths, names = CASES[case]
    assert distinct_names(paths) == dict(zip(paths, names, strict=True))


def test_endings_are_kept():
    paths = ['/d/a.jpg', '/d/a.png', '/d/b.gif', '/e/b.gif']
    names = [*distinct_names(paths, ending=True).values()]
    assert names == ['a.jpg', 'a.png', 'd/b.gif', 'e/b.gif']


PART = st.sampled_from(['a', 'A', 'b', 'a.jpg', 'a.png', 'b.jpg'])


@given(st.sets(st.lists(PART, min_size=1, max_size=3).map('/'.join)))
def test_files_have_names_of_their_own(paths):
    names = distinct_names(f'/d/{path}' for path in paths)
    assert len({*names.values()}) == len(paths)
    assert not any(n.startswith(('/', '..')) for n in names.values())
    assert all(os.path.normpath(name) == name for name in names.values())

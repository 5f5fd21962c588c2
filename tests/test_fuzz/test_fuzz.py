"""No changed file hangs a reader, ends the process or shows a traceback."""

import subprocess
import sys
from collections import Counter

import pytest

from ..conftest import ROOT
from .bases import write_bases

COUNTS = dict(
    checkpoints=7000,
    weights=500,
    descriptions=500,
    annotations=800,
    pictures=600,
    archives=600,
)


@pytest.mark.slow
def test_ten_thousand_changed_files_load_or_are_refused(tmp_path):
    write_bases(tmp_path)
    done = subprocess.run(
        [sys.executable, '-m', 'tests.test_fuzz.reading', str(tmp_path)]
        + [f'{name}={count}' for name, count in COUNTS.items()],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    lines = [
        line.split(maxsplit=4)
        for line in done.stdout.splitlines()
        if line.startswith('FILE ')  # and not a log
    ]
    assert done.returncode == 0, (done.stdout[-500:], done.stderr[-2000:])
    crashes = [line for line in lines if line[3] == 'crash']
    assert not crashes, (len(crashes), *crashes[:3])
    ends = Counter((reader, end) for _, reader, _, end, _ in lines)
    for reader, count in COUNTS.items():
        found = [ends[reader, end] for end in ('loaded', 'refused')]
        assert sum(found) == count, reader
        assert min(found) > count / 100, reader

"""The commands behind the figures of docs/ name what there is."""

import shlex
import subprocess
import sys

import pytest

from simim_plugin.packaged import config_path

from . import evidence


@pytest.mark.parametrize('name', evidence.RUNS)
def test_commands_name_tools_and_configs(name):
    for command in evidence.RUNS[name]:
        tool, *words = shlex.split(command)
        assert (evidence.ROOT / tool).is_file()
        for word in words:
            if word.startswith('siamese_im_'):
                config_path(word)


def test_logs_of_different_commands_are_different_files(tmp_path):
    work_dirs = [
        words[words.index('--work-dir') + 1]
        for commands in evidence.RUNS.values()
        for words in map(shlex.split, commands)
        if '--work-dir' in words
    ]
    assert len(work_dirs) == len(set(work_dirs)) > 10


def test_what_is_done_is_not_done_again(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'tool.py').write_text('open("calls", "a").write("x")')
    for command in ('tool.py', 'tool.py', 'tool.py --more'):
        evidence.run_once(command, tmp_path / 'log' / 'command_0.log')
    assert (tmp_path / 'calls').read_text() == 'xx'
    assert 'done before' in capsys.readouterr().out


def test_an_unknown_run_is_a_sentence():
    command = [sys.executable, evidence.__file__, 'everything']
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert 'no run called everything' in done.stderr

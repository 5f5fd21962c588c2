"""The runs behind the figures of docs/ name existing tools and configs."""

import shlex
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from mmengine.config import Config

from docs import evidence
from simim_plugin.config_files import config_path


@pytest.mark.parametrize('name', evidence.RUNS)
def test_commands_name_tools_and_configs(name):
    for command in evidence.RUNS[name]:
        words = [w for w in shlex.split(command) if w[:6] != 'SIMIM_']
        if words[0] == '-m':
            assert find_spec(words[1])
        else:
            assert (evidence.ROOT / words[0]).is_file()
        for word in words:
            if word.startswith('siamese_im_'):
                config_path(word)


def test_runs_need_only_results_of_earlier_ones():
    made = set()
    for commands in evidence.RUNS.values():
        for words in map(shlex.split, commands):
            for flag in ('--pretrained', '--robustness-data'):
                if flag in words:
                    needed = Path(words[words.index(flag) + 1])
                    assert any(needed.is_relative_to(m) for m in made), words
            if '--work-dir' in words:
                made.add(words[words.index('--work-dir') + 1])
            if 'make_corruptions' in words[0]:
                made.add(Path(words[-1]).parent)


@pytest.mark.shared
def test_cifar10_is_unpacked_whole(tmp_path, monkeypatch, shared):
    monkeypatch.chdir(tmp_path)
    evidence.unpack_cifar10()
    for folder, count in (('train', 5000), ('val', 1000), ('few', 100)):
        classes = sorted((evidence.CIFAR / folder).iterdir())
        assert [path.name for path in classes] == list('0123456789')
        assert all(len(list(path.iterdir())) == count for path in classes)
    dataset = Config.fromfile(evidence.CIFAR_CONFIG).train_dataloader.dataset
    assert dataset.type == 'ImageFolder'
    assert dataset.pipeline[0].type == 'LoadRGBImage'


def test_a_failed_run_does_not_stop_the_others(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'bad.py').write_text('raise SystemExit("error: broken.")')
    (tmp_path / 'good.py').write_text('import os; print(os.environ["WORD"])')
    runs = dict(one=['bad.py'], two=['WORD=printed good.py'])
    monkeypatch.setattr(evidence, 'RUNS', runs)
    monkeypatch.setattr(evidence, 'DATA', {})
    with pytest.raises(SystemExit):
        evidence.main([])
    output = capsys.readouterr()
    assert 'failed: broken.' in output.out
    assert 'error: one failed' in output.err
    assert (evidence.OUT / 'two' / 'command_0.log').read_text() == 'printed\n'


def test_logs_of_different_commands_are_different_files(tmp_path):
    work_dirs = [
        words[words.index('--work-dir') + 1]
        for commands in evidence.RUNS.values()
        for words in map(shlex.split, commands)
        # Rows of the ablations have folders of their own.
        if '--work-dir' in words and 'ablate.py' not in words[0]
    ]
    assert len(work_dirs) == len(set(work_dirs)) > 10


def test_finished_commands_are_not_repeated(tmp_path, monkeypatch, capsys):
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

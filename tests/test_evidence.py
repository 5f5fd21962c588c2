"""The runs behind the figures of docs/ name existing tools and configs."""

import shlex
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from mmengine.config import Config

from docs import evidence, kills
from simim_plugin.config_files import config_path
from simim_plugin.errors import SimimError


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

    evidence.hold_out_cifar10()
    parts = [
        {
            file.relative_to(root): file.stat().st_ino
            for file in root.rglob('*.jpg')
        }
        for root in (
            evidence.CIFAR / 'train',
            evidence.HELD_OUT / 'train',
            evidence.HELD_OUT / 'val',
        )
    ]
    assert [len(part) for part in parts] == [50000, 45000, 5000]
    assert parts[0] == parts[1] | parts[2]  # no image is in both


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


def test_kills_are_counted_and_lose_what_ran_again(tmp_path):
    found = [
        dict(phase='imports', reached=8, half=False),
        dict(phase='checkpoint', reached=12, half=True),
        dict(phase='the end', reached=20, half=False),
    ]
    log = tmp_path / 'log'
    for text in ('killed before', 'a\nresumed epoch: 1, iter: 8\nb'):
        log.write_text(text)
        kills.note_resumed(found, log)
    assert [kill.get('resumed') for kill in found] == [8, 8, None]
    log.write_text('INFO - Epoch(train) [1][1/6]')  # no checkpoint was there
    kills.note_resumed([*found, {}], log)
    assert found[2]['resumed'] == 0
    lines = kills.table(dict(plain=found, other=found[:1])).splitlines()
    assert '| imports | 1 | 1 | 0 |' in lines
    assert '| checkpoint | 1 | 0 | 4 |' in lines
    assert '| training | 0 | 0 | 0 |' in lines
    assert lines[-1] == '4 kills, 1 with half a checkpoint.'


def test_the_end_of_a_killed_run_is_compared(tmp_path, monkeypatch):
    for run, weight in (('whole', 1.0), ('run', 1.0)):
        folder = tmp_path / run / 'today/vis_data'
        folder.mkdir(parents=True)
        (folder / 'scalars.json').write_text('{"step": 9, "loss": 2.0}\n{"s')
        state = dict(a=torch.tensor(weight))
        content = dict(state_dict=state, optimizer={}, param_schedulers=[])
        torch.save(content, tmp_path / run / 'iter_9.pth')
    kills.check_end(tmp_path)
    content['state_dict']['a'] += 1e-7
    torch.save(content, tmp_path / 'run/iter_9.pth')
    with pytest.raises(SimimError, match='state_dict'):
        kills.check_end(tmp_path)
    (folder / 'scalars.json').write_text('{"step": 8, "loss": 2.0}')
    with pytest.raises(SimimError, match='step 9'):
        kills.check_end(tmp_path)

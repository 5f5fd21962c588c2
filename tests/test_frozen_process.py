"""A process that no longer answers is named, and the others end."""

import os
import signal
import time
from datetime import timedelta

import pytest
import torch.distributed

from simim_plugin.runs import answering
from simim_plugin.runs.answering import PeerWatch, process_timeout

from .test_faults import FIRST_STEP, epochs, fill
from .training_processes import TINY, end_all, two


class Hang:
    """Let the second process hang in the third step."""

    def __call__(self):
        from simim_plugin.engine import ExactEpochLoop

        whole = ExactEpochLoop.run_iter

        def run_iter(loop, *batch):
            if loop.iter == 2 and os.environ['RANK'] == '1':
                time.sleep(600)
            whole(loop, *batch)

        ExactEpochLoop.run_iter = run_iter


@pytest.mark.slow
@pytest.mark.parametrize('frozen', [0, 1, None], ids=['0', '1', 'hangs'])
def test_the_others_end_and_name_it(tmp_path, frozen):
    (tmp_path / 'tiny.py').write_text(TINY)
    fill(tmp_path / 'images', 24)
    options = epochs(1000, 'env_cfg.dist_cfg.timeout=10')
    try:
        before = Hang() if frozen is None else None
        runs = two(tmp_path, *options, before=before)
        runs[0].wait_for(FIRST_STEP)
        if frozen is None:
            frozen = 1
        else:
            os.kill(runs[frozen].process.pid, signal.SIGSTOP)
        printed = runs[1 - frozen].end(1, seconds=60)
        line = printed.splitlines()[-1]
        assert line.startswith(f'error: Process {frozen} of 0 to 1 has not ')
        assert '--resume' in line
        assert 'Traceback' not in printed
    finally:
        end_all()


def test_the_time_out_of_the_config_counts(monkeypatch):
    config = dict(env_cfg=dict(dist_cfg=dict(timeout=7)))
    assert process_timeout(config) == timedelta(seconds=7)
    for gpu, seconds in ((False, 1800), (True, 600)):
        monkeypatch.setattr(torch.cuda, 'is_available', lambda gpu=gpu: gpu)
        for other in ({}, dict(env_cfg=dict(dist_cfg=dict(backend='gloo')))):
            assert process_timeout(other) == timedelta(seconds=seconds)


class Store(dict):
    """The store of a process group, without the processes."""

    def add(self, key, number):
        self[key] = self.get(key, 0) + number
        return self[key]


class Clock:
    now = 0.0

    def monotonic(self):
        return self.now


@pytest.fixture
def look(monkeypatch):
    """Watch three processes for some seconds; return the sentences."""
    clock = Clock()
    monkeypatch.setattr(answering, 'time', clock)
    monkeypatch.setattr(answering.dist, 'get_world_size', lambda: 3)

    def watch(events, alive, seconds=100):
        clock.now = 0.0
        errors = []
        peers = PeerWatch(
            timedelta(seconds=50),
            lambda sentence, code: errors.append(sentence),
        )
        store = Store({f'events_{k}': n for k, n in enumerate(events)})
        peers.events = events[0]
        for second in range(seconds):
            clock.now = float(second)
            for peer in alive:
                store.add(f'beats_{peer}', 1)
            if second > 20:
                peers._look_at_others(store, 0)
        return errors

    return watch


@pytest.mark.parametrize(
    ('events', 'alive', 'named'),
    [
        ((5, 5, 5), (1, 2), None),  # all are busy
        ((5, 6, 6), (1, 2), None),  # the others wait for this one
        ((5, 5, 5), (1,), '2'),
        ((5, 5, 4), (1, 2), '2'),
        ((5, 4, 4), (1, 2), '1, 2'),
        ((5, 4, 5), (1,), '2'),  # the frozen one is the cause
    ],
)
def test_who_is_named(look, events, alive, named):
    errors = look(events, alive)
    if named is None:
        assert not errors
    else:
        assert errors[0].startswith(f'error: Process {named} of 0 to 2 ')
    assert not look(events, alive, seconds=40)

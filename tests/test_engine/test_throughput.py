"""The figures of speed, waiting and memory."""

import mmap
import re

import pytest
import torch

from .training import Pairs, printed, scalars


def test_waiting_for_data_and_memory_are_logged(train):
    # These limits hold on a busy machine, too.
    hook = dict(type='ThroughputHook', interval=3, max_wait=0.0)
    run = train(hook, dataset=Pairs(seconds=0.1))
    warning = r'Training waited for data \d+% of the time in iterations (.*):'
    assert re.findall(warning, printed(run)) == ['1 to 3', '4 to 6']
    assert 'num_workers (now 0)' in printed(run)
    last = scalars(run)[-1]
    assert last['data_wait'] == pytest.approx(
        last['data_time'] / last['time'], rel=1e-6
    )
    assert 0 < last['data_wait'] < 1
    assert last['data_time'] > 0.1
    assert last['images_per_second'] == pytest.approx(4 / last['time'])
    assert 'Training waited' not in printed(train(dict(hook, max_wait=1.0)))


@pytest.mark.skipif(torch.cuda.is_available(), reason='mmengine logs that')
def test_memory_is_what_the_process_holds(train):
    grown = []

    class Growing(Pairs):
        def __getitem__(self, k):
            # mmap takes no memory that earlier tests have freed.
            pages = mmap.mmap(-1, 16 * 2**20)
            pages.write(bytes(16 * 2**20))
            grown.append(pages)
            return super().__getitem__(k)

    log = scalars(train(dict(type='ThroughputHook'), dataset=Growing()))
    growth = log[-1]['memory'] - log[0]['memory']
    assert growth == pytest.approx(5 * 4 * 16, rel=0.3)

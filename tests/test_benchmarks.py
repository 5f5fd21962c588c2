"""The benchmark command and the parts that it compares."""

import math

import pytest
import torch
from mmpretrain.models.utils import MultiheadAttention

from simim_plugin.benchmarks import savings
from simim_plugin.benchmarks.timing import Timed, median_seconds
from simim_plugin.benchmarks.training import dense_loss
from simim_plugin.commands import benchmark
from simim_plugin.vit import UnboundAttention


def test_times_keep_their_cpu_time_through_products_and_ratios():
    seconds = Timed(4.0, 2.0, 1.5)
    for value, wall, cpu in (
        (1e3 * seconds, 4e3, 2e3),
        (seconds * 0.5, 2, 1),
        (seconds / 2, 2, 1),
        (8 / seconds, 2, 4),
        (seconds / Timed(2.0, 0.5, 0), 2, 4),
    ):
        assert (value, value.cpu) == (wall, cpu)
    assert math.isnan((1 / Timed(1.0, 0.0, 0)).cpu)
    assert not hasattr(seconds + 1, 'cpu')


def test_actions_are_timed_in_turns_after_an_uncounted_round():
    called = []
    seconds = median_seconds(
        dict(a=lambda: called.append('a'), b=lambda: called.append('b')), 2
    )
    assert ''.join(called) == 'ababab'
    assert all(
        0 < value.cpu < 10 and value.load >= 0 for value in seconds.values()
    )


def test_each_figure_is_printed_with_its_cpu_time_and_the_load():
    figures = {'a step: s': Timed(2.0, 3.0, 4.5), 'memory: MB': 7.0}
    step, memory = benchmark.lines(figures)
    assert step.split() == ['a', 'step:', 's', '2', 'cpu', '3', 'load', '4.5']
    assert memory.split()[:4] == ['memory:', 'MB', '7', 'load']
    assert benchmark.with_cpu(figures) == {
        'a step: s': 2.0,
        'a step: s (CPU time)': 3.0,
        'a step: s (load)': 4.5,
        'memory: MB': 7.0,
    }


def test_the_refill_needs_images(capsys):
    with pytest.raises(SystemExit):
        benchmark.parse_args(['--parts', 'refill'])
    assert (
        '--images FOLDER is needed to time refill' in capsys.readouterr().err
    )


@pytest.mark.parametrize(
    'prepare',
    [
        lambda: dense_loss(32, 16),
        lambda: savings.plain_loss(32, 16),
        lambda: savings.queries(2, True),
        lambda: savings.queries(2, False),
        lambda: savings.attention(UnboundAttention, 1),
        lambda: savings.attention(MultiheadAttention, 1),
    ],
)
def test_every_part_runs_more_than_once(prepare):
    """Each keeps the gradients that it adds to."""
    run = prepare()
    run()
    run()


def test_samples_arrive_alike_in_both_ways():
    visible = savings.arrival(6, joined=True)()[1]
    assert torch.equal(visible, savings.arrival(6, joined=False)().visible)

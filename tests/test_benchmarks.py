"""The benchmark command and the parts that it compares."""

import math
import os
import sys

import pytest
import torch
import torch.nn.functional as F
from mmengine.logging import print_log
from mmpretrain.models.utils import MultiheadAttention

from simim_plugin.benchmarks import processes, savings, timing
from simim_plugin.benchmarks.timing import Timed, median_seconds
from simim_plugin.benchmarks.training import (
    changed_config,
    dense_loss,
    step_settings,
)
from simim_plugin.commands import benchmark
from simim_plugin.commands.peer import measure_peer
from simim_plugin.errors import SimimError
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


def notice():
    """Log a line, and return an action of 8 MB."""
    print_log('Initialise a tensor.', logger='current')
    return lambda: torch.ones(2_000_000)


def test_the_peak_is_measured_without_notices(capfd):
    assert 8 <= timing.peak_megabytes(notice, device='cpu') < 100
    assert 'Initialise' not in ''.join(capfd.readouterr())


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


MICRO = 'siamese_im_vit-micro-p8_demo.py'
LINE = 'seconds a step: 2.0 cpu 3.0'


@pytest.mark.parametrize(
    ('words', 'sentence'),
    [
        (['--parts', 'peer'], 'need each other'),
        (['--parts', 'loss', '--peer', 'echo'], 'need each other'),
        (['--parts', 'loss', '--img-size', '64'], 'for the parts step, peer'),
        (['--parts', 'loss', '--masked', '9'], 'for the parts step, peer'),
        (['--parts', 'step', '--bf16'], '--bf16 has no effect on step; it'),
        (['--parts', 'step', '--scale', 'demo'], 'the parts variants, rivals'),
        (['--parts', 'loss', '--batch-size', '4'], 'no effect on loss'),
        (['--parts', 'memory', '--rounds', '9'], 'no effect on memory'),
    ],
)
def test_options_without_their_part_are_refused(words, sentence, capsys):
    with pytest.raises(SystemExit):
        benchmark.parse_args(words)
    assert sentence in capsys.readouterr().err


def test_a_peer_gets_our_settings_and_is_timed_in_turns(tmp_path):
    notes = tmp_path / 'notes'
    program = f"""
import os, sys
with open({str(notes)!r}, 'a') as file:
    print(*sys.argv[1:], os.environ['OMP_NUM_THREADS'], file=file)
print('a program says')
print({LINE!r})
"""
    (tmp_path / 'peer.py').write_text(program)
    command = (
        f'{sys.executable} {tmp_path / "peer.py"} {{batch_size}} '
        '{img_size} {masked} {precision}'
    )
    figures = measure_peer(command, MICRO, 2, 3, img_size=32, masked=9)
    threads = torch.get_num_threads()
    assert notes.read_text() == f'2 32 9 fp32 {threads}\n' * 3
    ours, peer, ratio = figures.values()
    assert (peer, peer.cpu) == (2.0, 3.0)
    assert ratio == 2.0 / ours
    assert ratio.cpu == 3.0 / ours.cpu


@pytest.mark.parametrize(
    ('command', 'sentence'),
    [
        ('true {size}', r'takes \{batch_size\}, .*\{masked\}'),
        ('no-such-program', '--peer cannot start no-such-program'),
        ('false', 'ended with code 1 and 0 lines'),
        (f'echo {LINE} {LINE}', 'code 0 and 2 lines'),
        ('echo seconds a step: two cpu 3', 'two and 3, which are no seconds'),
    ],
)
def test_a_peer_without_a_time_is_one_sentence(command, sentence):
    with pytest.raises(SimimError, match=sentence):
        measure_peer(command, MICRO, 1, 1, img_size=16, masked=1)


def test_a_config_takes_other_sizes():
    config = changed_config(MICRO, 32, 9)
    assert config.model.neck.grid == (4, 4)
    assert step_settings(config) == dict(img_size=32, masked=9)
    with pytest.raises(SimimError, match='has no transform BlockwiseMask'):
        changed_config('siamese_im_rival-dino.py', masked=9)


def test_times_of_two_processes_are_those_of_the_slower():
    times = dict(
        one=[[(2.0, 2.0)]],
        apart=[[(3.0, 2.0), (2.5, 2.0)]],
        together=[[(4.0, 3.0), (4.0, 2.0)]],
    )
    figures = processes._figures(times)
    seconds = [(value, value.cpu) for value in figures.values()]
    assert seconds == [
        (2.0, 2.0),
        (3.0, 2.0),
        (4.0, 2.5),
        (0.5, 0.8),
        (2 / 3, 1.0),
        (0.25, 1 - 0.8),
    ]


@pytest.mark.slow
@pytest.mark.skipif(os.cpu_count() == 1, reason='needs two cores')
def test_two_processes_are_timed():
    figures = processes.measure_processes(MICRO, 2, 1)
    times = [value for name, value in figures.items() if 'seconds' in name]
    assert len(times) == 3
    assert all(value > 0 and value.cpu > 0 for value in times)


@pytest.mark.parametrize(
    'prepare',
    [
        lambda: dense_loss(32, 16),
        lambda: savings.plain_loss(32, 16),
        lambda: savings.mask_tokens(2, True),
        lambda: savings.mask_tokens(2, False),
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


def test_attention_is_counted_on_every_device():
    """Two products forward, and five backward."""
    query, key, value = torch.randn(3, 2, 4, 50, 8).requires_grad_().unbind()
    product = 2 * 2 * 4 * 50 * 50 * 8  # a multiply and an add

    def forward():
        with torch.no_grad():
            F.scaled_dot_product_attention(query, key, value)

    def both():
        F.scaled_dot_product_attention(query, key, value).sum().backward()

    assert timing.count_flops(forward) == 2 * product
    assert timing.count_flops(both) == 7 * product


def test_medians_of_both_clocks():
    values = [
        timing.Timed(*pair, 1) for pair in ((1, 9), (2, 7), (4, 5), (3, 3))
    ]
    found = timing.middle(values)
    assert (found, found.cpu) == (2.5, 6)

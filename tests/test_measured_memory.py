"""What training steps hold stays below the table that chooses the batch."""

import pytest

from simim_plugin.benchmarks import memory
from simim_plugin.benchmarks.memory import (
    ENCODERS,
    KINDS,
    Peak,
    fit_held,
    measure_peaks,
)
from simim_plugin.commands.benchmark import main as benchmark
from simim_plugin.recipes.machine import HELD, Machine, need
from simim_plugin.vit.arches import ARCHES, MICRO

CPU = Machine('CPU', 12.0, 2, gpu=False)


def test_the_table_has_all_methods():
    assert HELD.keys() == KINDS.keys()
    for rows in HELD.values():
        assert 'base' in rows
        assert rows.keys() <= {*ENCODERS}
        assert {*ENCODERS} <= {MICRO.name, *ARCHES}


def test_the_command_prints_the_rows(monkeypatch, capsys):
    peaks = [Peak(16, 2, 1.0), Peak(16, 4, 1.1), Peak(64, 4, 1.5)]

    def measure(kind, encoder):
        return peaks

    monkeypatch.setattr(memory, 'measure_peaks', measure)
    benchmark(['--parts', 'memory'])
    lines = capsys.readouterr().out.splitlines()
    rows = [line for line in lines if line.startswith('memory: ')]
    assert len(rows) == 3 * len(KINDS) * len(ENCODERS)
    held = fit_held(peaks)
    # The load of the machine stands behind each value.
    values = [float(row.split('load')[0].split()[-1]) for row in rows[:3]]
    assert values == pytest.approx([*held], rel=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize('kind', ['finetune', 'vitdet'])
def test_steps_stay_below_the_table(kind):
    """With some room for another torch and other libraries."""
    for peak in measure_peaks(kind, 'micro'):
        side = 16 * int(peak.patches**0.5)
        sizes = MICRO.width, MICRO.depth
        wanted = need(kind, CPU, sizes, side, 16).gib(peak.batch)
        assert 0.5 * wanted < peak.gib < 1.25 * wanted

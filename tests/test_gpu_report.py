"""The measurements of a GPU pass without one, and say what they skip."""

import json

import pytest
import torch

from docs import gpu
from simim_plugin.benchmarks.training import pretraining_step
from simim_plugin.engine.seeding import seed_by


def read(folder):
    table = (folder / 'gpu.md').read_text()
    return json.loads((folder / 'gpu.json').read_text())['figures'], table


@pytest.mark.skipif(torch.cuda.is_available(), reason='a GPU is here')
def test_without_a_gpu_every_part_is_skipped(tmp_path):
    gpu.main(['--out', str(tmp_path)])
    figures, table = read(tmp_path)
    assert [*figures] == [part.__name__ for part in gpu.PARTS]
    assert {part['all'] for part in figures.values()} == {'skipped: no GPU'}
    assert table.count('| skipped: no GPU |') == len(gpu.PARTS)


@pytest.mark.skipif(torch.cuda.is_available(), reason='a GPU is here')
def test_a_failed_part_and_the_end_of_the_time_are_written(
    tmp_path, monkeypatch
):
    def broken(args):
        raise RuntimeError('no | luck\nand more')

    def long(args):
        return {'a figure': 1.25, 'a word': 'fine'}

    monkeypatch.setattr(gpu, 'PARTS', (broken, long))
    gpu.main(['--out', str(tmp_path), '--try-on-cpu'])
    figures, table = read(tmp_path)
    assert figures['broken']['all'] == 'failed: RuntimeError: no | luck'
    assert figures['long']['a figure'] == 1.25
    assert '| broken | all | failed: RuntimeError: no / luck |' in table
    assert '| long | a figure | 1.25 |' in table
    gpu.main(['--out', str(tmp_path), '--try-on-cpu', '--minutes', '-1'])
    figures, _ = read(tmp_path)
    assert figures['long'] == {'all': 'skipped: -1.0 minutes are over'}


def test_steps_of_all_kinds_have_nearly_the_same_loss():
    """What the part ``agreement`` compares, on the micro model."""
    losses = []
    for low, compiled in (
        (False, None),
        (False, dict(backend='aot_eager')),
        (torch.bfloat16, None),
    ):
        seed_by(0)
        step = pretraining_step(gpu.MICRO, 2, low, compiled)
        losses.append([step().item() for _ in range(2)])
        torch._dynamo.reset()
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    assert losses[2] == pytest.approx(losses[0], rel=0.05)
    assert losses[2] != losses[0]

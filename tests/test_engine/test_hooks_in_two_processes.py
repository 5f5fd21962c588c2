"""The collapse monitor and the guard agree in two processes."""

import json
import os
from pathlib import Path

import pytest
import torch
from mmengine.registry import init_default_scope

from ..training_processes import free_port, run_two
from .training import GUARD, Pairs, make_runner, same
from .training import QUICK_COLLAPSE_MONITOR as QUICK


def two_processes(rank, port, folder):
    """Train in one of two processes; batch 3 of the second has a NaN."""
    os.environ.update(
        MASTER_ADDR='127.0.0.1',
        MASTER_PORT=str(port),
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE='2',
    )
    torch.set_num_threads(1)
    init_default_scope('mmpretrain')
    # Images alternate between ranks; 21 is the third of rank 1 in batch 3.
    runner = make_runner(
        Path(folder) / 'run',
        [dict(QUICK, patience=1, min_rank=1.0), GUARD, dict(type='StateHook')],
        dataset=Pairs(spoiled=[21]),
        launcher='pytorch',
    )
    runner.train()
    unchanged = [same(*pair) for pair in runner.states]
    seen = json.dumps([unchanged, scalars_of_hub(runner)])
    Path(folder, f'rank{rank}.json').write_text(seen)
    torch.distributed.destroy_process_group()


def scalars_of_hub(runner) -> list[float]:
    hub = runner.message_hub
    names = ('rank', 'token_std', 'cos_image', 'uniform', 'align')
    return [hub.get_scalar(f'train/{name}').current() for name in names]


@pytest.mark.slow
def test_two_processes_agree(tmp_path):
    run_two(two_processes, free_port(), str(tmp_path))
    first, second = (
        json.loads((tmp_path / f'rank{rank}.json').read_text())
        for rank in (0, 1)
    )
    assert first == second
    assert first[0] == [False, False, True]
    (log,) = (tmp_path / 'run').glob('*/*.log')
    printed = log.read_text()
    # BatchNorm and the correlation span both processes, and so does the NaN.
    terms = 'loss, positive_term, negative_term'
    for rank in (0, 1):
        assert f'{terms} of rank {rank} at iteration 3' in printed
    files = {file.name for file in (tmp_path / 'run/nonfinite').iterdir()}
    batches = {f'iter_3_rank_{rank}_batch.pth' for rank in (0, 1)}
    assert files == {'iter_3.pth', *batches}

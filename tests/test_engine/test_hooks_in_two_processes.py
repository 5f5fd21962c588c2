"""The collapse monitor and the guard agree in two processes."""

import numpy as np
import pytest
from mmengine.registry import init_default_scope

from ..training_processes import in_two
from .training import GUARD, Pairs, make_runner, same
from .training import QUICK_COLLAPSE_MONITOR as QUICK


def watch(folder) -> tuple[list[bool], list[float]]:
    """Train in one of two processes; batch 3 of the second has a NaN."""
    init_default_scope('mmpretrain')
    # Images alternate between ranks; 21 is the third of rank 1 in batch 3.
    runner = make_runner(
        folder,
        [dict(QUICK, patience=1, min_rank=1.0), GUARD, dict(type='StateHook')],
        dataset=Pairs(spoiled=[21]),
        launcher='pytorch',
    )
    runner.train()
    unchanged = [same(*pair) for pair in runner.states]
    return unchanged, scalars_of_hub(runner)


def scalars_of_hub(runner) -> list[float]:
    hub = runner.message_hub
    names = ('rank', 'token_std', 'cos_image', 'uniform', 'align')
    return [hub.get_scalar(f'train/{name}').current() for name in names]


@pytest.mark.slow
def test_two_processes_agree(tmp_path):
    first, second = in_two(watch, tmp_path / 'run')
    assert first[0] == second[0] == [False, False, True]
    np.testing.assert_array_equal(first[1], second[1])  # NaN equals NaN
    (log,) = (tmp_path / 'run').glob('*/*.log')
    printed = log.read_text()
    # BatchNorm and the correlation span both processes, and so does the NaN.
    terms = 'loss, positive_term, negative_term'
    for rank in (0, 1):
        assert f'{terms} of rank {rank} at iteration 3' in printed
    files = {file.name for file in (tmp_path / 'run/nonfinite').iterdir()}
    batches = {f'iter_3_rank_{rank}_batch.pth' for rank in (0, 1)}
    assert files == {'iter_3.pth', *batches}

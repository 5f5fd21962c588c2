"""Figures that are read late are those of mmengine's history."""

import copy
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from mmengine.hooks import RuntimeInfoHook
from mmengine.logging import HistoryBuffer

from simim_plugin.runs import late_figures
from simim_plugin.runs.late_figures import LateFiguresHook, LateHistory

from .training import make_runner, scalars

NUMBERS = st.floats(width=32)
KINDS = st.sampled_from([torch.float32, torch.float64, torch.bfloat16])
EVENTS = st.one_of(
    st.tuples(st.just('number'), NUMBERS),
    st.tuples(st.just('tensor'), NUMBERS, KINDS),
    st.just(('read',)),
    st.tuples(st.just('bound'), st.integers(1, 5)),
)


def same(one, other):
    for ours, theirs in zip(one.data, other.data, strict=True):
        assert ours.dtype == theirs.dtype
        np.testing.assert_array_equal(ours, theirs)
    assert one.max_length == other.max_length


@given(st.lists(EVENTS, max_size=20), st.integers(1, 4))
def test_a_late_history_is_that_of_mmengine(events, most):
    late, plain = LateHistory([0.5], [1]), HistoryBuffer([0.5], [1])
    before, late_figures._MOST = late_figures._MOST, most
    try:
        for kind, *rest in events:
            if kind == 'number':
                late.update(*rest)
                plain.update(*rest)
            elif kind == 'tensor':
                value = torch.tensor(rest[0], dtype=rest[1])
                late.add(value)
                plain.update(value.item())
                value.zero_()  # a model may go on with the same tensor
            elif kind == 'read':
                np.testing.assert_equal(late.current(), plain.current())
                np.testing.assert_equal(late.mean(2), plain.mean(2))
            else:
                len(late.data[0])  # a bound holds from the next value on
                late.max_length = plain.max_length = rest[0]
        same(late, plain)
    finally:
        late_figures._MOST = before


def test_copies_and_files_have_the_history_of_mmengine():
    late = LateHistory([0.5], [1], 7)
    late.add(torch.tensor([1.5]))
    for kept in (copy.deepcopy(late), pickle.loads(pickle.dumps(late))):
        assert type(kept) is HistoryBuffer
        same(kept, late)
    assert late.data[0].tolist() == [0.5, 1.5]


@pytest.mark.parametrize('interval', [1, 4])
def test_the_log_is_that_of_mmengine(tmp_path, interval):
    written = []
    for kind in (LateFiguresHook, RuntimeInfoHook):
        runner = make_runner(tmp_path / kind.__name__, epochs=2)
        (hook,) = (h for h in runner.hooks if isinstance(h, RuntimeInfoHook))
        assert type(hook) is LateFiguresHook
        hook.__class__ = kind
        for hook in runner.hooks:
            if type(hook).__name__ == 'LoggerHook':
                hook.interval = interval
        runner.folder = tmp_path / kind.__name__
        runner.train()
        history = runner.message_hub.get_scalar('train/loss')
        assert isinstance(history, LateHistory) == (kind is LateFiguresHook)
        names = ('step', 'loss', 'positive_term', 'negative_term')
        written.append([[x[n] for n in names] for x in scalars(runner)])
    assert written[0] == written[1]


@pytest.mark.gpu
def test_a_figure_is_added_without_a_wait():
    late, value = LateHistory([0.5], [1]), torch.ones((), device='cuda')
    torch.cuda.set_sync_debug_mode('error')
    try:
        late.add(value)
        late.add(value)
    finally:
        torch.cuda.set_sync_debug_mode('default')
    assert late.data[0].tolist() == [0.5, 1.0, 1.0]

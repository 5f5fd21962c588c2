"""Numbers and devices that a command refuses while it reads its options."""

import pytest
import torch

from simim_plugin.checkpoint import CheckpointError
from simim_plugin.checkpoint.grids import grid_of
from simim_plugin.commands import (
    ablate,
    benchmark,
    convert,
    corrupt,
    demo,
    evaluate,
    predict,
    visualize,
)

PREDICT = ('config.py', 'last.pth', 'photo.jpg', '--out', 'new')
CONVERT = ('a.pth', 'b.pth', '--to', 'timm')


@pytest.mark.parametrize(
    ('command', 'words'),
    [
        (predict, (*PREDICT, '--device', 'foo')),
        (predict, (*PREDICT, '--device', 'meta')),
        (predict, (*PREDICT, '--device', 'cuda:99')),
        (predict, (*PREDICT, '--top', '0')),
        (predict, (*PREDICT, '--score-thr', 'nan')),
        (evaluate, ('a.pth', '--seed', '-1')),
        (evaluate, ('a.pth', '--gpus', '0')),
        (ablate, ('--seeds', '0', '-1')),
        (convert, (*CONVERT, '--grid', '-3', '-12')),
        (visualize, ('pair', 'a.png', '--seed', '-1')),
        (visualize, ('match', 'a.pth', 'a.png', '--seed', '4294967296')),
        (demo, ('--pairs', '0')),
        (demo, ('--seeds', '0', '-1')),
        (demo, ('--seed', '-1')),
        (corrupt, ('in', 'out', '--workers', '-1')),
        (benchmark, ('--rounds', '0')),
        (benchmark, ('--threads', '0')),
        (benchmark, ('--batch-size', '0')),
        (benchmark, ('--parts', 'loss', '--tokens', '-5')),
        (benchmark, ('--patches', '0')),
    ],
    ids=lambda value: ' '.join(value[-3:]) if type(value) is tuple else '',
)
def test_values_out_of_range(command, words, capsys):
    with pytest.raises(SystemExit) as end:
        command.main([*words])
    assert end.value.code == 2
    line = capsys.readouterr().err.splitlines()[-1]
    (option,) = {word for word in words if word[:2] == '--'} - {
        *('--out', '--to', '--parts')
    }
    assert f'error: argument {option}: ' in line
    assert ' is no' in line


def test_a_device_that_works():
    assert predict.parse_args([*PREDICT, '--device', 'cpu']).device == 'cpu'


def test_a_grid_has_no_negative_sides():
    with pytest.raises(CheckpointError, match='no grid of -3 x -12'):
        grid_of(torch.randn(36, 8), 'a.pth', (-3, -12))

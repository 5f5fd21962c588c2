"""Losses and states of two processes equal those of one."""

import pytest
import torch
from mmengine.dist import get_rank, get_world_size

from simim_plugin.engine.collapse import output_figures
from simim_plugin.rivals.assignment import assignment_loss, target_assignments
from simim_plugin.rivals.contrast import info_nce
from simim_plugin.rivals.moving import Centre, KeyQueue
from simim_plugin.runs.batch_norm import spanning

from ..training_processes import in_two

IMAGES, DIMS = 6, 5


def results() -> dict[str, torch.Tensor]:
    """Compute everything on this process's part of the images."""
    draw = torch.Generator().manual_seed(0)

    def part(*shape):
        whole = torch.randn(
            *shape, IMAGES, DIMS, generator=draw, dtype=torch.float64
        )
        return whole.chunk(get_world_size(), dim=-2)[get_rank()]

    weight = torch.randn(DIMS, DIMS, generator=draw, dtype=torch.float64)
    found = {}
    learned = weight.clone().requires_grad_()
    query, key = part(), part()
    found['info_nce'] = info_nce(query @ learned, key, 0.2)
    found['info_nce'].backward()
    found['grad info_nce'] = learned.grad
    learned = weight.clone().requires_grad_()
    anchors, targets = part(2), part()
    wanted = target_assignments(targets, learned)
    msn = assignment_loss((anchors @ learned).flatten(0, 1), learned, wanted)
    msn['loss'].backward()
    found |= {name: value.detach() for name, value in msn.items()}
    found['grad msn'] = learned.grad
    maps = part(2).movedim(0, -1)[..., None]  # (B, D, 2, 1)
    norm = spanning(torch.nn.BatchNorm2d(DIMS, affine=False).double())
    learned = weight[:, :1].clone().requires_grad_()
    found['norm'] = (
        norm(maps * learned[..., None] + maps.square()).pow(3).mean()
    )
    found['norm'].backward()
    found['grad norm'] = learned.grad
    found['same norm'] = norm.running_var
    spread = output_figures(part())['output_std']
    found['same output_std'] = torch.tensor(spread)
    centre = Centre(DIMS, 0.5).double()
    centre.observe(part())
    centre.move()
    found['same centre'] = centre.value
    torch.manual_seed(0)
    queue = KeyQueue(DIMS, 8).double()
    queue.observe(part())
    queue.move()
    found['same queue'] = queue.value
    return {name: value.detach() for name, value in found.items()}


@pytest.mark.slow
def test_two_processes_equal_one():
    parts = in_two(results)
    for name, wanted in results().items():
        first, second = (found[name] for found in parts)
        if name.startswith('same'):
            assert torch.equal(first, second), name
        # DDP averages losses and gradients.
        assert torch.allclose((first + second) / 2, wanted, atol=1e-12), name

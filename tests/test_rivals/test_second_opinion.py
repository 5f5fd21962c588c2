"""The losses equal those of lightly.

`make install-test` installs it without Lightning and Hydra, which they do not
need.
"""

import importlib
import os

import pytest
import torch
import torch.nn.functional as F

from simim_plugin.rivals.assignment import assignment_loss, target_assignments
from simim_plugin.rivals.contrast import match, queued_nce
from simim_plugin.rivals.distillation import (
    patch_distillation,
    sharpened,
    view_distillation,
)
from simim_plugin.rivals.moving import Centre

if os.environ.get('CI') != 'true':
    pytest.importorskip('lightly', reason='lightly is not installed')
losses = importlib.import_module('lightly.loss')

BATCH, WIDTH, OUTPUTS, PATCHES = 5, 6, 7, 9


@pytest.fixture(autouse=True)
def wide_constants():
    """Let lightly hold temperatures and counts in float64."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture(params=[1, 2])
def draw(request):
    generator = torch.Generator().manual_seed(request.param)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    return normal


def gradients(loss, *learned):
    return [loss, *torch.autograd.grad(loss, learned)]


def equal(found, wanted):
    return all(
        torch.allclose(mine, theirs, rtol=1e-9, atol=1e-12)
        for mine, theirs in zip(found, wanted, strict=True)
    )


def test_dino(draw):
    student = draw(4, BATCH, OUTPUTS).requires_grad_()
    teacher = draw(2, BATCH, OUTPUTS)
    centre = Centre(OUTPUTS).double()
    centre.value.copy_(draw(OUTPUTS))
    theirs = losses.DINOLoss(OUTPUTS, teacher_temp=0.055).double()
    theirs.center.copy_(centre.value[None, None])
    mine = view_distillation(
        student, sharpened(teacher, centre.value, 0.055), 0.1
    )
    other = theirs([*teacher], [*student], teacher_temp=0.055)
    centre.observe(teacher)
    centre.move()
    assert equal(gradients(mine, student), gradients(other, student))
    assert equal([centre.value], [theirs.center.flatten()])


def test_ibot(draw):
    student = draw(2, BATCH, PATCHES, OUTPUTS).requires_grad_()
    teacher = draw(2, BATCH, PATCHES, OUTPUTS)
    mask = draw(2, BATCH, PATCHES) > 0.3
    mask[0, :2] = False  # images without a mask count, too
    centre = draw(OUTPUTS)
    theirs = losses.IBOTPatchLoss(OUTPUTS).double()
    theirs.center.center.copy_(centre[None])
    mine = patch_distillation(
        student, sharpened(teacher, centre, 0.07), mask, 0.1
    )
    flat = mask.flatten(0, 1)
    other = theirs(
        teacher.flatten(0, 1)[flat],
        student.flatten(0, 1)[flat],
        flat[..., None],
        teacher_temp=0.07,
    )
    assert equal(gradients(mine, student), gradients(other, student))


@pytest.mark.parametrize('rounds', [0, 3])
def test_msn(draw, rounds):
    anchors = draw(3 * BATCH, WIDTH).requires_grad_()
    prototypes = draw(OUTPUTS, WIDTH).requires_grad_()
    targets = draw(BATCH, WIDTH)
    wanted = target_assignments(targets, prototypes, sinkhorn=rounds > 0)
    mine = assignment_loss(anchors, prototypes, wanted)['loss']
    theirs = losses.MSNLoss(sinkhorn_iterations=rounds)
    other = theirs(anchors, targets, prototypes)
    learned = anchors, prototypes
    assert equal(gradients(mine, *learned), gradients(other, *learned))


def test_queued_contrast(draw):
    """That of MoCo, which DenseCL takes for images and for patches."""
    query = draw(BATCH, WIDTH).requires_grad_()
    key, queue = draw(BATCH, WIDTH), F.normalize(draw(11, WIDTH), dim=1)
    theirs = losses.NTXentLoss(temperature=0.2, memory_bank_size=(11, WIDTH))
    theirs.memory_bank.bank = queue.clone()
    mine = queued_nce(
        F.normalize(query, dim=1), F.normalize(key, dim=1), queue.T, 0.2
    )
    other = theirs(query, key)
    assert equal(gradients(mine, query), gradients(other, query))


def test_matches_of_dense_cl(draw):
    utils = importlib.import_module('lightly.models.utils')
    query, key = draw(2, BATCH, PATCHES, WIDTH)
    assert torch.equal(
        match(query.mT, key.mT), utils.most_similar_index(query, key)
    )

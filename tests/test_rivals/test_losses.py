"""The losses and heads of the rivals equal direct computations."""

import numpy as np
import pytest
import torch

from simim_plugin.rivals.assignment import assignment_loss, target_assignments
from simim_plugin.rivals.contrast import (
    DenseMatches,
    dense_contrast,
    info_nce,
    match,
)
from simim_plugin.rivals.distillation import (
    PrototypeHead,
    patch_distillation,
    sharpened,
    view_distillation,
)
from simim_plugin.rivals.moving import Centre

BOUNDS = {torch.float64: 1e-9, torch.float32: 1e-5}
pytestmark = [
    pytest.mark.shared,
    pytest.mark.parametrize('dtype', BOUNDS, ids=str),
    pytest.mark.parametrize('seed', [1, 2]),
]


@pytest.fixture
def case(shared, dtype, seed):
    """Load the arrays of a case as tensors: name -> tensors."""

    def load(name):
        file = shared / 'golden' / 'rivals' / f'{name.format(seed)}.npz'
        with np.load(file) as arrays:
            tensors = {k: torch.from_numpy(v) for k, v in arrays.items()}
        return {
            name: x.to(dtype) if x.is_floating_point() else x
            for name, x in tensors.items()
        }

    return load


def close(found, wanted):
    error = (found.detach() - wanted).abs().max()
    return error <= BOUNDS[found.dtype] * wanted.abs().max().clamp(min=1e-3)


def test_moco_v3(case):
    x = case('mocov3_s{}')
    queries = [x[name].requires_grad_() for name in ('q1', 'q2')]
    loss = info_nce(queries[0], x['k2'], 0.2)
    loss = loss + info_nce(queries[1], x['k1'], 0.2)
    loss.backward()
    assert close(loss, x['loss'])
    for query, name in zip(queries, ('q1', 'q2'), strict=True):
        assert close(query.grad, x[f'grad_{name}'])


def test_dense_cl(case):
    x = case('densecl_s{}')
    learned = [x[name].requires_grad_() for name in ('q', 'q_grid')]
    parts = DenseMatches(
        *(x['q'], x['k'], x['q_grid'], x['k_grid']),
        *(x['q_backbone'], x['k_backbone']),
    )
    found = dense_contrast(parts, x['queue'], x['dense_queue'])
    found['loss'].backward()
    assert torch.equal(match(x['q_backbone'], x['k_backbone']), x['match'])
    assert close(found['loss'], x['loss'])
    assert close(found['global_term'], x['global_loss'])
    assert close(found['dense_term'], x['dense_loss'])
    for tensor, name in zip(learned, ('q', 'q_grid'), strict=True):
        assert close(tensor.grad, x[f'grad_{name}'])


def test_dino_head(case, dtype):
    x = case('dino_head_s{}')
    v = x['state.last_layer.weight_v']
    hidden, inner = x['state.mlp.0.weight'].shape
    head = PrototypeHead(inner, len(v), hidden, v.shape[1]).to(dtype)
    state = {
        name.removeprefix('state.'): value
        for name, value in x.items()
        if name.startswith('state.mlp')
    }
    head.load_state_dict({**state, 'last_layer.weight': v})
    features = x['x'].requires_grad_()
    outputs = head(features)
    outputs.square().sum().backward()
    assert close(outputs, x['y'])
    assert close(features.grad, x['grad_x'])
    assert close(head.last_layer.weight.grad, x['grad.last_layer.weight_v'])
    for name, parameter in head.mlp.named_parameters():
        assert close(parameter.grad, x[f'grad.mlp.{name}']), name


def test_dino(case, dtype, seed):
    x = case('dino_s{}')
    batch = (4, 5)[seed - 1]
    student = x['student'].requires_grad_()
    teacher = x['teacher'].unflatten(0, (2, batch))
    centre = Centre(teacher.shape[-1]).to(dtype)
    centre.value.copy_(x['center_before'][0])
    wanted = sharpened(teacher, centre.value, 0.055)
    loss = view_distillation(student.unflatten(0, (-1, batch)), wanted, 0.1)
    loss.backward()
    centre.observe(teacher)
    centre.move()
    assert close(loss, x['loss'])
    assert close(student.grad, x['grad_student'])
    assert close(centre.value, x['center_after'][0])


def test_ibot(case, dtype):
    x = case('ibot_s{}')
    mask = x['mask']
    crops, batch, _ = mask.shape
    names = ('student_cls', 'student_patch', 'student_local_cls')
    learned = [x[name].requires_grad_() for name in names]
    teacher, teacher_patch = (
        x[name].unflatten(0, (crops, batch))
        for name in ('teacher_cls', 'teacher_patch')
    )
    centre = Centre(teacher.shape[-1]).to(dtype)
    patch_centre = Centre(teacher_patch.shape[-1]).to(dtype)
    centre.value.copy_(x['center_cls_before'].flatten())
    patch_centre.value.copy_(x['center_patch_before'].flatten())
    student = torch.cat([learned[0], learned[2]]).unflatten(0, (-1, batch))
    views = view_distillation(
        student, sharpened(teacher, centre.value, 0.07), 0.1
    )
    patches = patch_distillation(
        learned[1].unflatten(0, (crops, batch)),
        sharpened(teacher_patch, patch_centre.value, 0.07),
        mask,
        0.1,
    )
    (views + patches).backward()
    centre.observe(teacher)
    patch_centre.observe(teacher_patch)
    centre.move()
    patch_centre.move()
    assert close(views, x['cls_loss'])
    assert close(patches, x['patch_loss'])
    assert close(views + patches, x['loss'])
    for tensor, name in zip(learned, names, strict=True):
        assert close(tensor.grad, x[f'grad_{name}'])
    assert close(centre.value, x['center_cls_after'].flatten())
    assert close(patch_centre.value, x['center_patch_after'].flatten())


@pytest.mark.parametrize('kind', ['plain', 'sinkhorn'])
def test_msn(case, kind):
    x = case(f'msn_s{{}}_{kind}')
    anchors = x['anchors'].requires_grad_()
    prototypes = x['prototypes'].requires_grad_()
    targets = target_assignments(
        x['targets_in'], prototypes, sinkhorn=kind == 'sinkhorn'
    )
    assert close(targets.repeat(len(anchors) // len(targets), 1), x['targets'])
    found = assignment_loss(anchors, prototypes, targets)
    found['loss'].backward()
    assert close(found['assignment_term'], x['cross_entropy'])
    assert close(found['spread_term'], x['me_max'])
    assert close(found['loss'], x['loss'])
    assert close(anchors.grad, x['grad_anchors'])
    if x['grad_prototypes'].any():
        assert close(prototypes.grad, x['grad_prototypes'])

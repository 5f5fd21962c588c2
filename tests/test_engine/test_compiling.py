"""Parts of a model compile to one graph each, with equal numbers."""

import shutil
from pathlib import Path

import pytest
import torch
from torch import nn

from simim_plugin.benchmarks.training import pretraining_step
from simim_plugin.engine.compiling import PARTS, compile_parts
from simim_plugin.errors import SimimError

from ..test_models.helpers import small_batch, small_model
from .training import QUICK_COLLAPSE_MONITOR as QUICK
from .training import trainer

NEEDS_COMPILER = pytest.mark.skipif(
    shutil.which('c++') is None, reason='torch compiles for CPUs by c++'
)


@pytest.fixture(autouse=True)
def _forget_graphs():
    yield
    torch._dynamo.reset()


@pytest.mark.parametrize('norm', [False, True], ids=['eval', 'train'])
def test_no_part_has_a_graph_break(norm):
    """Every operator of a part is in its one graph."""
    model = small_model().train(norm)
    (online_view, target_view), samples = small_batch()
    visible, geometry = model._collate(samples)
    tokens = model.backbone(online_view, visible)
    projected = model.projector(tokens)
    prediction = model.neck(projected, visible, geometry)
    (whole,) = model.target['backbone'](target_view)
    target = model.target['projector'](whole)
    calls = {
        'backbone': (online_view, visible),
        'projector': (tokens,),
        'neck': (projected, visible, geometry),
        'head': (prediction, target[:, 1:]),
        'target.backbone': (target_view,),
        'target.projector': (whole,),
    }
    parts = dict(model.named_modules())
    assert calls.keys() == {name for name in PARTS if name in parts}
    for name, arguments in calls.items():
        part = model.get_submodule(name)
        call = part.loss if name == 'head' else part.forward
        found = torch._dynamo.explain(call)(*arguments)
        assert found.graph_break_count == 0, (name, found.break_reasons)
        assert found.graph_count == 1, name
        assert found.op_count >= 10, name
        torch._dynamo.reset()


RIVALS = Path(__file__).resolve().parents[2] / 'configs' / 'rivals'
ROWS = (
    *('i', 'a', 'symmetric', 'mocov3', 'mae'),
    *('target-random', 'target-random-alone', 'target-half'),
)


@pytest.mark.parametrize(
    'name',
    [
        *(f'siamese_im_row-{name}' for name in ROWS),
        *sorted(file.stem for file in RIVALS.glob('*.py')),
    ],
)
def test_a_step_runs_nothing_of_a_part_outside_of_its_graph(name, monkeypatch):
    monkeypatch.setenv('SIMIM_SCALE', 'demo')
    calls = {}

    def compile_(method, **options):
        part = method.__self__
        calls[part] = inside = []

        def compiled(*args, **kwargs):
            inside.append(True)
            result = method(*args, **kwargs)
            inside[-1] = False
            return result

        for layer in part.modules():
            if not [*layer.children()]:
                layer.register_forward_pre_hook(
                    lambda layer, _: assert_true(inside and inside[-1], layer)
                )
        return compiled

    monkeypatch.setattr(torch, 'compile', compile_)
    models = []
    pretraining_step(
        f'{name}.py',
        batch=2,
        bf16=False,
        compiled={},
        wrap=lambda model: models.append(model) or model,
    )()
    assert len(calls) >= 2
    assert all(calls.values())
    copies = getattr(models[0], 'target', {})
    assert {*copies.values()} <= calls.keys()


def assert_true(value, message):
    assert value, message


def losses(runner):
    return runner.message_hub.get_scalar('train/loss').data[0]


@pytest.mark.parametrize(
    ('backend', 'modules'),
    [
        ('aot_eager', True),
        # The compiler of C++ takes minutes for the others.
        pytest.param(
            'inductor',
            ['projector', 'head'],
            marks=[pytest.mark.slow, NEEDS_COMPILER],
        ),
    ],
)
def test_compiled_training_has_the_same_losses(tmp_path, backend, modules):
    """Over the six steps of an epoch, to 1e-5; monitors see the features."""
    train = trainer(tmp_path)
    plain = train(QUICK)
    options = dict(modules=modules, backend=backend, fullgraph=True)
    compiled = train(QUICK, compile=options)
    assert len(losses(plain)) == 6
    assert losses(compiled) == pytest.approx(losses(plain), rel=1e-5)
    for name in ('rank', 'cos_image', 'align'):
        values = [
            runner.message_hub.get_scalar(f'train/{name}').data[0]
            for runner in (plain, compiled)
        ]
        assert len(values[0]) == len(values[1]) == 6
        assert values[1] == pytest.approx(values[0], rel=1e-3)
    states = [runner.model.state_dict() for runner in (plain, compiled)]
    assert states[0].keys() == states[1].keys()


def test_a_graph_computes_activations_again():
    """``with_cp`` of the backbone stays in its one graph."""
    options = dict(modules=True, backend='aot_eager', fullgraph=True)
    found = []
    for again, compiled in ((False, None), (True, options)):
        torch.manual_seed(0)
        model = small_model()
        model.backbone.with_cp = again
        if compiled:
            compile_parts(model, **compiled)
        inputs, samples = small_batch()
        model.loss(inputs, samples)['loss'].backward()
        found.append([p.grad for p in model.backbone.parameters()])
    for plain, other in zip(*found, strict=True):
        assert (plain is None) == (other is None)
        if plain is not None:
            assert torch.allclose(plain, other, rtol=1e-4, atol=1e-7)


def test_only_the_named_parts_are_compiled():
    model = small_model()
    before = model.projector.forward
    names = ['backbone', 'target.projector']
    assert compile_parts(model, names, backend='eager') == names
    assert model.projector.forward == before
    for name in names:
        assert 'forward' in vars(model.get_submodule(name))


def test_unknown_parts_are_refused():
    with pytest.raises(SimimError, match='names decoder, which SiameseIM'):
        compile_parts(small_model(), ['backbone', 'decoder'])
    with pytest.raises(SimimError, match=r'as target\.backbone'):
        compile_parts(small_model(), ['neck', 'target'])
    with pytest.raises(SimimError, match=r'as neck\.layers\.0'):
        compile_parts(small_model(), ['neck.layers'])
    with pytest.raises(SimimError, match='names no part'):
        compile_parts(nn.Linear(2, 2))

"""The collapse monitor measures the rivals, or says that it cannot."""

import json
import math
import re
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import RUNNERS, init_default_scope
from mmpretrain.registry import MODELS

import simim_plugin.rivals  # noqa: F401  # registers components
from simim_plugin.config_files import config_path
from simim_plugin.engine.collapse import output_figures
from simim_plugin.rivals.moving import Centre

from .test_rivals import images  # noqa: F401

TEACHERS = ('densecl', 'dino', 'ibot', 'moco-v3', 'msn')


@pytest.fixture
def train(monkeypatch, images, tmp_path):  # noqa: F811
    """Return a function that trains a rival for four steps."""
    monkeypatch.setenv('SIMIM_SCALE', 'demo')

    def run(name, spoil=None, **monitor):
        torch.manual_seed(0)
        config = Config.fromfile(config_path(f'siamese_im_rival-{name}.py'))
        config.train_dataloader.update(
            batch_size=2, num_workers=0, persistent_workers=False
        )
        config.train_dataloader.dataset.data_root = str(images)
        config.train_cfg.max_epochs = 1
        config.param_scheduler = []
        config.default_hooks.logger.interval = 1
        if name == 'beit':  # eight images have few patches
            config.model.target_generator.num_tokens = 16
            config.model.head.num_tokens = 16
        if name == 'supervised':
            config.model.data_preprocessor.num_classes = 2
            config.model.head.num_classes = 2
        for hook in config.custom_hooks:
            if hook.type == 'CollapseMonitor':
                hook.update(monitor)
        config.custom_hooks = [
            hook
            for hook in config.custom_hooks
            if monitor or hook.type != 'CollapseMonitor'
        ]
        config.work_dir = str(tmp_path / f'{name}-{len(monitor)}')
        # Two runs of one second would share a logger.
        config.experiment_name = f'{name}-{len(monitor)}'
        runner = RUNNERS.build(config)
        if spoil is not None:
            spoil(runner.model)
        runner.train()
        (text,) = Path(config.work_dir).glob('*/*.log')
        (lines,) = Path(config.work_dir).glob('*/vis_data/scalars.json')
        scalars = [json.loads(line) for line in lines.open()]
        return runner.model, text.read_text(), scalars

    return run


@pytest.mark.slow
@pytest.mark.parametrize('name', TEACHERS)
def test_a_teacher_is_measured(train, name):
    model, text, scalars = train(name, interval=1)
    names = {'rank', 'token_std', 'cos_image', 'cos_batch', 'output_cos'}
    for line in scalars:
        assert names <= line.keys()
        assert all(math.isfinite(line[figure]) for figure in names)
        assert 0 < line['output_std'] <= 1
        assert 1 < line['rank'] < 128
    assert 'nothing to watch' not in text
    # A run goes on as without the monitor.
    plain, *_ = train(name)
    for key, value in plain.state_dict().items():
        assert torch.equal(value, model.state_dict()[key]), key


@pytest.mark.slow
@pytest.mark.parametrize('name', ['beit', 'supervised'])
def test_a_model_without_a_teacher_is_named(train, name):
    _, text, scalars = train(name, interval=1)
    assert re.search(
        r'CollapseMonitor has nothing to watch: \w+ has no target branch', text
    )
    assert 'rank' not in scalars[-1]


def constant(model):
    """Let the teacher's head give all images one output."""
    model.target['neck'].register_forward_hook(
        lambda part, inputs, outputs: outputs[:1].expand_as(outputs)
    )


def dull(model):
    """Let the teacher's backbone give all patches one feature."""
    model.target['backbone'].register_forward_hook(
        lambda part, inputs, outputs: (
            outputs[0][:1, :1].expand_as(outputs[0]),
        )
    )


@pytest.mark.slow
@pytest.mark.parametrize('name', ['dino', 'moco-v3'])
def test_a_collapsed_teacher_gets_a_verdict(train, name):
    _, text, _ = train(name, constant, interval=1, patience=2)
    (verdict,) = re.findall('Collapse at iteration 2: .*', text)
    assert re.search(
        r'the target outputs are all but constant \(output_std .*, are alike '
        r'over all images \(output_cos',
        verdict,
    )
    assert 'features' not in verdict
    _, text, _ = train(name, dull, interval=1, patience=2, stop=False)
    assert re.search(
        r'iteration 2: the target features fill .* and the target outputs',
        text,
    )
    # Patches alike in an image are no collapse of a method of whole images.
    assert 'cos_image' not in re.search('Collapse at .*', text).group()


def test_figures_of_outputs():
    torch.manual_seed(0)
    outputs = torch.randn(6, 9) + torch.randn(9)
    rows = torch.nn.functional.layer_norm(outputs, (9,))
    unit = torch.nn.functional.normalize(rows, dim=1)
    cosines = (unit @ unit.T)[~torch.eye(6, dtype=torch.bool)]
    figures = output_figures(outputs)
    assert figures['output_cos'] == pytest.approx(cosines.mean().item())
    spread = rows.std(dim=0, correction=0).mean().item()
    assert figures['output_std'] == pytest.approx(spread, rel=1e-5)
    alike = output_figures(outputs[:1].expand(4, 9))
    assert alike['output_std'] == pytest.approx(0, abs=1e-3)
    assert alike['output_cos'] == pytest.approx(1)
    assert math.isnan(output_figures(outputs[:1])['output_cos'])


def test_outputs_are_centred_as_in_the_loss(monkeypatch):
    monkeypatch.setenv('SIMIM_SCALE', 'demo')
    init_default_scope('mmpretrain')
    config = Config.fromfile(config_path('siamese_im_rival-ibot.py'))
    model = MODELS.build(config.model)
    outputs = torch.randn(4, 65, 1024)
    centre = model.head.centre
    assert isinstance(centre, Centre)
    centre.value.copy_(torch.randn(1024))
    assert torch.equal(model.compared(outputs), outputs[:, 0] - centre.value)

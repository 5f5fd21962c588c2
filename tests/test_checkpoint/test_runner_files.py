"""Files that the runner starts from or resumes."""

import pytest
import torch
from mmengine.hooks import EMAHook

from simim_plugin.checkpoint import CheckpointError, to_official

from ..test_engine.test_runner import make_runner  # noqa: F401
from ..test_models.helpers import small_model
from .helpers import Malicious, scramble


def test_load_from_a_released_file(make_runner, tmp_path):  # noqa: F811
    model = scramble(small_model())
    state = to_official(model.state_dict())
    state['head.weight'] = torch.ones(3, 24)  # our model has no head
    state['head.bias'] = torch.ones(3)
    torch.save(dict(model=state, epoch=3), tmp_path / 'released.pth')
    runner = make_runner(load_from=str(tmp_path / 'released.pth'))
    runner.load_or_resume()
    for name, value in model.backbone.state_dict().items():
        assert torch.equal(runner.model.backbone.state_dict()[name], value)


def test_an_average_starts_from_a_released_file(make_runner, tmp_path):  # noqa: F811
    """MMEngine's hook knows no other entry than state_dict."""
    model = scramble(small_model())
    file = tmp_path / 'released.pth'
    torch.save(dict(model=to_official(model.state_dict())), file)
    runner = make_runner(custom_hooks=[dict(type='EMAHook')])
    runner.call_hook('before_run')
    runner.load_checkpoint(str(file))
    (hook,) = (h for h in runner.hooks if isinstance(h, EMAHook))
    average = hook.ema_model.module.state_dict()
    for name, value in runner.model.state_dict().items():
        assert torch.equal(average[name], value)
    assert torch.equal(average['backbone.cls_token'], model.backbone.cls_token)


def test_resume_needs_the_state_of_a_run(make_runner, tmp_path):  # noqa: F811
    file = tmp_path / 'weights.pth'
    torch.save(dict(state_dict=small_model().state_dict()), file)
    with pytest.raises(
        CheckpointError, match=r'no state of a run.*pretrained'
    ):
        make_runner(resume=True, load_from=str(file)).train()


def test_the_config_text_of_a_file_is_not_run(make_runner, tmp_path):  # noqa: F811
    """MMEngine executes meta.config as Python when it resumes."""
    witness, file = tmp_path / 'witness', tmp_path / 'run' / 'epoch_1.pth'
    make_runner().train()
    content = torch.load(file, weights_only=False)
    content['meta']['config'] = f'open({str(witness)!r}, "w")'
    torch.save(content, file)
    make_runner(resume=True, load_from=str(file)).train()
    assert not witness.exists()


@pytest.mark.parametrize('resume', [False, True])
def test_malicious_pickle(make_runner, tmp_path, resume):  # noqa: F811
    witness, file = tmp_path / 'witness', tmp_path / 'file.pth'
    state = small_model().state_dict()
    torch.save(dict(state_dict=state, meta=Malicious(witness)), file)
    with pytest.raises(CheckpointError, match='may run code'):
        make_runner(resume=resume, load_from=str(file)).train()
    assert not witness.exists()

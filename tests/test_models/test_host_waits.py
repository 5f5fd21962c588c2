"""No part of a step waits for the device; batches travel as few tensors."""

import copy
import pickle
from contextlib import nullcontext

import pytest
import torch
from mmengine.dataset import default_collate
from mmpretrain.registry import MODELS
from torch.utils._python_dispatch import TorchDispatchMode

from simim_plugin import ablations  # noqa: F401  # registers two kinds
from simim_plugin.datasets.collating import PairSamples, collate_pairs
from simim_plugin.errors import SimimError

from .helpers import small_batch, small_config, small_model

KINDS = [
    dict(type='SiameseIM'),
    dict(type='SymmetricSiameseIM'),
    dict(type='PartialTargetSiameseIM'),
]


class Copies(TorchDispatchMode):
    """Collect the shapes of the tensors that the CPU gives to a device."""

    def __init__(self):
        super().__init__()
        self.shapes = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if function.overloadpacket.__name__ in ('_to_copy', 'copy_'):
            source = args[-1] if len(args) > 1 else args[0]
            if source.device.type == 'cpu' and result.device.type != 'cpu':
                self.shapes.append(tuple(source.shape))
        return result


def items(size=4):
    """Return the items of a batch, as a pipeline makes them."""
    inputs, samples = small_batch(size=size)
    for k, sample in enumerate(samples):
        sample.target_tokens = ~sample.mask
        sample.set_field(f'{k}.png', 'img_path', field_type='metainfo')
    return [
        dict(inputs=[view[k] for view in inputs], data_samples=samples[k])
        for k in range(size)
    ]


def model_of(kind):
    torch.manual_seed(0)
    config = small_config() | kind
    config['data_preprocessor'] = dict(
        type='PairDataPreprocessor', mean=[1.0] * 3, std=[2.0] * 3
    )
    model = MODELS.build(config)
    model.init_weights()
    return model


def no_autocast(*_, **__):
    """Stand in for autocast, which the device 'meta' does not have."""
    return nullcontext()


@pytest.mark.parametrize('kind', KINDS, ids=lambda kind: kind['type'])
@pytest.mark.parametrize('collate', [default_collate, collate_pairs])
def test_a_step_reads_nothing_from_its_device(kind, collate, monkeypatch):
    """A read of a tensor of the device 'meta', which has no values, raises.

    So does an operator whose result depends on values, such as nonzero. Only
    the batch goes to the device: the views, and two tensors.
    """
    monkeypatch.setattr(torch, 'autocast', no_autocast)
    model = model_of(kind).to('meta').train()
    data = collate(items())
    with Copies() as copies:
        model.update_target(0.9)
        inputs = model.data_preprocessor(data, training=True)
        outputs = model(**inputs, mode='loss')
        outputs['loss'].backward()
    views, pairs, visible, chosen = (4, 3, 16, 16), (4, 2, 5), (4, 10), (4, 10)
    expected = [views, views, visible, pairs]
    if kind['type'] == 'SymmetricSiameseIM':
        expected += [visible, pairs]
    if kind['type'] == 'PartialTargetSiameseIM':
        expected.append(chosen)
    assert copies.shapes == expected
    with pytest.raises((RuntimeError, NotImplementedError)):
        outputs['loss'].item()


@pytest.mark.gpu
def test_a_step_does_not_wait_for_the_gpu():
    model = small_model().cuda().train()
    data = collate_pairs(items())
    data['inputs'] = [view.pin_memory() for view in data['inputs']]
    data['data_samples'] = data['data_samples'].pin_memory()
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode('error')
    try:
        model.update_target(0.9)
        inputs = model.data_preprocessor(data, training=True)
        model(**inputs, mode='loss')['loss'].backward()
    finally:
        torch.cuda.set_sync_debug_mode('default')


@pytest.mark.parametrize('kind', KINDS, ids=lambda kind: kind['type'])
def test_collated_pairs_have_the_loss_of_data_samples(kind):
    model = model_of(kind).eval()
    losses = []
    for collate in (default_collate, collate_pairs):
        data = model.data_preprocessor(collate(items()), training=True)
        losses.append(model(**data, mode='loss')['loss'])
    assert torch.equal(*losses)


def test_collated_pairs_are_a_sequence_of_data_samples():
    before = [item['data_samples'] for item in items()]
    data = collate_pairs(items())
    after = data['data_samples']
    assert isinstance(after, PairSamples)
    for kept in (after, pickle.loads(pickle.dumps(after))):
        assert len(kept) == len(before)
        for one, other in zip(kept, before, strict=True):
            assert one.img_path == other.img_path
            assert torch.equal(one.mask, other.mask)
            assert torch.equal(one.target_tokens, other.target_tokens)
            for view in ('online', 'target'):
                ours, theirs = (
                    getattr(sample.geometry, view) for sample in (one, other)
                )
                assert torch.equal(ours.box, theirs.box)
                assert torch.equal(ours.flip, theirs.flip)
    swapped = after.swapped()[1].geometry
    assert torch.equal(swapped.online.box, before[1].geometry.target.box)


def test_masks_that_do_not_fit_are_left_to_the_algorithm():
    """A worker's error would hide the sentence in a stack of calls."""
    batch = items()
    batch[1]['data_samples'].mask[:] = False
    data = collate_pairs(batch)
    assert isinstance(data['data_samples'], list)
    model = model_of(KINDS[0])
    with pytest.raises(SimimError, match='`num_masked`'):
        model(**model.data_preprocessor(data, training=True), mode='loss')
    del batch[0]['data_samples'].geometry
    assert isinstance(collate_pairs(batch)['data_samples'], list)


def test_the_target_follows_parameters_that_are_replaced():
    """Of a copy, and of a state that is assigned."""
    model = small_model()
    model.update_target(1.0)
    other = copy.deepcopy(model)
    state = {name: value + 1 for name, value in model.state_dict().items()}
    model.load_state_dict(state, assign=True)
    state = model.projector.embed.state_dict()
    state = {name: value.clone() for name, value in state.items()}
    model.projector.embed.load_state_dict(state, assign=True)
    for whole in (model, other):
        with torch.no_grad():
            whole.projector.embed.weight.add_(5)
        whole.update_target(0.0)
        assert torch.equal(
            whole.target['projector'].embed.weight,
            whole.projector.embed.weight,
        )
    assert not torch.equal(
        model.projector.embed.weight, other.projector.embed.weight
    )

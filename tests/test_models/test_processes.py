"""Two processes on half a batch each equal one on the whole batch."""

import os
import socket

import pytest
import torch
from mmengine.model import MMDistributedDataParallel, convert_sync_batchnorm

from simim_plugin.ablations import NormedUniGradHead

from ..training_processes import run_two
from .helpers import small_batch, small_model

NORMS = ('MAELikeNorm', 'MoCoLikeNorm')


def model_with(norm, device):
    model = small_model().double()
    model.head = NormedUniGradHead(norm=dict(type=norm))
    return model.to(device)


def step(model, inputs, samples):
    """Return loss, terms, gradients and BatchNorm buffers of one step."""
    outputs = model(inputs, samples, mode='loss')
    outputs['loss'].backward()
    model = getattr(model, 'module', model)
    result = {name: value.detach() for name, value in outputs.items()}
    for name, p in model.named_parameters():
        if p.grad is not None:
            result[f'grad.{name}'] = p.grad
    for name, value in model.named_buffers():
        if 'running' in name:
            result[name] = value
    return {name: value.cpu() for name, value in result.items()}


def half(rank, port, device, file):
    os.environ.update(MASTER_ADDR='127.0.0.1', MASTER_PORT=str(port))
    torch.set_num_threads(1)
    torch.distributed.init_process_group('gloo', rank=rank, world_size=2)
    inputs, samples = small_batch(size=6)
    part = slice(3 * rank, 3 * rank + 3)
    inputs = [view[part].double().to(device) for view in inputs]
    for norm in NORMS:
        model = model_with(norm, device)
        if device == 'cuda':  # as sync_bn = 'torch' does
            model = convert_sync_batchnorm(model, 'torch')
        model = MMDistributedDataParallel(model, broadcast_buffers=False)
        result = step(model, inputs, samples[part])
        torch.save(result, f'{file}.{norm}.{rank}')
    torch.distributed.barrier()
    # torch 2.11 can deadlock when it destroys the group: it waits for gloo's
    # threads while holding the GIL, which they need to free a tensor.
    os._exit(0)


@pytest.mark.slow
@pytest.mark.parametrize(
    'device', ['cpu', pytest.param('cuda', marks=pytest.mark.gpu)]
)
def test_two_processes_equal_one(tmp_path, device):
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    file = tmp_path / 'result'
    run_two(half, port, device, str(file))
    inputs, samples = small_batch(size=6)
    inputs = [view.double().to(device) for view in inputs]
    for norm in NORMS:
        first, second = (torch.load(f'{file}.{norm}.{k}') for k in (0, 1))
        whole = step(model_with(norm, device), inputs, samples)
        assert whole.keys() == first.keys() == second.keys()
        for name, expected in whole.items():
            if name.startswith('grad.') or 'running' in name:
                assert torch.equal(first[name], second[name]), name
                value = first[name]
            else:
                value = (first[name] + second[name]) / 2
            # A bias before a BatchNorm has zero gradient, up to rounding.
            bound = 1e-6 * max(expected.norm(), 1e-8)
            assert (value - expected).norm() < bound, (norm, name)

"""Share the weights of a model among processes, by torch's FSDP2.

Each process holds a part of every parameter, of its gradient and of its
moments. The weights of a block are gathered while it computes.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from mmengine.dist import get_rank, get_world_size, is_main_process
from mmengine.registry import MODEL_WRAPPERS
from mmengine.runner import Runner
from mmpretrain.models.backbones.vision_transformer import (
    TransformerEncoderLayer,
)
from torch import Tensor, nn

from ..errors import SimimError
from ..runs.processes import together

try:
    from torch.distributed import fsdp
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import DTensor, distribute_tensor
except ImportError:  # an older torch
    fsdp = None  # type: ignore[assignment]
    DTensor = ()  # type: ignore[assignment,misc]


@MODEL_WRAPPERS.register_module()
class FullyShard(nn.Module):
    """Share a model's weights, gradients and moments among all processes.

    Set it by ``model_wrapper_cfg = dict(type='FullyShard')``. Each
    transformer block, online and target, is gathered separately, and the rest
    of the model together. Gradients are averaged in the dtype of the
    parameters, float32. The target moves shard by shard.

    Outside of a step all parameters are shards: hooks may change them
    elementwise. ``state_dict`` of the model and of its optimizer gather whole
    tensors, in the main process, so every process must call it; the others
    get tensors of the device 'meta'. Loading takes whole tensors.

    Args:
        module (nn.Module): the model, with its first weights.

    Raises:
        SimimError: with a torch that lacks it.
    """

    module: Any  # has methods of torch's FSDPModule

    def __init__(self, module: Any) -> None:
        super().__init__()
        check_torch()
        device = torch.device('cuda' if torch.cuda.is_available() else 'cpu')
        mesh = init_device_mesh(device.type, (get_world_size(),))
        for part in [*module.modules()]:
            if isinstance(part, TransformerEncoderLayer):
                fsdp.fully_shard(part, mesh=mesh)
        fsdp.fully_shard(module, mesh=mesh)
        module.to(device)  # the preprocessor notes the device
        module.set_reshard_after_forward(True)
        # torch takes the first module that computes for the whole model, and
        # a hook may call a part before the first step.
        module.begin = lambda: None
        fsdp.register_fsdp_forward_method(module, 'begin')
        module.begin()
        module.register_state_dict_post_hook(_gather_weights)
        module.register_load_state_dict_pre_hook(_share_weights)
        self.module = module

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the model."""
        return self.module(*args, **kwargs)

    def train_step(self, data: Any, optim_wrapper: Any) -> dict[str, Tensor]:
        """Train as the model does; micro-steps exchange no gradient."""
        self.module.set_requires_gradient_sync(optim_wrapper.should_sync())
        return self.module.train_step(data, optim_wrapper)


def check_torch() -> None:
    """Refuse a torch without what FullyShard needs.

    Raises:
        SimimError: naming the version.
    """
    if not hasattr(
        getattr(fsdp, 'FSDPModule', None), 'set_reshard_after_forward'
    ):
        raise SimimError(
            'model_wrapper_cfg of type FullyShard needs torch 2.8 or newer, '
            f'and this is {torch.__version__}; install a newer one, or '
            'remove model_wrapper_cfg.'
        )


@contextmanager
def gathered(model: nn.Module) -> Iterator[None]:
    """Hold all weights in each process, which then computes alone.

    Hooks that call parts of the model, or share batches unevenly, need it.

    Args:
        model (nn.Module): of a Runner; nothing happens to one without shards.
    """
    if not isinstance(model, FullyShard):
        yield
        return
    parts = [p for p in model.modules() if isinstance(p, fsdp.FSDPModule)]
    # torch's hooks would free the weights again, and note forward passes
    # that the other processes do not make.
    names = ('_forward_pre_hooks', '_forward_hooks')
    hooks = [{name: getattr(part, name) for name in names} for part in parts]
    try:
        for part in parts:
            part.unshard()
            vars(part).update({name: OrderedDict() for name in names})
        yield
    finally:
        for part, own in zip(parts, hooks, strict=True):
            vars(part).update(own)
            part.reshard()


def shard_of(parameter: Tensor) -> Tensor:
    """Return the numbers of a parameter that this process holds."""
    own = parameter.detach()
    return own.to_local() if isinstance(own, DTensor) else own


class ShardingMixin(Runner):
    """Train a model that :class:`FullyShard` wraps."""

    def wrap_model(
        self, model_wrapper_cfg: dict | None, model: nn.Module
    ) -> nn.Module:
        """Wrap; what is shared are the first weights, not the empty ones."""
        kind = (model_wrapper_cfg or {}).get('type')
        shared = kind in ('FullyShard', FullyShard)
        if shared and not self.distributed:
            self.logger.info('One process holds the whole model, unshared.')
        if not (shared and self.distributed):
            return super().wrap_model(model_wrapper_cfg, model)
        super()._init_model_weights()
        return MODEL_WRAPPERS.build(
            model_wrapper_cfg,
            default_args=dict(module=together(self.cfg, model)),
        )

    def _init_model_weights(self) -> None:
        if not isinstance(self.model, FullyShard):
            super()._init_model_weights()

    def build_optim_wrapper(self, optim_wrapper: Any) -> Any:
        """Build an optimizer whose saved state is whole."""
        built = isinstance(optim_wrapper, dict)
        optim_wrapper = super().build_optim_wrapper(optim_wrapper)
        if built and isinstance(self.model, FullyShard):
            optimizer = optim_wrapper.optimizer
            optimizer.register_state_dict_post_hook(_gather_moments)
            optimizer.register_load_state_dict_pre_hook(_share_moments)
        return optim_wrapper

    def save_checkpoint(
        self, *args: Any, save_optimizer: bool = True, **kwargs: Any
    ) -> None:
        """Save whole tensors, to which every process gives its shards."""
        if is_main_process():
            super().save_checkpoint(
                *args, save_optimizer=save_optimizer, **kwargs
            )
        elif isinstance(self.model, FullyShard):
            self.model.module.state_dict()
            if save_optimizer:
                self.optim_wrapper.state_dict()


def _gather(value: Any) -> Any:
    """Return a whole tensor, which only the main process keeps."""
    if not isinstance(value, DTensor):
        return value
    whole = value.full_tensor()
    return whole.cpu() if get_rank() == 0 else whole.to('meta')


def _share(whole: Any, own: Tensor) -> Any:
    """Return this process's shard of a tensor, as a parameter has it."""
    if not (isinstance(own, DTensor) and isinstance(whole, Tensor)):
        return whole
    if whole.shape != own.shape:  # torch refuses it, or it is a number
        return whole
    return distribute_tensor(whole, own.device_mesh, own.placements)


def _gather_weights(module: nn.Module, state: dict, *_: Any) -> None:
    for name in state:
        state[name] = _gather(state[name])


def _share_weights(
    module: nn.Module, state: dict, prefix: str, *_: Any
) -> None:
    for name, own in module.named_parameters(prefix.rstrip('.')):
        if name in state:
            state[name] = _share(state[name], own)


def _gather_moments(optimizer: Any, state: dict) -> dict:
    moments = {
        number: {name: _gather(value) for name, value in of_one.items()}
        for number, of_one in state['state'].items()
    }
    return {**state, 'state': moments}


def _share_moments(optimizer: Any, state: dict) -> dict:
    own = [p for group in optimizer.param_groups for p in group['params']]
    moments = {
        number: {
            name: _share(value, own[number]) for name, value in of_one.items()
        }
        for number, of_one in state['state'].items()
    }
    return {**state, 'state': moments}

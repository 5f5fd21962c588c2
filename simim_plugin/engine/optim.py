"""Mixed precision without a scaler, and the parameter groups."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from inspect import signature
from typing import Any

import torch
from mmengine.optim import OptimWrapper
from mmpretrain.engine import LearningRateDecayOptimWrapperConstructor
from mmpretrain.registry import (
    OPTIM_WRAPPER_CONSTRUCTORS,
    OPTIM_WRAPPERS,
    OPTIMIZERS,
)
from torch import nn

from ..errors import SimimError

_PARAMWISE = {
    'layer_decay_rate',
    'norm_decay_mult',
    'bias_decay_mult',
    'flat_decay_mult',
    'custom_keys',
}


def has_fused(device: str) -> bool:
    """Return whether torch has fused optimizers; on CPUs, since 2.4."""
    return device != 'cpu' or torch.__version__ >= '2.4'


@OPTIM_WRAPPERS.register_module()
class AutocastOptimWrapper(OptimWrapper):
    """Train under bfloat16 autocast, which needs no gradient scaler.

    Unlike mmengine's ``AmpOptimWrapper`` it also builds on a CPU. For
    float16 with a scaler, use ``AmpOptimWrapper`` on a GPU.

    Args:
        on_cpu (bool): autocast on a CPU too; faster if the CPU has
            AVX512-BF16 or AMX. Defaults to False.
        **kwargs: see :class:`mmengine.optim.OptimWrapper`.
    """

    def __init__(self, on_cpu: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.on_cpu = on_cpu

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """Open the context of a forward pass."""
        device = next(model.parameters()).device.type
        enabled = device != 'cpu' or self.on_cpu
        autocast = torch.autocast(device, torch.bfloat16, enabled=enabled)
        with super().optim_context(model), autocast:
            yield


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class LayerDecayConstructor(LearningRateDecayOptimWrapperConstructor):
    """MMPretrain's layer-wise learning-rate decay, in few groups.

    Parameters of the same learning rate and weight decay share a group: 2
    groups for pretraining, 28 for a ViT-B with layer decay, instead of one
    per parameter. The optimizer then updates many parameters at once. A
    model without ``get_layer_depth``, such as a detector or a segmentor,
    takes the depths of its backbone. Without ``layer_decay_rate`` any model
    will do.

    ``fused=True`` takes effect only where torch supports it. In
    ``custom_keys`` both ``lr_mult``, which MMPretrain ignores, and
    ``decay_mult`` take effect; 0 holds a parameter. Each is that of the
    longest key in the name of a parameter that has one. A key without
    ``decay_mult`` leaves the decay of norms and biases as it is. Other
    multipliers of MMEngine's own constructor are refused.
    """

    optimizer_cfg: dict[str, Any]
    base_wd: Any
    paramwise_cfg: dict[str, Any]

    def __init__(
        self,
        optim_wrapper_cfg: dict[str, Any],
        paramwise_cfg: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(optim_wrapper_cfg, paramwise_cfg)
        # MMPretrain takes all settings of a parameter from one key.
        keys = self.paramwise_cfg.get('custom_keys') or {}
        self.custom_keys = sorted(keys.items(), key=lambda item: len(item[0]))
        if keys:
            self.paramwise_cfg = dict(self.paramwise_cfg, custom_keys={})

    def __call__(self, model: nn.Module) -> OptimWrapper:
        """Build the optimizer of a model and its wrapper.

        Raises:
            SimimError: for a setting that would have no effect, and for a
                layer decay of a backbone without depths.
        """
        unknown = {*self.paramwise_cfg} - _PARAMWISE
        if unknown:
            raise SimimError(
                f'optim_wrapper.paramwise_cfg has {", ".join(sorted(unknown))}'
                ', which LayerDecayConstructor does not know; use custom_keys '
                f'or one of {", ".join(sorted(_PARAMWISE))}.'
            )
        if self.base_wd is None:  # the base class needs one
            kind = self.optimizer_cfg['type']
            known = OPTIMIZERS.get(kind) if isinstance(kind, str) else kind
            given = signature(known).parameters.get('weight_decay')
            if given is None:
                raise SimimError(
                    'LayerDecayConstructor sets the weight decay of groups, '
                    f'which {kind} does not have; set another optimizer, '
                    'such as AdamW.'
                )
            self.base_wd = given.default
        device = next(model.parameters()).device.type
        if self.optimizer_cfg.get('fused') and not has_fused(device):
            self.optimizer_cfg = dict(self.optimizer_cfg, fused=False)
        return super().__call__(model)

    def add_params(
        self,
        params: list[dict],
        module: nn.Module,
        prefix: str = '',
        **kwargs: Any,
    ) -> None:
        """Append the parameter groups of ``module`` to ``params``."""
        if prefix:
            super().add_params(params, module, prefix=prefix, **kwargs)
            return
        kwargs['get_layer_depth'] = self._depths_of(module)
        try:
            super().add_params(params, module, **kwargs)
        except NotImplementedError as error:
            backbone = getattr(module, 'backbone', module)
            raise SimimError(
                'optim_wrapper.paramwise_cfg.layer_decay_rate needs a method '
                f'get_layer_depth of {type(backbone).__name__}; remove the '
                'rate, or add the method.'
            ) from error
        merged: dict[tuple, list] = defaultdict(list)
        for group in params:
            self._apply_custom_keys(group)
            members = group.pop('params')
            del group['layer_id'], group['param_name']
            settings = tuple(
                (name, tuple(value) if isinstance(value, list) else value)
                for name, value in group.items()
            )
            merged[settings].extend(members)
        params[:] = [
            dict(settings, params=members)
            for settings, members in merged.items()
        ]

    def _depths_of(self, model: nn.Module) -> Any:
        """Return what gives a parameter its depth and the largest depth."""
        if self.paramwise_cfg.get('layer_decay_rate', 1.0) == 1.0:
            return lambda name: (0, 1)  # no rate depends on the depth
        backbone: Any = getattr(model, 'backbone', None)
        if hasattr(model, 'get_layer_depth') or not hasattr(
            backbone, 'get_layer_depth'
        ):
            return None
        return partial(backbone.get_layer_depth, prefix='backbone.')

    def _apply_custom_keys(self, group: dict[str, Any]) -> None:
        """Apply the settings of all keys in the name of a parameter."""
        settings: dict[str, Any] = {}
        for key, given in self.custom_keys:
            if key in group['param_name']:
                settings |= given
        factor = settings.pop('lr_mult', 1.0)
        group['lr'] *= factor
        group['lr_scale'] *= factor
        if 'decay_mult' in settings:
            group['weight_decay'] = self.base_wd * settings.pop('decay_mult')
        group.update(settings)

"""Load and merge MMPretrain's LoRA adapters.

A run of ``LoRAModel`` writes the adapters and the head only. The encoder is
that of ``pretrained`` in the config.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mmengine.logging import print_log
from torch import Tensor, nn

from .reading import CheckpointError


def adapted(model: nn.Module) -> Iterator[nn.Module]:
    """Yield the ``LoRAModel`` parts of a model."""
    for part in model.modules():
        if type(part).__name__ == 'LoRAModel':
            yield part


def load_adapters(
    model: nn.Module, content: Mapping[str, Any], file: str | Path
) -> bool:
    """Fill a model with adapters, if it has any, and log the result.

    Args:
        model (nn.Module): its state dict holds no encoder, but adapters.
        content (Mapping[str, Any]): of the file.
        file (str | Path): for the message.

    Returns:
        bool: whether the model has adapters and the file holds them.

    Raises:
        CheckpointError: if the config does not name the encoder.
    """
    parts = list(adapted(model))
    wanted = model.state_dict()
    state = content.get('state_dict')
    if not parts or not isinstance(state, Mapping):
        return False
    if state.keys() != wanted.keys():
        return False
    for part in parts:
        if getattr(part.module, 'pretrained', None) is None:
            raise CheckpointError(
                f'The checkpoint {file} holds adapters without their encoder; '
                'set pretrained of the module in LoRAModel to the weights '
                'that they were trained on.'
            )
    model.load_state_dict(state)
    print_log(
        f'Loaded {len(state)} tensors of {file}, the adapters and the head; '
        'the encoder is that of the config',
        'current',
    )
    return True


def merged(model: nn.Module) -> dict[str, Tensor]:
    """Return the state dict of a model without its adapters.

    Each adapted weight W becomes W + scaling x up x down.

    Args:
        model (nn.Module): filled by :func:`load_adapters`.
    """
    layers = {
        f'{name}.': layer
        for name, layer in model.named_modules()
        if hasattr(layer, 'lora_up')
    }
    wrappers = [
        f'{name}.'
        for name, part in model.named_modules()
        if part in {*adapted(model)}
    ]
    state = {}
    for name, value in [*model.named_parameters(), *model.named_buffers()]:
        if '.lora_' in name:
            continue
        owner, inside, last = name.rpartition('original_layer.')
        if inside and owner in layers and last == 'weight':
            layer = layers[owner]
            change = layer.lora_up.weight @ layer.lora_down.weight
            value = value + layer.scaling * change
        name = name.replace('.original_layer.', '.')
        for prefix in wrappers:
            name = name.replace(f'{prefix}module.', prefix, 1)
        state[name] = value.detach()
    return state

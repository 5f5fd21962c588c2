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
from .statement import parsed


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
        CheckpointError: if the config does not name the encoder, or the
            adapters have another rank or alpha.
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
    _check_sizes(parts, wanted, state, content.get('meta'), file)
    model.load_state_dict(state)
    print_log(
        f'Loaded {len(state)} tensors of {file}, the adapters and the head; '
        'the encoder is that of the config',
        'current',
    )
    return True


def _check_sizes(
    parts: list[Any],
    wanted: Mapping[str, Tensor],
    state: Mapping[str, Any],
    meta: Any,
    file: str | Path,
) -> None:
    """Refuse adapters of another rank or alpha, which is in no tensor.

    Raises:
        CheckpointError: naming a tensor or both alphas.
    """
    for name, value in wanted.items():
        found = [*getattr(state[name], 'shape', ())]
        if found != [*value.shape]:
            raise CheckpointError(
                f'The checkpoint {file} has {name} of shape {found}, not '
                f'{[*value.shape]}; set rank of LoRAModel, and the head, to '
                'those of its run.'
            )
    own = [[part.alpha, *_alphas(part.targets)] for part in parts]
    text = meta.get('cfg') if isinstance(meta, Mapping) else None
    trained = [*_trained_alphas(parsed(text).get('model'))]
    if trained and trained != own:
        raise CheckpointError(
            f'The adapters of {file} were trained with alpha={trained}, and '
            f'LoRAModel has {own} (the first of all, then by target); set '
            'alpha to that of its run.'
        )


def _alphas(targets: Any) -> list[tuple[Any, Any]]:
    return [
        (target.get('type'), target.get('alpha'))
        for target in (targets if isinstance(targets, list | tuple) else ())
        if isinstance(target, Mapping)
    ]


def _trained_alphas(node: Any) -> Iterator[list[Any]]:
    """Yield the alphas of every ``LoRAModel`` in a config."""
    if isinstance(node, list):
        node = dict(enumerate(node))
    if not isinstance(node, Mapping):
        return
    if str(node.get('type')).rpartition('.')[2] == 'LoRAModel':
        yield [node.get('alpha', 1), *_alphas(node.get('targets', ()))]
    for part in node.values():
        yield from _trained_alphas(part)


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
    parts = {*adapted(model)}
    wrappers = [
        f'{name}.' for name, part in model.named_modules() if part in parts
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

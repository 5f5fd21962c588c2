"""Seconds and peak memory of ViTDet with ViT-B at 1024 px.

Shape key: B batch, H x W patches, N = H W, C channels, D channels of a head.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from functools import partial
from types import ModuleType

import torch.nn.functional as F
from mmdet.registry import MODELS
from mmdet.testing import demo_mm_inputs
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DefaultScope
from mmpretrain.models.backbones.vit_sam import Attention
from torch import Tensor, nn

from ..config_files import config_path
from ..detection.attention import (
    attend,
    merge_heads,
    split_heads,
    with_relative_positions,
)
from ..errors import SimimError
from ..operators.placing import COMPILED, Operators, build_command
from .timing import DEVICE, costs, median_seconds, token_pass

CONFIG = 'siamese_im_vit-base-p16_vitdet-16xb4-amp-100e_coco.py'


def attend_with_bias(attn: Attention, tokens: Tensor) -> Tensor:
    """Compute fused attention with relative positions as its bias.

    Args:
        attn (Attention): its parameters.
        tokens (Tensor): (B, H, W, C).

    Returns:
        Tensor: (B, H, W, C).
    """
    _, height, width, _ = tokens.shape
    query, key, value = split_heads(attn, tokens)  # (B, heads, N, D) each
    widened, _ = with_relative_positions(attn, query, key, height, width)
    _, vertical, horizontal = widened.split(
        [query.shape[-1], height, width], dim=-1
    )
    bias = vertical[..., None] + horizontal[..., None, :]
    attended = F.scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=bias.flatten(3),  # (B, heads, N, N)
    )
    return merge_heads(attn, attended, (height, width))


KINDS: dict[str, Callable[[Attention, Tensor], Tensor]] = {
    'explicit logits': Attention.forward,
    'bias': attend_with_bias,
    'ours': attend,
}
"""Our attention and two yardsticks that hold N x N logits."""


def attention(kind: str, side: int, bf16: bool) -> Callable[[], object]:
    """Prepare one global block's attention over an image.

    Args:
        kind (str): key of ``KINDS``.
        side (int): H = W.
        bf16 (bool): under autocast.

    Returns:
        Callable[[], object]: runs it forward and backward.
    """
    attn = Attention(768, 12, use_rel_pos=True, input_size=(side, side))
    nn.init.normal_(attn.rel_pos_h)
    nn.init.normal_(attn.rel_pos_w)
    run = partial(KINDS[kind], attn.to(DEVICE))
    return token_pass(run, (1, side, side, 768), bf16)  # (B, H, W, C)


def training_step(
    name: str, with_cp: bool, bf16: bool
) -> Callable[[], object]:
    """Prepare a training step on one image with 20 objects.

    Args:
        name (str): packaged detection config.
        with_cp (bool): checkpoint the backbone's activations.
        bf16 (bool): under autocast on a CPU; on a GPU it always is.

    Returns:
        Callable[[], object]: runs forward, backward and AdamW.
    """
    config = Config.fromfile(config_path(name))
    config.model.backbone.with_cp = with_cp
    config.optim_wrapper.on_cpu = bf16
    side = config.model.backbone.img_size
    with DefaultScope.overwrite_default_scope('mmdet'):
        model = MODELS.build(config.model).to(DEVICE).train()
        wrapper = build_optim_wrapper(model, config.optim_wrapper)
    data = demo_mm_inputs(
        1, (3, side, side), num_items=[20], num_classes=8, with_mask=True
    )

    def run() -> None:
        # mmdet also looks up names while it computes.
        with DefaultScope.overwrite_default_scope('mmdet'):
            model.train_step(data, wrapper)

    return run


def with_operators(
    operators: ModuleType, run: Callable[[], object]
) -> Callable[[], None]:
    """Return ``run`` with mmcv's functions bound to the given operators.

    Args:
        operators (ModuleType): compiled ones, or those of this package.
        run (Callable[[], object]): calls mmcv's functions.
    """

    def swapped() -> None:
        for name, module in list(sys.modules.items()):
            if name.startswith('mmcv.ops.') and hasattr(module, 'ext_module'):
                vars(module)['ext_module'] = operators
        run()

    return swapped


def measure_step(name: str, bf16: bool, rounds: int) -> dict[str, float]:
    """Measure a training step with and without activation checkpointing."""
    kinds = {'activations kept': False, 'activations computed again': True}
    made = {
        kind: partial(training_step, name, with_cp, bf16)
        for kind, with_cp in kinds.items()
    }
    return costs(made, rounds)


def measure_attention(side: int, bf16: bool, rounds: int) -> dict[str, float]:
    """Measure one global block's attention over ``side`` squared patches."""
    made = {
        f'attention, {kind}': partial(attention, kind, side, bf16)
        for kind in KINDS
    }
    return costs(made, rounds)


def measure_operators(name: str, bf16: bool, rounds: int) -> dict[str, float]:
    """Time a training step by mmcv's compiled operators and by ours.

    Raises:
        SimimError: if mmcv has no compiled operators.
    """
    compiled = importlib.import_module(COMPILED)
    if isinstance(compiled, Operators):
        raise SimimError(
            f'mmcv has no compiled operators; build them by '
            f'`{build_command()}`.'
        )
    run = training_step(name, False, bf16)
    kinds = dict(compiled=compiled, ours=Operators())
    actions = {kind: with_operators(it, run) for kind, it in kinds.items()}
    seconds = median_seconds(actions, rounds)
    figures: dict[str, float] = {
        f'operators, {kind}: s': x for kind, x in seconds.items()
    }
    figures['operators, ours / compiled'] = (
        seconds['ours'] / seconds['compiled']
    )
    return figures

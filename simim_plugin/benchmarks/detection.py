"""Seconds and peak memory of ViT-B at 1024 px.

One training step (forward, backward, AdamW) on an image with 20 objects, with
and without activation checkpointing; or one global block's attention, forward
and backward, ours beside two that hold the logits of all pairs of patches::

    python -m simim_plugin.benchmarks.detection
    python -m simim_plugin.benchmarks.detection --attention --fp32
    python -m simim_plugin.benchmarks.detection --operators --fp32

The last is a step with mmcv's compiled operators beside one with ours, in an
environment that has both.

Shape key: B batch, H x W patches, N = H W, C channels, D channels of a head.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Callable, Sequence
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
from ..detection.vitdet import attend, with_relative_positions
from ..operators import COMPILED, build_command
from ..operators.placing import Operators
from .timing import (
    DEVICE,
    median_seconds,
    print_costs,
    token_pass,
)

CONFIG = 'siamese_im_vit-base-p16_vitdet-16xb4-amp-100e_coco.py'


def attend_with_bias(attn: Attention, tokens: Tensor) -> Tensor:
    """A yardstick: fused attention, relative positions as its bias.

    Args:
        attn (Attention): its parameters.
        tokens (Tensor): (B, H, W, C).

    Returns:
        Tensor: (B, H, W, C).
    """
    _, height, width, _ = tokens.shape
    qkv = attn.qkv(tokens.flatten(1, 2))  # (B, N, 3 C)
    qkv = qkv.unflatten(2, (3, attn.num_heads, -1)).permute(2, 0, 3, 1, 4)
    query, key, value = qkv.unbind(0)  # (B, heads, N, D) each
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
    attended = attended.transpose(1, 2).flatten(2)  # (B, N, C)
    return attn.proj(attended).unflatten(1, (height, width))


KINDS: dict[str, Callable[[Attention, Tensor], Tensor]] = {
    'explicit logits': Attention.forward,
    'bias': attend_with_bias,
    'ours': attend,
}


def attention(kind: str, side: int, bf16: bool) -> Callable[[], object]:
    """One global block's attention, over an image.

    Args:
        kind (str): a key of ``KINDS``.
        side (int): H = W.
        bf16 (bool): under autocast.

    Returns:
        Callable[[], object]: runs it once, forward and backward.
    """
    attn = Attention(768, 12, use_rel_pos=True, input_size=(side, side))
    nn.init.normal_(attn.rel_pos_h)
    nn.init.normal_(attn.rel_pos_w)
    run = partial(KINDS[kind], attn.to(DEVICE))
    return token_pass(run, (1, side, side, 768), bf16)  # (B, H, W, C)


def training_step(
    name: str, with_cp: bool, bf16: bool
) -> Callable[[], object]:
    """One step on one image, of a detector with new weights.

    Args:
        name (str): packaged detection config.
        with_cp (bool): checkpoint the backbone's activations.
        bf16 (bool): under autocast, on a CPU too.

    Returns:
        Callable[[], object]: runs it once.
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
        # mmdet looks names up while it computes, too.
        with DefaultScope.overwrite_default_scope('mmdet'):
            model.train_step(data, wrapper)

    return run


def with_operators(
    operators: ModuleType, run: Callable[[], object]
) -> Callable[[], None]:
    """Let mmcv's functions call some operators while something runs.

    Args:
        operators (ModuleType): compiled ones, or those of this package.
        run (Callable[[], object]): what to run.
    """

    def swapped() -> None:
        for name, module in list(sys.modules.items()):
            if name.startswith('mmcv.ops.') and hasattr(module, 'ext_module'):
                vars(module)['ext_module'] = operators
        run()

    return swapped


def compare_operators(name: str, bf16: bool, rounds: int) -> None:
    """Print seconds of a training step by mmcv's operators and by ours."""
    compiled = importlib.import_module(COMPILED)
    if isinstance(compiled, Operators):
        raise SystemExit(f'mmcv has none: build them by `{build_command()}`.')
    run = training_step(name, False, bf16)
    kinds = dict(compiled=compiled, ours=Operators())
    actions = {kind: with_operators(it, run) for kind, it in kinds.items()}
    seconds = median_seconds(actions, rounds)
    for kind in kinds:
        print(f'operators {kind:10}{seconds[kind]:9.2f} s')
    print(f'ours / compiled {seconds["ours"] / seconds["compiled"]:.3f}')


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description='Time ViT-B at 1024 px.')
    parser.add_argument('--config', default=CONFIG, help='packaged name')
    parser.add_argument('--rounds', type=int, default=1, help='of each')
    parser.add_argument(
        '--fp32', action='store_true', help='no autocast on a CPU'
    )
    parser.add_argument(
        '--attention', action='store_true', help="a global block's alone"
    )
    parser.add_argument(
        '--operators', action='store_true', help="mmcv's beside ours"
    )
    parser.add_argument(
        '--patches', type=int, default=64, help='of its image, per side'
    )
    args = parser.parse_args(argv)
    if args.operators:
        compare_operators(args.config, not args.fp32, args.rounds)
        return
    made: dict[str, Callable[[], Callable[[], object]]]
    if args.attention:
        made = {
            f'attention, {kind}': partial(
                attention, kind, args.patches, not args.fp32
            )
            for kind in KINDS
        }
    else:
        made = {
            f'activations {kind}': partial(
                training_step, args.config, with_cp, not args.fp32
            )
            for kind, with_cp in (('kept', False), ('computed again', True))
        }
    print_costs(made, args.rounds)


if __name__ == '__main__':
    main()

"""A whole training step, with and without activation checkpointing.

Prints seconds and peak memory of one step (forward, backward, AdamW) on an
image of 1024 x 1024 pixels with 20 objects::

    python -m simim_plugin.detection.benchmark
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from functools import partial

from mmdet.registry import MODELS
from mmdet.testing import demo_mm_inputs
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DefaultScope

from ..benchmarks.timing import DEVICE, median_seconds, peak_megabytes
from ..packaged import config_path

CONFIG = 'siamese_im_vit-base-p16_vitdet-16xb4-amp-100e_coco.py'


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


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description='Time a training step.')
    parser.add_argument('--config', default=CONFIG, help='packaged name')
    parser.add_argument('--rounds', type=int, default=1, help='of each')
    parser.add_argument(
        '--fp32', action='store_true', help='no autocast on a CPU'
    )
    args = parser.parse_args(argv)
    kinds = {'kept': False, 'computed again': True}
    made = {
        kind: partial(training_step, args.config, with_cp, not args.fp32)
        for kind, with_cp in kinds.items()
    }
    megabytes = {kind: peak_megabytes(made[kind]) for kind in kinds}
    seconds = median_seconds(
        {kind: prepare() for kind, prepare in made.items()}, args.rounds
    )
    for kind in kinds:
        print(
            f'activations {kind:16}{seconds[kind]:8.1f} s'
            f'{megabytes[kind]:8.0f} MB'
        )


if __name__ == '__main__':
    main()

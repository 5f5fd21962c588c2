"""Measure speed and memory: one part of the package after the other."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from ..config_files import ABLATION_SCALES
from ..environment import require
from ..files import write_json
from .config_errors import add_traceback_option, explained_errors
from .numbers import whole

PARTS = {
    'step': 'the training step beside a plain ViT',
    'peer': 'the training step beside that of another program (--peer)',
    'processes': 'a step of two processes beside that of one, on CPU cores',
    'loss': 'the loss beside its M x M form',
    'pipeline': 'the pair pipeline beside Pillow calls',
    'multi-crop': "DINO's views beside Pillow calls",
    'variants': 'the training step of the cheaper variants',
    'rivals': 'the training step of the other methods',
    'compile': 'the training step with its parts compiled',
    'activations': 'the training step, activations kept or computed again',
    'savings': 'parts of a step beside plainer code for the same numbers',
    'refill': 'the wait for the first batch of an epoch',
    'monitors': 'the monitors of a run beside its training step',
    'detection-step': 'a step of ViTDet, activations kept or computed again',
    'detection-attention': "a global block's attention in ViTDet",
    'detection-operators': "a step of ViTDet by mmcv's operators and by ours",
    'segmentation-step': 'a step of UPerNet',
    'segmentation-attention': "a block's attention in UPerNet",
    'memory': 'training steps without a GPU, for configure.py; an hour',
}
_DENSE = ('detection-step', 'detection-operators', 'segmentation-step')
_ATTENTION = ('detection-attention', 'segmentation-attention')
_CONFIGURED = ('step', 'peer', 'processes', 'compile', 'activations')
PARTS_OF = {
    'images': ('pipeline', 'multi-crop', 'refill'),
    'config': (*_CONFIGURED, 'monitors', *_DENSE),
    'peer': ('peer',),
    'img_size': ('step', 'peer'),
    'masked': ('step', 'peer'),
    'scale': ('variants', 'rivals'),
    'batch_size': (
        *(*_CONFIGURED, 'variants', 'rivals', 'savings', 'refill'),
        *('monitors', 'segmentation-step', 'segmentation-attention'),
    ),
    'tokens': ('loss', 'savings'),
    'patches': ('detection-attention',),
    'bf16': (*_CONFIGURED[1:], *_DENSE, *_ATTENTION),
    'rounds': tuple(part for part in PARTS if part != 'memory'),
}
"""The parts that an option has an effect on."""


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line."""
    args = parse_args(argv)

    from mmengine.logging import MMLogger

    # At INFO mmengine logs the initialisation of every tensor.
    MMLogger.get_instance('mmengine', log_level='WARNING')
    if args.threads:
        torch.set_num_threads(args.threads)
    figures = dict[str, float]()
    with explained_errors(argv):
        for part in PARTS:
            if part in args.parts:
                found = measure(part, args)
                figures |= found
                print('\n'.join(lines(found)), flush=True)
    device = (
        torch.cuda.get_device_name()
        if torch.cuda.is_available()
        else f'CPU, {torch.get_num_threads()} threads'
    )
    print(
        f'torch {torch.__version__}, {device}, medians of {args.rounds}; cpu '
        'is the same by CPU time, load the processes that ran on the machine'
    )
    if args.json:
        write_json(args.json, with_cpu(figures))


def lines(figures: Mapping[str, float]) -> Iterator[str]:
    """Yield a line for each figure, with its CPU time and the load."""
    from ..benchmarks.timing import Timed

    for name, value in figures.items():
        line = f'{name:55} {value:10.4g}'
        if isinstance(value, Timed):
            line += f'   cpu {value.cpu:10.4g}   load {value.load:4.1f}'
        else:
            line += f'   {"":14}   load {os.getloadavg()[0]:4.1f}'
        yield line


def with_cpu(figures: Mapping[str, float]) -> dict[str, float]:
    """Return the figures, each followed by the same of CPU time, if any."""
    from ..benchmarks.timing import Timed

    written = dict[str, float]()
    for name, value in figures.items():
        written[name] = float(value)
        if isinstance(value, Timed):
            written[f'{name} (CPU time)'] = value.cpu
            written[f'{name} (load)'] = value.load
    return written


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the options."""
    parser = argparse.ArgumentParser(
        description='Measure speed and memory beside yardsticks:\n'
        + '\n'.join(f'  {part:24}{what}' for part, what in PARTS.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        '--parts',
        nargs='+',
        choices=PARTS,
        metavar='PART',
        default=['step', 'loss', 'pipeline'],
        help='parts to measure. Defaults to step loss pipeline',
    )
    _add_options(parser)
    add_traceback_option(parser)
    args = parser.parse_args(argv)
    reading = [p for p in args.parts if p in PARTS_OF['images']]
    if reading and args.images is None:
        parser.error(
            f'--images FOLDER is needed to time {" and ".join(reading)}.'
        )
    if ('peer' in args.parts) != (args.peer is not None):
        parser.error('--parts peer and --peer COMMAND need each other.')
    for name, parts in PARTS_OF.items():
        given = getattr(args, name) != parser.get_default(name)
        if given and not {*parts} & {*args.parts}:
            parser.error(
                f'--{name.replace("_", "-")} has no effect on '
                f'{", ".join(args.parts)}; it is for the parts '
                f'{", ".join(parts)}.'
            )
    return args


def _add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options; the help of each names its parts."""

    def add(name: str, what: str, **how: Any) -> None:
        parts = PARTS_OF[name.replace('-', '_')]
        parser.add_argument(
            f'--{name}', help=f'{what}. For {", ".join(parts)}', **how
        )

    add('images', 'folder of images')
    add('config', 'packaged config that chooses the encoder')
    add(
        'peer',
        'another program: {batch_size}, {img_size}, {masked}, {threads} and '
        '{precision} in it become our settings, and it prints one line '
        '"seconds a step: WALL cpu CPU"',
        metavar='COMMAND',
    )
    add(
        'img-size',
        'pixels a side, in place of those of the config',
        type=whole(),
    )
    add(
        'masked',
        'masked patches, in place of those of the config',
        type=whole(),
    )
    add(
        'scale',
        'of the configs (in1k)',
        choices=ABLATION_SCALES,
        default='in1k',
    )
    add('batch-size', 'images per training step (8)', type=whole(), default=8)
    add('tokens', 'tokens of the loss (12544)', type=whole(), default=12544)
    add('patches', 'patches a side (64)', type=whole(), default=64)
    add('bf16', 'autocast to bf16', action='store_true')
    parser.add_argument(
        '--rounds', type=whole(), default=5, help='counted runs of each (5)'
    )
    parser.add_argument('--threads', type=whole(), help='of torch')
    parser.add_argument('--json', type=Path, help='file for the figures')


def measure(part: str, args: argparse.Namespace) -> dict[str, float]:
    """Return the figures of a part by name."""
    from ..benchmarks import monitors, savings, training

    batch, rounds = args.batch_size, args.rounds
    sizes = args.img_size, args.masked
    how = args.config or training.RECIPE, batch, rounds
    match part:
        case 'step':
            return training.measure_steps(*how, *sizes)
        case 'peer':
            from .peer import measure_peer

            return measure_peer(args.peer, *how, args.bf16, *sizes)
        case 'processes':
            from ..benchmarks.processes import measure_processes

            return measure_processes(*how, args.bf16)
        case 'loss':
            return training.measure_loss(args.tokens, rounds)
        case 'pipeline':
            return _measure_pipeline(args.images, rounds)
        case 'multi-crop':
            return _measure_multi_crop(args.images, rounds)
        case 'variants' | 'rivals':
            rivals = part == 'rivals'
            files = training.rival_files if rivals else training.variant_files
            return training.measure_methods(files(), args.scale, batch, rounds)
        case 'compile':
            return training.measure_compiled(*how, args.bf16)
        case 'activations':
            return training.measure_activations(*how, args.bf16)
        case 'savings':
            return savings.measure_savings(args.tokens, batch, rounds)
        case 'refill':
            return savings.measure_refill(args.images, batch, rounds)
        case 'monitors':
            return monitors.measure_monitors(*how)
        case 'memory':
            return _measure_memory()
    library, _, what = part.partition('-')
    require(library)
    if library == 'detection':
        return _measure_detection(what, args)
    return _measure_segmentation(what, args)


def _measure_memory() -> dict[str, float]:
    from ..benchmarks.memory import measured_table

    figures = {}
    for kind, encoder, held in measured_table():
        name = f'memory: {kind}, {encoder}, '
        figures[name + 'GiB fixed'] = held.fixed
        figures[name + 'MiB an image'] = held.image
        figures[name + 'KiB a patch'] = held.patch
    return figures


def _measure_detection(
    what: str, args: argparse.Namespace
) -> dict[str, float]:
    from ..benchmarks import detection

    config = args.config or detection.CONFIG
    if what == 'attention':
        return detection.measure_attention(
            args.patches, args.bf16, args.rounds
        )
    if what == 'operators':
        return detection.measure_operators(config, args.bf16, args.rounds)
    return detection.measure_step(config, args.bf16, args.rounds)


def _measure_segmentation(
    what: str, args: argparse.Namespace
) -> dict[str, float]:
    from ..benchmarks import segmentation

    how = args.batch_size, args.bf16, args.rounds
    if what == 'attention':
        return segmentation.measure_attention(*how)
    return segmentation.measure_step(args.config or segmentation.CONFIG, *how)


def _measure_multi_crop(images: str, rounds: int) -> dict[str, float]:
    from ..benchmarks.multi_crop import measure_multi_crop

    measured = measure_multi_crop(images, rounds)
    return {f'multi-crop: {name}': x for name, x in measured.items()}


def _measure_pipeline(images: str, rounds: int) -> dict[str, float]:
    from ..benchmarks.pipeline import measure_pipeline

    measured = measure_pipeline(images, rounds)
    parts = {
        'ours': measured.pop('parts_ms'),
        'yardstick': measured.pop('yardstick_parts_ms'),
    }
    figures = {f'pipeline: {name}': x for name, x in measured.items()}
    for whose, milliseconds in parts.items():
        for part, x in milliseconds.items():
            figures[f'pipeline: {whose}, {part}, ms an image'] = x
    return figures

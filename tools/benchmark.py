"""Measure speed and memory: python tools/benchmark.py [--help]."""

import argparse
import json
from pathlib import Path

import torch


def main() -> None:
    parser = argparse.ArgumentParser(
        description='Time the training step, the loss, the pair pipeline and '
        'the cheaper variants of the method beside yardsticks.'
    )
    parser.add_argument(
        '--images', help='folder of images, to time the pipeline on'
    )
    parser.add_argument(
        '--batch-size', type=int, default=8, help='images a training step'
    )
    parser.add_argument(
        '--tokens', type=int, default=12544, help='tokens of the loss'
    )
    parser.add_argument(
        '--rounds', type=int, default=5, help='counted runs of each'
    )
    parser.add_argument(
        '--parts',
        nargs='+',
        choices=['step', 'loss', 'pipeline', 'variants'],
        default=['step', 'loss', 'pipeline'],
    )
    parser.add_argument('--json', type=Path, help='file for the figures')
    args = parser.parse_args()
    if 'pipeline' in args.parts and args.images is None:
        parser.error('--images FOLDER is needed to time the pipeline.')

    from mmengine.logging import MMLogger

    from simim_plugin.benchmarks import pipeline, training

    # Else every tensor's initialisation is told.
    MMLogger.get_instance('mmengine', log_level='WARNING')

    figures = dict[str, float]()
    if 'step' in args.parts:
        figures |= training.measure_steps(args.batch_size, args.rounds)
    if 'loss' in args.parts:
        figures |= training.measure_loss(args.tokens, args.rounds)
    if 'variants' in args.parts:
        figures |= training.measure_variants(args.batch_size, args.rounds)
    if 'pipeline' in args.parts:
        measured = pipeline.measure_pipeline(args.images, rounds=args.rounds)
        parts = {
            'ours': measured.pop('parts_ms'),
            'yardstick': measured.pop('yardstick_parts_ms'),
        }
        figures |= {f'pipeline: {name}': x for name, x in measured.items()}
        for whose, milliseconds in parts.items():
            for part, x in milliseconds.items():
                figures[f'pipeline: {whose}, {part}, ms an image'] = x
    device = (
        torch.cuda.get_device_name()
        if torch.cuda.is_available()
        else f'CPU, {torch.get_num_threads()} threads'
    )
    print(f'torch {torch.__version__}, {device}, medians of {args.rounds}')
    for name, value in figures.items():
        print(f'{name:50} {value:10.4g}')
    if args.json:
        args.json.write_text(json.dumps(figures, indent=1) + '\n')


if __name__ == '__main__':
    main()

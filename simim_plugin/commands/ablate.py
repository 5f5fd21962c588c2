"""Pretrain and evaluate the rows of the ablations, and compare them.

A row is a config of ``configs/ablations``, or a rival, another method, of
``configs/rivals``. ``tools/train.py`` trains it and
``tools/evaluate.py`` evaluates it, with the seeds, images and steps of every
other row.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..config_files import ABLATION_SCALES
from ..errors import SimimError
from ..files import read_json, write_json
from ..text import clean
from .command_line import check_config
from .config_errors import (
    add_traceback_option,
    explained_errors,
    sentence_of,
)
from .numbers import seed_number
from .row_runs import (
    BUDGETS,
    DATA,
    RowRun,
    epochs_of_i,
    evaluated_tasks,
    evaluation_words,
    measured_costs,
)
from .row_tables import write_results
from .rows import (
    METRICS,
    PAPER_LINEAR,
    SEGMENTATION,
    SIAMESE_IM,
    UNTRAINED,
    config_of,
    row_names,
)

EVERY_EPOCH = (
    'default_hooks.checkpoint.interval=1',
    'default_hooks.checkpoint.max_keep_ckpts=-1',
)
"""Settings that keep the checkpoints of all epochs."""


def main(
    argv: Sequence[str] | None = None, tools: Path = Path('tools')
) -> None:
    """Run the command line.

    Args:
        argv (Sequence[str], optional): arguments; those of the process if
            None.
        tools (Path): folder of train.py and evaluate.py.
    """
    with explained_errors(argv):
        args = parse_args(argv)
        os.environ['SIMIM_SCALE'] = args.scale  # read by all configs of rows
        check_rows(args)
        check_evaluation(args)
        claim_folder(args)
        if args.costs or args.curves:
            measured_costs(args)
        for row in args.rows:
            for seed in args.seeds:
                RowRun(args, row, seed, tools).run()
                write_results(args.work_dir)
        print('\n' + (args.work_dir / 'results.md').read_text())
        print(clean(f'Written to {args.work_dir}: results.json, .md, .png'))


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse and check the options.

    Raises:
        SimimError: if a row, a task or the images do not exist.
    """
    known = [UNTRAINED, *row_names()]
    args = _parser(known).parse_args(argv)
    args.rows = args.rows or [UNTRAINED, *PAPER_LINEAR]
    args.rows = ['i' if row == SIAMESE_IM else row for row in args.rows]
    unknown = sorted(set(args.rows) - set(known))
    if unknown:
        raise SimimError(
            f'There is no row called {", ".join(unknown)}; the rows are '
            f'{", ".join(known)}.'
        )
    unknown = sorted(set(args.tasks.split(',')) - set(METRICS))
    if unknown:
        raise SimimError(
            f'Rows are not compared by {", ".join(unknown)}; --tasks takes '
            f'{",".join(METRICS)}.'
        )
    if SEGMENTATION in args.tasks.split(',') and args.scale != 'demo':
        raise SimimError(
            f'Images of the scale {args.scale} have no masks for the task '
            f'{SEGMENTATION}; leave it out of --tasks, or take --scale demo.'
        )
    for word in (*args.cfg_options, *args.evaluation_options):
        if '=' not in word:
            raise SimimError(
                f'{word!r} in the options of ablate.py sets nothing; write '
                'it as KEY=VALUE.'
            )
    if args.gpus < 1:
        raise SimimError(
            f'--gpus is {args.gpus}; set the number of processes, 1 or more.'
        )
    args.data = args.data or Path(DATA[args.scale][0])
    if not args.data.is_dir():
        raise SimimError(
            f'There are no images at {args.data}; put them there, or name '
            'another folder by --data.'
        )
    parts = (args.data / 'train', args.data / 'val')
    if args.curves and not all(part.is_dir() for part in parts):
        raise SimimError(
            f'--curves reads {parts[0]} and {parts[1]}, and one is missing; '
            'put the images in such folders of classes, or leave it out.'
        )
    if args.curves:
        args.cfg_options = [*args.cfg_options, *EVERY_EPOCH]
    args.work_dir = args.work_dir or Path('work_dirs/ablations', args.scale)
    return args


def _parser(rows: Sequence[str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description='Pretrain and evaluate rows of the ablations. Finished '
        'rows are kept, and an interrupted row is resumed.'
    )
    parser.add_argument(
        'rows',
        nargs='*',
        metavar='ROW',
        help=f'{", ".join(rows)}; {SIAMESE_IM} is i. Defaults to '
        f'{UNTRAINED} and the rows of the paper',
    )
    parser.add_argument('--scale', choices=ABLATION_SCALES, default='demo')
    parser.add_argument('--data', type=Path, help='folder of the images')
    parser.add_argument(
        '--work-dir',
        type=Path,
        help='folder of all runs and results. Defaults to '
        'work_dirs/ablations/SCALE',
    )
    parser.add_argument(
        '--gpus', type=int, default=1, help='processes, one on each GPU'
    )
    _add_comparison(parser)
    for name, of in (
        ('--cfg-options', 'pretraining'),
        ('--evaluation-options', 'evaluation'),
    ):
        parser.add_argument(
            name,
            nargs='+',
            action='extend',
            default=[],
            metavar='KEY=VALUE',
            help=f'override settings of the {of} of every row',
        )
    add_traceback_option(parser)
    return parser


def _add_comparison(parser: argparse.ArgumentParser) -> None:
    """Add the options that say how rows are compared."""
    parser.add_argument(
        '--seeds',
        type=seed_number,
        nargs='+',
        default=[0],
        help='one run for each',
    )
    parser.add_argument(
        '--tasks',
        default='knn,linear',
        help=f'comma-separated, from {",".join(METRICS)}',
    )
    parser.add_argument(
        '--budget',
        choices=BUDGETS,
        default='images',
        help='rows that train see as many images, or as many as their steps '
        'allow in the time or the operations of row i; costs.json has the '
        'costs. Defaults to images',
    )
    parser.add_argument(
        '--costs',
        action='store_true',
        help='measure a step of each row, in turns: time, operations, memory',
    )
    parser.add_argument(
        '--curves',
        action='store_true',
        help='keep the checkpoint of each epoch, and draw the kNN accuracy '
        'over the images seen and over the time that --costs measures',
    )


def check_rows(args: argparse.Namespace) -> None:
    """Check the settings of all rows before one trains.

    Raises:
        SimimError: if a row cannot take the options.
    """
    if args.budget != 'images':
        epochs_of_i(args)
    options = dict(word.split('=', 1) for word in args.cfg_options)
    for row in dict.fromkeys(args.rows):
        if row == UNTRAINED:
            continue
        try:
            check_config(config_of(row), options)
        except Exception as error:
            ours = isinstance(error, SimimError)
            cause = str(error) if ours else sentence_of(error)
            if cause is None:
                raise
            raise SimimError(
                f'The --cfg-options hold for all rows, and the row {row} '
                f'cannot take them: {cause} A row with options of its own '
                'needs another --work-dir.'
            ) from error


def check_evaluation(args: argparse.Namespace) -> None:
    """Check the options of the evaluation before a row trains.

    Raises:
        SimimError: if no task of the evaluation can take them.
    """
    from .evaluate import Evaluation
    from .evaluate import parse_args as evaluation_args

    if not args.evaluation_options:
        return
    tasks = evaluated_tasks(args)
    if not tasks:
        raise SimimError(
            '--evaluation-options is for tasks of evaluate.py, and --tasks '
            f'is {args.tasks}; leave it out.'
        )
    with tempfile.TemporaryDirectory() as folder:
        words = evaluation_words(args, tasks, Path(folder))
        try:
            for seed in args.seeds:
                own = [config_of('i'), f'--seed={seed}', *words]
                parsed = evaluation_args(own)
            Evaluation(parsed, Path('tools')).check()
        except SimimError as error:
            raise SimimError(
                f'A row cannot be evaluated with --evaluation-options: {error}'
            ) from error


def claim_folder(args: argparse.Namespace) -> None:
    """Write the settings that all rows share.

    Raises:
        SimimError: if the work directory holds rows with other settings.
    """
    shared = dict(
        scale=args.scale,
        data=str(args.data.resolve()),
        tasks=args.tasks,
        budget=args.budget,
        gpus=args.gpus,  # the batch, and with it the number of steps
        cfg_options=args.cfg_options,
        evaluation_options=args.evaluation_options,
    )
    file = args.work_dir / 'settings.json'
    before = read_json(file, shared)
    begun = (
        *args.work_dir.glob('*/seed*/row.json'),
        *args.work_dir.glob('*/seed*/pretraining/*.pth'),
    )
    changed = [
        f'--{name.replace("_", "-")}'
        for name, value in shared.items()
        if _by_key(before.get(name)) != _by_key(value)
    ]
    if changed and not begun:
        (args.work_dir / 'costs.json').unlink(missing_ok=True)
    elif changed:
        raise SimimError(
            f'{args.work_dir} holds rows that were run with other options '
            f'({", ".join(changed)}; see {file}) and would not compare; '
            'choose another --work-dir.'
        )
    write_json(file, shared)


def _by_key(value: Any) -> Any:
    """Return the words KEY=VALUE as a dictionary: their order is free."""
    if isinstance(value, list):
        return dict(word.split('=', 1) for word in value)
    return value

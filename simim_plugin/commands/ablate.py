"""Pretrain and evaluate the rows of the ablations, and compare them.

A row is a config of ``configs/ablations``, or a rival, another method, of
``configs/rivals``. ``tools/train.py`` trains it and
``tools/evaluate.py`` evaluates it, with the seeds, images and steps of every
other row.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from mmengine.config import Config

from .. import __version__
from ..config_files import ABLATION_SCALES, config_path
from ..errors import SimimError
from ..files import last_checkpoint, write_json
from ..text import clean
from .config_errors import (
    add_traceback_option,
    explained_errors,
    sentence_of,
)
from .evaluate import digest_of
from .numbers import seed_number
from .options import merge
from .row_tables import write_results
from .rows import (
    CONTENT_MATCHES,
    COSTED,
    MATCHES,
    METRICS,
    PAPER_LINEAR,
    PREFIX,
    SEGMENTATION,
    SIAMESE_IM,
    UNTRAINED,
    config_of,
    row_names,
)
from .running import run_script, train_on

DATA = {
    'in1k': ('data/imagenet', 'train'),
    'cifar10': ('data/cifar10', ''),
    'cifar10-micro': ('data/cifar10-folders', 'train'),
    'demo': ('data/demo', 'train'),
}
"""By scale, the folder of the images and of those for pretraining in it."""

BUDGETS = {
    'images': '',
    'time': 'seconds a step',
    'flops': 'GFLOPs an image',
}
"""By budget, the cost that a row has beside row (i)."""

OWN_TEACHER = ('dino', 'ibot', 'msn')
"""Rivals whose authors evaluate the teacher."""

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
                run_row(args, row, seed, tools)
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
    parser.add_argument(
        '--work-dir',
        type=Path,
        help='folder of all runs and results. Defaults to '
        'work_dirs/ablations/SCALE',
    )
    parser.add_argument(
        '--gpus', type=int, default=1, help='processes, one on each GPU'
    )
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


def check_rows(args: argparse.Namespace) -> None:
    """Check the settings of all rows before one trains.

    Raises:
        SimimError: if a row cannot take the options.
    """
    from .command_line import check_config

    if args.budget != 'images':
        _epochs_of_i(args)
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
    tasks = _evaluated(args)
    if not tasks:
        raise SimimError(
            '--evaluation-options is for tasks of evaluate.py, and --tasks '
            f'is {args.tasks}; leave it out.'
        )
    with tempfile.TemporaryDirectory() as folder:
        words = _evaluation_words(args, tasks, Path(folder))
        try:
            for seed in args.seeds:
                own = [config_of('i'), f'--seed={seed}', *words]
                parsed = evaluation_args(own)
            Evaluation(parsed, Path('tools')).check()
        except SimimError as error:
            raise SimimError(
                f'A row cannot be evaluated with --evaluation-options: {error}'
            ) from error


def _evaluated(args: argparse.Namespace) -> list[str]:
    """Return the tasks that ``tools/evaluate.py`` runs."""
    tasks = args.tasks.split(',')
    ours = (MATCHES, CONTENT_MATCHES, SEGMENTATION)
    evaluated = [task for task in tasks if task not in ours]
    if SEGMENTATION in tasks and not evaluated:
        evaluated = ['knn']  # writes the encoder of a branch to a file
    return evaluated


def _evaluation_words(
    args: argparse.Namespace, tasks: Sequence[str], folder: Path
) -> list[str]:
    """Return options of ``tools/evaluate.py``."""
    words = ['--tasks', ','.join(tasks), '--data', str(args.data)]
    words += ['--work-dir', str(folder)]
    if args.evaluation_options:
        words += ['--cfg-options', *args.evaluation_options]
    return words


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
    before = json.loads(file.read_text()) if file.is_file() else shared
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


def run_row(
    args: argparse.Namespace, row: str, seed: int, tools: Path
) -> None:
    """Pretrain and evaluate a row with one seed, unless that is done."""
    folder = args.work_dir / row / f'seed{seed}'
    done = folder / 'row.json'
    branch = 'teacher' if row in OWN_TEACHER else 'online'
    print(f'[{row}, seed {seed}]', flush=True)
    _check_config(row, folder)
    if done.is_file():
        print(clean(f'  done before: {done}'), flush=True)
        figures = json.loads(done.read_text())
    else:
        figures = _figures(args, row, seed, branch, folder, tools)
        write_json(done, figures)
    if args.curves and row != UNTRAINED:
        _follow(args, branch, folder, figures.get('knn'))


def _check_config(row: str, folder: Path) -> None:
    """Note the config of a row, or compare it with the noted one.

    Raises:
        SimimError: if the row was begun with another config.
    """
    config = Config.fromfile(config_of('i' if row == UNTRAINED else row))
    file, digest = folder / 'config.json', digest_of(config)
    if not file.is_file():
        write_json(file, dict(sha256=digest, version=__version__))
    elif json.loads(file.read_text())['sha256'] != digest:
        raise SimimError(
            f'{folder} was made by another config of the row {row}, such as '
            'that of another version, and would not compare; move it away, '
            'or choose another --work-dir.'
        )


def _figures(
    args: argparse.Namespace,
    row: str,
    seed: int,
    branch: str,
    folder: Path,
    tools: Path,
) -> dict[str, float]:
    """Pretrain a row and return its figures by task."""
    if row == UNTRAINED:
        weights = config_path(f'{PREFIX}i.py')
    else:
        weights = str(_pretrain(args, row, seed, folder, tools))
    tasks = args.tasks.split(',')
    evaluated = _evaluated(args)
    figures = {}
    if evaluated:
        figures = _evaluate(
            args, evaluated, weights, branch, seed, folder, tools
        )
    for task in (MATCHES, CONTENT_MATCHES):
        if task in tasks:
            without = task == CONTENT_MATCHES
            figures[task] = _match(args, weights, branch, seed, without)
    if SEGMENTATION in tasks:
        figures[SEGMENTATION] = _segment(args, weights, branch, folder, tools)
    return {task: figures[task] for task in tasks}


def _evaluate(
    args: argparse.Namespace,
    tasks: Sequence[str],
    weights: str,
    branch: str,
    seed: int,
    folder: Path,
    tools: Path,
) -> dict[str, float]:
    """Return the figures of the tasks of ``tools/evaluate.py``."""
    options = ['--seed', str(seed), f'--gpus={args.gpus}']
    if branch != 'online':
        options += ['--branch', branch]
    options += _evaluation_words(args, tasks, folder / 'evaluation')
    run_script(
        tools / 'evaluate.py', [weights, *options], folder / 'evaluation.log'
    )
    results = json.loads((folder / 'evaluation/results.json').read_text())
    return {
        task: results['tasks'][task]['metrics'][METRICS[task][1]]
        for task in tasks
    }


def _match(
    args: argparse.Namespace,
    weights: str,
    branch: str,
    seed: int,
    without_place: bool,
) -> float:
    from mmengine.config import Config

    from .. import evaluation  # noqa: F401  # registers components
    from .row_figures import matched_share

    config = Config.fromfile(config_path(f'{PREFIX}i.py'))
    return matched_share(
        weights, branch, config, args.data, seed, without_place
    )


def _segment(
    args: argparse.Namespace,
    weights: str,
    branch: str,
    folder: Path,
    tools: Path,
) -> float:
    """Return the mIoU of kNN segmentation by frozen patches."""
    from .row_figures import segmentation_options

    # tools/evaluate.py leaves what is no file of its own there.
    kept = folder / 'evaluation' / f'{branch}.pth'
    if weights.endswith('.py'):
        kept = folder / 'evaluation' / 'untrained.pth'
    file = kept if kept.is_file() else Path(weights)
    out = folder / 'segmentation' / 'metrics.json'
    words = [config_path('siamese_im_vit-micro-p8_seg-knn_demo.py'), str(file)]
    words += ['--work-dir', str(out.parent), '--out', str(out)]
    words += ['--cfg-options', *segmentation_options(file, args.data)]
    run_script(tools / 'test.py', words, folder / 'segmentation.log')
    return json.loads(out.read_text())[METRICS[SEGMENTATION][1]]


def _follow(
    args: argparse.Namespace, branch: str, folder: Path, last: float | None
) -> None:
    """Measure the accuracy of every epoch; ``last`` is that of the last."""
    from mmengine.config import Config

    from .protocols import PREFIX as FIRST
    from .protocols import SCALES
    from .row_figures import learning_curve

    scale = SCALES[args.scale.partition('-')[0]]
    name = FIRST + scale.configs['knn'][0]
    size = Config.fromfile(config_path(f'{name}.py')).model.backbone.img_size
    pretraining, file = folder / 'pretraining', folder / 'curve.json'
    config = Config.fromfile(pretraining / 'config.py')
    images = config.train_dataloader.batch_size * args.gpus
    learning_curve(pretraining, branch, size, args.data, images, file, last)


def _pretrain(
    args: argparse.Namespace, row: str, seed: int, folder: Path, tools: Path
) -> Path:
    """Pretrain a row, or resume it, and return its last checkpoint."""
    work_dir = folder / 'pretraining'
    images = args.data / DATA[args.scale][1]
    words = [
        config_of(row),
        *('--cfg-options', f'randomness.seed={seed}'),
        f'train_dataloader.dataset.data_root={images}',
        *args.cfg_options,
    ]
    if args.budget != 'images':
        words.append(f'train_cfg.max_epochs={_epochs(args, row)}')
    log = folder / 'pretraining.log'
    train_on(tools, words, work_dir, log, args.gpus)
    return last_checkpoint(work_dir)


def measured_costs(args: argparse.Namespace) -> dict[str, float]:
    """Return the costs of a step of all rows that train.

    Those that ``costs.json`` lacks are measured in one run, in turns, beside
    row (i), whose first figures stay.
    """
    from ..benchmarks.training import measure_methods

    rows = dict.fromkeys(['i', *args.rows])
    rows.pop(UNTRAINED, None)
    file = args.work_dir / 'costs.json'
    costs = json.loads(file.read_text()) if file.is_file() else {}
    missing = [r for r in rows if f'{r}: {BUDGETS["flops"]}' not in costs]
    if missing:
        files = {r: Path(config_of(r)).name for r in ('i', *missing)}
        options = dict(word.split('=', 1) for word in args.cfg_options)
        found = measure_methods(
            *(files, args.scale),
            batch=COSTED,
            rounds=3,
            change=partial(merge, options=options),
        )
        costs = {**found, **costs}
        write_json(file, costs)
    return costs


def _epochs(args: argparse.Namespace, row: str) -> int:
    """Return the epochs of a row within the budget of row (i)."""
    epochs = _epochs_of_i(args)
    name = BUDGETS[args.budget]
    share = measured_costs(args).get(f'{row}: {name}, / (i)', 1.0)
    whole = max(1, round(epochs / share))
    print(
        f'  {whole} epochs cost {whole * share / epochs:.2f} of the '
        f'{args.budget} of row i',
        flush=True,
    )
    return whole


def _epochs_of_i(args: argparse.Namespace) -> int:
    """Return the epochs of row (i).

    Raises:
        SimimError: if the options set no number.
    """
    config = Config.fromfile(config_of('i'))
    epochs = str(config.train_cfg.max_epochs)
    for word in args.cfg_options:
        if word.startswith('train_cfg.max_epochs='):
            epochs = word.partition('=')[2]
    if not epochs.isdecimal():
        raise SimimError(
            f'train_cfg.max_epochs={epochs} in --cfg-options is no number of '
            'epochs; set it to at least 1.'
        )
    return int(epochs)

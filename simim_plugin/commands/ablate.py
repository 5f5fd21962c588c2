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
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..config_files import ABLATION_SCALES, config_path
from ..errors import SimimError, one_line_errors
from ..files import complete_file, last_checkpoint, write_json
from ..text import clean
from .running import run_script, train_on

PREFIX = 'siamese_im_row-'
RIVAL = 'siamese_im_rival-'
UNTRAINED = 'untrained'
MATCHES = 'matches'

PAPER_LINEAR = {
    'mae': 62.5,
    'a': 62.3,
    'b': 48.7,
    'c': 59.9,
    'd': 46.2,
    'e': 69.6,
    'f': 73.1,
    'g': 73.6,
    'h': 74.7,
    'i': 76.8,
    'j': 76.5,
    'k': 72.0,
    'mocov3': 72.2,
}
"""Linear probe in the paper's table 3, by row: ViT-B/16, 400 epochs."""

DATA = {
    'in1k': ('data/imagenet', 'train'),
    'cifar10': ('data/cifar10', ''),
    'cifar10-micro': ('data/cifar10-folders', 'train'),
    'demo': ('data/demo', 'train'),
}
"""By scale, the folder of the images and of those for pretraining in it."""

METRICS = {
    'knn': ('kNN (k = 20)', 'knn/top1_k20'),
    'linear': ('linear', 'accuracy/top1'),
    'logistic': ('linear by logistic regression', 'logistic/top1'),
    MATCHES: ('patches matched', ''),
}
"""By task, the heading of its column and the metric in its results."""


BUDGETS = {
    'images': '',
    'time': 'seconds a step',
    'flops': 'GFLOPs an image',
}
"""By budget, the cost that a row has beside row (i)."""

OWN_TEACHER = ('dino', 'ibot', 'msn')
"""Rivals whose authors evaluate the teacher."""


def row_names() -> list[str]:
    """Return the packaged rows: those of the paper, our own, the rivals."""
    found = _packaged(PREFIX, 'i') - set(PAPER_LINEAR)
    return [*PAPER_LINEAR, *sorted(found), *rival_names()]


def rival_names() -> list[str]:
    """Return the packaged rivals."""
    return sorted(_packaged(RIVAL, 'dino'))


def _packaged(prefix: str, one: str) -> set[str]:
    """Return the names after ``prefix`` beside the config of ``one``."""
    folder = Path(config_path(f'{prefix}{one}.py')).parent
    return {f.stem.removeprefix(prefix) for f in folder.glob(f'{prefix}*.py')}


def _config_of(row: str) -> str:
    """Return the config file of a row or a rival."""
    prefix = RIVAL if row in rival_names() else PREFIX
    return config_path(f'{prefix}{row}.py')


def main(
    argv: Sequence[str] | None = None, tools: Path = Path('tools')
) -> None:
    """Run the command line.

    Args:
        argv (Sequence[str], optional): arguments; those of the process if
            None.
        tools (Path): folder of train.py and evaluate.py.
    """
    with one_line_errors():
        args = parse_args(argv)
        claim_folder(args)
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
    args.data = args.data or Path(DATA[args.scale][0])
    if not args.data.is_dir():
        raise SimimError(
            f'There are no images at {args.data}; put them there, or name '
            'another folder by --data.'
        )
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
        help=f'{", ".join(rows)}. Defaults to {UNTRAINED} and the rows of '
        'the paper',
    )
    parser.add_argument('--scale', choices=ABLATION_SCALES, default='demo')
    parser.add_argument('--data', type=Path, help='folder of the images')
    parser.add_argument(
        '--seeds', type=int, nargs='+', default=[0], help='one run for each'
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
            default=[],
            metavar='KEY=VALUE',
            help=f'override settings of the {of} of every row',
        )
    return parser


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
    if not file.is_file():
        write_json(file, shared)
    elif json.loads(file.read_text()) != shared:
        raise SimimError(
            f'{args.work_dir} holds rows that were run with other options '
            f'({file}) and would not compare; choose another --work-dir.'
        )


def run_row(
    args: argparse.Namespace, row: str, seed: int, tools: Path
) -> None:
    """Pretrain and evaluate a row with one seed, unless that is done."""
    folder = args.work_dir / row / f'seed{seed}'
    done = folder / 'row.json'
    print(f'[{row}, seed {seed}]', flush=True)
    if done.is_file():
        print(clean(f'  done before: {done}'), flush=True)
        return
    os.environ['SIMIM_SCALE'] = args.scale  # read by the configs of all rows
    if row == UNTRAINED:
        weights = config_path(f'{PREFIX}i.py')
    else:
        weights = str(_pretrain(args, row, seed, folder, tools))
    branch = 'teacher' if row in OWN_TEACHER else 'online'
    tasks = args.tasks.split(',')
    evaluated = [task for task in tasks if task != MATCHES]
    figures = {}
    if evaluated:
        figures = _evaluate(
            args, evaluated, weights, branch, seed, folder, tools
        )
    if MATCHES in tasks:
        figures[MATCHES] = _match(args, weights, branch, seed)
    write_json(done, figures)


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
    options = ['--tasks', ','.join(tasks), '--data', str(args.data)]
    options += ['--work-dir', str(folder / 'evaluation')]
    options += ['--seed', str(seed), f'--gpus={args.gpus}']
    if branch != 'online':
        options += ['--branch', branch]
    if args.evaluation_options:
        options += ['--cfg-options', *args.evaluation_options]
    run_script(
        tools / 'evaluate.py', [weights, *options], folder / 'evaluation.log'
    )
    results = json.loads((folder / 'evaluation/results.json').read_text())
    return {
        task: results['tasks'][task]['metrics'][METRICS[task][1]]
        for task in tasks
    }


def _match(
    args: argparse.Namespace, weights: str, branch: str, seed: int
) -> float:
    from mmengine.config import Config

    from .. import evaluation  # noqa: F401  # registers components
    from .dense_matches import matched_share

    config = Config.fromfile(config_path(f'{PREFIX}i.py'))
    return matched_share(weights, branch, config, args.data, seed)


def _pretrain(
    args: argparse.Namespace, row: str, seed: int, folder: Path, tools: Path
) -> Path:
    """Pretrain a row, or resume it, and return its last checkpoint."""
    work_dir = folder / 'pretraining'
    images = args.data / DATA[args.scale][1]
    words = [
        _config_of(row),
        *('--cfg-options', f'randomness.seed={seed}'),
        f'train_dataloader.dataset.data_root={images}',
        *args.cfg_options,
    ]
    if args.budget != 'images':
        words.append(f'train_cfg.max_epochs={_epochs(args, row)}')
    log = folder / 'pretraining.log'
    train_on(tools, words, work_dir, log, args.gpus)
    return last_checkpoint(work_dir)


def _epochs(args: argparse.Namespace, row: str) -> int:
    """Return the epochs of a row within the budget of row (i)."""
    from mmengine.config import Config

    from ..benchmarks.training import measure_methods

    file = args.work_dir / 'costs.json'
    costs = json.loads(file.read_text()) if file.is_file() else {}
    name = BUDGETS[args.budget]
    if f'{row}: {name}' not in costs:
        files = {one: Path(_config_of(one)).name for one in ('i', row)}
        costs |= measure_methods(files, args.scale, batch=16, rounds=3)
        write_json(file, costs)
    config = Config.fromfile(_config_of('i'))
    epochs = str(config.train_cfg.max_epochs)
    for word in args.cfg_options:
        if word.startswith('train_cfg.max_epochs='):
            epochs = word.partition('=')[2]
    if not epochs.isdecimal():
        raise SimimError(
            f'train_cfg.max_epochs={epochs} in --cfg-options is no number of '
            'epochs; set it to at least 1.'
        )
    share = costs.get(f'{row}: {name}, / (i)', 1.0)
    return max(1, round(int(epochs) / share))


def write_results(work_dir: Path) -> None:
    """Write ``results.json``, the table and the plot of the rows so far."""
    results = collect(work_dir)
    write_json(work_dir / 'results.json', results)
    with complete_file(work_dir / 'results.md') as page:
        page.write_text(table(results) + '\n')
    with complete_file(work_dir / 'results.png') as picture:
        draw(results).savefig(picture, format='png')


def collect(work_dir: Path) -> dict[str, dict[str, dict[str, float]]]:
    """Read the figures in percent by row, task and seed; rows in order."""
    rows: dict[str, dict[str, dict[str, float]]] = {}
    for row in [UNTRAINED, *row_names()]:
        for file in sorted(work_dir.glob(f'{row}/seed*/row.json')):
            seed = file.parent.name.removeprefix('seed')
            for task, value in json.loads(file.read_text()).items():
                tasks = rows.setdefault(row, {})
                tasks.setdefault(task, {})[seed] = value
    return rows


def describe(row: str) -> str:
    """Return the description in the comment of a row's config."""
    if row == UNTRAINED:
        return 'the encoder as it is initialised'
    text = Path(_config_of(row)).read_text()
    comment = []
    for line in text.splitlines()[1:]:
        if not line.startswith('# '):
            break
        comment.append(line.removeprefix('# '))
    return ' '.join(comment).partition(': ')[2].rstrip('.')


def table(results: dict[str, dict[str, dict[str, float]]]) -> str:
    """Return a Markdown table; several seeds as mean, lowest and highest."""
    tasks = list(next(iter(results.values()), {}))
    names = [f'{METRICS[task][0]}, *ours*' for task in tasks]
    cells = ['row', 'what', *names, 'linear, *paper*']
    lines = [f'| {" | ".join(cells)} |', '|---' * len(cells) + '|']
    for row, figures in results.items():
        spreads = [
            _spread([*figures.get(task, {}).values()]) for task in tasks
        ]
        paper = str(PAPER_LINEAR.get(row, '-'))
        cells = [f'`{row}`', describe(row), *spreads, paper]
        lines.append(f'| {" | ".join(cells)} |')
    return '\n'.join(lines)


def _spread(values: Sequence[float]) -> str:
    if not values:
        return '-'
    mean = f'{statistics.mean(values):.1f}'
    if len(values) == 1:
        return mean
    return f'{mean} ({min(values):.1f} to {max(values):.1f})'


def draw(results: dict[str, dict[str, dict[str, float]]]) -> Any:
    """Draw a panel for each task, a line for each row, a dot for each seed."""
    from ..visualization.style import BLUE, GREY, TEXT, new_figure, title

    tasks = list(next(iter(results.values()), {}))
    figure = new_figure(3.6 * len(tasks) + 1.6, 0.3 * len(results) + 1.1)
    panels = figure.subplots(1, len(tasks), sharey=True, squeeze=False)[0]
    for axes, task in zip(panels, tasks, strict=True):
        for place, figures in enumerate(results.values()):
            values = list(figures.get(task, {}).values())
            axes.axhline(place, color=GREY, lw=0.5, alpha=0.5)
            axes.plot(values, [place] * len(values), 'o', color=BLUE, ms=5)
        if UNTRAINED in results:
            base = statistics.mean(results[UNTRAINED][task].values())
            axes.axvline(base, color=GREY, lw=1, ls='--')
        axes.set_yticks(range(len(results)), list(results))
        axes.set_ylim(len(results) - 0.5, -0.5)
        axes.tick_params(labelsize=TEXT)
        axes.spines[['top', 'right']].set_visible(False)
        title(axes, f'{METRICS[task][0]}, %', '')
    return figure

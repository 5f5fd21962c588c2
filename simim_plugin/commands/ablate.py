"""The ablation command: rows trained and evaluated alike, in one table.

A row is a config of ``configs/ablations``, trained by ``tools/train.py`` and
evaluated by ``tools/evaluate.py``, with the same seed, images and steps as
every other row.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..config_files import ABLATION_SCALES, config_path
from ..errors import SimimError, one_line_errors
from ..files import complete_file, write_json
from .running import run_logged

PREFIX = 'siamese_im_row-'
UNTRAINED = 'untrained'

# Linear probe of the rows in the paper's table 3: ViT-B/16, 400 epochs.
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

# The images of a scale, and of its pretraining.
DATA = {
    'in1k': ('data/imagenet', 'train'),
    'cifar10': ('data/cifar10', ''),
    'demo': ('data/demo', 'train'),
}

METRICS = {
    'knn': ('kNN (k = 20)', 'knn/top1_k20'),
    'linear': ('linear', 'accuracy/top1'),
}


def row_names() -> list[str]:
    """The rows that are packaged: those of the paper, then our own."""
    folder = Path(config_path(f'{PREFIX}i.py')).parent
    found = {f.stem.removeprefix(PREFIX) for f in folder.glob(f'{PREFIX}*.py')}
    return [*PAPER_LINEAR, *sorted(found - set(PAPER_LINEAR))]


def main(
    argv: Sequence[str] | None = None, tools: Path = Path('tools')
) -> None:
    """Run the command line; errors meant for the user end in one line.

    Args:
        argv (Sequence[str], optional): arguments, of this process if None.
        tools (Path): the folder of train.py and evaluate.py.
    """
    with one_line_errors():
        args = parse_args(argv)
        claim_folder(args)
        for row in args.rows:
            for seed in args.seeds:
                run_row(args, row, seed, tools)
                write_results(args.work_dir)
        print('\n' + (args.work_dir / 'results.md').read_text())
        print(f'Written to {args.work_dir}: results.json, .md, .png')


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Options of the command."""
    known = row_names()
    parser = argparse.ArgumentParser(
        description='Pretrain and evaluate rows of the ablations. What is '
        'done is not done again, and an interrupted row goes on.'
    )
    parser.add_argument(
        'rows',
        nargs='*',
        metavar='ROW',
        help=f'of {UNTRAINED}, {", ".join(known)}. Defaults to the first and '
        "the paper's",
    )
    parser.add_argument('--scale', choices=ABLATION_SCALES, default='demo')
    parser.add_argument('--data', type=Path, help='folder of the images')
    parser.add_argument(
        '--seeds', type=int, nargs='+', default=[0], help='a run with each'
    )
    parser.add_argument(
        '--tasks',
        default='knn,linear',
        help=f'separated by commas, of {",".join(METRICS)}',
    )
    parser.add_argument(
        '--work-dir',
        type=Path,
        help='for everything. Defaults to work_dirs/ablations/SCALE',
    )
    parser.add_argument(
        '--gpus', type=int, default=1, help='processes, one on each GPU'
    )
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        default=[],
        metavar='KEY=VALUE',
        help='override settings of the pretraining of every row',
    )
    parser.add_argument(
        '--evaluation-options',
        nargs='+',
        default=[],
        metavar='KEY=VALUE',
        help='override settings of the evaluation of every row',
    )
    args = parser.parse_args(argv)
    args.rows = args.rows or [UNTRAINED, *PAPER_LINEAR]
    unknown = sorted(set(args.rows) - {UNTRAINED, *known})
    if unknown:
        raise SimimError(
            f'There is no row called {", ".join(unknown)}; the rows are '
            f'{UNTRAINED}, {", ".join(known)}.'
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


def claim_folder(args: argparse.Namespace) -> None:
    """Write what all rows share, or refuse rows that would not compare.

    Raises:
        SimimError: if the work directory holds rows that were run otherwise.
    """
    shared = dict(
        scale=args.scale,
        data=str(args.data.resolve()),
        tasks=args.tasks,
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
    """Pretrain and evaluate a row with one seed, if that is not done yet."""
    folder = args.work_dir / row / f'seed{seed}'
    print(f'[{row}, seed {seed}]', flush=True)
    if (folder / 'row.json').is_file():
        print(f'  done before: {folder / "row.json"}', flush=True)
        return
    os.environ['SIMIM_SCALE'] = args.scale  # of all commands below
    weights = config_path(f'{PREFIX}{"i" if row == UNTRAINED else row}.py')
    if row != UNTRAINED:
        inside = args.data / DATA[args.scale][1]
        command = [sys.executable, '-u']
        launcher = []
        if args.gpus > 1:
            command += ['-m', 'torch.distributed.run', '--standalone']
            command += [f'--nproc_per_node={args.gpus}']
            launcher = ['--launcher', 'pytorch']
        run_logged(
            [
                *[*command, str(tools / 'train.py'), weights, *launcher],
                *['--work-dir', str(folder / 'pretraining'), '--resume'],
                *['--cfg-options', f'randomness.seed={seed}'],
                f'train_dataloader.dataset.data_root={inside}',
                *args.cfg_options,
            ],
            folder / 'pretraining.log',
        )
        last = folder / 'pretraining' / 'last_checkpoint'
        weights = last.read_text().strip()
    options = [f'--gpus={args.gpus}', '--cfg-options']
    run_logged(
        [
            *[sys.executable, '-u', str(tools / 'evaluate.py'), weights],
            *['--tasks', args.tasks, '--data', str(args.data)],
            *['--work-dir', str(folder / 'evaluation'), '--seed', str(seed)],
            *(options if args.evaluation_options else options[:1]),
            *args.evaluation_options,
        ],
        folder / 'evaluation.log',
    )
    results = json.loads((folder / 'evaluation' / 'results.json').read_text())[
        'tasks'
    ]
    write_json(
        folder / 'row.json',
        {
            task: results[task]['metrics'][METRICS[task][1]]
            for task in args.tasks.split(',')
        },
    )


def write_results(work_dir: Path) -> None:
    """Write ``results.json``, the table and the plot of all rows so far."""
    results = collect(work_dir)
    write_json(work_dir / 'results.json', results)
    with complete_file(work_dir / 'results.md') as page:
        page.write_text(table(results) + '\n')
    with complete_file(work_dir / 'results.png') as picture:
        draw(results).savefig(picture, format='png')


def collect(work_dir: Path) -> dict[str, dict[str, dict[str, float]]]:
    """The figures in percent, by row, task and seed; rows in their order."""
    order = [UNTRAINED, *row_names()]
    rows: dict[str, dict[str, dict[str, float]]] = {}
    for row in order:
        for file in sorted(work_dir.glob(f'{row}/seed*/row.json')):
            seed = file.parent.name.removeprefix('seed')
            for task, value in json.loads(file.read_text()).items():
                tasks = rows.setdefault(row, {})
                tasks.setdefault(task, {})[seed] = value
    return rows


def describe(row: str) -> str:
    """What a row is, as its config says in its second line."""
    if row == UNTRAINED:
        return 'the encoder as it is initialised'
    text = Path(config_path(f'{PREFIX}{row}.py')).read_text()
    comment = []
    for line in text.splitlines()[1:]:
        if not line.startswith('# '):
            break
        comment.append(line.removeprefix('# '))
    return ' '.join(comment).partition(': ')[2].rstrip('.')


def table(results: dict[str, dict[str, dict[str, float]]]) -> str:
    """A Markdown table; several seeds as mean, lowest and highest."""
    tasks = list(next(iter(results.values()), {}))
    names = [f'{METRICS[task][0]}, *ours*' for task in tasks]
    cells = ['row', 'what', *names, 'linear, *paper*']
    lines = [
        f'| {" | ".join(cells)} |',
        '|---' * len(cells) + '|',
    ]
    for row, figures in results.items():
        cells = [f'`{row}`', describe(row)]
        for task in tasks:
            values = list(figures.get(task, {}).values())
            cells.append(_spread(values))
        cells.append(str(PAPER_LINEAR.get(row, '-')))
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
    """A figure: a panel for each task, a line for each row, a dot a seed."""
    from ..visualization.style import (
        BLUE,
        GREY,
        TEXT,
        new_figure,
        title,
    )

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

"""Run the demo: make images, pretrain, evaluate, draw, report.

Modules that import torch are imported late, and training starts at once.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..errors import one_line_errors
from ..files import write_json
from ..text import clean
from .numbers import seed_number, whole
from .running import run_script

CONFIG = 'siamese_im_vit-micro-p8_demo.py'
DATA_SEED = 0
IMAGE_SIZE = 64


def main(
    argv: Sequence[str] | None = None, tools: Path = Path('tools')
) -> None:
    """Run the command line.

    Args:
        argv (Sequence[str], optional): arguments; those of the process if
            None.
        tools (Path): folder of train.py.
    """
    with one_line_errors():
        args = parse_args(argv)
        if args.seeds is None:
            reports = [run(args, args.seed, args.work_dir, tools)]
        else:
            reports = [
                run(args, seed, args.work_dir / f'seed{seed}', tools)
                for seed in args.seeds
            ]
            summary = [_headline(report) for report in reports]
            write_json(args.work_dir / 'summary.json', summary)
        print('\n' + table(reports))
        print('\n' + clean(f'Pictures and report: {args.work_dir}'))


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the options; the defaults are those of ``make demo``."""
    parser = argparse.ArgumentParser(
        description='Pretrain on generated images, evaluate, draw, report.'
    )
    parser.add_argument(
        '--config', default=CONFIG, help='config file, or a packaged name'
    )
    parser.add_argument(
        '--work-dir', type=Path, default=Path('work_dirs/demo')
    )
    parser.add_argument(
        '--data-root',
        type=Path,
        default=Path('data/demo'),
        help='folder of the images; made unless it is up to date',
    )
    parser.add_argument(
        '--train', type=int, default=5000, help='images to pretrain on'
    )
    parser.add_argument(
        '--val', type=int, default=1000, help='images to evaluate on'
    )
    parser.add_argument(
        '--overwrite',
        action='store_true',
        help='replace images of other counts in that folder',
    )
    parser.add_argument(
        '--pairs',
        type=whole(),
        default=200,
        help='pairs of views whose patches are matched',
    )
    seeds = parser.add_mutually_exclusive_group()
    seeds.add_argument(
        '--seed', type=seed_number, default=0, help='of the run'
    )
    seeds.add_argument(
        '--seeds',
        type=seed_number,
        nargs='+',
        help='several runs, each in its own folder',
    )
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action='extend',
        default=[],
        metavar='KEY=VALUE',
        help='override settings of the config, as in tools/train.py',
    )
    return parser.parse_args(argv)


def run(
    args: argparse.Namespace, seed: int, work_dir: Path, tools: Path
) -> dict[str, Any]:
    """Run the demo with one seed.

    Args:
        args (argparse.Namespace): of :func:`parse_args`.
        seed (int): of initialisation, order, views and masks.
        work_dir (Path): for logs, checkpoint, pictures and report.
        tools (Path): folder of train.py.

    Returns:
        dict: the content of ``report.json`` in ``work_dir``.

    Raises:
        SimimError: if a phase fails; then no report is left.
    """
    report_file = work_dir / 'report.json'
    report_file.unlink(missing_ok=True)
    print(clean(f'SiameseIM demo, seed {seed}, in {work_dir}'), flush=True)
    seconds: dict[str, float] = {}
    with _phase('data', seconds):
        data = make_data(args)
    with _phase('pretraining', seconds):
        command = pretrain(args, seed, work_dir, tools)

    from ..demo.report import TrainedRun, versions

    trained = TrainedRun(work_dir / 'pretraining', seed)
    with _phase('features', seconds):
        knn = trained.knn(args.data_root)
    with _phase('matches', seconds):
        matches = trained.match(args.data_root / 'val', args.pairs)
    with _phase('pictures', seconds):
        pictures = trained.draw(matches, work_dir)
    report = dict(
        command=command,
        seed=seed,
        config=str(args.config),
        data=dict(data, classes=knn.pop('classes')),
        knn=knn,
        match=matches.summary(),
        seconds=seconds,
        pictures=pictures,
        versions=versions(),
        loss_curve=trained.curve,
    )
    write_json(report_file, report)
    return report


def make_data(args: argparse.Namespace) -> dict[str, int]:
    """Make the images, unless they are up to date, and return their key."""
    from ..demo.data import make_demo_data

    key = dict(train=args.train, val=args.val, size=IMAGE_SIZE, seed=DATA_SEED)
    make_demo_data(args.data_root, overwrite=args.overwrite, **key)
    return key


def pretrain(
    args: argparse.Namespace, seed: int, work_dir: Path, tools: Path
) -> list[str]:
    """Pretrain with one seed, and return the command that does it."""
    words = [
        args.config,
        *('--work-dir', str(work_dir / 'pretraining'), '--cfg-options'),
        f'train_dataloader.dataset.data_root={args.data_root / "train"}',
        f'randomness.seed={seed}',
        *args.cfg_options,
    ]
    return run_script(tools / 'train.py', words, work_dir / 'pretraining.log')


@contextmanager
def _phase(name: str, seconds: dict[str, float]) -> Iterator[None]:
    """Print the name of a phase and its duration, and store the latter."""
    print(f'[{name}]', flush=True)
    start = time.monotonic()
    yield
    seconds[name] = round(time.monotonic() - start, 2)
    print(f'  done in {seconds[name]:.1f} s', flush=True)


def _headline(report: dict[str, Any]) -> dict[str, float]:
    """Return the figures of one run that the summary shows."""
    knn, match = report['knn'], report['match']
    return dict(
        seed=report['seed'],
        knn_before=knn['before']['20'],
        knn_after=knn['after']['20'],
        knn_gain=knn['after']['20'] - knn['before']['20'],
        match_before=match['before'],
        match_after=match['after'],
    )


def table(reports: Sequence[dict[str, Any]]) -> str:
    """Return a table: one row for each run, and the levels of chance."""
    rows = [
        f'{"":6}{"kNN, k = 20 (%)":^24}{"patches matched (%)":^24}',
        f'{"seed":6}' + f'{"before":>8}{"after":>8}{"gain":>8}' * 2,
    ]
    for head in map(_headline, reports):
        knn = head['knn_before'], head['knn_after'], head['knn_gain']
        match = head['match_before'], head['match_after']
        figures = (*knn, *match, match[1] - match[0])
        rows.append(
            f'{head["seed"]:<6}' + ''.join(f'{x:8.1f}' for x in figures)
        )
    knn, match = reports[0]['knn'], reports[0]['match']
    rows.append(
        f'For orientation: kNN on the mean colour {knn["mean_colour"]:.1f}, '
        f'by chance {knn["chance"]:.1f}; patches by chance '
        f'{match["chance"]:.1f}.'
    )
    return '\n'.join(rows)

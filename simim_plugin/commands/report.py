"""Write a page on a trained model, or on a pretraining."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from ..errors import SimimError
from ..files import last_checkpoint
from ..recipes.pretraining_report import is_pretraining, read_pretraining
from ..recipes.report import draw_report, run_test, tables
from ..text import clean
from ..visualization.saving import check_output, save_figures
from .config_errors import add_traceback_option, explained_errors
from .options import typed_command

METRICS = 'Metrics of the test set:'
LEARNED = 'Figures of the pretraining:'
"""The lines before the metrics."""


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line."""
    with explained_errors(argv):
        args = parse_args(argv)
        commands = [*args.made_by, typed_command('report', argv)]
        write_report(args.config, args.checkpoint, args.out, commands)


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the options.

    Raises:
        SimimError: unless ``--out`` is an HTML file.
    """
    parser = argparse.ArgumentParser(
        description='Test a classifier, detector or segmentor on the test '
        'set of its config: figures for each class, the best and the worst '
        'predictions, in one HTML page. Or show the curves of a pretraining.'
    )
    parser.add_argument('config', type=Path, help='config file')
    parser.add_argument(
        'checkpoint',
        type=Path,
        help='trained weights, or the work directory of the training',
    )
    parser.add_argument(
        '--out',
        type=Path,
        default=Path('report.html'),
        help='Defaults to report.html',
    )
    parser.add_argument(
        '--made-by',
        action='append',
        default=[],
        metavar='COMMAND',
        help='a command that made the model, for the page',
    )
    add_traceback_option(parser)
    args = parser.parse_args(argv)
    if args.out.suffix.lower() != '.html':
        raise SimimError(
            f'Cannot write {args.out}: a report is an .html file; use --out '
            f'{args.out.with_suffix(".html")}.'
        )
    check_output(args.out)
    return args


def write_report(
    config: Path, checkpoint: Path, out: Path, commands: Sequence[str]
) -> None:
    """Test a model and write its page.

    Args:
        config (Path): the config file.
        checkpoint (Path): weights, or the work directory of the training.
        out (Path): ends in .html.
        commands (Sequence[str]): that made the model and the page.

    Raises:
        SimimError: for a model that predicts nothing for a picture.
    """
    if is_pretraining(config):
        _write_pretraining(config, checkpoint, out, commands)
        return
    if checkpoint.is_dir():
        checkpoint = last_checkpoint(checkpoint)
    tested = run_test(config, checkpoint)
    metrics, of_classes = tables(tested)
    save_figures(
        draw_report(tested),
        out,
        f'{config.stem}: {tested.task} on {len(tested.results)} test pictures',
        '\n'.join(commands),
        [metrics, of_classes],
    )
    print(METRICS)
    for name, value in metrics[1:]:
        print(clean(f'  {name}: {value}'))
    print(clean(f'Report: {out}'))


def _write_pretraining(
    config: Path, work_dir: Path, out: Path, commands: Sequence[str]
) -> None:
    """Write the page of a pretraining from its logs."""
    if not work_dir.is_dir():
        raise SimimError(
            f'{work_dir} is no work directory, whose logs the report of a '
            'pretraining shows; pass the folder of the run.'
        )
    found = read_pretraining(work_dir)
    verdict = [[[found.verdict]]] if found.verdict else []
    save_figures(
        found.figures,
        out,
        f'{config.stem}: pretraining',
        '\n'.join(commands),
        [found.rows, *verdict],
    )
    print(LEARNED)
    for name, first, last in found.rows[1:]:
        print(clean(f'  {name}: {first} at first, {last} at last'))
    if found.verdict:
        print(clean(f'  {found.verdict}'))
    print(clean(f'Report: {out}'))

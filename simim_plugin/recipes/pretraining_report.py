"""Read the curves and the last verdict of a pretraining from its logs."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from matplotlib.figure import Figure
from mmengine.config import Config

from ..errors import SimimError
from ..evaluation.online_matches import SHARE, VERDICT
from ..visualization.curves import draw_runs, read_run


class Pretrained(NamedTuple):
    """The page of a pretraining.

    Args:
        figures (list[tuple[str, Figure]]): captions and curves.
        rows (list[list[str]]): its last figures, below a head.
        verdict (str): what the matches mean, '' if they are not measured.
    """

    figures: list[tuple[str, Figure]]
    rows: list[list[str]]
    verdict: str


def is_pretraining(file: Path) -> bool:
    """Return whether a config trains an encoder without labels."""
    config = Config.fromfile(file)
    return 'projector' in config.model and 'train_dataloader' in config


def read_pretraining(work_dir: Path) -> Pretrained:
    """Read the logs of a pretraining.

    Args:
        work_dir (Path): of the run.

    Raises:
        SimimError: if it has logged no loss.
    """
    curves = {'Loss': read_run(work_dir)}
    # Too few pictures to hold some out have no matches.
    with suppress(SimimError):
        curves['Matches on held-out pictures, percent'] = read_run(
            work_dir, [SHARE]
        )
    rows = [['figure', 'first', 'last']]
    for curve in curves.values():
        rows += [
            [name, f'{values[0]:.4g}', f'{values[-1]:.4g}']
            for name, values in curve.items()
            if name != 'iteration'
        ]
    figures = [
        (caption, draw_runs({work_dir.name: curve}))
        for caption, curve in curves.items()
    ]
    return Pretrained(figures, rows, _verdict(work_dir))


def _verdict(work_dir: Path) -> str:
    """Return the newest sentence on what a run has learned."""
    for log in sorted(work_dir.glob('*/*.log'), reverse=True):
        for line in reversed(log.read_text(errors='replace').splitlines()):
            if VERDICT in line:
                return line[line.index(VERDICT) :]
    return ''

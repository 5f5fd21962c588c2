"""Curves of a run, from the figures that mmengine logs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ..errors import SimimError
from .style import (
    BLUE,
    GREEN,
    ORANGE,
    PALETTE,
    TEXT,
    new_figure,
    title,
)

STROKES = ('-', '--', ':', '-.')
TERMS = ('loss', 'positive_term', 'negative_term')


def read_scalars(
    work_dir: str | Path, names: Sequence[str] = TERMS
) -> dict[str, list[float]]:
    """The training figures of the newest run in a work directory.

    Args:
        work_dir (str | Path): where mmengine's runner wrote
            ``TIMESTAMP/vis_data/scalars.json``.
        names (Sequence[str]): figures to read, as they are logged.

    Returns:
        dict[str, list[float]]: ``iteration`` and every name, in order.

    Raises:
        SimimError: if no figure of these names was logged there.
    """
    files = _logs(work_dir)
    entries = _entries(files[-1], names) if files else []
    if not entries:
        raise SimimError(
            f'There are no logged figures {", ".join(names)} below '
            f'{work_dir}/*/vis_data; train there first, for at least one '
            'logging interval.'
        )
    curve = dict(iteration=[entry['step'] for entry in entries])
    return curve | {name: [e[name] for e in entries] for name in names}


def draw_loss(curve: Mapping[str, Sequence[float]]) -> Figure:
    """Loss, positive and negative term over the iterations.

    Args:
        curve (Mapping): of :func:`read_scalars`.

    Returns:
        Figure: three panels; the logged figures, and their moving average.
    """
    figure = new_figure(12.5, 3.6)
    notes = {
        'loss': ('Loss', '(positive + weight x negative) / channels', BLUE),
        'positive_term': (
            'Positive term',
            'squared distance to the target patch',
            GREEN,
        ),
        'negative_term': (
            'Negative term',
            'mean squared similarity to all patches',
            ORANGE,
        ),
    }
    steps = np.asarray(curve['iteration'])
    for axes, (name, (text, note, colour)) in zip(
        figure.subplots(1, 3), notes.items(), strict=True
    ):
        values = np.asarray(curve[name], dtype=float)
        axes.plot(steps, values, color=colour, lw=1, alpha=0.3)
        axes.plot(steps, _smooth(values), color=colour, lw=2)
        _frame(axes)
        axes.set_xlim(0, steps[-1])
        title(axes, text, note)
    return figure


def read_run(
    work_dir: str | Path, names: Sequence[str] | None = None
) -> dict[str, list[float]]:
    """The training figures of a run, with all the parts it was resumed in.

    A part that begins later than after one logging interval went on from
    the ones before, and replaces what they logged beyond its begin.

    Args:
        work_dir (str | Path): see :func:`read_scalars`.
        names (Sequence[str], optional): figures to read. Those of ``TERMS``
            that the run has if None.

    Raises:
        SimimError: if no figure of these names was logged there.
    """
    if names is None:
        files = _logs(work_dir)
        entries = _entries(files[-1], TERMS[:1]) if files else []
        names = [name for name in TERMS if entries and name in entries[-1]]
        names = names or TERMS[:1]
    joined: list[dict] = []
    for file in _logs(work_dir):
        entries = _entries(file, names)
        if not entries:
            continue
        begin = entries[0]['step']
        interval = begin
        if len(entries) > 1:
            interval = entries[1]['step'] - begin
        resumed = begin > interval
        joined = [e for e in joined if resumed and e['step'] < begin]
        joined += entries
    if not joined:
        return read_scalars(work_dir, names)  # tells what is missing
    curve = dict(iteration=[entry['step'] for entry in joined])
    return curve | {name: [e[name] for e in joined] for name in names}


def draw_runs(runs: Mapping[str, Mapping[str, Sequence[float]]]) -> Figure:
    """The figures that all of several runs have, one panel each.

    Args:
        runs (Mapping): by label, what :func:`read_run` gives.

    Returns:
        Figure: logged figures and their moving average; a run has one
        colour and one kind of stroke in all panels.

    Raises:
        SimimError: if the runs have no figure in common.
    """
    names = [
        name
        for name in next(iter(runs.values()))
        if name != 'iteration'
        and all(name in curve for curve in runs.values())
    ]
    if not names:
        raise SimimError(
            f'The runs {", ".join(runs)} have no logged figure in common; '
            'draw them apart.'
        )
    columns = min(3, len(names))
    rows = -(-len(names) // columns)
    width = max(4.2 * columns, 6.0)
    # The legend has its room below the panels.
    lines = -(-len(runs) // columns)
    figure = new_figure(width, 3.3 * rows + 0.3 + 0.22 * lines)
    panels = figure.subplots(rows, columns, squeeze=False).flat
    for axes, name in zip(panels, names, strict=False):
        for i, curve in enumerate(runs.values()):
            steps = np.asarray(curve['iteration'])
            values = np.asarray(curve[name], dtype=float)
            colour = PALETTE[i % len(PALETTE)]
            axes.plot(steps, values, color=colour, lw=1, alpha=0.25)
            axes.plot(
                steps,
                _smooth(values),
                color=colour,
                lw=2,
                ls=STROKES[i // len(PALETTE) % len(STROKES)],
            )
        _frame(axes)
        axes.set_xlim(0, max(c['iteration'][-1] for c in runs.values()))
        title(axes, name.replace('_', ' ').capitalize())
    for axes in list(panels)[len(names) :]:
        axes.set_axis_off()
    figure.legend(
        handles=[
            Line2D(
                [],
                [],
                color=PALETTE[i % len(PALETTE)],
                ls=STROKES[i // len(PALETTE) % len(STROKES)],
                lw=2,
                label=label,
            )
            for i, label in enumerate(runs)
        ],
        loc='outside lower left',
        ncols=columns,
        frameon=False,
        fontsize=TEXT,
    )
    return figure


def _logs(work_dir: str | Path) -> list[Path]:
    """Logs of the parts of a run; time stamps sort as text."""
    return sorted(Path(work_dir).glob('*/vis_data/scalars.json'))


def _entries(log: Path, names: Sequence[str]) -> list[dict]:
    """The logged iterations that have all the names.

    A line that is cut off, as of a run that was killed, is left out.
    """
    entries = []
    for line in log.read_text().splitlines():
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if all(name in entry for name in names):
            entries.append(entry)
    return entries


def _frame(axes: Axes) -> None:
    """Quiet axes over the iterations."""
    axes.set_xlabel('iteration', fontsize=TEXT)
    axes.tick_params(labelsize=TEXT)
    axes.grid(alpha=0.25)
    axes.spines[['top', 'right']].set_visible(False)


def _smooth(values: np.ndarray) -> np.ndarray:
    """Centred moving average over a twentieth of the curve."""
    reach = len(values) // 40
    padded = np.pad(values, reach, mode='edge')
    return np.convolve(padded, np.ones(2 * reach + 1), 'valid') / (
        2 * reach + 1
    )

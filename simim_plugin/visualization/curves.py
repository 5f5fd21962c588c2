"""Training curves from the scalars that mmengine logs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import cycle, product
from math import ceil
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..errors import SimimError
from ..files import read_text
from .style import (
    BLUE,
    GREEN,
    ORANGE,
    PALETTE,
    TEXT,
    legend_below,
    new_figure,
    title,
)

STROKES = ('-', '--', ':', '-.')
TERMS = ('loss', 'positive_term', 'negative_term')

_LOSS_PANELS = (
    ('Loss', 'positive + negative term', BLUE),
    ('Positive term', 'squared distance to the target patch', GREEN),
    ('Negative term', 'lambda x squared similarity to all patches', ORANGE),
)


def read_scalars(
    work_dir: str | Path, names: Sequence[str] = TERMS
) -> dict[str, list[float]]:
    """Read the training scalars of the newest run in a work directory.

    Args:
        work_dir (str | Path): contains ``TIMESTAMP/vis_data/scalars.json``,
            written by mmengine's runner.
        names (Sequence[str]): logged names.

    Returns:
        dict[str, list[float]]: ``iteration`` and every name, in order.

    Raises:
        SimimError: if no scalars with these names were logged.
    """
    return _curve(_newest(work_dir, names), names, work_dir)


def draw_loss(curve: Mapping[str, Sequence[float]]) -> Figure:
    """Draw loss, positive term and negative term over the iterations.

    Args:
        curve (Mapping): see :func:`read_scalars`.

    Returns:
        Figure: three panels with the logged values and their moving average.
    """
    figure = new_figure(12.5, 3.6)
    for axes, name, (text, note, colour) in zip(
        figure.subplots(1, 3), TERMS, _LOSS_PANELS, strict=True
    ):
        _plot(axes, curve, name, colour, faint=0.3)
        _frame(axes, curve['iteration'][-1])
        title(axes, text, note)
    return figure


def read_run(
    work_dir: str | Path, names: Sequence[str] | None = None
) -> dict[str, list[float]]:
    """Read the training scalars of a run with all its resumed parts.

    A part is a resumed one if its first step is larger than the logging
    interval. It replaces all values that earlier parts logged from there on.

    Args:
        work_dir (str | Path): see :func:`read_scalars`.
        names (Sequence[str], optional): logged names. If None, all of
            ``TERMS`` that the run has logged.

    Raises:
        SimimError: if no scalars with these names were logged.
    """
    if names is None:
        logged = [_entries(log, TERMS[:1]) for log in _logs(work_dir)]
        last: dict = next((e[-1] for e in reversed(logged) if e), {})
        names = [name for name in TERMS if name in last]
        names = names or TERMS[:1]
    joined: list[dict] = []
    interval = None
    for log in _logs(work_dir):
        entries = _entries(log, names)
        # Every interval logs the loss, other figures may come seldom.
        steps = [entry['step'] for entry in _entries(log, TERMS[:1])]
        steps = steps or [entry['step'] for entry in entries]
        if not steps:
            continue
        if len(steps) > 1:
            interval = steps[1] - steps[0]
        resumed = steps[0] > (interval or steps[0])
        begin = min([steps[0], *(entry['step'] for entry in entries)])
        joined = [e for e in joined if resumed and e['step'] < begin]
        joined += entries
    return _curve(joined, names, work_dir)


def draw_runs(runs: Mapping[str, Mapping[str, Sequence[float]]]) -> Figure:
    """Draw the scalars that several runs have in common, one per panel.

    Args:
        runs (Mapping): label -> curve of :func:`read_run`.

    Returns:
        Figure: logged values and their moving average. Each run has the same
        colour and stroke in all panels.

    Raises:
        SimimError: if the runs have no scalar in common.
    """
    first, *others = runs.values()
    names = [n for n in first if all(n in curve for curve in others)]
    names = [n for n in names if n != 'iteration']
    if not names:
        raise SimimError(
            f'The runs {", ".join(runs)} have no logged figure in common; '
            'draw them apart.'
        )
    columns = min(3, len(names))
    rows = ceil(len(names) / columns)
    legend_height = 0.3 + 0.22 * ceil(len(runs) / columns)
    figure = new_figure(max(4.2 * columns, 6.0), 3.3 * rows + legend_height)
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    styles = [(c, s) for s, c in product(STROKES, PALETTE)]
    looks = dict(zip(runs, cycle(styles), strict=False))
    last = max(curve['iteration'][-1] for curve in runs.values())
    for axes, name in zip(panels, names, strict=False):
        for label, (colour, stroke) in looks.items():
            _plot(axes, runs[label], name, colour, stroke)
        _frame(axes, last)
        title(axes, name.replace('_', ' ').capitalize())
    for axes in panels[len(names) :]:
        axes.set_axis_off()
    legend_below(figure, looks, 'outside lower left', columns)
    return figure


def _logs(work_dir: str | Path) -> list[Path]:
    """Return the logs of a run's parts; time stamps sort as text."""
    return sorted(Path(work_dir).glob('*/vis_data/scalars.json'))


def _newest(work_dir: str | Path, names: Sequence[str]) -> list[dict]:
    """Return the entries of the newest log that have all the names."""
    logs = _logs(work_dir)
    return _entries(logs[-1], names) if logs else []


def _entries(log: Path, names: Sequence[str]) -> list[dict]:
    """Return the entries of a log that have all the names.

    A killed run may leave an incomplete line, which is ignored.
    """
    entries = []
    for line in read_text(log).splitlines():
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if all(name in entry for name in names):
            entries.append(entry)
    return entries


def _curve(
    entries: Sequence[dict], names: Sequence[str], work_dir: str | Path
) -> dict[str, list[float]]:
    """Sort logged entries by name."""
    if not entries:
        raise SimimError(
            f'There are no logged figures {", ".join(names)} below '
            f'{work_dir}/*/vis_data; train there first, for at least one '
            'logging interval.'
        )
    curve = dict(iteration=[entry['step'] for entry in entries])
    return curve | {name: [e[name] for e in entries] for name in names}


def _plot(
    axes: Axes,
    curve: Mapping[str, Sequence[float]],
    name: str,
    colour: str,
    stroke: str = '-',
    faint: float = 0.25,
) -> None:
    """Plot logged values, with opacity ``faint``, and their moving average."""
    steps = np.asarray(curve['iteration'])
    values = np.asarray(curve[name], dtype=float)
    axes.plot(steps, values, color=colour, lw=1, alpha=faint)
    axes.plot(steps, _smooth(values), color=colour, lw=2, ls=stroke)


def _frame(axes: Axes, last: float) -> None:
    """Style the axes over the iterations from 0 to ``last``."""
    axes.set_xlabel('iteration', fontsize=TEXT)
    axes.tick_params(labelsize=TEXT)
    axes.grid(alpha=0.25)
    axes.spines[['top', 'right']].set_visible(False)
    axes.set_xlim(0, last)


def _smooth(values: np.ndarray) -> np.ndarray:
    """Return the centred moving average over a twentieth of the curve."""
    reach = len(values) // 40
    size = 2 * reach + 1
    padded = np.pad(values, reach, mode='edge')
    return np.convolve(padded, np.ones(size), 'valid') / size

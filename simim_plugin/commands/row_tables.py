"""Tables and plots of the rows of the ablations."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from itertools import cycle, dropwhile, takewhile
from pathlib import Path
from typing import Any

from ..files import complete_file, read_json, write_json
from ..text import markdown_table
from .rows import (
    COSTED,
    METRICS,
    PAPER_LINEAR,
    UNTRAINED,
    config_of,
    row_names,
)

Curves = dict[str, list[tuple[float, float]]]
"""By row, images seen and accuracy in percent."""

COSTS = {
    'GFLOPs an image': ('GFLOPs an image', 1.0),
    'seconds a step': ('ms an image', 1000 / COSTED),
    'peak MB of a step': ('peak MB of a step', 1.0),
}
"""By measured cost of a step, its column and the factor to its unit."""


def write_results(work_dir: Path) -> None:
    """Write ``results.json``, the table and the plot of the rows so far."""
    results = collect(work_dir)
    write_json(work_dir / 'results.json', results)
    costs = read_json(work_dir / 'costs.json', {})
    with complete_file(work_dir / 'results.md') as page:
        page.write_text(table(results, costs) + '\n')
    with complete_file(work_dir / 'results.png') as picture:
        draw(results).savefig(picture, format='png')
    curves = read_curves(work_dir)
    if curves:
        with complete_file(work_dir / 'curves.png') as picture:
            draw_curves(curves, costs).savefig(picture, format='png')


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
    text = Path(config_of(row)).read_text()
    lines = dropwhile(lambda line: line[:2] != '# ', text.splitlines())
    comment = [
        line.removeprefix('# ')
        for line in takewhile(lambda line: line[:2] == '# ', lines)
    ]
    return ' '.join(comment).partition(': ')[2].rstrip('.')


def table(
    results: dict[str, dict[str, dict[str, float]]],
    costs: dict[str, float] | None = None,
) -> str:
    """Return a Markdown table; several seeds as mean, lowest and highest.

    Args:
        results: see :func:`collect`.
        costs (dict[str, float], optional): of the rows' steps, see
            :func:`simim_plugin.benchmarks.training.measure_methods`.
    """
    costs = costs or {}
    shown = COSTS if costs else {}
    tasks = list(next(iter(results.values()), {}))
    names = [f'{METRICS[task][0]}, *ours*' for task in tasks]
    head = ['row', 'what', *names, 'linear, *paper*']
    rows = [head + [heading for heading, _ in shown.values()]]
    for row, figures in results.items():
        spreads = [
            _spread([*figures.get(task, {}).values()]) for task in tasks
        ]
        paper = str(PAPER_LINEAR.get(row, '-'))
        cells = [f'`{row}`', describe(row), *spreads, paper]
        for cost, (_, factor) in shown.items():
            value = costs.get(f'{row}: {cost}')
            cells.append('-' if value is None else f'{factor * value:.2f}')
        rows.append(cells)
    return markdown_table(rows)


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


def read_curves(work_dir: Path) -> Curves:
    """Read the accuracy over the images seen, the mean of the seeds."""
    curves: Curves = {}
    for row in row_names():
        values: dict[float, list[float]] = {}
        for file in sorted(work_dir.glob(f'{row}/seed*/curve.json')):
            for point in json.loads(file.read_text()):
                values.setdefault(point['images'], []).append(point['knn'])
        if values:
            curves[row] = [
                (images, statistics.mean(values[images]))
                for images in sorted(values)
            ]
    return curves


def draw_curves(curves: Curves, costs: dict[str, float]) -> Any:
    """Draw the accuracy over the images seen and over the time for them."""
    from ..visualization.style import (
        PALETTE,
        TEXT,
        legend_below,
        new_figure,
        title,
    )

    strokes = [(c, s) for s in ('-', '--', ':') for c in PALETTE]
    looks = dict(zip(curves, cycle(strokes)))
    figure = new_figure(9.0, 4.2)
    panels = figure.subplots(1, 2, sharey=True)
    for row, points in curves.items():
        images, accuracy = zip(*points, strict=True)
        colour, stroke = looks[row]
        style = dict(color=colour, ls=stroke, lw=1.8)
        panels[0].plot([n / 1000 for n in images], accuracy, **style)
        seconds = costs.get(f'{row}: seconds a step')
        if seconds is not None:
            minutes = [n * seconds / COSTED / 60 for n in images]
            panels[1].plot(minutes, accuracy, **style)
    for axes, name, unit in (
        (panels[0], 'kNN over images', 'thousand images'),
        (panels[1], 'kNN over time', 'minutes at the measured speed'),
    ):
        title(axes, f'{name}, %', '')
        axes.set_xlabel(unit, fontsize=TEXT)
        axes.tick_params(labelsize=TEXT)
        axes.spines[['top', 'right']].set_visible(False)
    legend_below(figure, looks, 'outside lower center', 5)
    return figure

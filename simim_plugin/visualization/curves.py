"""Curves of a run, from the figures that mmengine logs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from ..errors import SimimError
from .style import BLUE, GREEN, ORANGE, TEXT, new_figure, title

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
    # Time stamps sort as text.
    files = sorted(Path(work_dir).glob('*/vis_data/scalars.json'))
    lines = files[-1].read_text().splitlines() if files else []
    entries = [json.loads(line) for line in lines]
    entries = [entry for entry in entries if all(n in entry for n in names)]
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
        axes.set_xlabel('iteration', fontsize=TEXT)
        axes.tick_params(labelsize=TEXT)
        axes.grid(alpha=0.25)
        axes.spines[['top', 'right']].set_visible(False)
        axes.set_xlim(0, steps[-1])
        title(axes, text, note)
    return figure


def _smooth(values: np.ndarray) -> np.ndarray:
    """Centred moving average over a twentieth of the curve."""
    reach = len(values) // 40
    padded = np.pad(values, reach, mode='edge')
    return np.convolve(padded, np.ones(2 * reach + 1), 'valid') / (
        2 * reach + 1
    )

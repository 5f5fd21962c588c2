"""One look for all pictures: colour-blind safe, readable on any image."""

from __future__ import annotations

from typing import Any

from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

# Okabe and Ito's palette.
BLUE, ORANGE, GREEN, RED = '#0072B2', '#E69F00', '#009E73', '#D55E00'
INK, QUIET, GREY = '#222222', '#555555', '#9a9a9a'
TITLE = 11
TEXT = 9.5
DPI = 160


def new_figure(width: float, height: float) -> Figure:
    """A figure (inches) of its own: no window, no global pyplot state."""
    layout = ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.1)
    figure = Figure((width, height), dpi=DPI, layout=layout)
    FigureCanvasAgg(figure)
    return figure


def title(axes: Axes, text: str, note: str = '') -> None:
    """A bold title on the left, and a quieter line below it."""
    axes.set_title(
        text,
        loc='left',
        fontsize=TITLE,
        fontweight='bold',
        color=INK,
        pad=19 if note else 6,
    )
    axes.annotate(
        note,
        (0, 1),
        (0, 5),
        xycoords='axes fraction',
        textcoords='offset points',
        fontsize=TEXT,
        color=QUIET,
        va='bottom',
    )


def halo(width: float) -> list[Any]:
    """A white rim, which keeps a stroke visible on any image."""
    return [patheffects.withStroke(linewidth=width, foreground='white')]


def no_ticks(axes: Axes) -> None:
    """Leave only the picture of an axes, at the top of its place."""
    axes.set(xticks=[], yticks=[], anchor='N')
    for spine in axes.spines.values():
        spine.set_visible(False)

"""The common style of all pictures, with a palette for the colour-blind."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D

from ..text import in_plot

# Okabe and Ito's palette.
BLUE, ORANGE, GREEN, RED = '#0072B2', '#E69F00', '#009E73', '#D55E00'
PURPLE, SKY = '#CC79A7', '#56B4E9'
PALETTE = (BLUE, ORANGE, GREEN, PURPLE, SKY, RED)
INK, QUIET, GREY = '#222222', '#555555', '#9a9a9a'
TITLE = 11
TEXT = 9.5
DPI = 160
HEADING = 0.55
"""Height of a heading, inches."""

Box = tuple[float, float, float, float]
"""Left, top, width and height."""


def new_figure(width: float, height: float) -> Figure:
    """Return a figure (inches) without window or global pyplot state."""
    layout = ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.1)
    figure = Figure((width, height), dpi=DPI, layout=layout)
    FigureCanvasAgg(figure)
    return figure


def title(axes: Axes, text: str, note: str = '') -> None:
    """Add a bold title on the left and a grey line below it."""
    axes.set_title(
        _lines(text),
        loc='left',
        fontsize=TITLE,
        fontweight='bold',
        color=INK,
        pad=19 if note else 6,
    )
    axes.annotate(
        _lines(note),
        (0, 1),
        (0, 5),
        xycoords='axes fraction',
        textcoords='offset points',
        fontsize=TEXT,
        color=QUIET,
        va='bottom',
    )


def heading(figure: Figure, text: str, note: str) -> None:
    """Add a bold title above all panels and a grey line below it."""
    width, height = figure.get_size_inches()
    layout: Any = figure.get_layout_engine()
    layout.set(rect=(0, 0, 1, 1 - HEADING / height))
    for words, down, size, colour, weight in (
        (text, 0.14, TITLE, INK, 'bold'),
        (note, 0.36, TEXT, QUIET, 'normal'),
    ):
        figure.text(
            0.12 / width,
            1 - down / height,
            _lines(words),
            fontsize=size,
            fontweight=weight,
            color=colour,
            va='top',
        )


def caption(axes: Axes, x: float, y: float, text: str, **options: Any) -> None:
    """Add a grey text, centred below a point."""
    options |= dict(ha='center', va='top', fontsize=TEXT, color=QUIET)
    axes.text(x, y, _lines(text), **options)


def _lines(text: str) -> str:
    return '\n'.join(map(in_plot, text.split('\n')))


def legend_below(
    figure: Figure,
    looks: Mapping[str, tuple[str, str]],
    loc: Literal['outside lower left', 'outside lower center'],
    columns: int,
) -> None:
    """Add a legend of lines, label -> colour and stroke, below all panels."""
    handles = [
        Line2D([], [], color=colour, ls=stroke, lw=2, label=in_plot(label))
        for label, (colour, stroke) in looks.items()
    ]
    figure.legend(
        handles=handles,
        loc=loc,
        ncols=columns,
        frameon=False,
        fontsize=TEXT,
    )


def show(axes: Axes, image: np.ndarray, box: Box) -> None:
    """Show an image in a box without axes; y points down."""
    left, top, width, height = box
    extent = (left, left + width, top + height, top)
    axes.imshow(image, extent=extent, interpolation='bicubic')
    hide_axes(axes)


def dots(axes: Axes, points: np.ndarray, size: float, **colour: Any) -> None:
    """Mark points (K, 2) (x, y)."""
    x, y = points.T
    marks = axes.scatter(x, y, size, zorder=3, **colour)
    marks.set(edgecolor='white', linewidth=0.6)


def halo(width: float) -> list[Any]:
    """Return a white rim that keeps a stroke visible on any image."""
    return [patheffects.withStroke(linewidth=width, foreground='white')]


def hide_axes(axes: Axes) -> None:
    """Leave only the picture, anchored at the top."""
    axes.set_axis_off()
    axes.set_anchor('N')

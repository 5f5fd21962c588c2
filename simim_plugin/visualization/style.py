"""One look for all pictures: colour-blind safe, readable on any image."""

from __future__ import annotations

from typing import Any

import torch
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from torch import Tensor

# Okabe and Ito's palette.
BLUE, ORANGE, GREEN, RED = '#0072B2', '#E69F00', '#009E73', '#D55E00'
PURPLE, SKY = '#CC79A7', '#56B4E9'
PALETTE = (BLUE, ORANGE, GREEN, PURPLE, SKY, RED)
INK, QUIET, GREY = '#222222', '#555555', '#9a9a9a'
TITLE = 11
TEXT = 9.5
DPI = 160
MOST_LINES = 50
"""Lines, about, above which a picture shows a part of the matches."""
HEADING = 0.55
"""Inches that a heading takes."""


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


def heading(figure: Figure, text: str, note: str) -> None:
    """A bold title over all panels of a figure, and a quieter line below."""
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
            words,
            fontsize=size,
            fontweight=weight,
            color=colour,
            va='top',
        )


def halo(width: float) -> list[Any]:
    """A white rim, which keeps a stroke visible on any image."""
    return [patheffects.withStroke(linewidth=width, foreground='white')]


def sparse(asked: Tensor) -> tuple[Tensor, int]:
    """Of patches (R, C) bool so many that their lines can be told apart.

    Returns:
        tuple[Tensor, int]: those to draw (R, C) bool, on every how many-th
        row and column.
    """
    step = max(1, round((int(asked.sum()) / MOST_LINES) ** 0.5))
    lattice = torch.zeros_like(asked)
    lattice[step // 2 :: step, step // 2 :: step] = True
    return asked & lattice, step


def no_ticks(axes: Axes) -> None:
    """Leave only the picture of an axes, at the top of its place."""
    axes.set(xticks=[], yticks=[], anchor='N')
    for spine in axes.spines.values():
        spine.set_visible(False)

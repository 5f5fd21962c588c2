"""Figures in one file: a PNG or a self-contained HTML page."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence
from itertools import chain, repeat
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from ..errors import SimimError
from ..files import complete_file
from ..text import clean
from .style import DPI

_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>{title}</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; color: #222; margin: 2rem auto;
  max-width: 70rem; padding: 0 1rem; background: #fff }}
h1 {{ font-size: 1.4rem }}
code {{ font-size: .85rem; overflow-wrap: anywhere }}
figure {{ margin: 2rem 0 }}
figcaption {{ color: #555 }}
table {{ border-collapse: collapse; margin: 1rem 0 }}
th, td {{ text-align: right; padding: .15rem .8rem .15rem 0 }}
th:first-child, td:first-child {{ text-align: left }}
thead {{ border-bottom: 1px solid #999 }}
img {{ max-width: 100%; height: auto }}
</style>
<h1>{title}</h1>
<p><code>{command}</code></p>
{tables}{figures}
</html>
"""
_FIGURE = """<figure>
<img alt="{caption}" width="{width}" src="data:image/png;base64,{data}">
<figcaption>{caption}</figcaption>
</figure>"""


def check_output(out: Path) -> None:
    """Check the output file before any figure is drawn.

    Raises:
        SimimError: unless ``out`` is a file that ends in .png or .html.
    """
    if out.suffix.lower() not in ('.png', '.html'):
        raise SimimError(
            f'Cannot write {out}: pictures are a .png or an .html file; '
            f'use --out {out.with_suffix(".png")}.'
        )
    if out.is_dir():
        raise SimimError(
            f'Cannot write {out}, which is a folder; choose another --out.'
        )


def save_figures(
    figures: Sequence[tuple[str, Figure]],
    out: Path,
    heading: str = '',
    command: str = '',
    tables: Sequence[Sequence[Sequence[str]]] = (),
) -> None:
    """Write figures one below the other to a PNG or an HTML page.

    Args:
        figures (Sequence[tuple[str, Figure]]): one or more captions (HTML
            only) and figures.
        out (Path): ends in .png or .html; replaced atomically.
        heading (str): title of the page.
        command (str): the commands that made the page.
        tables (Sequence[Sequence[Sequence[str]]]): for the top of the page:
            rows of cells, the first row the head.

    Raises:
        SimimError: see :func:`check_output`.
    """
    check_output(out)
    images = [(caption, _render(figure)) for caption, figure in figures]
    if out.suffix.lower() == '.png':
        content = _png(_below_each_other([image for _, image in images]))
    else:
        content = _PAGE.format(
            title=html.escape(clean(heading)),
            command='<br>'.join(
                html.escape(clean(line)) for line in command.splitlines()
            ),
            tables=''.join(map(_table, tables)),
            figures='\n'.join(
                _FIGURE.format(
                    caption=html.escape(clean(caption)),
                    width=image.shape[1] * 100 // DPI,
                    data=base64.b64encode(_png(image)).decode(),
                )
                for caption, image in images
            ),
        ).encode()
    with complete_file(out) as part:
        part.write_bytes(content)


def _table(rows: Sequence[Sequence[str]]) -> str:
    """Return a table in HTML."""
    head, *body = (
        ''.join(f'<{tag}>{html.escape(clean(cell))}</{tag}>' for cell in row)
        for row, tag in zip(rows, chain(['th'], repeat('td')), strict=False)
    )
    lines = ''.join(f'<tr>{cells}</tr>\n' for cells in body)
    return (
        f'<table><thead><tr>{head}</tr></thead>\n<tbody>{lines}</tbody>'
        '</table>\n'
    )


def _render(figure: Figure) -> np.ndarray:
    """Draw a figure to an image (H, W, 3) uint8."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def _below_each_other(images: Sequence[np.ndarray]) -> np.ndarray:
    height = sum(image.shape[0] for image in images)
    width = max(image.shape[1] for image in images)
    sheet = np.full((height, width, 3), 255, np.uint8)
    top = 0
    for image in images:
        rows, cols, _ = image.shape
        sheet[top : top + rows, :cols] = image
        top += rows
    return sheet


def _png(image: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, 'PNG', optimize=True)
    return file.getvalue()

"""Figures as one file: a PNG, or an HTML page that needs no other file."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from ..errors import SimimError
from ..files import complete_file

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
img {{ max-width: 100%; height: auto }}
</style>
<h1>{title}</h1>
<p><code>{command}</code></p>
{figures}
</html>
"""
_FIGURE = """<figure>
<img alt="{caption}" width="{width}" src="data:image/png;base64,{data}">
<figcaption>{caption}</figcaption>
</figure>"""


def check_output(out: Path) -> None:
    """Refuse a file of another kind, before any work is done.

    Raises:
        SimimError: unless ``out`` ends in .png or .html.
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
) -> None:
    """Write figures below each other, as a PNG or an HTML page.

    Args:
        figures (Sequence[tuple[str, Figure]]): captions (HTML only) and
            figures, at least one.
        out (Path): ends in .png or .html; it is replaced as a whole.
        heading (str): title of the page.
        command (str): what made it, for the page.

    Raises:
        SimimError: see :func:`check_output`.
    """
    check_output(out)
    images = [(caption, _render(figure)) for caption, figure in figures]
    if out.suffix.lower() == '.png':
        content = _png(_below_each_other([image for _, image in images]))
    else:
        content = _PAGE.format(
            title=html.escape(heading),
            command=html.escape(command),
            figures='\n'.join(
                _FIGURE.format(
                    caption=html.escape(caption),
                    width=image.shape[1] * 100 // 160,
                    data=base64.b64encode(_png(image)).decode(),
                )
                for caption, image in images
            ),
        ).encode()
    with complete_file(out) as part:
        part.write_bytes(content)


def _render(figure: Figure) -> np.ndarray:
    """(H, W, 3) uint8."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def _below_each_other(images: Sequence[np.ndarray]) -> np.ndarray:
    width = max(image.shape[1] for image in images)
    return np.concatenate(
        [
            np.pad(
                image,
                ((0, 0), (0, width - image.shape[1]), (0, 0)),
                constant_values=255,
            )
            for image in images
        ]
    )


def _png(image: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, 'PNG', optimize=True)
    return file.getvalue()

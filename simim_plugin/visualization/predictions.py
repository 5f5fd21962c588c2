"""Draw what a model predicts on a picture, with a legend beside it.

Shape key: H rows, W columns, K objects.
"""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import matplotlib as mpl
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ..text import clean

Colour = tuple[int, int, int]
Line = tuple[Colour | None, str]
"""A line of a legend: its colour, if it has one, and its text."""

SMALLEST = 512
"""Length of the longer edge to which smaller pictures are enlarged."""

WHITE, INK = (255, 255, 255), (34, 34, 34)
LONGEST = 40
"""Characters of a name, before it is cut."""


def class_colours(count: int) -> list[Colour]:
    """Return distinct colours, the same ones for every picture."""
    hues = [(0.58 + 0.618034 * k) % 1 for k in range(count)]
    return [
        tuple(
            round(255 * part)
            for part in colorsys.hsv_to_rgb(
                hue, 0.85 - 0.3 * (k // 8 % 2), 0.95 - 0.3 * (k // 16 % 2)
            )
        )  # type: ignore[misc]
        for k, hue in enumerate(hues)
    ]


def draw_scores(
    image: np.ndarray, scores: Sequence[tuple[str, float]]
) -> Image.Image:
    """Draw a picture beside its most likely classes.

    Args:
        image (numpy.ndarray): (H, W, 3) uint8 RGB.
        scores (Sequence[tuple[str, float]]): names and scores, 0 to 1.
    """
    lines: list[Line] = [(None, percent(*row)) for row in scores]
    return _beside(_enlarged(image), lines)


def draw_objects(
    image: np.ndarray,
    boxes: np.ndarray,
    masks: np.ndarray | None,
    names: Sequence[str],
    scores: Sequence[float],
    colours: Sequence[Colour],
) -> Image.Image:
    """Draw boxes, and masks if there are any, with names and scores.

    Args:
        image (numpy.ndarray): (H, W, 3) uint8 RGB.
        boxes (numpy.ndarray): (K, 4) left, top, right, bottom, pixels.
        masks (numpy.ndarray, optional): (K, H, W) bool.
        names (Sequence[str]): of the K objects.
        scores (Sequence[float]): of the K objects, 0 to 1.
        colours (Sequence[tuple]): of the K objects.
    """
    pixels = image.astype(np.float32)
    pairs = [] if masks is None else zip(masks, colours, strict=True)
    for mask, colour in pairs:
        pixels[mask] = 0.5 * pixels[mask] + 0.5 * np.array(colour)
    canvas = _enlarged(pixels.round().astype(np.uint8))
    scale = canvas.width / image.shape[1]
    draw = ImageDraw.Draw(canvas)
    font = _font(max(13, max(canvas.size) // 48))
    width = max(2, max(canvas.size) // 300)
    # The surest objects last, so that their names are on top.
    for k in reversed(range(len(boxes))):
        box = [float(edge) * scale for edge in boxes[k]]
        draw.rectangle(box, outline=colours[k], width=width)
        _tag(draw, canvas, box, percent(names[k], scores[k]), colours[k], font)
    return canvas


def draw_label_map(
    image: np.ndarray,
    labels: np.ndarray,
    palette: Sequence[Sequence[int]],
    legend: Sequence[Line],
) -> Image.Image:
    """Draw the classes of the pixels over a picture, and a legend.

    Args:
        image (numpy.ndarray): (H, W, 3) uint8 RGB.
        labels (numpy.ndarray): (H, W) indices of the palette.
        palette (Sequence[Sequence[int]]): a colour for each class.
        legend (Sequence[tuple]): see ``Line``.
    """
    colours = np.asarray(palette, np.float32)[labels]
    mixed = 0.4 * image.astype(np.float32) + 0.6 * colours
    return _beside(_enlarged(mixed.round().astype(np.uint8)), legend)


def percent(name: str, share: float) -> str:
    """Return 'name 87 %', in one safe line."""
    name = clean(name)
    if len(name) > LONGEST:
        name = f'{name[: LONGEST - 3]}...'
    return f'{name} {100 * share:.0f} %'


def _enlarged(image: np.ndarray) -> Image.Image:
    picture = Image.fromarray(image)
    scale = SMALLEST / max(picture.size)
    if scale <= 1:
        return picture
    size = [max(1, round(edge * scale)) for edge in picture.size]
    return picture.resize((size[0], size[1]), Image.Resampling.BICUBIC)


def _beside(picture: Image.Image, lines: Sequence[Line]) -> Image.Image:
    """Put a legend on the right of a picture."""
    size = max(15, max(picture.size) // 36)
    font, row = _font(size), round(size * 1.6)
    widest = max((font.getlength(text) for _, text in lines), default=0)
    width = round(widest) + 3 * size
    height = max(picture.height, row * len(lines) + size)
    canvas = Image.new('RGB', (picture.width + width, height), WHITE)
    canvas.paste(picture, (0, 0))
    draw = ImageDraw.Draw(canvas)
    for k, (colour, text) in enumerate(lines):
        x, y = picture.width + size // 2, row * k + size // 2
        if colour is not None:
            draw.rectangle((x, y + 2, x + size, y + size + 2), fill=colour)
            x += round(size * 1.5)
        draw.text((x, y), text, fill=INK, font=font)
    return canvas


def _tag(
    draw: ImageDraw.ImageDraw,
    canvas: Image.Image,
    box: Sequence[float],
    text: str,
    colour: Colour,
    font: ImageFont.FreeTypeFont,
) -> None:
    """Write a text at the top of a box, within the picture."""
    left, top, right, bottom = draw.textbbox((0, 0), text, font=font)
    width, height = right - left + 6, bottom - top + 6
    x = max(0, min(box[0], canvas.width - width))
    y = box[1] - height if box[1] >= height else box[1]
    y = max(0, min(y, canvas.height - height))
    draw.rectangle((x, y, x + width, y + height), fill=colour)
    red, green, blue = colour
    bright = 0.3 * red + 0.59 * green + 0.11 * blue > 140
    place = (x + 3 - left, y + 3 - top)
    draw.text(place, text, fill=INK if bright else WHITE, font=font)


@cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    """Return a font with the letters of most languages."""
    file = Path(mpl.get_data_path(), 'fonts', 'ttf', 'DejaVuSans.ttf')
    return ImageFont.truetype(str(file), size)

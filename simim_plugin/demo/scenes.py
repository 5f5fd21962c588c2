"""Draw small labelled scenes from random numbers.

A scene shows two to five objects on two strips of ground. Its class is the
*thing* that covers most pixels. No single cue reveals the class: a thing has
two favourite shapes, textures, hues and grounds, shares each of them with
other things, and sometimes takes a different one. Light, contrast, scale,
place and clutter are independent of the class.

The hues of the ground change from place to place. So the parts of a scene
differ as those of a photograph do, and no colour shows that two patches come
from the same scene: pretraining has to learn what is where (docs/demo.md).
The mean colour carries little information on the class (kNN on it stays under
twice chance, see ``data.py``).

Lengths are in units of the shorter side of the image: a scene looks the same
at any size.

Shape key: H x W the image, h x w the window of one object.
"""

from __future__ import annotations

import colorsys
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from ..errors import SimimError

Array = NDArray[np.floating]
"""float32 wherever speed matters."""
Size = tuple[int, int]
"""Height and width in pixels."""

SHAPES = (
    'disc',
    'square',
    'star',
    'ring',
    'triangle',
    'flower',
    'cross',
    'crescent',
)
TEXTURES = ('striped', 'checked', 'ringed', 'speckled', 'plain', 'dotted')
GROUNDS = ('sand', 'water', 'tiles', 'grass', 'wood', 'sky')

HUES = 8
"""Number of hues, evenly spaced on the colour circle."""


@dataclass(frozen=True)
class Thing:
    """A class of objects: two favourites in each cue.

    Args:
        name (str): name of the class.
        shapes (tuple[str, str]): two of ``SHAPES``.
        textures (tuple[str, str]): two of ``TEXTURES``.
        hues (tuple[int, int]): two of ``range(HUES)``; 0 is red. Either may
            colour the object or its texture.
        grounds (tuple[str, str]): two of ``GROUNDS``.
    """

    name: str
    shapes: tuple[str, str]
    textures: tuple[str, str]
    hues: tuple[int, int]
    grounds: tuple[str, str]


# Every shape and hue is a favourite of exactly two things, every texture and
# ground of two or three, and no two things share two favourites of one cue.
# fmt: off
THINGS = (
    Thing('ball', ('disc', 'square'), ('dotted', 'striped'),
          (0, 3), ('sand', 'water')),
    Thing('box', ('square', 'star'), ('checked', 'plain'),
          (1, 4), ('tiles', 'grass')),
    Thing('starfish', ('star', 'ring'), ('speckled', 'dotted'),
          (2, 5), ('water', 'wood')),
    Thing('wheel', ('ring', 'triangle'), ('striped', 'checked'),
          (3, 6), ('grass', 'sky')),
    Thing('tent', ('triangle', 'flower'), ('plain', 'ringed'),
          (4, 7), ('wood', 'sand')),
    Thing('blossom', ('flower', 'cross'), ('ringed', 'speckled'),
          (5, 0), ('sky', 'tiles')),
    Thing('windmill', ('cross', 'crescent'), ('striped', 'ringed'),
          (6, 1), ('sand', 'grass')),
    Thing('moon', ('crescent', 'disc'), ('checked', 'speckled'),
          (7, 2), ('water', 'sky')),
)
# fmt: on


@dataclass(frozen=True)
class Instance:
    """One object of a scene.

    Args:
        thing (int): index into ``THINGS``.
        shape (int): index into ``SHAPES``.
        texture (int): index into ``TEXTURES``.
        mask (NDArray[np.bool_]): (H, W), its visible pixels.
        area (int): number of its pixels in the image without occlusion.
    """

    thing: int
    shape: int
    texture: int
    mask: NDArray[np.bool_]
    area: int


@dataclass(frozen=True)
class Scene:
    """An image and its content.

    Args:
        image (NDArray[np.uint8]): (H, W, 3) RGB.
        label (int): index into ``THINGS`` of the class.
        instances (tuple[Instance, ...]): 2 to 5 objects, back to front;
            masks are disjoint and may be empty.
        ground (NDArray[np.int8]): (H, W) index into ``GROUNDS``, behind
            objects too; -1 on clutter.
    """

    image: NDArray[np.uint8]
    label: int
    instances: tuple[Instance, ...]
    ground: NDArray[np.int8]


def draw_scene(seed: int, split: int, index: int, size: Size) -> Scene:
    """Draw one scene, which depends on the arguments alone.

    The class is ``index`` modulo the number of things: splits are balanced.

    Args:
        seed (int): seed of the data set, at least 0.
        split (int): number of the split, at least 0.
        index (int): number of the scene in its split, at least 0.
        size (tuple[int, int]): height and width in pixels, each at least 16.

    Raises:
        SimimError: if the size is too small to show an object.
    """
    height, width = size
    if min(size) < 16:
        raise SimimError(
            f'A scene of {height} x {width} pixels is too small to show an '
            'object; choose a size of at least 16.'
        )
    rng = np.random.default_rng([seed, split, index])
    label = index % len(THINGS)
    y, x = _pixel_centers(size)
    palette = _palette(rng, THINGS[label])
    image, ground = _draw_ground(rng, THINGS[label], y, x)
    _draw_clutter(rng, image, ground)
    owner = np.full(size, -1, np.int8)
    objects = []
    for number, plan in enumerate(_plan_objects(rng, label, palette, size)):
        area = _draw_object(rng, plan, number, image, owner, y, x)
        objects.append((plan, area))
    instances = tuple(
        Instance(plan.thing, plan.shape, plan.texture, owner == number, area)
        for number, (plan, area) in enumerate(objects)
    )
    return Scene(_expose(rng, image, y, x), label, instances, ground)


# --- content ---------------------------------------------------------------


@dataclass(frozen=True)
class _Plan:
    """Place and appearance of one object; lengths in shorter sides."""

    thing: int
    shape: int
    texture: int
    palette: tuple[float, float]
    y: float
    x: float
    radius: float


def _prefer(
    rng: np.random.Generator,
    favourites: tuple[str, str],
    names: tuple[str, ...],
) -> int:
    """Draw the index of a favourite, or, one time in seven, of any name.

    Later names are rarer, which gives the LVIS categories a long tail.
    """
    draw = rng.random()
    if draw < 0.85:
        return names.index(favourites[draw > 0.55])
    return min(int(rng.geometric(0.55)) - 1, len(names) - 1)


def _plan_objects(
    rng: np.random.Generator,
    label: int,
    palette: tuple[float, float],
    size: Size,
) -> list[_Plan]:
    """Plan a main object, one to three more of its class, and maybe another.

    The class covers most pixels: all shapes of one radius have about the
    same area (see ``_inside``), the centre of the main object is well inside
    the image, and an object of another class has at most half its radius.
    """

    def plan(
        thing: int,
        palette: tuple[float, float],
        look: tuple[int, int],
        margin: float,
        radius: float,
    ) -> _Plan:
        y, x = rng.uniform(margin, 1 - margin, 2) * size / min(size)
        return _Plan(thing, *look, palette, y, x, radius)

    def look(thing: int) -> tuple[int, int]:
        shape = _prefer(rng, THINGS[thing].shapes, SHAPES)
        return shape, _prefer(rng, THINGS[thing].textures, TEXTURES)

    own, radius = look(label), rng.uniform(0.24, 0.4)
    plans = [plan(label, palette, own, 0.3, radius)]
    for _ in range(rng.integers(1, 4)):
        alike = own if rng.random() < 0.7 else look(label)
        smaller = radius * rng.uniform(0.35, 0.9)
        plans.append(plan(label, palette, alike, 0.05, smaller))
    if rng.random() < 0.4:
        other = (label + int(rng.integers(1, len(THINGS)))) % len(THINGS)
        foreign = _palette(rng, THINGS[other])
        small = radius * rng.uniform(0.3, 0.5)
        plans.append(plan(other, foreign, look(other), 0.1, small))
    return [plans[i] for i in rng.permutation(len(plans))]


# --- colour ----------------------------------------------------------------


def _palette(rng: np.random.Generator, thing: Thing) -> tuple[float, float]:
    """Draw two hues in full turns: each the thing's own 9 times in 10."""
    first, second = (
        hue / HUES if rng.random() < 0.9 else rng.random()
        for hue in thing.hues
    )
    return (first, second) if rng.random() < 0.5 else (second, first)


def _color(rng: np.random.Generator, hue: float) -> Array:
    """Draw a colour near a hue: (3,) RGB in 0..1, any saturation and value."""
    hue += rng.normal(0, 0.03)
    saturation, value = rng.uniform(0.35, 0.95), rng.uniform(0.2, 1.0)
    rgb = colorsys.hsv_to_rgb(hue % 1, saturation, value)
    return np.asarray(rgb, np.float32)


def _colors(rng: np.random.Generator, hues: Array) -> Array:
    """Draw one colour for each hue of a field: (H, W) to (H, W, 3) RGB."""
    saturation, value = rng.uniform(0.35, 0.95), rng.uniform(0.2, 1.0)
    hsv = np.empty((*hues.shape, 3), np.float32)
    hsv[..., 0] = hues % 1 * 360
    hsv[..., 1:] = saturation, value
    return np.asarray(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB))


def _paint(low: Array, high: Array, weight: Array) -> Array:
    """Blend two colours: (h, w, 3), ``low`` at weight 0, ``high`` at 1."""
    return low + weight[..., None] * (high - low)


# --- textures: fields of 0..1 over coordinates in shorter sides ------------


def _wave(phase: Array) -> Array:
    """Return stripes with soft edges, one per unit of ``phase``."""
    return np.clip(0.5 + 1.5 * np.sin(2 * np.pi * phase), 0, 1)


def _noise(rng: np.random.Generator, size: Size, cells: Size) -> Array:
    """Return (h, w) smooth noise in 0..1 from ``cells`` random values."""
    coarse = rng.random(cells, dtype=np.float32)
    noise = cv2.resize(coarse, size[::-1], interpolation=cv2.INTER_LINEAR)
    return np.asarray(noise, np.float32)


def _object_texture(
    rng: np.random.Generator, kind: str, u: Array, v: Array, radius: float
) -> Array:
    """Return the (h, w) texture of an object in its rotated coordinates."""
    period = rng.uniform(0.3, 0.5) * radius**0.5 * 0.5
    if kind == 'plain':
        return np.zeros_like(u)
    if kind == 'striped':
        return _wave(u / period)
    if kind == 'dotted':
        lattice = np.sin(np.pi * u / period) * np.sin(np.pi * v / period)
        return np.clip(4 * np.abs(lattice) - 1.8, 0, 1)
    if kind == 'checked':
        lattice = np.sin(np.pi * u / period) * np.sin(np.pi * v / period)
        return np.clip(0.5 + 4 * lattice, 0, 1)
    if kind == 'ringed':
        return _wave(np.hypot(u, v) / period)
    return np.clip(4 * _noise(rng, u.shape, (11, 11)) - 1.5, 0, 1)


def _ground_texture(
    rng: np.random.Generator, kind: str, y: Array, x: Array
) -> Array:
    """Return the (H, W) texture of the ground."""
    size = (y.shape[0], x.shape[1])
    fine = round(14 * float(y[-1, 0])), round(14 * float(x[0, -1]))
    period = rng.uniform(0.2, 0.36)
    if kind == 'sand':
        return _noise(rng, size, fine)
    if kind == 'grass':
        return _noise(rng, size, (fine[0] // 5, fine[1]))
    if kind == 'sky':
        return _noise(rng, size, (4, 4))
    bend = rng.uniform(0.08, 0.16) * np.sin(
        (x if kind == 'water' else y) * rng.uniform(6, 12)
    )
    if kind == 'water':
        return _wave(y / period + bend)
    if kind == 'wood':
        return _wave(x / period + bend)
    joint = np.maximum(
        np.cos(2 * np.pi * x / period), np.cos(2 * np.pi * y / period)
    )
    return np.clip(4 * joint - 2.6, 0, 1)


# --- shapes: depth below the outline, in radii, negative outside -----------


def _inside(kind: str, u: Array, v: Array) -> Array:
    """Return the (h, w) depth below the outline, in radii.

    Every shape covers 2.2 to 2.6 square radii.
    """
    if kind == 'disc':
        return 0.87 - np.hypot(u, v)
    if kind == 'ring':
        return 0.29 - np.abs(np.hypot(u, v) - 0.69)
    if kind == 'square':
        return 0.77 - np.maximum(np.abs(u), np.abs(v))
    if kind == 'triangle':
        return 0.68 - np.maximum(-v, 0.5 * v + 0.866 * np.abs(u))
    if kind == 'cross':
        a, b = np.abs(u), np.abs(v)
        return np.maximum(
            np.minimum(0.38 - a, 0.98 - b), np.minimum(0.98 - a, 0.38 - b)
        )
    if kind == 'crescent':
        return np.minimum(1.02 - np.hypot(u, v), np.hypot(u - 0.62, v) - 0.66)
    angle, distance = np.arctan2(v, u), np.hypot(u, v)
    if kind == 'flower':
        return 0.85 + 0.2 * np.cos(6 * angle) - distance
    # star: fold five tips onto half of one. Its edge runs from the tip at
    # radius 1.45 to the notch at 0.6, 36 degrees further.
    fold = np.abs((angle * (5 / (2 * np.pi))) % 1 - 0.5) * (2 * np.pi / 5)
    return 0.498 - distance * np.cos(fold - 1.2203)


# --- drawing ---------------------------------------------------------------


@lru_cache(maxsize=4)
def _pixel_centers(size: Size) -> tuple[Array, Array]:
    """Return (H, 1) y and (1, W) x of the pixel centres, in shorter sides."""
    unit = np.float32(min(size))
    y = (np.arange(size[0], dtype=np.float32) + 0.5) / unit
    x = (np.arange(size[1], dtype=np.float32) + 0.5) / unit
    return y[:, None], x[None, :]


def _draw_ground(
    rng: np.random.Generator,
    thing: Thing,
    y: Array,
    x: Array,
) -> tuple[Array, NDArray[np.int8]]:
    """Draw two strips of ground: (H, W, 3) image and (H, W) kinds."""
    bend = rng.uniform(0.02, 0.08) * np.sin(
        x * rng.uniform(3, 9) + rng.uniform(0, 6)
    )
    middle = float(y[-1, 0]) * rng.uniform(0.25, 0.75)
    near = y > middle + bend + (x - 0.5) * rng.uniform(-0.3, 0.3)
    strips, kinds = [], []
    for _ in range(2):
        kind = _prefer(rng, thing.grounds, GROUNDS)
        # One and a half turns of the colour circle from the ground's lowest
        # to its highest hue.
        hues = rng.random() + 1.5 * _noise(rng, near.shape, (4, 4))
        low, high = _colors(rng, hues), _colors(rng, hues + rng.random())
        texture = _ground_texture(rng, GROUNDS[kind], y, x)
        strips.append(_paint(low, high, texture))
        kinds.append(kind)
    image = np.where(near[..., None], strips[1], strips[0])
    return image, np.where(near, kinds[1], kinds[0]).astype(np.int8)


def _draw_clutter(
    rng: np.random.Generator, image: Array, ground: NDArray[np.int8]
) -> None:
    """Draw lines of random colours across the ground."""
    height, width = ground.shape
    thickness = max(1, round(min(height, width) / 50))
    for _ in range(rng.integers(4)):
        ends = rng.random((2, 2)) * (width, height)
        start, end = ((int(px), int(py)) for px, py in ends)
        color = rng.random(3).tolist()
        cv2.line(image, start, end, color, thickness)
        cv2.line(ground, start, end, (-1,), thickness)


def _draw_object(
    rng: np.random.Generator,
    plan: _Plan,
    number: int,
    image: Array,
    owner: NDArray[np.int8],
    y: Array,
    x: Array,
) -> int:
    """Draw an object into ``image`` and its ``number`` into ``owner``.

    Returns:
        int: number of its pixels in the image.
    """
    radius = np.float32(plan.radius)
    unit = min(owner.shape)
    # Every shape, squeezed and rotated, fits into 1.7 radii.
    top, left = (
        max(0, int((at - 1.7 * plan.radius) * unit)) for at in (plan.y, plan.x)
    )
    bottom, right = (
        int((at + 1.7 * plan.radius) * unit) + 1 for at in (plan.y, plan.x)
    )
    window = np.s_[top:bottom, left:right]
    dy = y[top:bottom] - np.float32(plan.y)
    dx = x[:, left:right] - np.float32(plan.x)
    turn, squeeze = rng.uniform(0, 2 * np.pi), np.exp(rng.uniform(-0.2, 0.2))
    cos, sin = np.float32(np.cos(turn)), np.float32(np.sin(turn))
    u = (cos * dx + sin * dy) * np.float32(squeeze)
    v = (cos * dy - sin * dx) / np.float32(squeeze)
    inside = _inside(SHAPES[plan.shape], u / radius, v / radius)
    # The soft edge is one pixel wide; the mask is where alpha exceeds 0.5.
    alpha = np.clip(inside * (radius * unit) + 0.5, 0, 1)
    mask = alpha > 0.5
    role = int(rng.integers(2))
    base, mark = (_color(rng, plan.palette[i]) for i in (role, 1 - role))
    texture = _object_texture(rng, TEXTURES[plan.texture], u, v, plan.radius)
    shade = 0.55 + 0.45 * np.clip(inside * 5, 0, 1) + (u - v) * 0.6
    color = _paint(base, mark, texture) * shade[..., None]
    image[window] += alpha[..., None] * (color - image[window])
    owner[window][mask] = number
    return int(np.count_nonzero(mask))


def _expose(
    rng: np.random.Generator, image: Array, y: Array, x: Array
) -> NDArray[np.uint8]:
    """Add light from one side, a colour cast, grey haze and sensor noise."""
    slope_y, slope_x = rng.uniform(-0.4, 0.4, 2).astype(np.float32)
    gain = np.float32(rng.uniform(0.75, 1.1))
    light = gain + slope_y * (y - 0.5) + slope_x * (x - 0.5)
    cast = rng.uniform(0.85, 1.15, 3).astype(np.float32)
    haze, grey = rng.uniform((0, 0.3), (0.2, 0.7)).astype(np.float32)
    image = image * np.maximum(light, 0.1)[..., None] * cast
    image += haze * (grey - image)
    noise = rng.standard_normal(image.shape, np.float32)
    image += np.float32(rng.uniform(0.005, 0.03)) * noise
    return (np.clip(image, 0, 1) * 255 + 0.5).astype(np.uint8)

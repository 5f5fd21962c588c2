"""Colours on the device are those of the CPU path, drawn alike."""

import cv2
import numpy as np
import pytest
import torch
from mmpretrain.registry import TRANSFORMS

from simim_plugin.datasets import colour_draws
from simim_plugin.datasets.colour_draws import (
    FACTORS,
    GREY,
    NO_COLOURS,
    ORDER,
    RADIUS,
    THRESHOLD,
    ColourDraws,
    defer_colours,
)
from simim_plugin.datasets.paired_views import compose
from simim_plugin.engine.seeding import seed_by
from simim_plugin.errors import SimimError
from simim_plugin.models.colours import apply_colours

JITTER = dict(
    type='FastColorJitter',
    prob=0.8,
    brightness=0.4,
    contrast=0.4,
    saturation=0.2,
    hue=0.1,
)
GREYSCALE = dict(type='FastGrayscale', prob=0.2)
BLUR = dict(
    type='FastGaussianBlur',
    magnitude_range=(0.1, 2.0),
    magnitude_std='inf',
)
ONLINE = [JITTER, GREYSCALE, dict(BLUR, prob=1.0)]
TARGET = [
    JITTER,
    GREYSCALE,
    dict(BLUR, prob=0.1),
    dict(type='Solarize', thr=128, prob=0.2),
]


def picture(seed, size=64):
    """Return a smooth picture (H, W, 3) with edges and all colours."""
    draw = np.random.default_rng(seed)
    small = draw.integers(0, 256, (6, 6, 3), np.uint8)
    image = cv2.resize(small, (size, size), interpolation=cv2.INTER_CUBIC)
    image[: size // 4, : size // 3] = draw.integers(0, 256, 3)
    noise = draw.normal(0, 6, image.shape)
    return (image + noise).clip(0, 255).astype(np.uint8)


def both_paths(transforms, seeds):
    """Return views (B, H, W, 3) of the CPU path and of the device."""
    whole, drawn = compose(transforms), ColourDraws(compose(transforms))
    theirs, draws, images = [], [], []
    for seed in seeds:
        image = picture(seed)
        images.append(image)
        seed_by(seed)
        theirs.append(whole(dict(img=image.copy()))['img'])
        after = np.random.rand()
        seed_by(seed)
        found = drawn(dict(img=image))
        assert np.random.rand() == after  # as many numbers are drawn
        draws.append(found['colours'])
    pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)
    ours = apply_colours(pixels, np.stack(draws)).permute(0, 2, 3, 1)
    return np.stack(theirs).astype(float), ours.numpy()


@pytest.mark.parametrize(
    ('name', 'transforms', 'bound'),
    [
        (
            'brightness',
            [dict(JITTER, prob=1, contrast=0, saturation=0, hue=0)],
            0.01,
        ),
        (
            'contrast',
            [dict(JITTER, prob=1, brightness=0, saturation=0, hue=0)],
            0.1,
        ),
        (
            'saturation',
            [dict(JITTER, prob=1, brightness=0, contrast=0, hue=0)],
            0.1,
        ),
        (
            'hue',
            [dict(JITTER, prob=1, brightness=0, contrast=0, saturation=0)],
            0.5,
        ),
        ('grey', [dict(GREYSCALE, prob=1)], 0.01),
        ('blur', [dict(BLUR, prob=1.0)], 0.1),
        ('solarize', [dict(type='Solarize', thr=128, prob=1.0)], 0.0),
        ('online', ONLINE, 1.0),
        ('target', TARGET, 1.0),
    ],
    ids=lambda value: value if isinstance(value, str) else '',
)
def test_a_fixed_draw_gives_the_pixels_of_the_cpu_path(
    name, transforms, bound
):
    """The mean difference of every picture is at most one grey level."""
    theirs, ours = both_paths(transforms, range(32))
    assert ours.min() >= 0
    assert ours.max() <= 255
    assert (ours == ours.round()).all()
    errors = np.abs(ours - theirs).mean(axis=(1, 2, 3))
    assert errors.max() <= 1.0
    assert errors.mean() <= bound
    changed = np.stack([picture(seed) for seed in range(32)])
    assert np.abs(theirs - changed).mean() > 2


def kolmogorov_smirnov(sample, low, high):
    """Return the statistic of a sample against a uniform distribution."""
    place = (np.sort(sample) - low) / (high - low)
    steps = np.arange(len(place) + 1) / len(place)
    return max((steps[1:] - place).max(), (place - steps[:-1]).max())


def test_the_draws_have_their_distributions():
    """20,000 draws of each: Kolmogorov-Smirnov at the level 0.001."""
    online, target = (ColourDraws(compose(x)) for x in (ONLINE, TARGET))
    draws = {0: [], 1: []}
    for number in range(20_000):
        seed_by(number)
        for view, drawn in enumerate((online, target)):
            found = drawn(dict(img=None))
            draws[view].append(found['colours'])
    for view, prob_blur, prob_solar in ((0, 1.0, 0.0), (1, 0.1, 0.2)):
        found = np.stack(draws[view])
        jittered = found[:, ORDER][:, 0] >= 0
        blurred = found[:, RADIUS] > 0
        for share, expected in (
            (jittered, 0.8),
            (found[:, GREY], 0.2),
            (blurred, prob_blur),
            (found[:, THRESHOLD] < 256, prob_solar),
        ):
            assert share.mean() == pytest.approx(expected, abs=0.012)
        ranges = [(0.6, 1.4), (0.6, 1.4), (0.8, 1.2), (-0.1, 0.1)]
        samples = [
            (found[jittered][:, FACTORS][:, k], *ends)
            for k, ends in enumerate(ranges)
        ]
        samples.append((found[blurred, RADIUS], 0.1, 2.0))
        for sample, low, high in samples:
            bound = 1.95 / len(sample) ** 0.5
            assert kolmogorov_smirnov(sample, low, high) < bound
        orders = found[jittered][:, ORDER]
        assert len(np.unique(orders, axis=0)) == 24
        first = np.bincount(orders[:, 0].astype(int)) / len(orders)
        assert first == pytest.approx(0.25, abs=0.02)


def test_views_without_colours_stay_as_they_are():
    views = torch.randint(0, 256, (2, 4, 5, 6), dtype=torch.uint8)
    same = apply_colours(views, np.stack([NO_COLOURS] * 2))
    assert torch.equal(same, views.float())
    draws = np.stack([NO_COLOURS] * 2)
    draws[0, GREY] = 1
    with pytest.raises(SimimError, match='three channels, not 4'):
        apply_colours(views, draws)


def test_other_transforms_are_refused():
    for wrong, words in (
        ([dict(type='Posterize', bits=4, prob=1.0)], 'Posterize'),
        ([GREYSCALE, JITTER], 'in the order'),
        ([GREYSCALE, GREYSCALE], 'at most once'),
    ):
        with pytest.raises(SimimError, match=words):
            ColourDraws(compose(wrong))
    with pytest.raises(SimimError, match='with PairedViews'):
        defer_colours(dict(type='ImageFolder', pipeline=[]))
    assert TRANSFORMS.get('Posterize')
    assert colour_draws.NO_COLOURS.shape == (11,)

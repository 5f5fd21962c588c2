"""Compare the colour transforms with torchvision's on Pillow images."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import torchvision.transforms as T
import torchvision.transforms.functional as TF
from mmengine.config import Config
from mmpretrain.registry import TRANSFORMS
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from simim_plugin.benchmarks.pipeline import (
    RECIPE,
    PillowPairPipeline,
    pillow_blur,
)
from simim_plugin.config_files import config_path
from simim_plugin.datasets import (
    FastColorJitter,
    FastGaussianBlur,
    FastGrayscale,
)
from simim_plugin.datasets.photometric import (
    adjust_brightness,
    adjust_contrast,
    adjust_hue,
    adjust_saturation,
    blur,
)

Pixels = NDArray[np.uint8]


@pytest.fixture(scope='module')
def photos(shared: Path) -> list[Pixels]:
    files = sorted((shared / 'data/imagenet_sample/images').iterdir())[::10]
    images = [Image.open(file).convert('RGB') for file in files]
    return [np.array(TF.resize(TF.center_crop(i, 300), 224)) for i in images]


# ``level`` bounds the mean difference in grey levels on every photograph.
@pytest.mark.shared
@pytest.mark.parametrize(
    ('ours', 'pillow', 'amounts', 'level'),
    [
        (adjust_brightness, TF.adjust_brightness, (0.6, 0.93, 1.4), 0.01),
        (adjust_contrast, TF.adjust_contrast, (0.6, 0.93, 1.4), 0.01),
        (adjust_saturation, TF.adjust_saturation, (0.8, 0.93, 1.2), 0.05),
        (adjust_hue, TF.adjust_hue, (-0.1, 0.02, 0.1), 1.2),
        (
            blur,
            lambda image, s: image.filter(ImageFilter.GaussianBlur(s)),
            (0.1, 0.3, 0.7, 1.0, 2.0),
            1.0,
        ),
    ],
    ids=['brightness', 'contrast', 'saturation', 'hue', 'blur'],
)
def test_pixels_match_pillow(
    photos: list[Pixels],
    ours: Callable[[Pixels, float], Pixels],
    pillow: Callable[[Image.Image, float], Image.Image],
    amounts: tuple[float, ...],
    level: float,
) -> None:
    for photo in photos:
        for amount in amounts:
            before = photo.copy()
            got = ours(photo, amount).astype(int)
            assert (photo == before).all()
            expected = np.array(pillow(Image.fromarray(photo), amount))
            assert np.abs(got - expected).mean() < level


@pytest.mark.shared
def test_grey_matches_pillow(photos: list[Pixels]) -> None:
    for photo in photos:
        grey = FastGrayscale(prob=1.0)({'img': photo})['img']
        expected = np.array(Image.fromarray(photo).convert('L'))
        assert np.abs(grey - expected[..., None].astype(int)).max() <= 1
        assert np.abs(grey - expected[..., None].astype(int)).mean() < 0.01


def figures(image: Pixels) -> tuple[float, float, float, float]:
    """Measure mean level, contrast, colourfulness and sharpness."""
    colour = image.max(axis=2).astype(float) - image.min(axis=2)
    sharp = cv2.Laplacian(image, cv2.CV_32F)
    return image.mean(), image.std(), colour.mean(), np.abs(sharp).mean()


def largest_gap(first: np.ndarray, second: np.ndarray) -> float:
    """Compute the Kolmogorov-Smirnov distance of two distributions."""
    levels = np.sort(np.concatenate([first, second]))
    shares = [
        np.searchsorted(np.sort(values), levels, side='right') / len(values)
        for values in (first, second)
    ]
    return np.abs(shares[0] - shares[1]).max()


@pytest.mark.shared
@pytest.mark.parametrize('view', ['online', 'target'])
def test_recipe_has_the_reference_distribution(
    photos: list[Pixels], view: str
) -> None:
    config = Config.fromfile(config_path(RECIPE))
    ours = [TRANSFORMS.build(t) for t in config.train_pipeline[1][view]]
    reference = PillowPairPipeline()
    photo = cv2.resize(photos[0], (48, 48), interpolation=cv2.INTER_AREA)
    np.random.seed(0)
    random.seed(0)
    torch.manual_seed(0)
    got, expected = [], []
    for _ in range(1500):
        results = {'img': photo}
        for transform in ours:
            results = transform(results)
        got.append(figures(results['img']))
        image = reference.colour(Image.fromarray(photo))
        image = pillow_blur(image, 1.0 if view == 'online' else 0.1)
        if view == 'target':
            image = reference.solarize(image)
        expected.append(figures(np.array(image)))
    # One in a thousand pairs of equal distributions exceeds the limit.
    limit = 1.95 * np.sqrt(2 / 1500)
    for mine, theirs in zip(
        np.array(got).T, np.array(expected).T, strict=True
    ):
        # Both quantise levels differently: round to 1/4 of a level.
        mine, theirs = (np.round(values * 4) / 4 for values in (mine, theirs))
        assert largest_gap(mine, theirs) < limit


def test_jitter_draws_torchvisions_factors() -> None:
    """With brightness alone, pixels show the factor and the probability."""
    grey = np.full((4, 4, 3), 100, np.uint8)
    np.random.seed(0)
    torch.manual_seed(0)
    ours = FastColorJitter(brightness=0.4, prob=0.8)
    theirs = T.RandomApply([T.ColorJitter(brightness=0.4)], p=0.8)
    got = [ours({'img': grey})['img'][0, 0, 0] for _ in range(5000)]
    pillow = Image.fromarray(grey)
    expected = [np.array(theirs(pillow))[0, 0, 0] for _ in range(5000)]
    assert min(got) in (60, 61)
    assert max(got) in (139, 140)
    assert largest_gap(np.array(got), np.array(expected)) < 0.04


def test_blur_radius_is_uniform() -> None:
    np.random.seed(0)
    transform = FastGaussianBlur(
        magnitude_range=(0.1, 2.0), magnitude_std='inf', prob=1.0
    )
    radii = [transform.random_magnitude() for _ in range(5000)]
    assert largest_gap(np.array(radii), np.linspace(0.1, 2.0, 5000)) < 0.03


@pytest.mark.parametrize('radius', [0.1, 0.4, 1.0, 1.7, 2.0])
def test_blur_spreads_a_point_by_its_radius(radius: float) -> None:
    point = np.zeros((21, 21, 3), np.float32)
    point[10, 10] = 1
    spread = blur(point, radius)[..., 0]
    offset = np.arange(21) - 10
    assert spread.sum() == pytest.approx(1, abs=1e-5)
    assert (spread.sum(axis=0) * offset**2).sum() == pytest.approx(
        radius**2, abs=1e-5
    )
    assert spread == pytest.approx(spread.T, abs=1e-7)

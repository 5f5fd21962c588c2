"""Time of DINO's views beside the same in Pillow calls.

The yardstick is the recipe in Pillow and torchvision calls, as such code is
usually written. Both run in turns, in one process on one thread.
"""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

import torchvision.transforms as T
from mmengine.config import Config
from mmpretrain.registry import TRANSFORMS
from PIL import Image
from torch import Tensor

from .. import rivals  # noqa: F401  # registers components
from ..config_files import config_path
from .pipeline import (
    first_paths,
    one_thread,
    pillow_blur,
    pillow_colours,
    run_all,
)
from .timing import median_seconds

RECIPE = 'siamese_im_rival-dino.py'


class CropPipeline:
    """The pipeline of the ImageNet config; it ends in packed uint8 views."""

    def __init__(self) -> None:
        os.environ['SIMIM_SCALE'] = 'in1k'  # overrides the user's
        config = Config.fromfile(config_path(RECIPE))
        self.transforms = [TRANSFORMS.build(t) for t in config.train_pipeline]

    def __call__(self, path: str) -> dict:
        """Return the packed inputs of an image file."""
        results = {'img_path': path}
        for transform in self.transforms:
            results = transform(results)
        return results


class PillowCropPipeline:
    """The yardstick: the same crops and colours by Pillow and torchvision.

    It ends in float views, without normalising them.
    """

    def __init__(self) -> None:
        large, small = (
            T.RandomResizedCrop(
                size, scale=scale, interpolation=T.InterpolationMode.BICUBIC
            )
            for size, scale in ((224, (0.25, 1)), (96, (0.05, 0.25)))
        )
        # Crop, number, and probabilities of blur and solarisation
        self.crops = [
            (large, 1, 1.0, 0.0),
            (large, 1, 0.1, 0.2),
            (small, 10, 0.55, 0.1),
        ]
        self.flip = T.RandomHorizontalFlip()
        self.colour = pillow_colours()
        self.to_tensor = T.ToTensor()

    def __call__(self, path: str) -> list[Tensor]:
        """Return two views (3, 224, 224) and ten (3, 96, 96) of a file."""
        image = Image.open(path).convert('RGB')
        views = []
        for crop, number, blurred, solarised in self.crops:
            solarise = T.RandomSolarize(128, p=solarised)
            for _ in range(number):
                view = self.colour(self.flip(crop(image)))
                view = pillow_blur(view, blurred)
                views.append(self.to_tensor(solarise(view)))
        return views


def measure_multi_crop(images: str | Path, rounds: int) -> dict[str, float]:
    """Measure the time of the views of DINO and of the yardstick.

    Args:
        images (str | Path): folder of images; see :func:`first_paths`.
        rounds (int): rounds over the images, after one uncounted.

    Returns:
        dict[str, float]: number of ``images``; ``ms_an_image`` and
        ``yardstick_ms_an_image``, medians of the rounds; their ``ratio``.

    Raises:
        FileNotFoundError: if the folder is missing or has no image.
    """
    paths = first_paths(images)
    actions = dict(
        ours=partial(run_all, CropPipeline(), paths),
        yardstick=partial(run_all, PillowCropPipeline(), paths),
    )
    with one_thread():
        seconds = median_seconds(actions, rounds)
    return dict(
        images=len(paths),
        ms_an_image=seconds['ours'] * (1e3 / len(paths)),
        yardstick_ms_an_image=seconds['yardstick'] * (1e3 / len(paths)),
        ratio=seconds['yardstick'] / seconds['ours'],
    )

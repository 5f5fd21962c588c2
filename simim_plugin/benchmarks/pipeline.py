"""Speed and memory of the pair pipeline beside the same in Pillow calls.

The yardstick is the recipe in Pillow and torchvision calls, as such code is
usually written. Both run in turns, in one process on one thread.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import cv2
import torch
import torchvision.transforms as T
from mmengine.config import Config
from mmpretrain.registry import TRANSFORMS
from numpy.typing import NDArray
from PIL import Image, ImageFilter
from torch import Tensor

from ..config_files import config_path
from ..datasets import BlockwiseMask, ImageFolder
from ..datasets.colour_draws import defer_colours
from .timing import median_seconds, peak_megabytes

RECIPE = 'siamese_im_vit-base-p16_8xb512-amp-coslr-1600e_in1k.py'
MOST_IMAGES = 100
"""Images of a round, at most."""


class PairPipeline:
    """The pipeline of the ImageNet config, with a timer for each transform.

    It ends in packed uint8 views; the device normalises them.

    Args:
        defer (bool): leave the colours to the device, too. Defaults to False.
    """

    def __init__(self, defer: bool = False) -> None:
        config = Config.fromfile(config_path(RECIPE))
        settings = config.train_pipeline
        settings = defer_colours(settings) if defer else settings
        self.transforms = [TRANSFORMS.build(t) for t in settings]
        self.clock = _Clock()

    def __call__(self, path: str) -> dict:
        """Return the packed inputs of an image file."""
        results = {'img_path': path}
        self.clock.start()
        for transform in self.transforms:
            results = transform(results)
            self.clock(type(transform).__name__)
        return results


class PillowPairPipeline:
    """The yardstick: the views of docs/method.md by Pillow and torchvision.

    It ends in normalised float views. The mask is ours; Pillow has none.
    """

    def __init__(self) -> None:
        self.flip = T.RandomHorizontalFlip()
        self.crop = T.RandomResizedCrop(
            224, scale=(0.08, 1), interpolation=T.InterpolationMode.BICUBIC
        )
        self.colour = pillow_colours()
        self.solarize = T.RandomSolarize(128, p=0.2)
        self.to_tensor = T.ToTensor()
        self.normalize = T.Normalize(
            (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
        )
        self.mask = BlockwiseMask(grid=14, num_masked=118)
        self.clock = _Clock()

    def __call__(self, path: str) -> tuple[Tensor, Tensor, NDArray]:
        """Return two (3, 224, 224) float views of a file and a mask (196,)."""
        clock = self.clock
        clock.start()
        image = Image.open(path).convert('RGB')
        clock('decode')
        online, target = self.flip(image), self.flip(image)
        clock('flip')
        online, target = self.crop(online), self.crop(target)
        clock('crop')
        online, target = self.colour(online), self.colour(target)
        clock('colour')
        online, target = pillow_blur(online, 1.0), pillow_blur(target, 0.1)
        clock('blur')
        target = self.solarize(target)
        clock('solarize')
        views = self.to_tensor(online), self.to_tensor(target)
        clock('to_tensor')
        views = self.normalize(views[0]), self.normalize(views[1])
        clock('normalize')
        mask = self.mask.draw()
        clock('mask')
        return *views, mask


def pillow_colours() -> Callable[[Image.Image], Image.Image]:
    """Return the colour jitter and the loss of colour of both yardsticks."""
    jitter = T.ColorJitter(0.4, 0.4, 0.2, 0.1)
    return T.Compose(
        [T.RandomApply([jitter], p=0.8), T.RandomGrayscale(p=0.2)]
    )


def pillow_blur(image: Image.Image, prob: float) -> Image.Image:
    """Blur an image with a probability."""
    if random.random() >= prob:
        return image
    radius = random.uniform(0.1, 2.0)
    return image.filter(ImageFilter.GaussianBlur(radius))


class _Clock:
    """Sums the time of each named part over many runs."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.runs = 0

    def start(self) -> None:
        self.runs += 1
        self.last = perf_counter()

    def __call__(self, part: str) -> None:
        now = perf_counter()
        self.seconds[part] += now - self.last
        self.last = now

    def milliseconds(self) -> dict[str, float]:
        """Return the mean of each part."""
        return {
            part: 1e3 * seconds / self.runs
            for part, seconds in self.seconds.items()
        }


def measure_pipeline(images: str | Path, rounds: int) -> dict[str, Any]:
    """Measure time and memory of the pair pipeline and the yardstick.

    Args:
        images (str | Path): folder of images; see :func:`first_paths`.
        rounds (int): rounds over the images, after one uncounted.

    Returns:
        dict[str, Any]: number of ``images``; ``images_per_second`` and
        ``yardstick_images_per_second``, medians of the rounds;
        ``without_colours``, the speed with the colours left to the device as
        a multiple of the first; their
        ``ratio``, and ``ratio_uint8``, without the yardstick's
        normalisation; ``peak_mb`` and ``yardstick_peak_mb``, the amounts by
        which a first round raises the peak of a process; ``parts_ms`` and
        ``yardstick_parts_ms``, mean milliseconds per image.

    Raises:
        FileNotFoundError: if the folder is missing or has no image.
    """
    paths = first_paths(images)
    ours, yardstick = PairPipeline(), PillowPairPipeline()
    actions = dict(
        ours=partial(run_all, ours, paths),
        yardstick=partial(run_all, yardstick, paths),
        deferred=partial(run_all, PairPipeline(defer=True), paths),
    )
    with one_thread():
        seconds = median_seconds(actions, rounds)
    parts_ms = yardstick.clock.milliseconds()
    normalize = len(paths) * parts_ms['normalize'] / 1e3
    peak_mb, yardstick_peak_mb = (
        peak_megabytes(_one_round, kind, paths, device='cpu')
        for kind in (PairPipeline, PillowPairPipeline)
    )
    return dict(
        images=len(paths),
        images_per_second=len(paths) / seconds['ours'],
        yardstick_images_per_second=len(paths) / seconds['yardstick'],
        without_colours=seconds['ours'] / seconds['deferred'],
        ratio=seconds['yardstick'] / seconds['ours'],
        ratio_uint8=(seconds['yardstick'] - normalize) / seconds['ours'],
        peak_mb=peak_mb,
        yardstick_peak_mb=yardstick_peak_mb,
        parts_ms=ours.clock.milliseconds(),
        yardstick_parts_ms=parts_ms,
    )


def first_paths(images: str | Path) -> list[str]:
    """Return the first ``MOST_IMAGES`` of a folder, by path.

    Raises:
        FileNotFoundError: if the folder is missing or has no image.
    """
    folder = ImageFolder(str(images), indices=MOST_IMAGES)
    return [folder.get_data_info(k)['img_path'] for k in range(len(folder))]


def run_all(pipeline: Callable[[str], object], paths: Sequence[str]) -> None:
    """Run a pipeline on each path."""
    for path in paths:
        pipeline(path)


def _one_round(
    kind: type[PairPipeline | PillowPairPipeline], paths: Sequence[str]
) -> Callable[[], object]:
    """Prepare a round for a new process, on one thread."""
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    return partial(run_all, kind(), paths)


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch and OpenCV compute in this thread alone."""
    torch_threads, cv2_threads = torch.get_num_threads(), cv2.getNumThreads()
    torch.set_num_threads(1)
    cv2.setNumThreads(0)  # no thread beside this one
    try:
        yield
    finally:
        torch.set_num_threads(torch_threads)
        cv2.setNumThreads(cv2_threads)

"""Corrupt a clean image folder as ImageNet-C was made from ImageNet.

:func:`make_corruptions` writes JPEGs of quality 85, as in ImageNet-C::

    out/CORRUPTION/SEVERITY/CLASS/NAME.jpg
    out/manifest.json

The ``imagecorruptions`` package draws the corruptions with ImageNet-C's
strengths at every image size; at 32 px they are harder than CIFAR-10-C's.
ImageNet-C draws motion blur and snow with ImageMagick, this package does
not: for ImageNet itself use the published files.

Shape key: H rows, W columns.
"""

from __future__ import annotations

import importlib
import inspect
import io
import json
import os
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import metadata
from itertools import product
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import CenterCrop, Resize
from tqdm import tqdm

from ..environment import require
from ..errors import SimimError
from ..files import (
    complete_file,
    complete_folder,
    full_disk_reported,
    read_text,
)
from ..pictures.walking import class_labels
from ..runs.stopping import outlive_stop
from ..text import clean as one_line
from .loading import LoadRGBImage
from .local_cifar10 import LocalCIFAR10
from .robustness import CORRUPTIONS, SEVERITIES, labelled_images

VERSION = 1
"""Increase it when the same arguments make other files."""

MIN_SIZE = 32
"""Least height and width, in pixels, that ``imagecorruptions`` accepts."""


def corrupt(
    image: np.ndarray, corruption: str, severity: int, seed: int
) -> np.ndarray:
    """Apply one corruption to one image, deterministically.

    NumPy's global random state is restored.

    Args:
        image (numpy.ndarray): (H, W, 3) uint8 RGB, at least 32 x 32 pixels.
        corruption (str): one of ``CORRUPTIONS``.
        severity (int): 1 to 5.
        seed (int): 0 to 2^32 - 1.

    Returns:
        numpy.ndarray: (H, W, 3) uint8.

    Raises:
        ImportError: if the package ``imagecorruptions`` is missing.
    """
    require('image corruption')
    package = importlib.import_module('imagecorruptions')
    function = package.corruption_dict[corruption]
    # In the fork two corruptions have generators of their own.
    takes_seed = 'seed' in inspect.signature(function).parameters
    options = dict(seed=seed) if takes_seed else {}
    state = np.random.get_state()
    np.random.seed(seed)
    try:
        with _old_library_names(seed):
            return package.corrupt(image, severity, corruption, **options)
    finally:
        np.random.set_state(state)


def make_corruptions(
    clean: str | os.PathLike[str],
    out: str | os.PathLike[str],
    size: int | None = None,
    seed: int = 0,
    num_workers: int = 0,
) -> bool:
    """Write all 15 corruptions at 5 severities of a clean image folder.

    ``out`` is complete or absent. A stopped run continues at the next call.

    Args:
        clean (str | PathLike): a folder of ``CLASS/*.jpg`` or other images,
            or the parent of ``cifar-10-batches-py`` to use its test set.
        out (str | PathLike): folder to make.
        size (int, optional): side of the centre crop in pixels, 224 for
            ImageNet, after resizing the short edge to 256 / 224 of it.
            Defaults to None: images keep their size.
        seed (int): at least 0.
        num_workers (int): worker processes, which do not change the files.

    Returns:
        bool: whether anything was written.

    Raises:
        SimimError: if ``clean`` holds no classes of images, an image is
            unreadable or too small, ``out`` is among the images or holds
            other files, or the disk is full.
        ImportError: if the package ``imagecorruptions`` is missing.
    """
    if seed < 0 or (size is not None and size < MIN_SIZE):
        raise SimimError(
            f'Cannot corrupt images of size {size} with seed {seed}: ask '
            f'for at least {MIN_SIZE} pixels and seed 0.'
        )
    require('image corruption')
    out, root = Path(out).absolute(), Path(clean).expanduser()
    if out.resolve().is_relative_to(root.resolve()) and not _is_cifar10(root):
        raise SimimError(
            f'The corrupted images in {out} would be a class of the images, '
            f'since {root} holds their classes; choose a folder beside it.'
        )
    images = _clean_images(root)
    manifest = _manifest([name for name, _ in images], size, seed)
    if _is_same(out, manifest):
        return False
    with complete_folder(out, resume=True) as partial:
        if not _is_same(partial, manifest):
            (partial / 'manifest.json').write_text(json.dumps(manifest))
        work = _Corruptions(images, partial, size, seed)
        options: Any = dict(batch_size=None, worker_init_fn=outlive_stop)
        loader = DataLoader(work, num_workers=num_workers, **options)
        for _ in tqdm(loader, f'corruptions of {one_line(clean)}', unit='img'):
            pass
    return True


class _Corruptions(Dataset):
    """Item ``i`` writes the 75 files of image ``i`` and is their number.

    An image is decoded once for all its corruptions.
    """

    def __init__(
        self,
        images: list[tuple[str, Any]],
        root: Path,
        size: int | None,
        seed: int,
    ) -> None:
        self.images = images
        self.root = root
        self.seed = seed
        self.load = LoadRGBImage()
        self.fit: list[Callable] = []
        if size is not None:  # as in ImageNet-C: bilinear, antialiased
            self.fit = [Resize(round(size * 256 / 224)), CenterCrop(size)]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> int:
        name, source = self.images[index]
        missing = [
            cell
            for cell in product(CORRUPTIONS, SEVERITIES)
            if not self._path(name, *cell).exists()
        ]
        if not missing:
            return 0
        image = self._clean(name, source)
        with full_disk_reported(
            self.root.parent,
            'free some space and run the same command again, it goes on '
            'from here',
        ):
            for corruption, severity in missing:
                self._write(name, image, corruption, severity)
        return len(missing)

    def _path(self, name: str, corruption: str, severity: int) -> Path:
        return self.root / corruption / str(severity) / name

    def _clean(self, name: str, source: Any) -> np.ndarray:
        if isinstance(source, str):
            source = self.load(dict(img_path=source))['img']
        image = Image.fromarray(source)
        for fit in self.fit:
            image = fit(image)
        if min(image.size) < MIN_SIZE:
            raise SimimError(
                f'The image {name} has {image.width} x {image.height} '
                f'pixels, and the corruptions need {MIN_SIZE}; pass a size '
                '(--size), or remove the image.'
            )
        return np.asarray(image)

    def _write(
        self, name: str, image: np.ndarray, corruption: str, severity: int
    ) -> None:
        # The name, not the index: a subset of the images keeps its draws.
        entropy = (
            self.seed,
            zlib.crc32(os.fsencode(name)),
            CORRUPTIONS.index(corruption),
            severity,
        )
        seed = int(np.random.SeedSequence(entropy).generate_state(1)[0])
        corrupted = corrupt(image, corruption, severity, seed)
        data = io.BytesIO()
        Image.fromarray(corrupted).save(
            data, 'JPEG', quality=85, optimize=True
        )
        with complete_file(self._path(name, corruption, severity)) as part:
            part.write_bytes(data.getvalue())


def _is_cifar10(root: Path) -> bool:
    """Whether a folder has CIFAR-10's own files."""
    return (root / LocalCIFAR10.base_folder).is_dir()


def _clean_images(root: Path) -> list[tuple[str, Any]]:
    """Return the output name, and the file or the pixels, of each image."""
    if _is_cifar10(root):
        cifar = LocalCIFAR10(str(root), split='test')
        infos = [cifar.get_data_info(index) for index in range(len(cifar))]
        return [
            (f'{cifar.CLASSES[info["gt_label"]]}/{index:05}.jpg', info['img'])
            for index, info in enumerate(infos)
        ]
    images = []
    for path, _ in labelled_images(root, class_labels(root)):
        name = Path(path).relative_to(root).as_posix()
        is_jpeg = name.lower().endswith(('.jpg', '.jpeg'))
        images.append((name if is_jpeg else f'{name}.jpg', path))
    return images


def _manifest(names: list[str], size: int | None, seed: int) -> dict[str, Any]:
    distribution = metadata.packages_distributions()['imagecorruptions'][0]
    return {
        'version': VERSION,
        'package': f'{distribution} {metadata.version(distribution)}',
        'images': len(names),
        'names_crc32': zlib.crc32(os.fsencode('\n'.join(names))),
        'size': size,
        'seed': seed,
    }


def _is_same(folder: Path, manifest: dict[str, Any]) -> bool:
    """Return whether ``folder`` has this manifest; False if it is empty.

    Raises:
        SimimError: if it holds other files.
    """
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return False
    try:
        existing = json.loads(read_text(folder / 'manifest.json'))
    except (OSError, ValueError):
        existing = None
    if existing == manifest:
        return True
    found = 'no set of corruptions' if existing is None else f'of {existing}'
    raise SimimError(
        f'{folder} exists and is {found}, where {manifest} is asked for: '
        'choose another folder, or delete it.'
    )


@contextmanager
def _old_library_names(seed: int) -> Iterator[None]:
    """Restore three old interfaces that imagecorruptions 1.1.2 uses.

    scikit-image dropped ``multichannel`` (used by glass_blur), NumPy 2
    dropped ``float_`` (fog), and ``random_noise`` no longer draws from
    NumPy's global state (impulse_noise). The fork imagecorruptions-imaug
    uses none of them.
    """
    module = importlib.import_module('imagecorruptions.corruptions')
    gaussian, noise = module.gaussian, module.sk.util.random_noise

    def gaussian_by_channel(
        image: np.ndarray, *args: Any, multichannel: bool = False, **kw: Any
    ) -> np.ndarray:
        if multichannel:
            kw['channel_axis'] = -1
        return gaussian(image, *args, **kw)

    def seeded_noise(
        image: np.ndarray, mode: str, *rng: Any, **kw: Any
    ) -> np.ndarray:
        return noise(image, mode, *(rng or (seed,)), **kw)

    with (
        patch.object(module, 'gaussian', gaussian_by_channel),
        patch.object(module.sk.util, 'random_noise', seeded_noise),
        patch.object(np, 'float_', np.float64, create=True),
    ):
        yield

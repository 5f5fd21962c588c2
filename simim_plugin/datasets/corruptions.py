"""Corrupt a clean image folder as ImageNet-C was made from ImageNet.

The corruptions are those of the ``imagecorruptions`` package, with
ImageNet-C's own strengths whatever the size of the image: at 32 px they are
harder than CIFAR-10-C's. Motion blur and snow were drawn by ImageMagick in
ImageNet-C and are not here, so for ImageNet itself take the published files.

Shape key: H rows, W columns.
"""

from __future__ import annotations

import errno
import importlib
import inspect
import io
import json
import os
import zlib
from collections.abc import Iterator
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
from .loading import LoadRGBImage
from .local_cifar10 import LocalCIFAR10
from .robustness import (
    CORRUPTIONS,
    SEVERITIES,
    class_folders,
    labelled_images,
)

VERSION = 1
"""Raise it whenever the same arguments make other files."""

MIN_SIZE = 32
"""Height and width below which the package refuses an image."""


def corrupt(
    image: np.ndarray, corruption: str, severity: int, seed: int
) -> np.ndarray:
    """One corruption of one image; the same again for the same arguments.

    NumPy's global random state is left as it was.

    Args:
        image (numpy.ndarray): (H, W, 3) uint8 RGB, 32 pixels at least.
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
    # The fork draws two of them by generators of their own.
    takes_seed = 'seed' in inspect.signature(function).parameters
    options = dict(seed=seed) if takes_seed else {}
    state = np.random.get_state()
    np.random.seed(seed)
    try:
        with _with_old_libraries(seed):
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

    ::

        out/CORRUPTION/SEVERITY/CLASS/NAME.jpg
        out/manifest.json

    The files are JPEGs of quality 85, as those of ImageNet-C. They do not
    depend on ``num_workers``. They are written beside ``out``, which takes
    its name in the end, so that it is complete or absent; a run that was
    stopped goes on where it was.

    Args:
        clean (str | PathLike): a folder of ``CLASS/*.jpg`` or other images,
            or one with ``cifar-10-batches-py``, whose test set is taken.
        out (str | PathLike): folder to make.
        size (int, optional): centre crop of so many pixels, of the image
            resized to 256 / 224 of that; 224 for ImageNet. Defaults to
            None: the images as they are.
        seed (int): at least 0.
        num_workers (int): processes; 0 works in this one.

    Returns:
        bool: whether anything was written.

    Raises:
        SimimError: if ``clean`` holds no classes of images, an image is
            unreadable or too small, ``out`` holds anything else, or the
            disk is full.
        ImportError: if the package ``imagecorruptions`` is missing.
    """
    if seed < 0 or (size is not None and size < MIN_SIZE):
        raise SimimError(
            f'Cannot corrupt images of size {size} with seed {seed}: ask '
            f'for at least {MIN_SIZE} pixels and seed 0.'
        )
    require('image corruption')
    out = Path(out).absolute()
    images = _clean_images(Path(clean).expanduser())
    manifest = _manifest([name for name, _ in images], size, seed)
    if _is_same(out, manifest):
        return False
    partial = out.with_name(f'.{out.name}.partial')
    if not _is_same(partial, manifest):
        partial.mkdir(parents=True, exist_ok=True)
        (partial / 'manifest.json').write_text(json.dumps(manifest))
    # Workers make whole images: each is decoded once, not 75 times.
    work = _Corruptions(images, partial, size, seed)
    loader = DataLoader(work, batch_size=None, num_workers=num_workers)
    for _ in tqdm(loader, f'corruptions of {clean}', unit='img'):
        pass
    if out.exists():
        out.rmdir()  # empty, or _is_same would have refused it
    partial.rename(out)
    return True


class _Corruptions(Dataset):
    """Writes the 75 files of image ``i`` when it is asked for it."""

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
        # Resize and CenterCrop as ImageNet-C: bilinear, antialiased.
        self.fit = (
            []
            if size is None
            else [
                Resize(round(size * 256 / 224)),
                CenterCrop(size),
            ]
        )

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
        try:
            for corruption, severity in missing:
                self._write(name, image, corruption, severity)
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            raise SimimError(
                f'The disk of {self.root.parent} is full: free some space '
                'and run the same command again, it goes on from here.'
            ) from error
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
        # Of the name, not the number: the same in any order and any subset.
        entropy = (
            self.seed,
            zlib.crc32(name.encode()),
            CORRUPTIONS.index(corruption),
            severity,
        )
        seed = int(np.random.SeedSequence(entropy).generate_state(1)[0])
        corrupted = corrupt(image, corruption, severity, seed)
        data = io.BytesIO()
        Image.fromarray(corrupted).save(
            data, 'JPEG', quality=85, optimize=True
        )
        path = self._path(name, corruption, severity)
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f'.{path.name}.part')
        part.write_bytes(data.getvalue())
        part.replace(path)


def _clean_images(root: Path) -> list[tuple[str, Any]]:
    """Name below CORRUPTION/SEVERITY, and file or pixels, of each image."""
    if (root / LocalCIFAR10.base_folder).is_dir():
        cifar = LocalCIFAR10(str(root), split='test')
        infos = [cifar.get_data_info(index) for index in range(len(cifar))]
        return [
            (f'{cifar.CLASSES[info["gt_label"]]}/{index:05}.jpg', info['img'])
            for index, info in enumerate(infos)
        ]
    labels = {name: index for index, name in enumerate(class_folders(root))}
    return [
        (_jpeg_name(Path(path).relative_to(root)), path)
        for path, _ in labelled_images(root, labels)
    ]


def _jpeg_name(path: Path) -> str:
    jpeg = path.suffix.lower() in ('.jpg', '.jpeg')
    return path.as_posix() if jpeg else f'{path.as_posix()}.jpg'


def _manifest(names: list[str], size: int | None, seed: int) -> dict[str, Any]:
    distribution = metadata.packages_distributions()['imagecorruptions'][0]
    return {
        'version': VERSION,
        'package': f'{distribution} {metadata.version(distribution)}',
        'images': len(names),
        'names_crc32': zlib.crc32('\n'.join(names).encode()),
        'size': size,
        'seed': seed,
    }


def _is_same(folder: Path, manifest: dict[str, Any]) -> bool:
    """Whether ``folder`` is of the same arguments; False if it is not there.

    Raises:
        SimimError: if it holds something else.
    """
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return False
    try:
        existing = json.loads((folder / 'manifest.json').read_text())
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
def _with_old_libraries(seed: int) -> Iterator[None]:
    """What imagecorruptions 1.1.2 needs of libraries that have moved on.

    scikit-image dropped ``multichannel`` (its glass_blur), NumPy 2 dropped
    ``float_`` (fog), and ``random_noise`` no longer draws from NumPy's
    global state (impulse_noise). The fork imagecorruptions-imaug uses none
    of the three and is not touched.
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

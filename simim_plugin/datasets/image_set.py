"""Skip broken files and measure levels, in every data set of images."""

from __future__ import annotations

import logging
from collections.abc import Iterator, MutableMapping, Sequence
from typing import Any

import torch
from mmengine.dist import all_reduce
from mmengine.logging import print_log

from ..errors import SimimError
from ..pictures import UnreadableImageError, Window, window_of
from ..text import clean

PERCENTILES = 'percentiles'
"""Value of ``window`` that is measured on the training set."""


class ImageSet:
    """Base of data sets that skip broken files and measure their levels.

    It precedes a ``BaseDataset`` of mmengine among the bases.

    Args:
        skip_broken (float): largest share of unreadable images, 0 to 1.
            Each of them is logged and replaced by another image drawn at
            random. All epochs and loader workers of a process count
            together; :meth:`count_together` adds the other processes.
            Defaults to 0: the first unreadable image stops the run.

    Raises:
        SimimError: if ``skip_broken`` is not a share, or images of a test
            are to be skipped.
    """

    data_root: str
    pipeline: Any
    test_mode: bool
    measured: Window | None = None
    """Levels that became 0 and 255, if the set was measured."""

    def __init__(
        self, *args: Any, skip_broken: float = 0.0, **kwargs: Any
    ) -> None:
        if not 0 <= skip_broken <= 1:
            raise SimimError(
                f'skip_broken={skip_broken} is not a share: set it to 0 to 1, '
                'such as 0.01 for up to one image in a hundred.'
            )
        self.skip_broken = skip_broken
        super().__init__(*args, **kwargs)
        if skip_broken and self.test_mode:
            raise SimimError(
                f'skip_broken={skip_broken} of a data set with test_mode: a '
                'test counts every image; replace or remove the broken files.'
            )

    def full_init(self) -> None:
        """List the images, and measure their levels if that is asked."""
        super().full_init()  # type: ignore[misc]
        if not hasattr(self, '_broken'):
            # One flag per image, in memory that loader workers share.
            count = len(self)  # type: ignore[arg-type]
            self._broken = torch.zeros(count, dtype=torch.uint8)
            self._broken.share_memory_()
            self._find_window()

    def _find_window(self) -> None:
        """Measure the window of a loader that asks for it."""
        for load in image_loaders(self):
            if load.window != PERCENTILES or self.test_mode:
                continue
            load.window = self.measured = window_of(
                self.get_data_info,  # type: ignore[attr-defined]
                len(self),  # type: ignore[arg-type]
                load.channels,
            )
            levels = (
                'have 8 bits, which stay'
                if load.window is None
                else f'are read by window={load.window}'
            )
            print_log(
                f'The images in {clean(self.data_root)} {levels}; the '
                'evaluations of this run, and its config.py, have the same.',
                logger='current',
            )

    @property
    def num_broken(self) -> int:
        """Number of images skipped so far."""
        return int(self._broken.sum())

    def count_together(self) -> None:
        """Add the broken images that other processes have found.

        Raises:
            UnreadableImageError: if there are more than ``skip_broken``.
        """
        all_reduce(self._broken, 'max')
        self._check_share()

    def prepare_data(self, idx: int) -> Any:
        """Run the pipeline; return None for a broken image to be replaced.

        Raises:
            UnreadableImageError: if the image is broken and the share of
                broken images exceeds ``skip_broken``.
        """
        try:
            return super().prepare_data(idx)  # type: ignore[misc]
        except UnreadableImageError as error:
            if not self.skip_broken:
                raise
            if not self._broken[idx]:
                self._broken[idx] = True
                self._check_share(f'; the last one: {error}')
                print_log(
                    f'Skipped broken image {self.num_broken} of '
                    f'{len(self._broken)}: {error}',
                    logger='current',
                    level=logging.WARNING,
                )
            return None

    def _check_share(self, last: str = '.') -> None:
        broken, total = self.num_broken, len(self._broken)
        if broken > self.skip_broken * total:
            raise UnreadableImageError(
                f'{broken} of the {total} images in {self.data_root} cannot '
                f'be read, more than skip_broken={self.skip_broken} allows: '
                f'fix the data or raise it{last}'
            )


def image_loaders(dataset: Any) -> Iterator[Any]:
    """Yield the transforms that read images, of a data set and its inner ones.

    Args:
        dataset (Dataset): any, also wrapped or concatenated.
    """
    for _, pipeline in inner_pipelines(dataset):
        for step in pipeline.transforms:
            if hasattr(step, 'window') and hasattr(step, 'channels'):
                yield step


def inner_pipelines(dataset: Any) -> Iterator[tuple[Any, Any]]:
    """Yield each of :func:`inner_datasets` with its pipeline, if it has one.

    Args:
        dataset (Dataset): any, also wrapped or concatenated.
    """
    for one in inner_datasets(dataset):
        pipeline = _own(one).get('pipeline')
        if hasattr(pipeline, 'transforms'):
            yield one, pipeline


def without_pipeline(dataset: Any) -> Iterator[Any]:
    """Yield the innermost data sets whose images pass no pipeline.

    Args:
        dataset (Dataset): any, also wrapped or concatenated.
    """
    if hasattr(_own(dataset).get('pipeline'), 'transforms'):
        return
    inner = _inside(dataset)
    if not inner:
        yield dataset
    for one in inner:
        yield from without_pipeline(one)


def inner_datasets(dataset: Any) -> Iterator[Any]:
    """Yield the data sets in a wrapped or concatenated one, then itself."""
    for one in _inside(dataset):
        yield from inner_datasets(one)
    yield dataset


def _inside(dataset: Any) -> list[Any]:
    """Return the data sets that a wrapper holds."""
    own = _own(dataset)
    # MMEngine's epochs of num_batch_per_epoch hold their set as _dataset.
    inner = [own.get('dataset'), own.get('_dataset'), *own.get('datasets', ())]
    return [one for one in inner if one is not None]


def _own(dataset: Any) -> dict[str, Any]:
    """Return the attributes of a data set, not those that it passes on."""
    return getattr(dataset, '__dict__', {})


def asking_for_window(part: Any) -> Iterator[MutableMapping]:
    """Yield the dictionaries in a config that ask for percentiles."""
    if isinstance(part, MutableMapping):
        if part.get('window') == PERCENTILES:
            yield part
        part = list(part.values())
    if isinstance(part, Sequence) and not isinstance(part, str):
        for item in part:
            yield from asking_for_window(item)

"""Divide one data set into images to train on and images to test on."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence

import numpy as np

from ..errors import SimimError

TRAINING = ('train', 'training', 'train_set', 'training_set')
TESTS = (
    *('val', 'valid', 'validation', 'val_set', 'validation_set', 'dev'),
    *('test', 'testing', 'test_set', 'testing_set'),
)
"""Usual names of the parts of a data set, in lower case; the first that is
there counts."""


def check_share(share: float) -> None:
    """Check the share of images that are kept for tests.

    Raises:
        SimimError: if it is not between 0 and 1.
    """
    if not 0 < share < 1:
        raise SimimError(
            f'--val-share {share} is no share of the images; set it between '
            '0 and 1, such as 0.2.'
        )


def divide(
    groups: Sequence[Hashable], share: float, seed: int
) -> tuple[list[int], list[int]]:
    """Divide items at random, each group by the same share.

    A group of two or more has at least one item in both parts; an item that
    is alone is trained on.

    Args:
        groups (Sequence[Hashable]): the group of each item, such as its
            class.
        share (float): of the second part, between 0 and 1.
        seed (int): of the draw. The same items give the same parts.

    Returns:
        tuple[list[int], list[int]]: sorted indices of both parts.
    """
    members: dict[Hashable, list[int]] = defaultdict(list)
    for index, group in enumerate(groups):
        members[group].append(index)
    generator = np.random.default_rng(seed)
    train: list[int] = []
    val: list[int] = []
    for found in members.values():
        order = generator.permutation(found).tolist()
        count = min(max(round(share * len(found)), 1), len(found) - 1)
        val += order[:count]
        train += order[count:]
    return sorted(train), sorted(val)


class Counted:
    """A data set whose classes are counted, in the order of their labels."""

    counts: dict[str, int]

    @property
    def classes(self) -> list[str]:
        """The names of the classes, in the order of their labels."""
        return [*self.counts]

    def of_each_class(self) -> list[str]:
        """Return the names of the classes and their training counts."""
        return [f'{name} {count}' for name, count in self.counts.items()]


def balance(counts: Mapping[str, int]) -> str:
    """Return the numbers of the smallest and the largest class in words."""
    least = min(counts, key=counts.__getitem__)
    most = max(counts, key=counts.__getitem__)
    if counts[least] == counts[most]:
        return f'{counts[least]} of each'
    return f'from {counts[least]} of {least} to {counts[most]} of {most}'


def part_named(names: Sequence[str], wanted: Sequence[str]) -> str | None:
    """Return the name among some that stands first in ``wanted``."""
    lower = {name.lower(): name for name in names}
    return next((lower[name] for name in wanted if name in lower), None)

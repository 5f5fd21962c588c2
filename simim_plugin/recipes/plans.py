"""How long a run trains, with which batch and learning rate, and warnings.

The rules are ours; docs/configure.md lists them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from .machine import Room

UNTRAINED = ('knn', 'logistic')
"""Methods without a training."""

LEAST_BATCH = dict(upernet=2)
"""Fewest pictures of a micro-step by method, if one does not train."""

SCALED_DOWN = 16
"""Factor between a recipe's learning rate and that of a run, above which a
warning is due."""

FEWEST_STEPS = dict(
    pretraining=2_000, classification=300, detection=300, segmentation=200
)
"""Optimizer steps below which a run is expected to learn little."""


@dataclass
class Plan:
    """Length, batch and learning rate of a run.

    Args:
        images (int): in an epoch.
        batch (int): of a micro-step.
        accumulated (int): micro-steps of an optimizer step.
        epochs (int): of the run.
        lr (float): of an optimizer step.
        warmup (float): epochs of rising learning rate.
        recipe_lr (float): at the recipe's own batch.
        room (Room, optional): memory of a micro-step.
        warnings (list[str]): sentences for the user.
    """

    images: int
    batch: int
    accumulated: int
    epochs: int
    lr: float
    warmup: float
    recipe_lr: float
    room: Room | None = None
    warnings: list[str] = field(default_factory=list)

    @property
    def total(self) -> int:
        """Images of an optimizer step."""
        return self.batch * self.accumulated

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps of an epoch."""
        return max(self.images // self.total, 1)

    @property
    def steps(self) -> int:
        """Optimizer steps of the run."""
        return self.epochs * self.steps_per_epoch

    def batches(self) -> int:
        """Return the micro-steps of the run."""
        return self.steps * self.accumulated


def power_of_two(number: float) -> int:
    """Return the largest power of two up to a number, at least 1."""
    return 2 ** max(0, math.floor(math.log2(max(number, 1))))


def three_digits(number: float) -> float:
    """Round a number to three significant digits."""
    return float(f'{number:.3g}')


def square_root_lr(lr: float, recipe: int, batch: int) -> float:
    """Return the learning rate of a smaller batch, for Adam and AdamW.

    The noise of their updates keeps its size if the learning rate follows
    the square root of the batch (Malladi et al. 2022, *On the SDEs and
    Scaling Rules for Adaptive Gradient Algorithms*).

    Args:
        lr (float): of the recipe.
        recipe (int): images of its optimizer step.
        batch (int): images of an optimizer step here.
    """
    return three_digits(lr * math.sqrt(min(batch / recipe, 1)))


def light_lr(width: int) -> float:
    """Return the learning rate of a short run without a GPU.

    The packaged micro configs train new heads by 1e-3, of 2 to 16 images. A
    wider encoder learns less, to keep what it knows.

    Args:
        width (int): channels of the encoder.
    """
    return three_digits(1e-3 * min(1, 192 / width))


def lr_rule(
    plan: Plan, recipe: float, batch: int, encoder: str | None, gpu: bool
) -> str:
    """Return how the learning rate of a dense task was chosen, as a comment.

    Args:
        plan (Plan): of the run.
        recipe (float): learning rate of the recipe.
        batch (int): images of its optimizer step.
        encoder (str, optional): file to start from.
        gpu (bool): whether there is one.
    """
    if not gpu:
        return 'a short run without a GPU'
    rule = f'{recipe:.0e} x sqrt({plan.total} / {batch})'
    return rule + ('' if encoder else ', x 4 without an encoder')


def epochs_for(
    images: int, batch: int, steps: int, least: int, most: int
) -> int:
    """Return the epochs that have a number of optimizer steps.

    Args:
        images (int): in an epoch.
        batch (int): images of an optimizer step.
        steps (int): wanted.
        least (int): fewest epochs.
        most (int): most epochs.
    """
    wanted = math.ceil(steps / max(images // batch, 1))
    return min(max(wanted, least), most)


def warn(
    plan: Plan,
    task: str,
    counts: dict[str, int] | None = None,
    what: str = 'training pictures',
) -> None:
    """Add sentences on what keeps a run from learning.

    Args:
        plan (Plan): is changed.
        task (str): key of ``FEWEST_STEPS``.
        counts (dict[str, int], optional): pictures or objects to train on
            of each class.
        what (str): which of the two.
    """
    if plan.steps < FEWEST_STEPS[task]:
        plan.warnings.append(
            f'The run has {plan.steps} optimizer steps, fewer than '
            f'{FEWEST_STEPS[task]}, and may learn little; add pictures, or '
            'raise --epochs.'
        )
    if plan.lr * SCALED_DOWN < plan.recipe_lr:
        plan.warnings.append(
            f'The learning rate is {plan.lr:.2g}, less than a '
            f"{SCALED_DOWN}th of the recipe's {plan.recipe_lr:.2g}, since a "
            f'step has {plan.total} images; the run may learn little.'
        )
    room = plan.room
    if room and not room.gpu and room.needed > room.free:
        plan.warnings.append(
            f'A batch of {plan.batch} takes about {room.needed:.1f} GiB, and '
            f'{room.free:.1f} GiB are free; lower --batch-size or --img-size.'
        )
    if counts and len(counts) > min(counts.values()):
        name = min(counts, key=counts.__getitem__)
        plan.warnings.append(
            f'There are {len(counts)} classes and {counts[name]} {what} of '
            f'{name}; expect little of the smallest classes.'
        )

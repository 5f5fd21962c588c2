"""The length of the detection recipes, for the batch at hand."""

from __future__ import annotations

COCO, LVIS = 118_000, 100_000
"""Images per epoch by which Detectron2's ViTDet recipes count iterations."""


def schedule(epochs: float, images: int, batch: int) -> dict[str, int | list]:
    """Iterations of a schedule that is given in epochs.

    Steps of the learning rate lie at 8/9 and 26/27 of the run (RECIPES).

    Args:
        epochs (float): length of the run.
        images (int): of the training set, per epoch; ``COCO`` or ``LVIS``
            for the recipes.
        batch (int): images per optimizer step: processes x batch x
            accumulation.

    Returns:
        dict[str, int | list]: ``max_iters`` for ``train_cfg`` and
        ``milestones`` for ``param_scheduler``.
    """
    total = round(epochs * images / batch)
    return dict(
        max_iters=total,
        milestones=[round(total * 8 / 9), round(total * 26 / 27)],
    )

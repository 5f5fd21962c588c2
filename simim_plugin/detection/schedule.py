"""The length of the detection recipes for any batch size."""

from __future__ import annotations

COCO, LVIS = 118_000, 100_000
"""Images per epoch from which Detectron2's ViTDet recipes count iterations."""


def schedule(epochs: float, images: int, batch: int) -> dict[str, int | list]:
    """Convert a schedule in epochs to iterations.

    The learning rate steps at 8/9 and 26/27 of the run, as in Detectron2's
    ViTDet recipes.

    Args:
        epochs (float): length of the run.
        images (int): images per epoch; ``COCO`` or ``LVIS`` for the recipes.
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

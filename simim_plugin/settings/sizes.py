"""One number for the size of the images: the setting ``img_size``."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from ..errors import SimimError

_MASKS = ('BlockwiseMask', 'RandomMask')


def apply_img_size(config: Any) -> None:
    """Give a pretraining config images of the size ``img_size``, pixels.

    The encoder, the views, the decoder's grid and the masks follow: a mask
    keeps its share of the patches. Nothing changes if the encoder has this
    size already, or if the config has no ``img_size``.

    Args:
        config (Config): is changed.

    Raises:
        SimimError: if ``img_size`` cannot reach every place of the size.
    """
    size = config.get('img_size')
    model = config.get('model')
    if not isinstance(model, Mapping):
        return
    backbone: Any = model.get('backbone') or {}
    before = backbone.get('img_size')
    if size is None or size == before:
        return
    patch = backbone.get('patch_size')
    parts = [*_parts(config.get('train_dataloader'))]
    views = [part for part in parts if part['type'] == 'PairedViews']
    masks = [part for part in parts if part['type'] in _MASKS]
    neck: Any = model.get('neck') or {}
    if not (
        model.get('type') == 'SiameseIM'
        and neck.get('type') == 'RelativePositionDecoder'
        and len(views) == len(masks) == 1
        and isinstance(before, int)
        and isinstance(patch, int)
    ):
        raise SimimError(
            f'img_size={size} is for SiameseIM with one PairedViews and one '
            'mask, and this config is another; set model.backbone.img_size '
            'and the sizes of its pipeline one by one.'
        )
    (view,), (mask,) = views, masks
    if not isinstance(size, int) or size < patch or size % patch:
        raise SimimError(
            f'img_size is {size!r} and a patch has {patch} pixels; set a '
            'multiple of it.'
        )
    old, new = before // patch, size // patch
    grids = [tuple(part.get('grid', ())) for part in (neck, mask)]
    if view.get('size') != before or grids != [(old, old)] * 2:
        raise SimimError(
            f'img_size={size} sets model.backbone.img_size, PairedViews.size '
            'and the grids, of which one was set to another size; leave it '
            'out, or set all of them without img_size.'
        )
    backbone.img_size = view.size = size
    neck.grid = mask.grid = (new, new)
    mask.num_masked = _share(mask.num_masked, old * old, new * new)
    if 'min_block' in mask:
        mask.min_block = math.ceil(mask.min_block * new * new / (old * old))


def _share(count: int, of: int, now: int) -> int:
    """Return the same share of another number of patches.

    It is the share in steps of 5 % that gives the count, if there is one.
    """
    steps = (step / 20 for step in range(1, 20))
    exact = count / of
    share = next((s for s in steps if round(s * of) == count), exact)
    return min(max(round(share * now), 1), now - 1)


def _parts(settings: Any) -> Iterator[Any]:
    """Yield every dictionary with a type, at any depth."""
    if isinstance(settings, dict):
        if 'type' in settings:
            yield settings
        settings = list(settings.values())
    if isinstance(settings, (list, tuple)):
        for value in settings:
            yield from _parts(value)

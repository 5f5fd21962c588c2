"""Find the names of a model's classes."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from mmengine.config import Config
from torch import nn

from ..errors import SimimError
from ..files import check_regular
from ..pictures.walking import class_labels
from ..text import some


def class_names(
    config: Config, meta: Mapping[str, Any], model: nn.Module
) -> list[str]:
    """Return the names of the classes of a model, in order.

    Those of the checkpoint come first, then those of the config's test set:
    its ``metainfo``, else those that its type knows, else its folders.
    Without any of these the classes are called ``class 0`` and so on.

    Args:
        config (Config): of the model.
        meta (Mapping): ``meta`` of the checkpoint.
        model (nn.Module): with a head that has ``num_classes``.

    Raises:
        SimimError: if there are more or fewer names than classes.
    """
    count = num_classes(model)
    known = meta.get('dataset_meta') or meta
    names = known.get('classes') or known.get('CLASSES')
    source = 'checkpoint'
    if not names:
        names, source = _of_config(config), 'config'
    if not names:
        return [f'class {k}' for k in range(count)]
    if len(names) != count:
        raise SimimError(
            f'The model has {count} classes and the {source} names '
            f'{len(names)} ({some(names)}); pass the config and the '
            'checkpoint of one run.'
        )
    return [str(name) for name in names]


def num_classes(model: nn.Module) -> int:
    """Return the number of classes of a model's first head that has one.

    Raises:
        SimimError: if no head has one.
    """
    for path, part in model.named_modules():
        count = getattr(part, 'num_classes', None)
        # The head of region proposals knows objects and background only.
        if 'head' in path and 'rpn' not in path and isinstance(count, int):
            return count
    raise SimimError(
        f'The model {type(model).__name__} has no head with classes; pass the '
        'config of a classifier, a detector or a segmentor.'
    )


def category_ids(config: Config, names: list[str]) -> dict[str, int] | None:
    """Return the ids of the classes in the annotations of the test set.

    Args:
        config (Config): of a detector.
        names (list[str]): of its classes.

    Returns:
        dict[str, int] | None: None if there is no such file here, or it does
        not name all classes.
    """
    dataset = config.test_dataloader.dataset
    file = dataset.get('ann_file') or ''
    file = os.path.join(dataset.get('data_root') or '', file)
    with suppress(OSError, ValueError, KeyError, TypeError, RecursionError):
        check_regular(file)
        with open(file, encoding='utf-8-sig') as stream:
            categories = json.load(stream)['categories']
        ids = {entry['name']: int(entry['id']) for entry in categories}
        return {name: ids[name] for name in names}
    return None


def _of_config(config: Config) -> list[str]:
    from mmengine.registry import DATASETS

    dataset = config.test_dataloader.dataset
    given = (dataset.get('metainfo') or {}).get('classes')
    if given:
        return [*given]
    kind = DATASETS.get(f'{config.default_scope}.{dataset.type}')
    known = getattr(kind, 'METAINFO', {}).get('classes')
    if known:
        return [*known]
    with suppress(SimimError):
        return [*class_labels(dataset.get('data_root') or '')]
    return []

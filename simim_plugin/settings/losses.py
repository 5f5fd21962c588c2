"""Settings of losses that must agree with the head that has them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from numbers import Real

from .parts import Part
from .whole import Faults, Whole, differs, value_of

_LOSS = re.compile(r'(.+)\.loss(?:_\w+)?(?:\.\d+)?')

_SCORED = {'ClsHead', 'BBoxHead', 'AnchorHead', 'BaseDecodeHead'}
"""Heads with a score for each class, and in detection for the background."""

_PLAIN = {'ClsHead', 'BBoxHead', 'BaseDecodeHead'}
"""Heads whose losses take no single weight, as those of DETR do."""


def class_weights(whole: Whole) -> Faults:
    """A loss has a weight for each class of its head."""
    for part in whole.parts:
        owner = _LOSS.fullmatch(part.path)
        head = whole.at(owner[1]) if owner else None
        if head is None:
            continue
        for name in ('class_weight', 'pos_weight'):
            weights = part.get(name)
            if isinstance(weights, Sequence) and not isinstance(weights, str):
                yield from _misfit(part, name, len(weights), head)
            elif (
                isinstance(weights, Real)
                and name == 'class_weight'
                and _PLAIN & {*head.names}
            ):
                yield (
                    f'{part.path}.{name} is {weights}; set it to a list, a '
                    'weight for each class, or None.'
                )


def _misfit(part: Part, name: str, count: int, head: Part) -> Faults:
    path = f'{part.path}.{name}'
    if 'FCNMaskHead' in head.names:
        yield f'{path} is set, and nothing of a mask has a class; remove it.'
        return
    # SAN has a weight for no class, as Mask2Former has.
    if not _SCORED & {*head.names} or 'SideAdapterCLIPHead' in head.names:
        return
    classes = value_of(head, 'num_classes')
    if 'RPNHead' in head.names:
        classes = 1
    if not isinstance(classes, int):
        return
    wanted, why = _columns(part, head, classes)
    if count != wanted:
        yield (
            f'{path} has {count} weights and {head.path} {classes} classes'
            f'{why}; give {wanted}.'
        )


def _columns(part: Part, head: Part, classes: int) -> tuple[int, str]:
    """Return the columns of a head's scores, and a clause that says why."""
    boxes = {'BBoxHead', 'AnchorHead'} & {*head.names}
    if boxes and not value_of(part, 'use_sigmoid'):
        return classes + 1, ' and a background'
    if 'BaseDecodeHead' in head.names and head.get('out_channels') == 1:
        return 1, ' in one column'
    return classes, ''


def smoothed_classes(whole: Whole) -> Faults:
    """Smoothed labels have the classes of the head."""
    head, loss = whole.at('model.head'), whole.at('model.head.loss')
    if head is not None and loss is not None:
        yield from differs(
            *('model.head.loss.num_classes', loss.get('num_classes')),
            *('model.head.num_classes', head.get('num_classes')),
        )

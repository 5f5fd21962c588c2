"""Classes refuse the values that the check of settings refuses."""

from functools import partial

import pytest

from simim_plugin.ablations import RandomMask
from simim_plugin.datasets import BlockwiseMask
from simim_plugin.datasets.image_set import ImageSet
from simim_plugin.errors import SimimError
from simim_plugin.rivals import (
    AssignmentHead,
    CropMasks,
    DistillationHead,
    InfoNCEHead,
    PatchTokenizer,
)
from simim_plugin.settings.rules import RULES


class _Images:
    test_mode = False


class _Set(ImageSet, _Images):
    """A data set without images."""


PREDICTOR = dict(type='LinearNeck', in_channels=4, out_channels=4)
POSITIVE = (-1.0, 0.0, 1e-6, 0.2, 3.0)
COUNTS = (-1, 0, 1, 2, 3)
SHARES = (-0.1, 0.0, 0.5, 1.0, 1.1)
CASES = {
    'BlockwiseMask.num_masked': (partial(BlockwiseMask, 8), COUNTS),
    'BlockwiseMask.min_block': (partial(BlockwiseMask, 8, 9), COUNTS),
    'RandomMask.num_masked': (partial(RandomMask, 8), COUNTS),
    'CropMasks.prob': (partial(CropMasks, 8), SHARES),
    'ImageSet.skip_broken': (_Set, SHARES),
    'InfoNCEHead.temperature': (partial(InfoNCEHead, PREDICTOR), POSITIVE),
    'DistillationHead.out_dims': (DistillationHead, COUNTS),
    'DistillationHead.student_temperature': (
        partial(DistillationHead, 8),
        POSITIVE,
    ),
    'DistillationHead.teacher_temperature': (
        partial(DistillationHead, 8),
        POSITIVE,
    ),
    'AssignmentHead.num_prototypes': (partial(AssignmentHead, 4), COUNTS),
    'AssignmentHead.temperature': (partial(AssignmentHead, 4), POSITIVE),
    'AssignmentHead.sharpening': (partial(AssignmentHead, 4), POSITIVE),
    'PatchTokenizer.num_tokens': (
        partial(PatchTokenizer, patch_size=4),
        COUNTS,
    ),
}


@pytest.mark.parametrize('key', CASES)
def test_a_class_and_its_rule_have_one_range(key):
    build, values = CASES[key]
    name = key.partition('.')[2]

    def is_taken(value):
        try:
            build(**{name: value})
        except SimimError as error:
            assert name in str(error)
            return False
        return True

    taken = [value for value in values if is_taken(value)]
    assert taken == [value for value in values if RULES[key].holds(value)]
    assert 0 < len(taken) < len(values)

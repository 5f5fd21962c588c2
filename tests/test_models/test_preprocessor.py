"""Normalisation of pairs: both statistics, or neither."""

import pytest
import torch

from simim_plugin.detection.channels import AnyChannelDetPreprocessor
from simim_plugin.errors import SimimError
from simim_plugin.models.preprocessor import PairDataPreprocessor
from simim_plugin.segmentation.channels import AnyChannelSegPreprocessor

CLASSES = (
    PairDataPreprocessor,
    AnyChannelDetPreprocessor,
    AnyChannelSegPreprocessor,
)


@pytest.mark.parametrize('made', CLASSES)
@pytest.mark.parametrize(
    ('mean', 'std'),
    [
        ([1.0] * 3, [1.0]),
        ([1.0], [1.0] * 3),
        ([1.0] * 5, [1.0] * 3),
        (None, [1.0] * 3),
        ([1.0] * 3, None),
    ],
)
def test_half_of_the_statistics_is_refused(made, mean, std):
    with pytest.raises(SimimError, match=f'{made.__name__} has .* set both'):
        made(mean=mean, std=std)


@pytest.mark.parametrize('made', CLASSES)
@pytest.mark.parametrize(
    ('mean', 'std'),
    [
        ([1.0] * 3, [0.0, 1.0, 1.0]),
        ([1.0] * 3, [-1.0] * 3),
        ([1.0] * 3, [float('inf')] * 3),
        ([float('nan')] * 3, [1.0] * 3),
    ],
    ids=['zero', 'negative', 'infinite', 'nan'],
)
def test_statistics_that_normalise_nothing_are_refused(made, mean, std):
    with pytest.raises(SimimError, match=f'{made.__name__} has .* std above'):
        made(mean=mean, std=std)


@pytest.mark.parametrize('channels', [1, 3, 5])
def test_both_normalise_and_neither_leaves_the_levels(channels):
    views = torch.full((2, channels, 4, 4), 7, dtype=torch.uint8)
    data = dict(inputs=[views, views], data_samples=None)
    mean, std = [3.0] * channels, [2.0] * channels
    for given, level in (({}, 7.0), (dict(mean=mean, std=std), 2.0)):
        found = PairDataPreprocessor(**given)(data)['inputs']
        assert all((view == level).all() for view in found)

"""A run whose colours are applied on the device."""

import signal

import numpy as np
import pytest
import torch
from mmengine.dataset import default_collate
from mmpretrain.registry import MODELS, TRANSFORMS

from simim_plugin.checkpoint import read_checkpoint
from simim_plugin.datasets.collating import collate_pairs
from simim_plugin.datasets.colour_draws import defer_colours
from simim_plugin.datasets.paired_views import PairedViews
from simim_plugin.engine.seeding import seed_by
from simim_plugin.errors import SimimError

from ..test_faults import FIRST_STEP, STOPPED, assert_same_end, epochs, fill
from ..training_processes import TINY, Run, end_all

ON = 'model.data_preprocessor.colours=True'


@pytest.fixture
def folder(tmp_path):
    (tmp_path / 'tiny.py').write_text(TINY)
    fill(tmp_path / 'images', 24)
    yield tmp_path
    end_all()


@pytest.mark.slow
def test_a_run_resumes_exactly(folder):
    options = epochs(3, ON)
    run = Run(folder, *options)
    run.wait_for(FIRST_STEP)
    run.kill(signal.SIGTERM)
    run.end(STOPPED)
    Run(folder, '--resume', *options).end()
    Run(folder, '--work-dir', 'whole', *options).end()
    assert_same_end(folder, 'whole', 'run', 18)
    Run(folder, '--work-dir', 'cpu', *epochs(3)).end()
    losses = [
        read_checkpoint(folder / run / 'iter_18.pth')['message_hub'][
            'log_scalars'
        ]['train/loss'].data[0]
        for run in ('whole', 'cpu')
    ]
    # Nearly the same pixels, in the same order.
    assert losses[0] == pytest.approx(losses[1], rel=0.05)
    assert list(losses[0]) != list(losses[1])


@pytest.mark.parametrize('collate', [default_collate, collate_pairs])
def test_the_preprocessor_gives_the_views_of_the_cpu_path(collate):
    """Within a grey level on average; the boxes and masks are the same."""
    colour = [
        dict(type='FastColorJitter', prob=0.8, brightness=0.4, hue=0.1),
        dict(type='FastGrayscale', prob=0.5),
        dict(type='Solarize', thr=128, prob=0.5),
    ]
    views = dict(type='PairedViews', size=32, online=colour, target=colour)
    mask = dict(type='BlockwiseMask', grid=(4, 4), num_masked=9, min_block=3)
    pack = dict(type='PackInputs', algorithm_keys=['geometry'])
    pipeline = [views, mask, pack]
    preprocessor = MODELS.build(
        dict(
            type='PairDataPreprocessor',
            mean=[0.0] * 3,
            std=[1.0] * 3,
            colours=True,
        )
    )
    found = []
    for settings in (pipeline, defer_colours(pipeline)):
        transforms = [TRANSFORMS.build(part) for part in settings]
        items = []
        for k in range(6):
            seed_by(k)
            draw = np.random.default_rng(k)
            results = dict(img=draw.integers(0, 256, (40, 50, 3), np.uint8))
            for transform in transforms:
                results = transform(results)
            items.append(results)
        found.append(preprocessor(collate(items), training=True))
    plain, deferred = found
    for ours, theirs in zip(deferred['inputs'], plain['inputs'], strict=True):
        assert ours.dtype == theirs.dtype == torch.float32
        assert (ours - theirs).abs().mean() < 1
    for ours, theirs in zip(
        deferred['data_samples'], plain['data_samples'], strict=True
    ):
        assert torch.equal(
            ours.geometry.online.box, theirs.geometry.online.box
        )
        assert torch.equal(ours.mask, theirs.mask)
        assert ours.colours.shape == (2, 11)
        assert 'colours' not in theirs


class OwnViews(PairedViews):
    """Views of a project of its own."""

    def __init__(self, own: int = 1, **kwargs: object) -> None:
        super().__init__(**kwargs)
        self.own = own


def made(views: dict) -> list[dict]:
    """Return two items of a pipeline with these views."""
    mask = dict(type='BlockwiseMask', grid=(4, 4), num_masked=9, min_block=3)
    keys = ['geometry', *(['colours'] if views.get('defer') else [])]
    pack = dict(type='PackInputs', algorithm_keys=keys)
    transforms = [TRANSFORMS.build(part) for part in (views, mask, pack)]
    items = []
    for _ in range(2):
        results = dict(img=np.full((40, 50, 3), 9, np.uint8))
        for transform in transforms:
            results = transform(results)
        items.append(results)
    return items


@pytest.mark.parametrize('by_name', [True, False])
def test_views_of_other_projects_leave_their_colours(by_name):
    if by_name:
        TRANSFORMS.register_module(module=OwnViews, force=True)
    views = dict(type='OwnViews' if by_name else OwnViews, size=32)
    pack = dict(type='PackInputs', algorithm_keys=['geometry'])
    dataset = dict(type='ImageFolder', pipeline=[views, pack])
    try:
        deferred = defer_colours(dataset)['pipeline']
    finally:
        TRANSFORMS.module_dict.pop('OwnViews', None)
    assert deferred[0]['defer'] is True
    assert deferred[1]['algorithm_keys'] == ['geometry', 'colours']


@pytest.mark.parametrize('collate', [default_collate, collate_pairs])
def test_a_batch_with_only_some_deferred_colours_is_refused(collate):
    views = dict(type='PairedViews', size=32)
    preprocessor = MODELS.build(
        dict(type='PairDataPreprocessor', colours=True)
    )
    for items in (made(views), made(dict(views, defer=True))):
        assert len(preprocessor(collate(items))['data_samples']) == 2
    mixed = [*made(views), *made(dict(views, defer=True))]
    with pytest.raises(SimimError, match='2 of 4 images'):
        preprocessor(collate(mixed))

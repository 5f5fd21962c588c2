from __future__ import annotations

import random
from multiprocessing.reduction import ForkingPickler
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.dataset import default_collate
from mmpretrain.datasets import PackInputs
from mmpretrain.registry import TRANSFORMS
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from simim_plugin.ablations import SameView, SmallTargetViews
from simim_plugin.datasets import BlockwiseMask, PairedViews
from simim_plugin.datasets.paired_views import resize
from simim_plugin.geometry import PairGeometry, View


def seed(value: int) -> None:
    np.random.seed(value)
    random.seed(value)
    torch.manual_seed(value)


def coordinates(height: int, width: int) -> np.ndarray:
    """Make an image of the pixels' rows (channel 0) and columns (1)."""
    image = np.zeros((height, width, 3), np.uint8)
    image[..., 0] = np.arange(height)[:, None]
    image[..., 1] = np.arange(width)
    return image


def noise(height: int, width: int) -> np.ndarray:
    shape = (height, width, 3)
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


@pytest.mark.parametrize('size', [224, (64, 96)])
def test_geometry_maps_pixels_to_the_image(
    size: int | tuple[int, int],
) -> None:
    seed(0)
    image = coordinates(200, 250)
    transform = PairedViews(size)
    height, width = transform.size
    rows, cols = np.mgrid[0:height, 0:width] + 0.5
    points = np.stack([rows / height, cols / width], axis=-1)
    flips, biases = set(), []
    for _ in range(40):
        results = transform({'img': image})
        geometry = results['geometry']
        flips.add((bool(geometry.online.flip), bool(geometry.target.flip)))
        for pixels, view in zip(
            results['img'], (geometry.online, geometry.target), strict=True
        ):
            assert pixels.shape == (height, width, 3)
            assert pixels.dtype == np.uint8
            place = view.to_image(torch.from_numpy(points)).numpy() - 0.5
            # Near the border the kernel reaches the end of the crop and
            # bends a straight ramp.
            step = np.ceil(3 * np.array(transform.size) / view.size.numpy())
            y, x = np.maximum(step, 3).astype(int)
            error = (pixels[..., :2] - place)[y:-y, x:-x]
            assert np.abs(error).max() < 0.6  # 0.5 is rounding
            biases.append(error.mean(axis=(0, 1)))
    assert len(flips) == 4
    assert np.abs(np.mean(biases, axis=0)).max() < 0.02


def test_flips_are_independent_and_crops_in_range() -> None:
    seed(1)
    transform = PairedViews(4, crop_scale=(0.3, 0.5), aspect_ratio=(0.5, 2.0))
    image = noise(240, 240)
    pairs = [transform({'img': image})['geometry'] for _ in range(4000)]
    flips = np.array(
        [[bool(p.online.flip), bool(p.target.flip)] for p in pairs]
    )
    for online in (False, True):
        for target in (False, True):
            share = (flips == (online, target)).all(axis=1).mean()
            assert abs(share - 0.25) < 0.03
    boxes = torch.stack(
        [view.box for p in pairs for view in (p.online, p.target)]
    ).numpy()
    area = boxes[:, 2] * boxes[:, 3] / 240**2
    ratio = np.log2(boxes[:, 3] / boxes[:, 2])
    assert 0.29 < area.min() < 0.31
    assert 0.49 < area.max() < 0.51
    assert abs(area.mean() - 0.4) < 0.01
    assert -1.02 < ratio.min() < -0.95
    assert 0.95 < ratio.max() < 1.02
    assert abs(ratio.mean()) < 0.03
    places = boxes[:, 1] / (240 - boxes[:, 3])
    assert abs(places.mean() - 0.5) < 0.02
    online, target = boxes[::2, 1], boxes[1::2, 1]
    assert abs(np.corrcoef(online, target)[0, 1]) < 0.06


def test_each_view_has_its_own_colours() -> None:
    image = noise(40, 60)
    transform = PairedViews(
        16,
        online=[lambda results: {'img': results['img'] // 2}],
        target=[dict(type='Solarize', thr=0, prob=1.0)],
    )
    plain = PairedViews(16)
    seed(2)
    online, target = transform({'img': image})['img']
    seed(2)
    untouched = plain({'img': image})['img']
    assert (online == untouched[0] // 2).all()
    # Solarize draws its probability after both crops are cut.
    assert (target == 255 - untouched[1]).all()


def test_seed_determines_views_and_views_differ() -> None:
    transform = PairedViews(16)
    seed(3)
    first = transform({'img': noise(40, 60)})
    again = transform({'img': noise(40, 60)})
    seed(3)
    same = transform({'img': noise(40, 60)})
    for k in range(2):
        assert (first['img'][k] == same['img'][k]).all()
        assert (first['img'][k] != again['img'][k]).any()
    assert torch.equal(
        first['geometry'].online.box, same['geometry'].online.box
    )
    assert (first['img'][0] != first['img'][1]).any()


@pytest.mark.parametrize('shape', [(1, 1), (3, 500), (20, 10)])
def test_images_smaller_than_the_crop_are_enlarged(
    shape: tuple[int, int],
) -> None:
    image = np.full((*shape, 3), (10, 100, 200), np.uint8)
    for view in PairedViews((32, 48))({'img': image})['img']:
        assert view.shape == (32, 48, 3)
        assert (view == (10, 100, 200)).all()


def test_views_do_not_share_memory_with_the_image() -> None:
    image = noise(16, 16)
    transform = PairedViews(16, crop_scale=(1.0, 1.0), aspect_ratio=(1.0, 1.0))
    for _ in range(4):
        views = transform({'img': image})['img']
        assert not any(np.shares_memory(view, image) for view in views)
        assert not np.shares_memory(*views)


@pytest.mark.parametrize(
    'image',
    [np.zeros((8, 8), np.uint8), np.zeros((8, 8, 3), np.float32)],
)
def test_refuses_other_arrays_than_rgb_images(image: np.ndarray) -> None:
    with pytest.raises(ValueError, match='LoadRGBImage'):
        PairedViews(8)({'img': image})


@pytest.mark.shared
def test_resize_matches_pillow(shared: Path) -> None:
    files = sorted((shared / 'data/imagenet_sample/images').iterdir())[::10]
    for file in files:
        photo = np.array(Image.open(file).convert('RGB'))
        for side in (60, 150, 224, 300):  # enlarged and reduced
            crop = photo[10 : 10 + side, 5 : 5 + side * 4 // 5]
            for size in ((224, 224), (64, 96)):
                expected = Image.fromarray(crop).resize(
                    size[::-1], Image.Resampling.BICUBIC
                )
                error = resize(crop, size) - np.array(expected).astype(int)
                assert np.abs(error).mean() < 0.5


class _Pairs(Dataset):
    """Coordinate images, passed through the pair pipeline and packed."""

    def __init__(self) -> None:
        self.pipeline = [
            PairedViews((32, 48), online=[dict(type='FastGrayscale', prob=1)]),
            BlockwiseMask(grid=(4, 6), num_masked=14, min_block=4),
            TRANSFORMS.build(
                dict(type='PackInputs', algorithm_keys=['geometry'])
            ),
        ]

    def __len__(self) -> int:
        return 12

    def __getitem__(self, index: int) -> dict:
        seed(index)
        results = {'img': coordinates(60, 80), 'sample_idx': index}
        for transform in self.pipeline:
            results = transform(results)
        return results


@pytest.mark.parametrize('workers', [0, 2])
def test_packs_and_collates(workers: int) -> None:
    pairs = _Pairs()
    loader = DataLoader(
        pairs, 4, num_workers=workers, collate_fn=default_collate
    )
    seen = 0
    for batch in loader:
        for k, sample in enumerate(batch['data_samples']):
            expected = pairs[seen]
            for view in range(2):
                pixels = batch['inputs'][view][k]
                assert pixels.dtype == torch.uint8
                assert pixels.shape == (3, 32, 48)
                assert torch.equal(pixels, expected['inputs'][view])
            there = expected['data_samples']
            assert isinstance(sample.geometry, PairGeometry)
            for name in ('online', 'target'):
                got = getattr(sample.geometry, name)
                want = getattr(there.geometry, name)
                assert torch.equal(got.box, want.box)
                assert torch.equal(got.flip, want.flip)
            assert torch.equal(sample.mask, there.mask)
            assert sample.mask.shape == (24,)
            assert sample.mask.sum() == 14
            seen += 1
    assert seen == 12


def test_views_travel_between_processes_without_open_files() -> None:
    """A batch of 512 would need 2,048 open files and stall the loader."""
    view = View.of((1.5, 2, 3, 4), True)
    sent = bytes(ForkingPickler.dumps(view))
    assert b'storage' not in sent
    received = ForkingPickler.loads(sent)
    assert torch.equal(received.box, view.box)
    assert received.box.dtype == torch.float64
    assert received.flip.dtype == torch.bool
    assert received.flip.item() is True


def test_array_datasets_need_no_loader() -> None:
    """MMPretrain's CIFAR10 gives an RGB array and a label."""
    results = {'img': noise(32, 32), 'gt_label': 3, 'sample_idx': 0}
    for transform in (
        PairedViews(32),
        BlockwiseMask(grid=8, num_masked=38, min_block=6),
        PackInputs(algorithm_keys=['geometry']),
    ):
        results = transform(results)
    assert [view.shape for view in results['inputs']] == [(3, 32, 32)] * 2
    assert results['data_samples'].mask.sum() == 38


def test_the_target_may_have_fewer_pixels() -> None:
    """Crops, flips and colours are the same as at full size."""
    image = noise(120, 160)
    seed(4)
    whole = PairedViews((32, 48))({'img': image})
    seed(4)
    half = SmallTargetViews(size=(32, 48), target_size=(16, 24))(
        {'img': image}
    )
    assert (half['img'][0] == whole['img'][0]).all()
    assert half['img'][1].shape == (16, 24, 3)
    for name in ('online', 'target'):
        ours, theirs = (getattr(p['geometry'], name) for p in (half, whole))
        assert torch.equal(ours.box, theirs.box)
        assert torch.equal(ours.flip, theirs.flip)
    box = whole['geometry'].target.box.int().tolist()
    crop = image[box[0] : box[0] + box[2], box[1] : box[1] + box[3]]
    expected = resize(crop.copy(), (16, 24))
    if whole['geometry'].target.flip:
        expected = expected[:, ::-1]
    assert (half['img'][1] == expected).all()


def test_the_same_view_is_one_draw() -> None:
    image = noise(120, 160)
    draws = []

    def colour(results: dict) -> dict:
        draws.append(np.random.rand())
        return {'img': (results['img'] * draws[-1]).astype(np.uint8)}

    transform = SameView(size=16, crop_scale=(0.2, 0.5), colour=[colour])
    seed(5)
    geometries = []
    for count in range(1, 9):
        results = transform({'img': image})
        online, target = results['img']
        assert (online == target).all()
        assert len(draws) == count
        geometry = results['geometry']
        assert torch.equal(geometry.online.box, geometry.target.box)
        assert torch.equal(geometry.online.flip, geometry.target.flip)
        y, x = geometry.positions((4, 4), (4, 4))
        expected = torch.arange(4).double()
        assert torch.allclose(y, expected, rtol=0, atol=1e-12)
        assert torch.allclose(x, expected, rtol=0, atol=1e-12)
        geometries.append(geometry)
    assert len({tuple(g.online.box.tolist()) for g in geometries}) == 8
    assert len({bool(g.online.flip) for g in geometries}) == 2


def test_the_same_view_is_cut_as_the_online_one() -> None:
    image = noise(120, 160)
    seed(6)
    online = PairedViews(16)({'img': image})
    seed(6)
    same = SameView(size=16)({'img': image})
    assert (same['img'][0] == online['img'][0]).all()
    assert torch.equal(
        same['geometry'].online.box, online['geometry'].online.box
    )

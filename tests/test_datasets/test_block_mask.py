from __future__ import annotations

import json
import random
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from simim_plugin.ablations import RandomMask
from simim_plugin.datasets import BlockwiseMask


def components(cells: np.ndarray) -> int:
    """Count the 4-connected regions of a bool grid."""
    return (
        cv2.connectedComponents(cells.astype(np.uint8), connectivity=4)[0] - 1
    )


def eight_symmetries(frequency: np.ndarray) -> np.ndarray:
    """Average a square grid over its rotations and reflections."""
    turned = [np.rot90(frequency, k) for k in range(4)]
    return np.mean([*turned, *(t.T for t in turned)], axis=0)


@given(data=st.data(), rows=st.integers(1, 20), cols=st.integers(2, 20))
def test_masks_exactly_num_masked_patches(
    data: st.DataObject, rows: int, cols: int
) -> None:
    num_masked = data.draw(st.integers(1, rows * cols - 1))
    min_block = data.draw(st.integers(1, 20))
    mask = BlockwiseMask((rows, cols), num_masked, min_block).draw()
    assert mask.shape == (rows * cols,)
    assert mask.dtype == bool
    assert mask.sum() == num_masked


@pytest.mark.shared
def test_same_distribution_as_the_released_code(shared: Path) -> None:
    stats = json.loads(
        (shared / 'golden/siamese_im/mask_stats.json').read_text()
    )
    random.seed(0)
    generator = BlockwiseMask(grid=14, num_masked=118)
    masks = np.array([generator.draw() for _ in range(20_000)])
    masks = masks.reshape(-1, 14, 14)
    frequency = eight_symmetries(masks.mean(axis=0))
    expected = eight_symmetries(np.array(stats['position_frequency']))
    assert np.abs(frequency - expected).max() < 0.01
    masked = np.mean([components(mask) for mask in masks])
    visible = np.mean([components(~mask) for mask in masks])
    assert abs(masked - stats['masked_components_mean']) < 0.05
    assert abs(visible - stats['visible_components_mean']) < 0.05


def test_no_side_of_the_grid_is_preferred() -> None:
    random.seed(1)
    generator = BlockwiseMask(grid=8, num_masked=38, min_block=6)
    masks = np.array([generator.draw() for _ in range(20_000)])
    frequency = masks.mean(axis=0).reshape(8, 8)
    assert np.abs(frequency - eight_symmetries(frequency)).max() < 0.015


def test_is_flat_row_by_row() -> None:
    random.seed(2)
    generator = BlockwiseMask(grid=(5, 30), num_masked=6, min_block=6)
    masks = [generator.draw() for _ in range(300)]
    by_row = [components(mask.reshape(5, 30)) for mask in masks]
    by_column = [components(mask.reshape(30, 5)) for mask in masks]
    assert np.mean(by_row) < 2 < np.mean(by_column)


def test_seed_determines_the_mask() -> None:
    generator = BlockwiseMask(grid=14, num_masked=118)
    random.seed(3)
    first, second = generator.draw(), generator.draw()
    random.seed(3)
    assert (generator.transform({})['mask'] == first).all()
    assert (first != second).any()


@pytest.mark.parametrize('num_masked', [-1, 0, 64, 65])
def test_refuses_num_masked_out_of_range(num_masked: int) -> None:
    with pytest.raises(ValueError, match=rf'{num_masked} of 8 x 8 .* 1 to 63'):
        BlockwiseMask(grid=8, num_masked=num_masked)


def test_refuses_empty_blocks() -> None:
    with pytest.raises(ValueError, match='min_block'):
        BlockwiseMask(grid=8, num_masked=5, min_block=0)


@given(data=st.data(), rows=st.integers(1, 20), cols=st.integers(2, 20))
def test_random_masks_have_exactly_num_masked_patches(
    data: st.DataObject, rows: int, cols: int
) -> None:
    num_masked = data.draw(st.integers(1, rows * cols - 1))
    mask = RandomMask((rows, cols), num_masked).draw()
    assert mask.shape == (rows * cols,)
    assert mask.dtype == bool
    assert mask.sum() == num_masked


def test_random_masks_prefer_no_patch_and_no_pair() -> None:
    """P(i) = 3/4 and P(i and j) = 3/4 x 11/15 with 12 of 16 masked."""
    random.seed(4)
    generator = RandomMask(grid=4, num_masked=12)
    masks = np.array([generator.draw() for _ in range(20_000)], float)
    assert np.abs(masks.mean(axis=0) - 0.75).max() < 0.015
    both = masks.T @ masks / len(masks)
    np.fill_diagonal(both, 0.55)
    assert np.abs(both - 0.55).max() < 0.015


def test_masks_take_another_key() -> None:
    for generator in (
        RandomMask(grid=4, num_masked=8, key='target_tokens'),
        BlockwiseMask(4, 8, min_block=2, key='target_tokens'),
    ):
        results = generator({'mask': None})
        assert results['mask'] is None
        assert results['target_tokens'].sum() == 8


@pytest.mark.parametrize('num_masked', [-1, 0, 16])
def test_random_masks_out_of_range_are_an_error(num_masked: int) -> None:
    with pytest.raises(ValueError, match=r'of RandomMask to 1 to 15'):
        RandomMask(4, num_masked)

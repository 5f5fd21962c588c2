from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from simim_plugin.benchmarks import pipeline
from simim_plugin.benchmarks.multi_crop import (
    CropPipeline,
    PillowCropPipeline,
    measure_multi_crop,
)
from simim_plugin.benchmarks.pipeline import (
    PillowPairPipeline,
    measure_pipeline,
)


def test_figures_of_both_pipelines_agree_with_their_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, 'MOST_IMAGES', 2)
    for k in range(3):
        pixels = np.random.default_rng(k).integers(0, 256, (90, 80, 3), 'u1')
        Image.fromarray(pixels).save(tmp_path / f'{k}.jpg')
    threads = torch.get_num_threads()
    figures = measure_pipeline(tmp_path, rounds=1)
    assert torch.get_num_threads() == threads
    assert figures['images'] == 2
    ours = figures['images_per_second']
    yardstick = figures['yardstick_images_per_second']
    assert figures['ratio'] == pytest.approx(ours / yardstick)
    assert figures['ratio_uint8'] < figures['ratio']
    # The yardstick holds two float views of 224 x 224, ours two of bytes.
    assert figures['yardstick_peak_mb'] > 2 * 3 * 224**2 * 4 / 1e6
    assert 0 < figures['peak_mb'] < 200
    assert list(figures['parts_ms']) == [
        'LoadRGBImage', 'PairedViews', 'BlockwiseMask', 'PackInputs'
    ]  # fmt: skip
    assert len(figures['yardstick_parts_ms']) == 9


def test_yardstick_is_the_whole_recipe(tmp_path: Path) -> None:
    path = tmp_path / 'red.png'
    Image.new('RGB', (50, 40), (255, 0, 0)).save(path)
    yardstick = PillowPairPipeline()
    yardstick.colour = yardstick.solarize = lambda image: image
    online, target, mask = yardstick(str(path))
    red = torch.tensor([0.515 / 0.229, -0.456 / 0.224, -0.406 / 0.225])
    for view in (online, target):
        assert view.shape == (3, 224, 224)
        assert torch.allclose(view, red[:, None, None].expand_as(view))
    assert mask.sum() == 118


@pytest.mark.parametrize('colour', [(255, 0, 0), (10, 200, 40)])
def test_many_crops_are_the_same_recipe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, colour: tuple
) -> None:
    monkeypatch.setenv('SIMIM_SCALE', 'demo')
    path = tmp_path / 'plain.png'
    Image.new('RGB', (150, 140), colour).save(path)
    ours, yardstick = CropPipeline(), PillowCropPipeline()
    for crop in ours.transforms[1].crops:
        crop.colours = lambda results: results
    yardstick.colour = lambda image: image
    yardstick.crops = [(*crop[:2], 1.0, 0.0) for crop in yardstick.crops]
    views = ours(str(path))['inputs']
    theirs = yardstick(str(path))
    sizes = [224] * 2 + [96] * 10
    assert [view.shape for view in views] == [(3, s, s) for s in sizes]
    for mine, other in zip(views, theirs, strict=True):
        assert torch.allclose(mine / 255, other, atol=1e-6)
    figures = measure_multi_crop(tmp_path, rounds=1)
    assert figures['images'] == 1
    spent, theirs = figures['ms_an_image'], figures['yardstick_ms_an_image']
    assert figures['ratio'] == pytest.approx(theirs / spent)

"""Results are drawn on pictures as the models read them."""

import io
from types import SimpleNamespace

import numpy as np
import pytest
import tifffile
from mmdet.apis import DetInferencer
from mmengine.dataset import Compose
from mmpretrain import ImageClassificationInferencer
from mmseg.apis import MMSegInferencer

import simim_plugin.detection
import simim_plugin.segmentation  # noqa: F401
from simim_plugin.datasets import LoadRGBImage
from simim_plugin.detection import SiameseIMViTDet
from simim_plugin.detection.hooks import PNGVisualizationHook
from simim_plugin.pictures import decode_to_draw

from .drawing import encode, noise

RGB = noise()
TURNED = np.rot90(RGB, -1)


class Recorder:
    """A visualizer that keeps the images it is given."""

    def __init__(self) -> None:
        self.drawn: list[np.ndarray] = []

    def visualize_cls(self, image, *_, **__) -> None:
        self.drawn.append(image)

    def add_datasample(self, name, image, *_, **__) -> None:
        self.drawn.append(image)

    def set_dataset_meta(self, **_) -> None: ...

    def get_image(self) -> None: ...


def tiff(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, pixels, photometric='minisblack')
    return file.getvalue()


def drawn_by(kind, images, folder) -> list[np.ndarray]:
    inferencer = object.__new__(kind)
    inferencer.visualizer = Recorder()
    inferencer.num_visualized_imgs = 0
    inferencer.classes = inferencer.pipeline = None
    inferencer.model = SimpleNamespace(
        backbone=object.__new__(SiameseIMViTDet), dataset_meta={}
    )
    where = dict(img_out_dir=str(folder))
    if kind is ImageClassificationInferencer:
        inferencer.pipeline = Compose([LoadRGBImage()])
        where = dict(show_dir=str(folder))
    inferencer.visualize(images, [None] * len(images), **where)
    return inferencer.visualizer.drawn


@pytest.mark.parametrize(
    'kind', [DetInferencer, MMSegInferencer, ImageClassificationInferencer]
)
def test_inferencers(kind, tmp_path):
    files = {
        'turned.png': (encode(RGB, 'PNG', tag=6), TURNED),
        'turned.webp': (encode(RGB, 'WEBP', tag=6, lossless=True), TURNED),
        'moving.gif': (encode(RGB[..., 0], 'GIF'), RGB[..., [0, 0, 0]]),
        'wave.jp2': (encode(RGB, 'JPEG2000'), RGB),
    }
    for name, (data, _) in files.items():
        (tmp_path / name).write_bytes(data)
    names = [str(tmp_path / name) for name in files]
    right = [pixels for _, pixels in files.values()]
    alpha = np.dstack([RGB[..., ::-1], np.zeros(RGB.shape[:2], np.uint8)])
    arrays = [RGB[..., ::-1].copy(), RGB[..., 0].copy(), alpha]
    right += [RGB, RGB[..., [0, 0, 0]], RGB]
    found = drawn_by(kind, [*names, *arrays], tmp_path / 'out')
    assert len(found) == len(right)
    for image, expected in zip(found, right, strict=True):
        assert image.shape == expected.shape
        assert abs(image.astype(int) - expected).max() <= 2


def test_an_array_of_a_stock_model_is_left(tmp_path):
    inferencer = object.__new__(DetInferencer)
    inferencer.visualizer = Recorder()
    inferencer.num_visualized_imgs = 0
    inferencer.model = SimpleNamespace(backbone=object())
    inferencer.visualize([RGB], [None], img_out_dir=str(tmp_path))
    assert np.array_equal(inferencer.visualizer.drawn[0], RGB)


@pytest.mark.parametrize(
    'mode', ['val', 'test', 'test in folder'], ids=lambda mode: mode
)
def test_hook_of_detection(mode, tmp_path, monkeypatch):
    """A picture with an EXIF turn whose boxes are of the stored pixels."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'a.png').write_bytes(encode(RGB, 'PNG', tag=6))
    hook = object.__new__(PNGVisualizationHook)
    hook.__dict__.update(
        draw=True,
        interval=1,
        show=False,
        wait_time=0,
        score_thr=0.3,
        backend_args=None,
        _test_index=0,
        _visualizer=Recorder(),
        test_out_dir='out' if mode.endswith('folder') else None,
    )
    sample = SimpleNamespace(
        img_path=str(tmp_path / 'a.png'),
        ori_shape=RGB.shape[:2],
        get=lambda name, default: default,
    )
    runner = SimpleNamespace(iter=0, work_dir='w', timestamp='now')
    step = hook.after_val_iter if mode == 'val' else hook.after_test_iter
    step(runner, 0, {}, [sample])
    assert np.array_equal(hook._visualizer.drawn[0], RGB)


def test_levels_and_channels_that_need_a_window():
    draw = np.random.default_rng(0)
    signed = draw.integers(-1000, 2000, (20, 30), np.int32)
    shown = decode_to_draw(encode(signed, 'TIFF'))
    assert shown.shape == (20, 30, 3)
    assert shown.std() > 60
    bands = draw.integers(0, 256, (7, 20, 30), np.uint8)
    shown = decode_to_draw(tiff(bands))
    assert np.array_equal(shown, bands[:3].transpose(1, 2, 0))
    shown = decode_to_draw(tiff(bands[:2]))
    assert np.array_equal(shown[..., 2], bands[0])

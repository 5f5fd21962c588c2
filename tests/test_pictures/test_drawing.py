"""Results are drawn on pictures as the models read them."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmdet.apis import DetInferencer
from mmdet.structures import DetDataSample
from mmengine.dataset import Compose
from mmengine.structures import InstanceData
from mmpretrain import FeatureExtractor, ImageClassificationInferencer
from mmseg.apis import MMSegInferencer

import simim_plugin.detection
import simim_plugin.segmentation  # noqa: F401
from simim_plugin.datasets import LoadRGBImage
from simim_plugin.detection import SiameseIMViTDet
from simim_plugin.detection.hooks import PNGVisualizationHook
from simim_plugin.errors import SimimError
from simim_plugin.pictures import decode_to_draw

from .drawing import encode, noise, tiff

RGB = noise()
TURNED = np.rot90(RGB, -1)
CLASSIFIERS = [FeatureExtractor, ImageClassificationInferencer]
DRAWING = [DetInferencer, MMSegInferencer, ImageClassificationInferencer]


class Recorder:
    """A visualizer that keeps the images it is given."""

    def __init__(self) -> None:
        self.drawn: list[np.ndarray] = []
        self.files: list[str] = []

    def visualize_cls(self, image, *_, out_file=None, **__) -> None:
        self.drawn.append(image)
        self.files.append(out_file)

    def add_datasample(self, name, image, *_, out_file=None, **__) -> None:
        self.visualize_cls(image, out_file=out_file)

    def set_dataset_meta(self, **_) -> None: ...

    def get_image(self) -> None: ...


def bare(kind, ours=True):
    """Return an inferencer without weights."""
    inferencer = object.__new__(kind)
    inferencer.visualizer = Recorder()
    inferencer.num_visualized_imgs = 0
    inferencer.classes = inferencer.pipeline = None
    inferencer.model = SimpleNamespace(
        backbone=object.__new__(SiameseIMViTDet) if ours else None,
        dataset_meta={},
    )
    if ours and kind in CLASSIFIERS:
        inferencer.pipeline = Compose([LoadRGBImage()])
    return inferencer


def drawn_by(kind, images, folder) -> Recorder:
    inferencer = bare(kind)
    name = 'show_dir' if kind in CLASSIFIERS else 'img_out_dir'
    images = inferencer._inputs_to_list(images)
    inferencer.visualize(images, [None] * len(images), **{name: str(folder)})
    return inferencer.visualizer


@pytest.mark.parametrize('kind', DRAWING)
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
    found = drawn_by(kind, [*names, *arrays], tmp_path / 'out').drawn
    assert len(found) == len(right)
    for image, expected in zip(found, right, strict=True):
        assert image.shape == expected.shape
        assert abs(image.astype(int) - expected).max() <= 2


@pytest.fixture
def album(tmp_path):
    """A folder with what people have beside JPEG files."""
    for name in ('left/0.PNG', 'right/0.png', 'a.gif', 'v.2.jfif', 'x.jp2'):
        file = tmp_path / 'album' / name
        file.parent.mkdir(parents=True, exist_ok=True)
        kind = dict(jfif='JPEG', jp2='JPEG2000', gif='GIF').get(
            name.rpartition('.')[2], 'PNG'
        )
        file.write_bytes(encode(RGB, kind))
    for name in ('notes.txt', '.hidden.png', '__MACOSX/0.png'):
        file = tmp_path / 'album' / name
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(b'')
    return tmp_path / 'album'


@pytest.mark.parametrize('kind', [*DRAWING, FeatureExtractor])
def test_folders(kind, album, tmp_path, monkeypatch):
    """The files of all our formats, sorted; the others are counted."""
    wanted = ['a.gif', 'left/0.PNG', 'right/0.png', 'v.2.jfif', 'x.jp2']
    wanted = [str(album / name) for name in wanted]
    lines: list[str] = []
    monkeypatch.setattr(
        'simim_plugin.pictures.walking.print_log',
        lambda line, logger: lines.append(line),
    )
    inferencer = bare(kind)
    for given in (str(album), album, [album], (str(album),)):
        assert inferencer._inputs_to_list(given) == wanted
    assert lines[0].startswith('Found 5 images')
    assert lines[0].endswith('left 1 other file (1 .txt).')
    assert inferencer._inputs_to_list(album / 'a.gif') == wanted[:1]
    (tmp_path / 'none').mkdir()
    with pytest.raises(SimimError, match='There is no picture'):
        inferencer._inputs_to_list(str(tmp_path / 'none'))


def test_folders_of_stock_models_are_left(album):
    found = bare(MMSegInferencer, ours=False)._inputs_to_list(str(album))
    assert str(album / 'notes.txt') in found


@pytest.mark.parametrize('kind', DRAWING)
def test_no_picture_replaces_another(kind, album, tmp_path):
    out = tmp_path / 'out'
    found = drawn_by(kind, [album, RGB], out).files
    if kind is ImageClassificationInferencer:
        names = ['a', 'left/0.PNG', 'right/0.png', 'v.2', 'x', '5']
        assert found == [f'{out}/{name}.png' for name in names]
        return
    names = ['a.gif.png', 'left/0.PNG', 'right/0.png', 'v.2.jfif.png']
    below = f'{out}/vis' if kind is DetInferencer else str(out)
    assert found[:-1] == [f'{below}/{name}' for name in [*names, 'x.jp2']]
    assert '00000005' in found[-1]


def test_no_prediction_replaces_another(album, tmp_path):
    inferencer = bare(DetInferencer)
    files = inferencer._inputs_to_list(album)
    for file in files:
        boxes = InstanceData(
            labels=torch.zeros(1),
            scores=torch.ones(1),
            bboxes=torch.ones(1, 4),
        )
        sample = DetDataSample(metainfo=dict(img_path=file))
        sample.pred_instances = boxes
        kept = inferencer.pred2dict(sample, str(tmp_path / 'out'))
        assert kept['bboxes'] == [[1] * 4]
        assert sample.img_path == file
    names = ['a', 'left/0.PNG', 'right/0.png', 'v.2', 'x']
    for name in names:
        file = tmp_path / f'out/preds/{name}.json'
        assert json.loads(file.read_text()) == kept


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
    shown = decode_to_draw(tiff(bands, photometric='minisblack'))
    assert np.array_equal(shown, bands[:3].transpose(1, 2, 0))
    shown = decode_to_draw(tiff(bands[:2], photometric='minisblack'))
    assert np.array_equal(shown[..., 2], bands[0])

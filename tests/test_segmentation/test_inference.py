"""MMSegmentation's functions for inference, with what a run of ours wrote."""

import shutil
from pathlib import Path

import mmcv
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.structures import PixelData
from mmseg.apis import MMSegInferencer, inference_model, init_model
from mmseg.registry import DATASETS
from mmseg.structures import SegDataSample
from PIL import Image

from simim_plugin import config_path, inference
from simim_plugin.checkpoint import CheckpointError

from ..short_run import files_of, train_two_steps
from ..test_checkpoint.helpers import Malicious
from .test_label_maps import CLASSES, UPERNET, make


@pytest.fixture(scope='module')
def run(tmp_path_factory) -> Path:
    """A run of two steps, whose encoder is gone."""
    folder = tmp_path_factory.mktemp('run')
    root = make(folder / 'data', count=4)
    loader = dict(
        num_workers=0,
        persistent_workers=False,
        dataset=dict(
            data_root=str(root),
            img_suffix='.png',
            reduce_zero_label=False,
            data_prefix=dict(img_path='images', seg_map_path='maps'),
            metainfo=dict(classes=CLASSES),
        ),
    )
    head = dict(num_classes=2)
    return train_two_steps(
        folder,
        config_path(UPERNET),
        train_dataloader=dict(loader, batch_size=2),
        val_dataloader=loader,
        test_dataloader=loader,
        model=dict(decode_head=head, auxiliary_head=head),
        default_hooks=dict(checkpoint=dict(interval=2)),
    )


@pytest.fixture
def paths(run, tmp_path, monkeypatch) -> tuple[str, str, list[str]]:
    """Config, checkpoint and images, seen from another folder."""
    monkeypatch.chdir(tmp_path)
    return files_of(run)


@pytest.fixture
def expected(paths) -> list[np.ndarray]:
    """Label maps of the images as a test computes them, (H, W)."""
    config, weights, _ = paths
    model = init_model(config, weights, device='cpu')
    dataset = DATASETS.build(Config.fromfile(config).test_dataloader.dataset)
    found = []
    for k in range(len(dataset)):
        with torch.no_grad():
            (sample,) = model.test_step(pseudo_collate([dataset[k]]))
        found.append(sample.pred_sem_seg.data[0].numpy())
    return found


def test_inference_model(paths, expected):
    """A file, an array, then files again, and lists."""
    config, weights, files = paths
    model = init_model(config, weights, device='cpu')
    assert tuple(model.dataset_meta['classes']) == CLASSES
    arrays = [mmcv.imread(file) for file in files]
    for given, wanted in zip(
        [files[0], arrays[1], files[2]], expected, strict=False
    ):
        got = inference_model(model, given).pred_sem_seg.data[0]
        assert np.array_equal(got.numpy(), wanted)
    mixed = [files[0], arrays[1], *files[2:]]
    for given in (files, arrays, mixed, [arrays[0], *files[1:]]):
        got = inference_model(model, given)
        for sample, wanted in zip(got, expected, strict=True):
            assert np.array_equal(sample.pred_sem_seg.data[0], wanted)


def test_inferencer(paths, expected, tmp_path):
    config, weights, files = paths
    inferencer = MMSegInferencer(
        config, weights=weights, device='cpu', show_progress=False
    )
    arrays = [mmcv.imread(file) for file in files]
    for given in (files[0], arrays[0]):
        found = inferencer(given)['predictions']
        assert np.array_equal(found, expected[0])
    for given in (files, arrays):
        for batch in (1, 2):
            found = inferencer(given, batch_size=batch)['predictions']
            assert np.array_equal(found, expected)
    folder = str(Path(files[0]).parent)
    assert len(inferencer(folder)['predictions']) == 4
    out = tmp_path / 'out'
    inferencer([*files, arrays[0]], out_dir=str(out))
    assert len([*(out / 'pred').iterdir()]) == 5
    for file, wanted in zip(files, expected, strict=True):
        drawn = Image.open(out / 'vis' / Path(file).name)
        assert drawn.size == Image.open(file).size
        labels = Image.open(out / 'pred' / f'{Path(file).stem}.png')
        assert np.array_equal(labels, wanted)
    (number,) = (out / 'pred').glob('*_pred.png')  # of the array
    assert np.array_equal(Image.open(number), expected[0])


def test_label_maps_of_two_folders(paths, expected, tmp_path):
    """None replaces another, with samples as results, too."""
    config, weights, files = paths
    for name, file in zip('ab', files, strict=False):
        (tmp_path / name).mkdir()
        shutil.copy(file, tmp_path / name / '0.png')
    inferencer = MMSegInferencer(
        config, weights=weights, device='cpu', show_progress=False
    )
    given = [str(tmp_path / name / '0.png') for name in 'ab']
    out = tmp_path / 'out'
    found = inferencer(given, out_dir=str(out), return_datasamples=True)
    assert len(found) == 2
    for name, wanted in zip('ab', expected, strict=False):
        labels = Image.open(out / 'pred' / name / '0.png.png')
        assert np.array_equal(labels, wanted)


def test_classes_beyond_255_are_written(paths, tmp_path, monkeypatch):
    config, weights, _ = paths
    inferencer = MMSegInferencer(
        config, weights=weights, device='cpu', show_progress=False
    )
    labels = torch.tensor([[[0, 255, 256, 299]]])
    samples = [SegDataSample(pred_sem_seg=PixelData(data=labels))]
    for ours, wanted in ((True, [0, 255, 256, 299]), (False, None)):
        monkeypatch.setattr(inference, 'is_ours', lambda _, ours=ours: ours)
        out = str(tmp_path / f'{ours}')
        found = inferencer.postprocess(samples, None, pred_out_dir=out)
        assert found['predictions'].tolist() == labels[0].tolist()
        (written,) = Path(out).iterdir()
        with Image.open(written) as image:
            if ours:
                assert np.asarray(image).tolist() == [wanted]
            else:  # a model of another package stays with MMSegmentation
                assert image.mode == 'L'
    small = [SegDataSample(pred_sem_seg=PixelData(data=labels % 255))]
    monkeypatch.setattr(inference, 'is_ours', lambda _: True)
    inferencer.postprocess(small, None, pred_out_dir=str(tmp_path / 'small'))
    (written,) = (tmp_path / 'small').iterdir()
    with Image.open(written) as image:
        assert image.mode == 'L'


def test_pictures_of_arrays_have_their_colours(paths):
    config, weights, files = paths
    inferencer = MMSegInferencer(
        config, weights=weights, device='cpu', show_progress=False
    )
    drawn = [
        inferencer(given, return_vis=True, with_labels=False)['visualization']
        for given in (files[0], mmcv.imread(files[0]))
    ]
    assert np.array_equal(*drawn)


def test_images_of_several_sizes(paths, tmp_path):
    """In a list each has the label map of its own size."""
    config, weights, files = paths
    image = Image.open(files[0])
    sizes = [(64, 64), (90, 50), (40, 70)]
    for k, size in enumerate(sizes):
        image.resize(size).save(tmp_path / f'{k}.png')
    given = [str(tmp_path / f'{k}.png') for k in range(3)]
    model = init_model(config, weights, device='cpu')
    inferencer = MMSegInferencer(
        config, weights=weights, device='cpu', show_progress=False
    )
    found = inferencer(given)['predictions']
    for file, labels, size in zip(given, found, sizes, strict=True):
        assert labels.shape == size[::-1]
        one = inference_model(model, file).pred_sem_seg.data[0]
        assert np.array_equal(one, labels)


def test_one_scale_for_inference():
    """The config with six scales keeps its pipeline of one."""
    name = 'siamese_im_vit-base-p16_upernet-8xb2-amp-160k_ade20k-512x512'
    single, several = (
        Config.fromfile(config_path(f'{name}{end}.py')) for end in ('', '-ms')
    )
    assert several.test_pipeline == single.test_pipeline
    assert single.test_dataloader.dataset.pipeline == single.test_pipeline


def test_files_are_never_unpickled(paths, tmp_path):
    config, weights, _ = paths
    witness, file = tmp_path / 'witness', str(tmp_path / 'evil.pth')
    torch.save(dict(state_dict={'x': Malicious(witness)}), file)
    for load in (init_model, MMSegInferencer):
        with pytest.raises(CheckpointError, match='may run code'):
            load(config, file, device='cpu')
    assert not witness.exists()
    content = torch.load(weights, weights_only=False)
    del content['state_dict']['decode_head.conv_seg.weight']
    torch.save(content, file)
    for load in (init_model, MMSegInferencer):
        with pytest.raises(CheckpointError, match=r'missing.*conv_seg'):
            load(config, file, device='cpu')

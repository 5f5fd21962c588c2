"""MMDetection's functions for inference, with what a run of ours wrote."""

from pathlib import Path

import mmcv
import numpy as np
import pytest
import torch
from mmdet.apis import DetInferencer, inference_detector, init_detector
from mmdet.registry import DATASETS
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from PIL import Image

from simim_plugin.checkpoint import CheckpointError
from simim_plugin.recipes import report

from ..short_run import files_of, train_two_steps
from ..test_checkpoint.helpers import Malicious
from . import DEMO
from .test_annotations import CLASSES, make


@pytest.fixture(scope='module')
def run(tmp_path_factory) -> Path:
    """A run of two steps, whose folder of encoders is gone."""
    folder = tmp_path_factory.mktemp('run')
    root = make(folder / 'data')
    loader = dict(
        num_workers=0,
        persistent_workers=False,
        dataset=dict(
            data_root=str(root),
            ann_file='all.json',
            data_prefix=dict(img='images/'),
            metainfo=dict(classes=CLASSES),
        ),
    )
    heads = dict(bbox_head=dict(num_classes=2), mask_head=dict(num_classes=2))
    quick = dict(rpn=dict(max_per_img=30), rcnn=dict(max_per_img=8))
    return train_two_steps(
        folder,
        DEMO,
        train_dataloader=loader,
        val_dataloader=loader,
        test_dataloader=loader,
        val_evaluator=dict(ann_file=str(root / 'all.json')),
        test_evaluator=dict(ann_file=str(root / 'all.json')),
        model=dict(roi_head=heads, test_cfg=quick),
    )


@pytest.fixture
def paths(run, tmp_path, monkeypatch) -> tuple[str, str, list[str]]:
    """Config, checkpoint and images, seen from another folder."""
    monkeypatch.chdir(tmp_path)
    return files_of(run)


@pytest.fixture
def expected(paths) -> list[dict]:
    """Predictions of the images as a test computes them."""
    config, weights, _ = paths
    model = init_detector(config, weights, device='cpu')
    settings = Config.fromfile(config).test_dataloader.dataset
    dataset = DATASETS.build(settings)
    found = []
    for k in range(len(dataset)):
        with torch.no_grad():
            (sample,) = model.test_step(pseudo_collate([dataset[k]]))
        found.append(sample.pred_instances)
    assert all(len(sample) for sample in found)
    return found


def test_inference_detector(paths, expected):
    """A file, an array, then files again, and lists."""
    config, weights, files = paths
    model = init_detector(config, weights, device='cpu')
    assert model.dataset_meta['classes'] == CLASSES
    arrays = [mmcv.imread(file) for file in files]
    for given, wanted in zip(
        [files[0], arrays[1], files[2]], expected, strict=False
    ):
        got = inference_detector(model, given).pred_instances
        torch.testing.assert_close(got.bboxes, wanted.bboxes)
        assert torch.equal(got.labels, wanted.labels)
        assert torch.equal(got.masks, wanted.masks)
    mixed = [files[0], arrays[1], *files[2:]]
    for given in (files, arrays, mixed, [arrays[0], *files[1:]]):
        got = inference_detector(model, given)
        assert len(got) == len(expected)
        for sample, wanted in zip(got, expected, strict=True):
            torch.testing.assert_close(
                sample.pred_instances.bboxes, wanted.bboxes
            )


def test_inferencer(paths, expected, tmp_path):
    config, weights, files = paths
    inferencer = DetInferencer(
        config, weights, device='cpu', show_progress=False
    )
    arrays = [mmcv.imread(file) for file in files]
    folder = str(Path(files[0]).parent)
    for given in (files[0], arrays[0], files, arrays, folder):
        found = inferencer(given, no_save_vis=True)['predictions']
        assert len(found) == (
            1 if given is files[0] or given is arrays[0] else 4
        )
        for sample, wanted in zip(found, expected, strict=False):
            np.testing.assert_allclose(
                sample['bboxes'], wanted.bboxes, atol=1e-3
            )
            np.testing.assert_allclose(
                sample['scores'], wanted.scores, atol=1e-5
            )
            assert sample['labels'] == wanted.labels.tolist()
            assert len(sample['masks']) == len(wanted)
    out = str(tmp_path / 'out')
    inferencer([*files[:2], arrays[0]], out_dir=out, no_save_pred=False)
    assert Path(out, 'preds/0.json').is_file()
    for file in files[:2]:
        drawn = Path(out, 'vis', Path(file).name)
        assert Image.open(drawn).size == Image.open(file).size
        assert Path(out, 'preds', f'{Path(file).stem}.json').is_file()


def test_a_report_of_the_first_images(paths, tmp_path):
    """Without a file of its own the metric takes the objects of the set."""
    config, weights, _ = paths
    given = Config.fromfile(config)
    given.test_dataloader.dataset.indices = 2
    given.test_evaluator.ann_file = None
    given.dump(tmp_path / 'first.py')
    tested = report.run_test(tmp_path / 'first.py', Path(weights))
    assert [*tested.curves] == [*CLASSES]
    assert 'coco/bbox_mAP' in tested.metrics


def test_pictures_of_arrays_have_their_colours(paths):
    config, weights, files = paths
    inferencer = DetInferencer(
        config, weights, device='cpu', show_progress=False
    )
    drawn = [
        inferencer(given, return_vis=True, pred_score_thr=0.9)['visualization']
        for given in (files[0], mmcv.imread(files[0]))
    ]
    assert np.array_equal(*drawn)
    assert np.array_equal(drawn[0][0], mmcv.imread(files[0])[..., ::-1])


def test_files_are_never_unpickled(paths, tmp_path):
    config, weights, _ = paths
    witness, file = tmp_path / 'witness', str(tmp_path / 'evil.pth')
    torch.save(dict(state_dict={'x': Malicious(witness)}), file)
    for load in (init_detector, DetInferencer):
        with pytest.raises(CheckpointError, match='may run code'):
            load(config, file, device='cpu')
    assert not witness.exists()
    content = torch.load(weights, weights_only=False)
    del content['state_dict']['roi_head.bbox_head.fc_cls.weight']
    torch.save(content, file)
    for load in (init_detector, DetInferencer):
        with pytest.raises(CheckpointError, match=r'missing.*fc_cls'):
            load(config, file, device='cpu')

"""Whole models as ONNX graphs that compute what PyTorch does."""

import json

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

from simim_plugin import config_path
from simim_plugin.commands import convert as command
from simim_plugin.prediction import onnx_export

from .conftest import (
    CIFAR,
    FINETUNED,
    LINEAR,
    SEG_LINEAR,
    UPERNET,
    VITDET,
    names_of,
)


def convert(config, weights, out, *words) -> None:
    argv = [weights, str(out), '--to', 'onnx', '--config', str(config)]
    command.main([*argv, *words])


def metadata(file) -> dict[str, str]:
    model = onnx.load(str(file))
    return {entry.key: entry.value for entry in model.metadata_props}


def refused(capsys, *args) -> str:
    with pytest.raises(SystemExit) as end:
        convert(*args)
    assert end.value.code == 1
    message = capsys.readouterr().err
    assert message.count('\n') == 1
    return message


@pytest.mark.parametrize(
    ('name', 'task', 'classes', 'size'),
    [
        (FINETUNED, 'classification', 8, 64),
        (LINEAR, 'classification', 8, 64),
        (CIFAR[0], 'classification', 10, 32),
        (CIFAR[1], 'classification', 10, 32),
        (UPERNET, 'segmentation', 14, 64),
        (SEG_LINEAR, 'segmentation', 14, 64),
    ],
    ids=['ft', 'linear', 'cifar-ft', 'cifar-linear', 'upernet', 'seg-linear'],
)
def test_any_batch(name, task, classes, size, checkpoint, tmp_path, capsys):
    """The file takes levels, has any batch size and says how to use it."""
    out = tmp_path / 'graph.onnx'
    convert(name, checkpoint(name), out)
    message = capsys.readouterr().out
    assert 'on 3 pictures of 2 sizes' in message
    about = metadata(out)
    assert about['task'] == task
    assert json.loads(about['classes']) == [*names_of(classes)]
    assert json.loads(about['mean']) == [123.675, 116.28, 103.53]
    assert 'levels 0 to 255' in about['input']
    session = onnxruntime.InferenceSession(str(out))
    draw = np.random.default_rng(0)
    images = draw.uniform(0, 255, (5, 3, size, size)).astype(np.float32)
    (every,) = session.run(None, dict(images=images))
    assert every.shape[:2] == (5, classes)
    if task == 'classification':
        np.testing.assert_allclose(every.sum(1), 1, atol=1e-5)
    (one,) = session.run(None, dict(images=images[3:4]))
    np.testing.assert_allclose(one[0], every[3], atol=1e-4)
    assert [*tmp_path.iterdir()] == [out]


def test_objects(checkpoint, tmp_path, capsys):
    config, out = tmp_path / 'mine.py', tmp_path / 'graph.onnx'
    config.write_text(
        f'_base_ = {config_path(VITDET)!r}\n'
        'model = dict(test_cfg=dict(rcnn=dict(score_thr=0.001)))'
    )
    convert(config, checkpoint(VITDET), out)
    message = capsys.readouterr().out
    assert 'objects are the same' in message and 'of each mask' in message
    assert ' 0 objects' not in message
    session = onnxruntime.InferenceSession(str(out))
    names = [node.name for node in session.get_outputs()]
    assert names == ['boxes', 'scores', 'labels', 'masks']
    size = np.array([40, 64], np.float32)
    images = np.full((1, 3, 64, 64), 120, np.float32)
    boxes, scores, labels, masks = session.run(
        None, dict(images=images, size=size)
    )
    assert len(boxes) == len(scores) == len(labels) == len(masks) > 0
    assert boxes.min() >= 0 and boxes[:, 3].max() <= 40
    assert masks.min() >= 0 and masks.max() <= 1


def test_boxes_that_are_none(checkpoint, tmp_path, capsys):
    """A detector without masks, in pictures without an object."""
    config, out = tmp_path / 'mine.py', tmp_path / 'graph.onnx'
    config.write_text(
        f'_base_ = {config_path(VITDET)!r}\n'
        "model = dict(type='FasterRCNN', roi_head=dict(\n"
        '    mask_roi_extractor=None, mask_head=None),\n'
        '    test_cfg=dict(rcnn=dict(score_thr=1.0)))'
    )
    content = torch.load(checkpoint(VITDET))
    state = content['state_dict']
    for key in [key for key in state if 'mask_head' in key]:
        del state[key]
    torch.save(content, tmp_path / 'boxes.pth')
    convert(config, str(tmp_path / 'boxes.pth'), out)
    message = capsys.readouterr().out
    assert ' 0 objects' in message and 'of each mask' not in message
    session = onnxruntime.InferenceSession(str(out))
    feed = dict(
        images=np.zeros((1, 3, 64, 64), np.float32),
        size=np.array([64, 64], np.float32),
    )
    found = session.run(None, feed)
    assert [len(part) for part in found] == [0, 0, 0]


def test_other_values_are_not_written(
    checkpoint, tmp_path, capsys, monkeypatch
):
    """Weights that change before the file is written are noticed."""
    stock = onnx_export._write

    def changed(graph, *args):
        kept = graph.mean.clone()
        graph.mean += 9
        stock(graph, *args)
        graph.mean.copy_(kept)

    monkeypatch.setattr(onnx_export, '_write', changed)
    out = tmp_path / 'graph.onnx'
    for name in (FINETUNED, SEG_LINEAR):
        message = refused(capsys, name, checkpoint(name), out)
        assert 'Nothing was written' in message
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize(
    ('base', 'line', 'words'),
    [
        (
            VITDET,
            'model = dict(data_preprocessor=dict(pad_size_divisor=8))',
            'set pad_size_divisor',
        ),
        (
            FINETUNED,
            'test_dataloader = dict(dataset=dict(pipeline=['
            '{{_base_.load}}, {{_base_.pack}}]))',
            'let its test pipeline resize',
        ),
        (
            VITDET,
            'model = dict(test_cfg=dict(rcnn=dict(nms=dict('
            "type='soft_nms'))))",
            'another suppression of boxes',
        ),
        (
            UPERNET,
            "model = dict(test_cfg=dict(mode='whole'))",
            "mode='slide'",
        ),
    ],
    ids=['canvas', 'sizes', 'soft-nms', 'whole'],
)
def test_no_graph(base, line, words, checkpoint, tmp_path, capsys):
    config = tmp_path / 'mine.py'
    config.write_text(f'_base_ = {config_path(base)!r}\n{line}')
    out = tmp_path / 'graph.onnx'
    assert words in refused(capsys, config, checkpoint(base), out)
    assert not out.exists()


def test_the_rule_of_one_channel_is_stated(tmp_path, capsys):
    config = tmp_path / 'one.py'
    config.write_text(
        f'_base_ = {config_path(SEG_LINEAR)!r}\n'
        'model = dict(decode_head=dict(num_classes=2, out_channels=1, '
        'threshold=0.3, loss_decode=dict(use_sigmoid=True)))'
    )
    init_default_scope('mmseg')
    model = MODELS.build(Config.fromfile(config).model)
    meta = dict(dataset_meta=dict(classes=('ground', 'disc')))
    weights = tmp_path / 'one.pth'
    torch.save(dict(meta=meta, state_dict=model.state_dict()), weights)
    out = tmp_path / 'graph.onnx'
    convert(config, str(weights), out)
    assert (
        'class 1 where their sigmoid is above 0.3' in metadata(out)['output']
    )


@pytest.mark.parametrize(
    ('line', 'words'),
    [
        ('model = dict(head=dict(num_clases=2))', 'did you mean num_classes'),
        ('model = dict(head=', 'was never closed'),
        ('model = dict(_delete_=True)', 'has no model'),
    ],
    ids=['name', 'syntax', 'none'],
)
def test_a_wrong_config_is_one_sentence(
    line, words, checkpoint, tmp_path, capsys
):
    config, weights = tmp_path / 'mine.py', checkpoint(FINETUNED)
    base = (
        '' if line.endswith('None') else f'_base_ = {config_path(FINETUNED)!r}'
    )
    config.write_text(f'{base}\n{line if base else "lr = 1"}')
    message = refused(capsys, config, weights, tmp_path / 'graph.onnx')
    assert words in message


def test_refused_words(checkpoint, tmp_path, capsys):
    out, weights = tmp_path / 'graph.onnx', checkpoint(FINETUNED)
    message = refused(capsys, FINETUNED, weights, out, '--branch', 'target')
    assert '--branch' in message
    out.touch()
    assert 'exists' in refused(capsys, FINETUNED, weights, out)
    assert out.stat().st_size == 0


@pytest.mark.parametrize('sizes', [(7, 3), (16, 6), (5, 5), (9, 1)], ids=str)
def test_pools(sizes):
    """The pools of the graph are those of torch."""
    have, want = sizes
    x = torch.randn(2, 3, have, have + 2)
    stock = torch.nn.AdaptiveAvgPool2d((want, None))
    ours = onnx_export._ExactPool((want, None))
    torch.testing.assert_close(ours(x), stock(x))

"""Stock detectors and segmentors: loss, gradient and prediction."""

from __future__ import annotations

from pathlib import Path

import mmdet
import mmseg
import pytest
import torch
from mmdet.testing import demo_mm_inputs
from mmengine.config import Config, ConfigDict
from mmengine.registry import DefaultScope
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample

DETECTORS = {
    'Faster R-CNN': 'faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py',
    'Mask R-CNN': 'mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py',
    'Cascade R-CNN': 'cascade_rcnn/cascade-rcnn_r50_fpn_1x_coco.py',
    'Cascade Mask R-CNN': 'cascade_rcnn/cascade-mask-rcnn_r50_fpn_1x_coco.py',
    'RetinaNet': 'retinanet/retinanet_r50_fpn_1x_coco.py',
    'FCOS': 'fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py',
    'ATSS': 'atss/atss_r50_fpn_1x_coco.py',
    'RTMDet': 'rtmdet/rtmdet_tiny_8xb32-300e_coco.py',
    'RTMDet-Ins': 'rtmdet/rtmdet-ins_tiny_8xb32-300e_coco.py',
    'Deformable DETR': 'deformable_detr/deformable-detr_r50_16xb2-50e_coco.py',
    'DINO': 'dino/dino-4scale_r50_8xb2-12e_coco.py',
    'Mask2Former': 'mask2former/mask2former_r50_8xb2-lsj-50e_coco.py',
    'Soft-NMS': 'faster_rcnn/faster-rcnn_r50_fpn_soft-nms_1x_coco.py',
    'DCN': 'dcn/faster-rcnn_r50-dconv-c3-c5_fpn_1x_coco.py',
    'DCNv2': 'dcnv2/faster-rcnn_r50-mdconv-c3-c5_fpn_1x_coco.py',
    'PISA': 'pisa/faster-rcnn_r50_fpn_pisa_1x_coco.py',
}
SEGMENTORS = {
    'UPerNet': 'upernet/upernet_r18_4xb4-80k_ade20k-512x512.py',
    'SegFormer': 'segformer/segformer_mit-b0_8xb2-160k_ade20k-512x512.py',
    'Mask2Former': 'mask2former/mask2former_r50_8xb2-160k_ade20k-512x512.py',
}
SIZE = 64, 96
SMALLER = dict(
    channels=64,
    conv_out_channels=16,
    fc_out_channels=64,
    num_layers=1,
    num_queries=20,
    max_per_img=20,
    nms_pre=50,
    score_thr=0.0,  # boxes must be ranked and suppressed
)


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def model_of(package, name: str) -> ConfigDict:
    """Return the model of a stock config, smaller and without weights."""
    configs = Path(package.__file__).parent / '.mim' / 'configs'
    model = Config.fromfile(configs / name).model
    model.backbone.pop('init_cfg', None)
    model.pop('pretrained', None)
    shrink(model)
    return model


def shrink(part) -> None:
    """Reduce the sizes in a config, at any depth."""
    if isinstance(part, dict):
        if part.get('type') == 'BatchFixedSizePad':
            part['size'] = (128, 128)
        if part.get('type') == 'SyncBN':
            part['type'] = 'BN'
        if part.get('num_points', 0) > 1000:  # of Mask2Former's loss
            part['num_points'] = 100
        for key, value in part.items():
            if key in SMALLER and not isinstance(value, list):
                part[key] = SMALLER[key]
            else:
                shrink(value)
    elif isinstance(part, list | tuple):
        for one in part:
            shrink(one)


def backward(model, data: dict) -> None:
    """Check that the loss is finite and gives every part a gradient."""
    data = model.data_preprocessor(data, True)
    model.train()
    total, _ = model.parse_losses(model(**data, mode='loss'))
    assert total.isfinite()
    total.backward()
    for name, part in model.named_children():
        grads = [p.grad for p in part.parameters() if p.grad is not None]
        assert all(grad.isfinite().all() for grad in grads), name
        if any(p.requires_grad for p in part.parameters()):
            assert any(grad.any() for grad in grads), name


@pytest.mark.slow
@pytest.mark.parametrize('name', DETECTORS.values(), ids=DETECTORS)
def test_detector(name: str) -> None:
    with DefaultScope.overwrite_default_scope('mmdet'):
        model = mmdet.registry.MODELS.build(model_of(mmdet, name))
        model.init_weights()
        data = demo_mm_inputs(
            *(1, (3, *SIZE)),
            num_items=[3],
            num_classes=20,
            with_mask='mask' in name or 'ins' in name,
        )
        backward(model, data)
        for weight, param in model.named_parameters():
            if 'rtm_reg' in weight and weight.endswith('bias'):
                param.data.fill_(1)  # boxes of some extent, without training
        with torch.no_grad():
            (found,) = model.eval().test_step(data)
        found = found.pred_instances
        assert found.bboxes.shape == (len(found.scores), 4)
        assert len(found.scores) and found.scores.isfinite().all()


@pytest.mark.slow
@pytest.mark.parametrize('name', SEGMENTORS.values(), ids=SEGMENTORS)
def test_segmentor(name: str) -> None:
    with DefaultScope.overwrite_default_scope('mmseg'):
        config = model_of(mmseg, name)
        config.data_preprocessor.size = SIZE
        model = mmseg.registry.MODELS.build(config)
        labels = torch.randint(0, 20, (1, *SIZE))
        sample = SegDataSample(
            gt_sem_seg=PixelData(data=labels),
            metainfo=dict(img_shape=SIZE, ori_shape=SIZE),
        )
        image = torch.randint(0, 256, (3, *SIZE), dtype=torch.uint8)
        data = dict(inputs=[image] * 2, data_samples=[sample] * 2)
        backward(model, data)
        with torch.no_grad():
            (found, _) = model.eval().predict(
                model.data_preprocessor(data, False)['inputs'],
                [sample.clone() for _ in range(2)],
            )
        assert found.pred_sem_seg.data.shape[-2:] == SIZE

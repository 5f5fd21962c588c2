"""Detection configs build from any folder and hold the recipes' numbers."""

import os
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from mmdet.registry import (
    DATA_SAMPLERS,
    HOOKS,
    METRICS,
    MODELS,
    OPTIM_WRAPPER_CONSTRUCTORS,
    OPTIM_WRAPPERS,
    TASK_UTILS,
    TRANSFORMS,
)
from mmdet.structures.bbox import HorizontalBoxes
from mmdet.structures.mask import PolygonMasks
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.structures import InstanceData
from PIL import Image

from simim_plugin import config_path
from simim_plugin.demo.annotations import CLASSES, LVIS_CLASSES
from simim_plugin.detection import schedule
from simim_plugin.detection.schedule import COCO, LVIS

from . import DEMO, DEMO_LVIS

ROOT = Path(DEMO).parents[1]
FILES = sorted((ROOT / 'detection').glob('*.py'))
BASE = 'siamese_im_vit-base-p16_vitdet-16xb4-amp-100e_coco'
CASCADE = 'siamese_im_vit-base-p16_vitdet-cascade-16xb4-amp-100e_coco'
FASTER = 'siamese_im_vit-base-p16_vitdet-faster-16xb4-amp-100e_coco'
LVIS_BASE = 'siamese_im_vit-base-p16_vitdet-16xb4-amp-100e_lvis-v1'
RECIPES = {
    # epochs, images, lr, layer decay, drop path, width, depth, global blocks
    BASE: (100, COCO, 1e-4, 0.7, 0.1, 768, 12, 3),
    'siamese_im_vit-base-p16_vitdet-16xb4-amp-25e_coco': (
        *(25, COCO, 1e-4, 0.7, 0.1, 768, 12, 3),
    ),
    'siamese_im_vit-large-p16_vitdet-16xb4-amp-100e_coco': (
        *(100, COCO, 1e-4, 0.8, 0.4, 1024, 24, 6),
    ),
    'siamese_im_vit-huge-p14_vitdet-64xb1-amp-75e_coco': (
        *(75, COCO, 1e-4, 0.9, 0.5, 1280, 32, 8),
    ),
    CASCADE: (100, COCO, 1e-4, 0.7, 0.1, 768, 12, 3),
    LVIS_BASE: (100, LVIS, 2e-4, 0.7, 0.1, 768, 12, 3),
    'siamese_im_vit-large-p16_vitdet-16xb4-amp-100e_lvis-v1': (
        *(100, LVIS, 2e-4, 0.8, 0.4, 1024, 24, 6),
    ),
}
MILLIONS = {BASE: 110.9, LVIS_BASE: 116.9}


def load(name) -> Config:
    return Config.fromfile(config_path(f'{name}.py'))


@pytest.mark.parametrize('file', FILES, ids=lambda file: file.stem)
def test_builds_from_another_folder(file, tmp_path, monkeypatch):
    relative = os.path.relpath(file, tmp_path)
    monkeypatch.chdir(tmp_path)
    config = Config.fromfile(relative)
    with torch.device('meta'):
        model = MODELS.build(config.model)
    weights = sum(p.numel() for p in model.parameters()) / 1e6
    if file.stem in MILLIONS:
        assert weights == pytest.approx(MILLIONS[file.stem], abs=0.1)
    for pipeline in (config.train_pipeline, config.test_pipeline):
        for cfg in pipeline:
            TRANSFORMS.build(cfg)
    for cfg in config.custom_hooks:
        HOOKS.build(cfg)
    assert config.optim_wrapper.type in OPTIM_WRAPPERS
    assert config.optim_wrapper.constructor in OPTIM_WRAPPER_CONSTRUCTORS
    assert config.train_dataloader.sampler.type in DATA_SAMPLERS
    assert config.val_evaluator.type in METRICS
    assert config.custom_imports.allow_failed_imports is False
    assert config.runner_type == 'SiameseIMRunner'
    assert config.default_scope == 'mmdet'
    assert config.resume is False and config.load_from is None
    size = config.model.backbone.img_size
    assert config.model.data_preprocessor.pad_size_divisor == size
    assert config.test_dataloader == config.val_dataloader
    assert config.test_evaluator == config.val_evaluator
    boxes_only = 'faster' in file.stem
    metric = 'bbox' if boxes_only else ['bbox', 'segm']
    assert config.val_evaluator.metric == metric
    assert config.default_hooks.visualization.type == 'PNGVisualizationHook'


def test_boxes_only_by_the_same_recipe():
    """Without masks in the model, the data and the evaluation."""
    faster, base = load(FASTER), load(BASE)
    for key in ('optim_wrapper', 'param_scheduler', 'train_cfg'):
        assert faster[key] == base[key]
    for key in ('backbone', 'neck', 'rpn_head', 'train_cfg', 'test_cfg'):
        assert faster.model[key] == base.model[key]
    assert faster.model.roi_head.bbox_head == base.model.roi_head.bbox_head
    for loader in ('train_dataloader', 'val_dataloader'):
        ours, theirs = faster[loader].dataset, base[loader].dataset
        changed = [
            (dict(mine), dict(its))
            for mine, its in zip(ours.pipeline, theirs.pipeline, strict=True)
            if mine != its
        ]
        its = dict(base.annotate)
        assert changed == [(dict(its, with_mask=False), its)]
    with torch.device('meta'):
        model = MODELS.build(faster.model)
    assert type(model).__name__ == 'FasterRCNN'
    assert not model.roi_head.with_mask


@pytest.mark.parametrize('name', RECIPES)
def test_recipe(name):
    """The numbers of Detectron2's ViTDet recipes for COCO and LVIS v1."""
    epochs, images, lr, decay, drop_path, width, depth, every = RECIPES[name]
    config = load(name)
    gpus, batch = map(int, re.search(r'-(\d+)xb(\d+)-', name).groups())
    assert config.train_dataloader.batch_size == batch
    assert gpus * batch == 64
    assert config.auto_scale_lr == dict(base_batch_size=64, enable=True)
    expected = schedule(epochs, images, 64)
    assert config.train_cfg.max_iters == expected['max_iters']
    warmup, steps = config.param_scheduler
    assert warmup == dict(
        type='LinearLR', start_factor=0.001, by_epoch=False, end=250
    )
    assert steps == dict(
        type='MultiStepLR',
        milestones=expected['milestones'],
        by_epoch=False,
    )
    optim = config.optim_wrapper
    assert optim.type == 'mmpretrain.AutocastOptimWrapper'
    assert optim.optimizer == dict(
        type='AdamW', lr=lr, betas=(0.9, 0.999), weight_decay=0.1
    )
    assert optim.paramwise_cfg.layer_decay_rate == decay
    assert 'clip_grad' not in optim
    with torch.device('meta'):
        model = MODELS.build(config.model)
    backbone = model.backbone
    assert backbone.embed_dims == width
    assert len(backbone.layers) == depth
    assert [
        i for i, layer in enumerate(backbone.layers) if not layer.window_size
    ] == list(range(every - 1, depth, every))
    windows = {layer.window_size for layer in backbone.layers}
    assert windows == {0, 14}
    assert backbone.layers[-1].attn.rel_pos_h.shape[0] == 2 * 64 - 1
    rates = [layer.ffn.dropout_layer for layer in backbone.layers]
    assert rates[-1].drop_prob == drop_path
    assert backbone.layers[0].ln1.eps == 1e-6
    grid = 16 if 'huge' in name else 14
    assert backbone.patch_resolution == (grid, grid)
    assert backbone.patch_embed.projection.kernel_size == (16, 16)
    assert len(model.rpn_head.rpn_conv) == 2
    cascade = name == CASCADE
    box_heads, mask_heads = (
        [*heads] if cascade else [heads]
        for heads in (model.roi_head.bbox_head, model.roi_head.mask_head)
    )
    assert len(box_heads) == len(mask_heads) == (3 if cascade else 1)
    for box_head, mask_head in zip(box_heads, mask_heads, strict=True):
        assert len(box_head.shared_convs) == 4
        assert len(box_head.shared_fcs) == 1
        assert box_head.shared_fcs[0].out_features == 1024
        assert box_head.reg_class_agnostic == cascade
        assert len(mask_head.convs) == 4
        for conv in (*box_head.shared_convs, *mask_head.convs):
            assert conv.conv.bias is None
            assert type(conv.norm).__name__ == 'LayerNorm2d'
            assert conv.norm.eps == 1e-6
    test = config.model.test_cfg.rcnn
    if images == LVIS:
        loss = box_heads[0].loss_cls
        assert type(loss).__name__ == 'FederatedLoss'
        assert (loss.num_sampled, loss.power) == (50, 0.5)
        assert loss.ann_file == os.path.join(
            config.train_dataloader.dataset.data_root,
            config.train_dataloader.dataset.ann_file,
        )
        assert box_heads[0].fc_cls.out_features == 1203
        assert mask_heads[0].num_classes == 1203
        assert (test.score_thr, test.max_per_img) == (0.02, 300)
        assert config.train_dataloader.sampler == dict(
            type='RepeatFactorSampler', threshold=0.001
        )
        assert config.val_evaluator.type == 'NumPy2LVISMetric'
    else:
        assert all(head.fc_cls.out_features == 80 + 1 for head in box_heads)
        assert (test.score_thr, test.max_per_img) == (0.05, 100)


def test_matching_as_in_detectron2():
    """The RPN keeps an object's best anchor at any overlap; RoIs do not."""
    train = load(BASE).model.train_cfg
    assigner = TASK_UTILS.build(train.rpn.assigner)
    anchors = torch.tensor([[0.0, 0, 32, 32], [64, 64, 96, 96]])
    objects = InstanceData(
        bboxes=torch.tensor([[1.0, 1, 5, 5]]), labels=torch.tensor([3])
    )
    given = InstanceData(priors=anchors)
    assert assigner.assign(given, objects).gt_inds.tolist() == [1, 0]
    assigner = TASK_UTILS.build(train.rcnn.assigner)
    assert assigner.assign(given, objects).gt_inds.tolist() == [0, 0]


def test_cascade_as_in_detectron2():
    """Stages have finer boxes, stricter matches and a third of the loss.

    Detectron2 adds the stages' losses and scales their gradients at the
    pooled features by 1/3, which has the same effect under AdamW.
    """
    model = load(CASCADE).model
    assert model.roi_head.stage_loss_weights == [1 / 3] * 3
    for stage, iou in enumerate((0.5, 0.6, 0.7)):
        coder = model.roi_head.bbox_head[stage].bbox_coder
        scale = 10 * (stage + 1)
        expected = [1 / scale, 1 / scale, 2 / scale, 2 / scale]
        assert coder.target_stds == expected
        train = model.train_cfg.rcnn[stage]
        assert train.assigner.pos_iou_thr == iou
        assert train.assigner.neg_iou_thr == iou
        assert train.assigner.min_pos_iou == iou
        assert not train.assigner.match_low_quality
        assert train.mask_size == 28
        sampler = train.sampler
        assert (sampler.num, sampler.pos_fraction) == (
            (512, 0.25) if stage == 0 else (1024, 1.0)
        )


def test_training_images():
    """Jitter by 0.1 to 2, a crop without padding, boxes around the masks."""
    pipeline = [TRANSFORMS.build(t) for t in load(BASE).train_pipeline[1:-1]]
    annotate, flip, resize, crop, clean = pipeline
    assert not annotate.poly2mask
    assert flip.prob == 0.5
    assert resize.scale == (1024, 1024)
    assert resize.ratio_range == (0.1, 2.0)
    assert resize.resize.keep_ratio and resize.resize.backend == 'pillow'
    assert crop.crop_size == (1024, 1024)
    pixels = np.zeros((500, 1500, 3), np.uint8)
    corners = np.array([200.0, 100, 900, 100, 900, 300])
    results = dict(
        img=pixels,
        img_shape=(500, 1500),
        gt_bboxes=np.array([[200, 100, 900, 300]], np.float32),
        gt_bboxes_labels=np.array([4]),
        gt_ignore_flags=np.array([False]),
        gt_masks=PolygonMasks([[corners]], 500, 1500),
    )
    results['gt_bboxes'] = HorizontalBoxes(results['gt_bboxes'])
    np.random.seed(0)
    seen = set()
    for _ in range(8):
        out = clean(crop(dict(results)))
        seen.add(out['img'].shape)
        for mask, box in zip(
            out['gt_masks'].masks, out['gt_bboxes'].tensor, strict=True
        ):
            points = np.concatenate(mask).reshape(-1, 2)
            edges = [*points.min(0), *points.max(0)]
            np.testing.assert_allclose(box.numpy(), edges, atol=1e-3)
    assert seen == {(500, 1024, 3)}
    nothing = clean(dict(results, gt_bboxes=HorizontalBoxes([[5, 5, 5, 5]])))
    assert len(nothing['gt_bboxes']) == 0  # the image stays


def test_test_images(tmp_path):
    """Long edge of 1024, antialiased, padded after normalisation."""
    config = load(BASE)
    pixels = np.random.default_rng(0).integers(0, 256, (60, 2048, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / 'a.png')
    results = dict(img_path=str(tmp_path / 'a.png'), img_id=1)
    load_image, resize, _, pack = map(TRANSFORMS.build, config.test_pipeline)
    sample = pack(resize(load_image(results)))
    assert sample['inputs'].shape == (3, 30, 1024)
    expected = Image.fromarray(pixels).resize((1024, 30), Image.BILINEAR)
    expected = torch.tensor(np.asarray(expected)).permute(2, 0, 1)
    assert torch.equal(sample['inputs'].flip(0), expected)  # BGR until here
    preprocessor = MODELS.build(config.model.data_preprocessor)
    batch = preprocessor(
        dict(inputs=[sample['inputs']], data_samples=[sample['data_samples']])
    )['inputs']
    assert batch.shape == (1, 3, 1024, 1024)
    mean = torch.tensor([123.675, 116.28, 103.53])[:, None, None]
    std = torch.tensor([58.395, 57.12, 57.375])[:, None, None]
    torch.testing.assert_close(batch[0, :, :30], (expected - mean) / std)
    assert not batch[0, :, 30:].any()


def test_demo_fits_the_generated_data():
    for file, classes in ((DEMO, CLASSES), (DEMO_LVIS, LVIS_CLASSES)):
        config = Config.fromfile(file)
        for loader in (config.train_dataloader, config.val_dataloader):
            assert tuple(loader.dataset.metainfo.classes) == classes
        assert config.model.roi_head.bbox_head.num_classes == len(classes)
        assert config.model.roi_head.mask_head.num_classes == len(classes)
        pretraining = load('siamese_im_vit-micro-p8_demo').model.backbone
        ours = config.model.backbone
        arch = {k: ours.arch[k] for k in pretraining.arch}
        assert arch == pretraining.arch
        assert ours.patch_size == pretraining.patch_size
        assert ours.pretrain_img_size == pretraining.img_size


@pytest.mark.parametrize('file', FILES, ids=lambda file: file.stem)
def test_names_state_length_and_batch(file):
    config = Config.fromfile(file)
    batch = re.search(r'-(\d+)xb(\d+)-', file.stem)
    gpus, per_gpu = map(int, batch.groups())
    assert config.train_dataloader.batch_size == per_gpu
    assert config.auto_scale_lr.base_batch_size == gpus * per_gpu
    length = re.search(r'-(\d+)it_', file.stem)
    if length is not None:
        total = int(length.group(1))
        assert config.train_cfg.max_iters == total
        milestones = [round(total * 8 / 9), round(total * 26 / 27)]
        assert config.param_scheduler[1].milestones == milestones


def test_layer_decay_of_a_detector():
    config = load(Path(DEMO).stem)
    model = MODELS.build(config.model)
    wrapper = build_optim_wrapper(model, config.optim_wrapper)
    groups = {
        id(param): group
        for group in wrapper.optimizer.param_groups
        for param in group['params']
    }
    lr = config.optim_wrapper.optimizer.lr
    for name, depth, decay in (
        ('backbone.pos_embed', 5, 0),
        ('backbone.patch_embed.projection.weight', 5, 0.1),
        ('backbone.layers.0.attn.rel_pos_h', 4, 0.1),
        ('backbone.layers.3.attn.qkv.bias', 1, 0.1),
        ('backbone.layers.3.ln1.weight', 1, 0),
        ('neck.levels.0.1.bias', 0, 0),
        ('rpn_head.rpn_cls.bias', 0, 0.1),
        ('roi_head.bbox_head.fc_cls.weight', 0, 0.1),
        ('roi_head.mask_head.convs.0.ln.weight', 0, 0),
    ):
        group = groups[id(model.get_parameter(name))]
        assert group['lr'] == pytest.approx(lr * 0.7**depth), name
        assert group['weight_decay'] == decay, name
    assert len(groups) == sum(1 for _ in model.parameters())

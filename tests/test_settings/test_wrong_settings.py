"""Wrong settings of every task end in one sentence; right ones pass."""

import argparse
import copy
import re
from collections.abc import Iterator
from functools import cache

import pytest
from mmengine.config import Config, DictAction

import simim_plugin.evaluation  # noqa: F401
from simim_plugin import config_path
from simim_plugin.config_files import write_plainly
from simim_plugin.errors import SimimError
from simim_plugin.settings import check as checking
from simim_plugin.settings import check_settings

NAMES = dict(
    pretraining='siamese_im_vit-micro-p8_demo.py',
    cifar='siamese_im_vit-tiny-p4_1xb512-amp-coslr-400e_cifar10.py',
    imagenet='siamese_im_vit-base-p16_8xb512-amp-coslr-400e_in1k.py',
    fold8='siamese_im_vit-base-p16_1xb64-accum8-amp-coslr-400e_folder.py',
    tuning='siamese_im_vit-micro-p8_ft-1xb64-amp-coslr-10e_demo.py',
    imagenet_tuning='siamese_im_vit-base-p16_ft-8xb128-amp-coslr-100e_in1k.py',
    semi='siamese_im_vit-base-p16_ft-1pct-8xb64-amp-coslr-200e_in1k.py',
    linear='siamese_im_vit-micro-p8_linear-1xb64-amp-coslr-20e_demo.py',
    knn='siamese_im_vit-micro-p8_knn_demo.py',
    logistic='siamese_im_vit-micro-p8_logistic_demo.py',
    detection='siamese_im_vit-micro-p8_vitdet-1xb4-1000it_demo.py',
    cascade='siamese_im_vit-base-p16_vitdet-cascade-16xb4-amp-100e_coco.py',
    lvis='siamese_im_vit-micro-p8_vitdet-1xb4-1000it_demo-lvis.py',
    upernet='siamese_im_vit-micro-p8_upernet-1xb16-amp-200i_demo.py',
    seg_linear='siamese_im_vit-micro-p8_seg-linear-1xb16-amp-200i_demo.py',
    seg_knn='siamese_im_vit-micro-p8_seg-knn_demo.py',
    robustness='siamese_im_vit-micro-p8_demo-c.py',
    row_a='siamese_im_row-a.py',
    row_mae='siamese_im_row-mae.py',
    row_moco='siamese_im_row-mocov3.py',
    rival_beit='siamese_im_rival-beit.py',
    rival_dino='siamese_im_rival-dino.py',
    rival_ibot='siamese_im_rival-ibot.py',
    rival_moco='siamese_im_rival-moco-v3.py',
    rival_msn='siamese_im_rival-msn.py',
    row_half='siamese_im_row-target-half.py',
    row_random='siamese_im_row-target-random.py',
)


@cache
def config_of(name: str) -> Config:
    return Config.fromfile(config_path(name))


def parse(*words: str) -> dict:
    parser = argparse.ArgumentParser()
    parser.add_argument('--cfg-options', nargs='+', action=DictAction)
    return parser.parse_args(['--cfg-options', *words]).cfg_options


def check(task: str, *changes: str) -> list[str]:
    config = config_of(NAMES[task])
    text = config.text
    config = Config(config.to_dict())
    if changes:
        config.merge_from_dict(parse(*changes))
    return check_settings(config, text)


LABELS = 'model.head.loss'
BOXES = 'model.roi_head.bbox_head.loss_cls'
STAGE = 'model.roi_head.bbox_head.1.loss_cls'
PIXELS = 'model.decode_head.loss_decode'
EIGHT = ','.join('1' * 8)

# Task, settings, and words of the sentence
WRONG = [
    # Unknown types
    ('pretraining', 'model.type=SiameseIMM', 'model; did you mean SiameseIM'),
    ('pretraining', 'model.backbone.type=SiamesIMViT', 'mean SiameseIMViT'),
    ('pretraining', 'model.neck.type=RelativeDecoder', 'no .RelativeDecoder'),
    ('pretraining', 'model.head.type=UnigradHead', 'mean UniGradHead'),
    ('pretraining', 'optim_wrapper.optimizer.type=AdamWW', 'mean AdamW'),
    ('pretraining', 'optim_wrapper.type=AutocastOptimWraper', 'AutocastOptim'),
    ('pretraining', 'optim_wrapper.constructor=LayerDecay', 'LayerDecay.*con'),
    ('pretraining', 'train_cfg.type=ExactEpochLop', 'mean ExactEpochLoop'),
    ('pretraining', 'param_scheduler.type=WarmupCosine', 'WarmupCosineLR'),
    ('pretraining', 'custom_hooks.0.type=MomentumHok', 'mean MomentumHook'),
    ('pretraining', 'train_dataloader.sampler.type=Seeded', 'SeededSampler'),
    ('pretraining', 'train_dataloader.dataset.type=ImageFoldr', 'ImageFolder'),
    (
        'pretraining',
        'train_dataloader.dataset.pipeline.1.type=PairedView',
        'pipeline.1; did you mean PairedViews',
    ),
    (
        'rival_dino',
        'train_dataloader.dataset.pipeline.1.crops.0.colours.0.type=FastColor',
        'crops.0.colours.0; did you mean FastColorJitter',
    ),
    (
        'rival_dino',
        'train_dataloader.dataset.pipeline.1.crops.0.colours.0.brightnes=1',
        'brightnes is no setting of FastColorJitter; did you mean brightness',
    ),
    ('linear', 'val_evaluator.type=Acuracy', 'mean Accuracy'),
    # Parts that do not go together
    (
        'pretraining',
        'train_cfg.type=EpochBasedTrainLoop',
        'is a SeededSampler, which draws for ExactEpochLoop',
    ),
    (
        'tuning',
        'optim_wrapper.optimizer.type=ZeroRedundancyOptimizer',
        'shares its state with the other processes',
    ),
    (
        'rival_moco',
        'train_dataloader.batch_size=1',
        'batch_size is 1, and ViTMoCoV3 compares the images',
    ),
    # Settings without effect
    (
        'upernet',
        'default_hooks.checkpoint.by_epoch=True',
        'no checkpoint would be written before the end; set by_epoch to',
    ),
    (
        'tuning',
        'custom_hooks.0.parts=heads,',
        "parts names 'heads', which ImageClassifier does not have; did",
    ),
    (
        'detection',
        'custom_hooks.0.parts=roi_head,masks',
        "parts names 'masks', which MaskRCNN does not have; name its heads",
    ),
    ('tuning', 'custom_hooks.0.parts=head', 'a list, each a part of the'),
    (
        'row_a',
        'train_dataloader.dataset.pipeline.1.target=[]',
        'target is no setting of SameView',
    ),
    ('pretraining', 'model.backbone.final_norm_affine=False', 'has no effect'),
    (
        'pretraining',
        'model.backbone.train_positions=True '
        'model.backbone.absolute_positions=False model.backbone.rotary=True',
        'has no effect without absolute_positions',
    ),
    ('upernet', 'model.backbone.final_norm_affine=False', 'has no effect'),
    ('upernet', 'model.backbone.out_type=raw', 'backbone.out_type is'),
    ('upernet', 'model.backbone.layer_scale_init_value=nan', 'scale_init'),
    ('detection', 'model.backbone.final_norm_affine=False', 'has no effect'),
    ('pretraining', 'model.data_preprocessor.mean=None', 'set both, with'),
    ('pretraining', 'model.data_preprocessor.std=None', 'set both, with'),
    ('pretraining', 'model.data_preprocessor.std=[1.0]', 'set both, with'),
    ('tuning', 'model.data_preprocessor.std=None', 'set both, with'),
    ('knn', 'model.data_preprocessor.mean=None', 'set both, with'),
    # Colours on the device
    ('pretraining', 'model.data_preprocessor.colours=3', 'True or False'),
    (
        'pretraining',
        'train_dataloader.dataset.pipeline.1.defer=True',
        'set model.data_preprocessor.colours=True',
    ),
    (
        'pretraining',
        'model.data_preprocessor.colours=True '
        'train_cfg.type=EpochBasedTrainLoop '
        'train_dataloader.sampler.type=DefaultSampler',
        'colours needs train_cfg.type=ExactEpochLoop',
    ),
    ('knn', 'test_cfg.classifier.type=KNN', 'test_cfg.classifier'),
    ('detection', 'model.roi_head.bbox_head.type=BoxHead', 'BBoxHead'),
    ('upernet', 'model.decode_head.type=UPerHed', 'mean UPerHead'),
    # Values that would end late, or be taken for nothing
    ('tuning', 'val_evaluator.thrs=5', 'thrs is 5'),
    ('tuning', 'model.head.loss.reduction=avg', 'one of none, mean, sum'),
    ('detection', 'model.data_preprocessor.pad_size_divisor=0', 'divisor is'),
    ('detection', 'model.data_preprocessor.pad_value=x', 'pad_value is'),
    ('detection', 'model.roi_head.mask_head.roi_feat_size=7', 'nothing reads'),
    ('detection', 'model.train_cfg.rcnn.sampler.neg_pos_ub=x', 'neg_pos_ub'),
    ('detection', 'model.train_cfg.rcnn.assigner.ignore_iof_thr=2', 'iof_thr'),
    ('detection', 'test_evaluator.metric_items=[map]', 'each one of mAP, mAP'),
    ('detection', 'test_evaluator.backend_args.backend=foo', 'backend is one'),
    ('detection', 'visualizer.alpha=9', 'alpha is 9'),
    ('detection', 'param_scheduler.1.gamma=-3', 'gamma is -3'),
    ('upernet', 'param_scheduler.1.power=-1', 'power is -1'),
    ('upernet', 'model.data_preprocessor.pad_val=x', 'pad_val is'),
    ('upernet', 'test_evaluator.beta=-1', 'beta is -1'),
    (
        'upernet',
        'model.decode_head.loss_decode.loss_name=focal',
        "contains 'loss'; others are logged and not minimised",
    ),
    # The rivals
    (
        'rival_dino',
        'train_dataloader.dataset.pipeline.1.crops.0.size=256',
        r'global crop of .*pipeline.1 is \(256, 256\) and .*img_size',
    ),
    (
        'rival_dino',
        'train_dataloader.dataset.pipeline.1.crops.2.size=288',
        r'global crop of .*pipeline.1 is \(288, 288\) and .*img_size',
    ),
    ('rival_dino', 'model.head.teacher_temperature=0', 'temperature is 0'),
    ('rival_dino', 'model.head.out_dims=1', 'out_dims is 1'),
    (
        'rival_ibot',
        'model.backbone.with_cls_token=False',
        'ViTIBOT compares cls tokens',
    ),
    ('rival_moco', 'model.backbone.out_type=cls_token', 'takes all tokens of'),
    ('rival_beit', 'model.backbone.out_indices=[0]', 'takes all tokens of'),
    ('row_moco', 'model.backbone.out_type=featmap', 'takes all tokens of'),
    ('rival_msn', 'model.head.num_prototypes=1', 'num_prototypes is 1'),
    ('rival_msn', 'model.head.sharpening=0', 'sharpening is 0'),
    ('rival_moco', 'model.head.temperature=0', 'temperature is 0'),
    (
        'rival_beit',
        'train_dataloader.dataset.pipeline.2.num_masked=0',
        'num_masked is 0',
    ),
    (
        'rival_beit',
        'train_dataloader.dataset.pipeline.2.grid=[7,7]',
        'grid is .*7, 7',
    ),
    (
        'rival_msn',
        'train_dataloader.dataset.pipeline.2.num_masked=0',
        'num_masked is 0',
    ),
    (
        'rival_ibot',
        'train_dataloader.dataset.pipeline.2.prob=0',
        'prob is 0',
    ),
    (
        'rival_ibot',
        'train_dataloader.dataset.pipeline.2.grid=[7,7]',
        'grid is .*7, 7',
    ),
    # A weight for each class
    ('tuning', f'{LABELS}.class_weight=[1,1]', '2 .*and .*8 classes; give 8'),
    ('tuning', f'{LABELS}.num_classes=9', 'num_classes is 9 and .*is 8'),
    ('upernet', f'{PIXELS}.class_weight=1.0', '1.0; set it to a list'),
    ('tuning', f'{LABELS}.class_weight=[1,x]', 'each a number at least 0'),
    (
        'detection',
        f'{BOXES}.class_weight=[{EIGHT}]',
        '8 .*8 classes.*; give 9',
    ),
    (
        'detection',
        f'{BOXES}.class_weight=[{EIGHT},1] {BOXES}.use_sigmoid=True',
        '9 .*8 classes; give 8',
    ),
    ('detection', 'model.rpn_head.loss_cls.class_weight=[1,1]', 'give 1'),
    (
        'detection',
        'model.roi_head.mask_head.loss_mask.class_weight=[1]',
        'nothing of a mask has a class; remove it',
    ),
    ('cascade', f'{STAGE}.class_weight=[1,1]', 'box_head.1.loss_cls.*give 81'),
    ('upernet', f'{PIXELS}.class_weight=[{EIGHT}]', '8 .*14 classes; give 14'),
    (
        'seg_linear',
        f'{PIXELS}.class_weight=[1] {PIXELS}.type=LovaszLoss',
        '1 .*14 classes; give 14',
    ),
    # What mmengine itself passes
    (
        'pretraining',
        'optim_wrapper.optimizer.params=3',
        'params is no setting',
    ),
    ('pretraining', 'param_scheduler.optimizer=3', 'optimizer is no setting'),
    ('tuning', 'train_cfg.runner=3', 'runner is no setting'),
    ('tuning', 'val_cfg.evaluator=3', 'evaluator is no setting'),
    ('tuning', 'train_dataloader.sampler.dataset=3', 'dataset is no setting'),
    (
        'pretraining',
        'train_dataloader.dataset.metainfo.classes=[a]',
        'metainfo is .*nothing reads',
    ),
    ('pretraining', 'train_dataloader.dataset.classes=[a]', 'nothing reads'),
    # Unknown settings of registered classes
    (
        'pretraining',
        'model.backbone.drop_pathrate=0.1',
        'drop_pathrate is no setting of SiameseIMViT; did you mean drop_path_',
    ),
    ('pretraining', 'model.head.negativ_weight=1', 'mean negative_weight'),
    ('pretraining', 'model.projektor.depth=1', 'mean projector'),
    ('pretraining', 'train_cfg.max_epoch=3', 'mean max_epochs'),
    ('pretraining', 'train_cfg.type=IterBasedTrainLoop', 'mean max_iters'),
    ('pretraining', 'train_dataloader.batchsize=3', 'mean batch_size'),
    ('pretraining', 'custom_hooks.0.base_momentun=1', 'mean base_momentum'),
    ('pretraining', 'param_scheduler.warm_up=3', 'mean warmup'),
    ('pretraining', 'optim_wrapper.clip_grad.max_nrom=1', 'mean max_norm'),
    (
        'pretraining',
        'optim_wrapper.clip_grad.type=norm optim_wrapper.clip_grad.max_nrom=1',
        'max_nrom is no setting of clip_grad_norm_; did you mean max_norm',
    ),
    (
        'pretraining',
        'optim_wrapper.clip_grad.type=value '
        'optim_wrapper.clip_grad.clip_value=0.5',
        'max_norm is no setting of clip_grad_value_; .* set .*delete_=True',
    ),
    (
        'pretraining',
        'optim_wrapper.clip_grad._delete_=True '
        'optim_wrapper.clip_grad.type=value',
        'clip_grad lacks clip_value, which clip_grad_value_ needs',
    ),
    (
        'pretraining',
        'optim_wrapper.clip_grad._delete_=True '
        'optim_wrapper.clip_grad.norm_type=1',
        'clip_grad lacks max_norm, which clip_grad_norm_ needs',
    ),
    ('pretraining', 'optim_wrapper.clip_grad.parameters=1', 'parameters is'),
    ('pretraining', 'optim_wrapper.accumulate=2', 'no setting of Autocast'),
    ('pretraining', 'randomness.sede=3', 'mean seed'),
    ('pretraining', 'default_hooks.logger.intervall=3', 'mean interval'),
    ('pretraining', 'log_processor.windowsize=3', 'mean window_size'),
    ('tuning', 'train_dataloader.dataset.list_fil=x', 'mean list_file'),
    ('tuning', 'train_cfg.restart_epoch=True', 'of EpochBasedTrainLoop'),
    ('linear', 'optim_wrapper.optimizer.trusts=1', 'mean trust'),
    ('detection', 'model.neck.out_chanels=64', 'mean out_channels'),
    ('upernet', 'model.backbone.drop_path=0.1', 'mean drop_path_rate'),
    ('pretraining', 'model.backbone.arch.num_layer=2', 'mean num_layers'),
    ('imagenet', 'model.backbone.arch=bsae', 'mean base'),
    ('imagenet', 'model.backbone.rotary=eva', 'dinov3, eva02, capi or True'),
    # Runs
    ('pretraining', 'train_cfg.max_epochs=0', 'max_epochs is 0; set it to a'),
    ('pretraining', 'train_cfg.max_epochs=-1', 'max_epochs is -1'),
    ('pretraining', 'train_cfg.max_epochs=1.5', 'max_epochs is 1.5'),
    ('pretraining', 'train_cfg.max_epochs=nan', 'max_epochs is nan'),
    ('pretraining', 'train_cfg.max_epochs=many', "max_epochs is 'many'"),
    ('pretraining', 'train_cfg.max_epochs=None', 'max_epochs is None'),
    ('pretraining', 'train_cfg.max_epochs=1e30', r'max_epochs is 1e\+30'),
    ('detection', 'train_cfg.max_iters=0', 'max_iters is 0'),
    ('tuning', 'train_cfg.val_interval=0', 'val_interval is 0'),
    ('upernet', 'train_cfg.val_interval=-5', 'val_interval is -5'),
    ('pretraining', 'train_dataloader.batch_size=0', 'batch_size is 0'),
    ('pretraining', 'train_dataloader.batch_size=1.5', 'batch_size is 1.5'),
    ('pretraining', 'train_dataloader.batch_size=None', 'batch_size is None'),
    ('knn', 'test_cfg.train_dataloader.batch_size=-1', 'test_cfg.train_data'),
    ('pretraining', 'train_dataloader.num_workers=-1', 'num_workers is -1'),
    ('pretraining', 'train_dataloader.num_workers=1e30', 'num_workers is 1e'),
    ('pretraining', 'train_dataloader.prefetch_factor=0', 'factor is 0'),
    ('pretraining', 'train_dataloader.num_workers=0', 'persistent_workers is'),
    ('pretraining', 'randomness.seed=-1', 'seed is -1'),
    ('pretraining', 'randomness.seed=1.5', 'seed is 1.5'),
    ('pretraining', 'randomness.seed=nan', 'seed is nan'),
    ('pretraining', 'default_hooks.logger.interval=0', 'interval is 0'),
    ('pretraining', 'default_hooks.checkpoint.interval=0', 'or -1'),
    ('pretraining', 'custom_hooks.1.interval=0', 'custom_hooks.1.interval'),
    ('pretraining', 'custom_hooks.2.interval=0', 'custom_hooks.2.interval'),
    ('pretraining', 'custom_hooks.3.max_in_row=0', 'max_in_row is 0'),
    ('pretraining', 'train_dataloader.dataset.skip_broken=2', 'skip_broken'),
    ('pretraining', 'optim_wrapper=None', 'optim_wrapper must be set beside'),
    ('linear', 'val_evaluator=None', 'val_evaluator must be set beside'),
    # Optimisation
    ('pretraining', 'optim_wrapper.optimizer.lr=nan', 'lr is nan'),
    ('pretraining', 'optim_wrapper.optimizer.lr=1e30', r'lr is 1e\+30'),
    ('pretraining', 'optim_wrapper.optimizer.lr=-1', 'lr is -1'),
    ('pretraining', 'optim_wrapper.optimizer.lr=0', 'lr is 0'),
    ('pretraining', 'optim_wrapper.optimizer.lr=None', 'lr is None'),
    ('pretraining', 'optim_wrapper.optimizer.lr=fast', "lr is 'fast'"),
    ('pretraining', 'optim_wrapper.optimizer.weight_decay=-1', 'decay is -1'),
    ('pretraining', 'optim_wrapper.optimizer.weight_decay=nan', 'is nan'),
    ('pretraining', 'optim_wrapper.optimizer.betas=(0.9,1.5)', 'betas is'),
    ('linear', 'optim_wrapper.optimizer.momentum=1.5', 'momentum is 1.5'),
    ('linear', 'optim_wrapper.optimizer.momentum=nan', 'momentum is nan'),
    ('pretraining', 'custom_hooks.0.base_momentum=2', 'base_momentum is 2'),
    ('pretraining', 'custom_hooks.0.base_momentum=nan', 'base_momentum is n'),
    ('pretraining', 'optim_wrapper.clip_grad.max_norm=0', 'max_norm is 0'),
    ('pretraining', 'optim_wrapper.clip_grad.max_norm=nan', 'max_norm is nan'),
    ('fold8', 'optim_wrapper.accumulative_counts=0', 'counts is 0'),
    ('fold8', 'optim_wrapper.accumulative_counts=1.5', 'counts is 1.5'),
    ('tuning', 'optim_wrapper.paramwise_cfg.layer_decay_rate=2', 'rate is 2'),
    ('pretraining', 'auto_scale_lr.base_batch_size=0', 'base_batch_size is 0'),
    ('pretraining', 'param_scheduler.warmup=21', 'warmup is 21 and the'),
    ('cifar', 'train_cfg.max_epochs=3', 'warmup is 40 and the run ends af'),
    ('semi', 'param_scheduler.warmup=-1', 'warmup is -1'),
    ('semi', 'param_scheduler.warmup=nan', 'warmup is nan'),
    (
        'fold8',
        'default_hooks.checkpoint.by_epoch=False',
        'every 5 iterations falls between optimizer steps of 8 iterations',
    ),
    # Masks and views
    (
        'pretraining',
        'train_dataloader.dataset.pipeline.2.num_masked=0',
        'num_masked is 0',
    ),
    (
        'pretraining',
        'train_dataloader.dataset.pipeline.2.num_masked=36',
        'num_masked is 36 of 6 x 6 patches',
    ),
    (
        'pretraining',
        'train_dataloader.dataset.pipeline.2.min_block=0',
        'min_block is 0',
    ),
    (
        'pretraining',
        'train_dataloader.dataset.pipeline.2.grid=(7,7)',
        r'grid is \(7, 7\) and the grid of patches',
    ),
    (
        'pretraining',
        'train_dataloader.dataset.pipeline.1.crop_scale=(0,1)',
        'crop_scale',
    ),
    (
        'pretraining',
        'train_dataloader.dataset.pipeline.1.crop_scale=(0.9,0.2)',
        'low <= high',
    ),
    (
        'pretraining',
        'train_dataloader.dataset.pipeline.1.crop_scale=0.2',
        'crop_scale is 0.2',
    ),
    (
        'cifar',
        'train_dataloader.dataset.pipeline.0.size=30',
        r'size is \(30, 30\) and model.backbone.img_size is \(32, 32\)',
    ),
    (
        'row_half',
        'train_dataloader.dataset.pipeline.1.target_size=100',
        'target_grid in pixels',
    ),
    (
        'pretraining',
        'model.neck.target_grid=[3,3]',
        'pipeline.1.size is .48, 48. and .*target_grid in pixels is .24, 24',
    ),
    (
        'row_half',
        'model.neck.target_grid=None',
        'pipeline.1.target_size is .*target_grid in pixels',
    ),
    ('row_half', 'model.neck.target_grid=0', 'target_grid is 0'),
    (
        'row_random',
        'train_dataloader.dataset.pipeline.3.grid=[3,3]',
        'grid is .3, 3. and the grid of patches of model.backbone',
    ),
    (
        'row_a',
        'model.backbone.in_channels=4',
        'out_dims is .* and the values of a patch is ',
    ),
    # Not-a-number and words for yes and no, anywhere
    ('pretraining', 'model.data_preprocessor.mean=[nan,1,1]', 'mean is .nan'),
    ('pretraining', 'model.data_preprocessor.std=[0,1,1]', 'std is .0, 1, 1'),
    ('detection', 'param_scheduler.0.begin=nan', 'param_scheduler.0.begin is'),
    ('pretraining', 'train_dataloader.drop_last=no', "is 'no'; set .* False"),
    ('pretraining', 'auto_scale_lr.enable=maybe', "enable is 'maybe'"),
    ('pretraining', 'resume=off', "resume is 'off'; set it to True or"),
    ('pretraining', 'optim_wrapper.optimizer.betas=(0.9,)', 'betas is'),
    ('pretraining', 'default_hooks.checkpoint.max_keep_ckpts=0', 'keep_ck'),
    ('pretraining', 'custom_hooks=None', 'has no MomentumHook'),
    ('pretraining', 'model.neck=None', 'neck is None; SiameseIM needs it'),
    ('pretraining', 'model.head=None', 'head is None'),
    ('pretraining', 'default_hooks.timer=None', 'timer is None'),
    ('pretraining', 'train_dataloader.dataset.pipeline=[]', 'pipeline is emp'),
    ('pretraining', 'model.data_preprocessor.mean=[1,2]', 'mean has 2 values'),
    (
        'pretraining',
        'model.backbone.in_channels=4',
        'has 3 values and .*in_channels is 4',
    ),
    # Encoders and what follows them
    ('pretraining', 'model.backbone.img_size=63', 'multiple of the patch'),
    ('pretraining', 'model.backbone.img_size=0', 'img_size is 0'),
    ('pretraining', 'model.backbone.patch_size=0', 'patch_size is 0'),
    ('pretraining', 'model.backbone.patch_size=16', 'grid'),
    ('pretraining', 'model.backbone.arch.num_heads=3', '128 channels and 3'),
    ('pretraining', 'model.backbone.drop_path_rate=1.5', 'path_rate is 1.5'),
    ('pretraining', 'model.backbone.drop_path_rate=nan', 'path_rate is nan'),
    ('pretraining', 'model.projector.in_dims=64', 'in_dims is 64 and the wid'),
    ('pretraining', 'model.projector.num_heads=3', 'multiple of the heads'),
    ('pretraining', 'model.projector.depth=-1', 'depth is -1'),
    ('pretraining', 'model.neck.embed_dims=64', 'embed_dims is 64 and model.'),
    ('pretraining', 'model.neck.grid=(4,4)', r'neck.grid is \(4, 4\)'),
    ('pretraining', 'model.head.negative_weight=nan', 'weight is nan'),
    ('row_a', 'model.neck.out_dims=3', 'out_dims is 3'),
    ('row_mae', 'model.neck.num_patches=3', 'num_patches is 3'),
    ('row_moco', 'model.neck.in_channels=3', 'in_channels is 3'),
    # Classification
    ('linear', 'model.head.in_channels=64', 'in_channels is 64'),
    ('linear', 'model.head.num_classes=0', 'num_classes is 0'),
    ('semi', 'model.head.num_classes=9', 'num_classes is 9 and'),
    ('linear', 'model.backbone.frozen_stages=9', 'frozen_stages is 9'),
    (
        'linear',
        'train_dataloader.dataset.pipeline.1.scale=32',
        r'scale is \(32, 32\) and model.backbone.img_size is \(64, 64\)',
    ),
    (
        'knn',
        'test_dataloader.dataset.pipeline.3.size=32',
        'test_dataloader.dataset.pipeline.3.size',
    ),
    ('tuning', 'val_dataloader.dataset.pipeline.3.size=32', 'val_data.*size'),
    (
        'logistic',
        'test_cfg.train_dataloader.dataset.pipeline.3.size=32',
        'test_cfg.train_dataloader.dataset.pipeline.3.size is',
    ),
    ('tuning', 'model.backbone.out_type=raw', 'no feature of an image'),
    ('tuning', 'val_evaluator.topk=(0,)', r'topk is \(0,\)'),
    ('logistic', 'test_cfg.pool=max', 'mean, cls'),
    ('logistic', 'test_cfg.classifier.l2=-1', 'l2 is -1'),
    ('knn', 'test_cfg.classifier.ks=(0,)', 'ks is'),
    ('knn', 'test_cfg.classifier.temperature=0', 'temperature is 0'),
    ('robustness', 'test_dataloader.batch_size=0', 'batch_size is 0'),
    ('linear', 'val_dataloader.drop_last=True', 'counts every image'),
    ('linear', 'val_evaluator=[]', 'val_evaluator is empty'),
    ('linear', 'model.head=None', 'head is None; a classifier'),
    ('linear', 'model.neck.type=GlobalAveragePooling', 'pools a map'),
    ('linear', 'val_evaluator.collect_device=tpu', "is 'tpu'; set it to one"),
    ('tuning', 'model.backbone.out_indices=[]', 'out_indices is empty'),
    ('tuning', 'model.backbone.interpolate_mode=foo', 'one of bicubic'),
    ('tuning', 'model.head.loss.loss_weight=-1', 'loss_weight is -1'),
    ('tuning', 'val_dataloader.dataset.max_refetch=-1', 'refetch is -1'),
    # Detection
    ('detection', 'model.neck.in_channels=64', 'in_channels is 64'),
    ('detection', 'model.rpn_head.in_channels=32', 'rpn_head.in_channels'),
    ('detection', 'model.backbone.patch_size=16', 'strides'),
    ('detection', 'model.data_preprocessor.pad_size_divisor=12', 'divisor'),
    ('detection', 'model.roi_head.mask_head.num_classes=3', 'num_classes'),
    ('lvis', 'model.roi_head.bbox_head.loss_cls.num_classes=3', 'loss_cls'),
    ('lvis', 'model.roi_head.bbox_head.num_classes=0', 'num_classes is 0'),
    (
        'detection',
        'model.rpn_head.anchor_generator.strides=[2,4,8]',
        r'strides is \[2, 4, 8\] and .* \[2, 4, 8, 16, 32\]',
    ),
    (
        'detection',
        'model.roi_head.bbox_roi_extractor.roi_layer.output_size=14',
        r'bbox_head.roi_feat_size is \(7, 7\) and .*output_size is \(14, 14',
    ),
    ('detection', 'model.train_cfg.rcnn.mask_size=14', 'mask_size is .14, 14'),
    ('cascade', 'model.train_cfg.rcnn.1.mask_size=14', r'rcnn\.1\.mask_size'),
    (
        'cascade',
        'model.roi_head.bbox_head.2.num_classes=3',
        'bbox_head.2.num_classes is 3',
    ),
    (
        'cascade',
        'model.roi_head.bbox_head.1.in_channels=3',
        'bbox_head.1.in_channels is 3',
    ),
    ('detection', 'model.rpn_head.anchor_generator.scales=[-8]', 'scales is'),
    ('detection', 'model.train_cfg.rcnn.assigner.pos_iou_thr=7', 'thr is 7'),
    ('detection', 'model.train_cfg.rcnn.sampler.num=0', 'sampler.num is 0'),
    ('detection', 'model.test_cfg.rcnn.score_thr=2', 'score_thr is 2'),
    ('detection', 'model.test_cfg.rpn.nms.iou_threshold=7', 'threshold is 7'),
    ('detection', 'model.backbone.arch.global_attn_indexes=[9]', 'are 4 blo'),
    (
        'detection',
        'train_dataloader.dataset.pipeline.3.ratio_range=(2,1)',
        r'ratio_range is \(2, 1\)',
    ),
    (
        'detection',
        'train_dataloader.dataset.pipeline.4.crop_size=(0,0)',
        r'crop_size is \(0, 0\)',
    ),
    ('detection', 'model.test_cfg.rcnn.mask_thr_binary=7', 'binary is 7'),
    ('detection', 'model.train_cfg.rcnn.pos_weight=-3', 'weight is -3'),
    ('detection', 'model.test_cfg.rcnn.nms.type=nmss', "is 'nmss'; set it to"),
    ('detection', 'val_evaluator.iou_thrs=[2]', r'iou_thrs is \[2\]'),
    ('detection', 'val_evaluator.proposal_nums=(0,)', 'proposal_nums is'),
    (
        'detection',
        'model.rpn_head.bbox_coder.target_stds=[0,0,0,0]',
        'each a number above 0',
    ),
    (
        'detection',
        'train_dataloader.dataset.filter_cfg.min_size=-5',
        'min_size is -5',
    ),
    (
        'detection',
        'train_dataloader.dataset.pipeline.4.crop_type=foo',
        'one of absolute',
    ),
    (
        'detection',
        'train_dataloader.dataset.pipeline.2.prob=3',
        r'pipeline.2.prob is 3',
    ),
    # Segmentation
    ('upernet', 'model.auxiliary_head.num_convs=-1', 'num_convs is -1'),
    ('upernet', 'val_evaluator.iou_metrics=[mIou]', 'each one of mIoU'),
    ('upernet', 'val_evaluator.nan_to_num=abc', "is 'abc'; set it to a num"),
    (
        'upernet',
        'train_dataloader.dataset.pipeline.3.cat_max_ratio=-1',
        'ratio is -1',
    ),
    ('upernet', 'model.test_cfg.mode=slidee', "is 'slidee'; set it to slide"),
    ('upernet', 'model.data_preprocessor.seg_pad_val=3', 'padding has no lab'),
    ('upernet', 'model.decode_head.dropout_ratio=2', 'dropout_ratio is 2'),
    ('upernet', 'model.decode_head.loss_decode.loss_weight=nan', 'is nan'),
    ('upernet', 'train_dataloader.dataset.pipeline.3.crop_size=128', 'crop_s'),
    (
        'seg_knn',
        'test_cfg.train_dataloader.dataset.pipeline.3.crop_size=(128,64)',
        r'test_cfg.train_dataloader.*crop_size is \(128, 64\)',
    ),
    (
        'upernet',
        'model.test_cfg.mode=whole model.data_preprocessor.size=(32,32)',
        r'data_preprocessor.size is \(32, 32\)',
    ),
    ('upernet', 'model.decode_head.in_index=[0,1,2,4]', 'returns 4 blocks'),
    ('upernet', 'model.auxiliary_head.in_index=7', 'auxiliary_head.in_index'),
    ('upernet', 'model.neck.rescales=[2,1]', 'number of model.neck.rescales'),
    ('upernet', 'model.backbone.img_size=32', 'crop_size|size is'),
    ('upernet', 'model.test_cfg.stride=(0,42)', 'stride'),
    ('upernet', 'model.test_cfg.crop_size=(32,32)', 'crop_size is'),
    ('upernet', 'model.neck.embed_dim=64', 'embed_dim is 64'),
    ('upernet', 'model.decode_head.num_classes=3', 'num_classes is 3'),
    ('upernet', 'model.backbone.arch.num_heads=3', '128 channels and 3 heads'),
    ('upernet', 'model.backbone.out_indices=(0,1,2,9)', 'out_indices'),
    ('seg_linear', 'model.decode_head.in_channels=64', 'in_channels is 64'),
    ('seg_knn', 'model.decode_head.k=0', 'k is 0'),
]


@pytest.mark.parametrize(
    ('task', 'change', 'words'), WRONG, ids=[' '.join(w[:2]) for w in WRONG]
)
def test_a_wrong_setting_is_one_sentence(task, change, words):
    with pytest.raises(SimimError, match=words) as error:
        check(task, *change.split())
    sentence = str(error.value)
    assert sentence.endswith('.')
    assert '\n' not in sentence


def test_a_schedule_of_epochs_needs_its_end_in_a_run_of_iterations():
    config = Config(config_of(NAMES['pretraining']).to_dict())
    config.train_cfg = dict(type='IterBasedTrainLoop', max_iters=48)
    config.train_dataloader.sampler = dict(type='InfiniteSampler')
    config.default_hooks.checkpoint.by_epoch = False
    words = 'param_scheduler counts epochs, and train_cfg iterations'
    with pytest.raises(SimimError, match=words):
        check_settings(config)
    config.param_scheduler.end = 20
    assert words not in str(check_settings(config))
    config.custom_hooks += [dict(type='OnlineMatches', interval=2)]
    words = 'custom_hooks.4.interval counts epochs, and train_cfg iterations'
    assert words in str(check_settings(config))


def test_only_a_relative_bias_fixes_the_size_of_tested_images():
    changes = (
        'model.test_cfg.mode=whole',
        'model.data_preprocessor.test_cfg.size=(96,96)',
    )
    with pytest.raises(SimimError, match=r'test_cfg.size is \(96, 96\)'):
        check('upernet', *changes)
    check('upernet', 'model.backbone.relative_bias=False', *changes)


def test_all_faults_of_a_kind_are_named_at_once():
    with pytest.raises(SimimError) as error:
        check(
            'pretraining',
            'train_dataloader.batch_size=0',
            'optim_wrapper.optimizer.lr=nan',
        )
    assert str(error.value) == (
        'train_dataloader.batch_size is 0; set it to a whole number at least '
        '1 and at most 1,000,000. optim_wrapper.optimizer.lr is nan; set it '
        'to a number above 0 and at most 10,000.'
    )


# Settings that change nothing, and the words of the warning
UNREAD = [
    ('trian_cfg.max_epochs=3', 'trian_cfg; did you mean train_cfg'),
    ('foo.bar=1', 'Nothing reads the setting foo; remove it'),
    ('custom_hook=1', 'did you mean custom_hooks'),
    ('auto_scale_lr.enabled=True', 'did you mean enable'),
    ('cudnn_benchmark=True', 'did you mean env_cfg.cudnn_benchmark'),
    ('cfg=3', 'Nothing reads the setting cfg'),
    ('env_cfg.cudn_benchmark=True', 'did you mean cudnn_benchmark'),
    ('env_cfg.mp_cfg.start=1', 'mp_cfg.start'),
    (
        'optim_wrapper.paramwise_cfg.layer_decay=1',
        'did you mean layer_decay_rate',
    ),
]


@pytest.mark.parametrize(
    ('change', 'words'), UNREAD, ids=[change for change, _ in UNREAD]
)
def test_an_unread_setting_is_a_warning(change, words):
    (warning,) = check('pretraining', change)
    assert words in warning


@pytest.mark.parametrize(
    ('task', 'path', 'near'),
    [
        ('detection', 'model.train_cfg.rcn', 'rcnn or rpn'),
        ('detection', 'model.train_cfg.rpn.asigner', 'assigner'),
        ('detection', 'model.test_cfg.rcnn.score_thrs', 'score_thr'),
        ('lvis', 'train_dataloader.dataset.filter_cfg.min_siz', 'min_size'),
        ('upernet', 'model.test_cfg.strides', 'stride'),
        ('upernet', 'test_evaluator.output_dirs', 'output_dir'),
    ],
)
def test_an_unread_key_of_a_model_is_a_warning(task, path, near):
    (warning,) = check(task, f'{path}=1')
    assert warning == f'Nothing reads the setting {path}; did you mean {near}.'


@pytest.mark.parametrize('task', ['pretraining', 'tuning', 'detection'])
def test_the_config_that_a_run_writes_has_no_unread_name(task):
    """It holds a pipeline by its name and in the data set."""
    config = Config(config_of(NAMES[task]).to_dict())
    write_plainly(config)
    assert not check_settings(config, config.pretty_text)
    config.custom_hook = [dict(type='MomentumHook', base_momentum=0.5)]
    (line,) = check_settings(config, config.pretty_text)
    assert line.startswith('Nothing reads the setting custom_hook; did you')


def test_a_stock_warm_up_beyond_the_run_is_a_warning():
    (warning,) = check('upernet', 'train_cfg.max_iters=10')
    assert 'param_scheduler.0 warms up for 20 steps' in warning


@pytest.mark.parametrize('task', ['tuning', 'detection', 'upernet'])
@pytest.mark.parametrize('window', ['percentiles', '(0,4095)'])
def test_other_levels_in_an_evaluation_are_a_warning(task, window):
    key = 'dataset.pipeline.0.window'
    warnings = check(task, f'train_dataloader.{key}={window}')
    named = [line.partition(' ')[0] for line in warnings]
    assert named == [f'{part}_dataloader.{key}' for part in ('val', 'test')]
    assert all('more than 8 bits' in line for line in warnings)
    parts = ('train', 'val', 'test')
    assert not check(task, *(f'{p}_dataloader.{key}={window}' for p in parts))


# Sizes that work, but not as meant, and the words of the warning
SIZES = [
    (
        'detection',
        'train_dataloader.dataset.pipeline.4.crop_size=(32,32)',
        r'crop_size is \(32, 32\).*most of each image is padding',
    ),
    (
        'detection',
        'train_dataloader.dataset.pipeline.4.crop_size=(128,64)',
        'interpolates its relative positions',
    ),
    (
        'detection',
        'model.data_preprocessor.pad_size_divisor=8',
        r'train_.*divisor 8 and model.backbone.img_size 64: images of other',
    ),
    (
        'detection',
        'test_dataloader.dataset.pipeline.1.scale=(100,60)',
        r'test_dataloader.*scale is \(100, 60\).*interpolates',
    ),
    (
        'upernet',
        'train_dataloader.dataset.pipeline.3.crop_size=(32,32)',
        'padded to .64, 64.: most of each image is padding',
    ),
]


def test_erased_pixels_of_another_preprocessing_are_a_warning():
    assert not check('imagenet_tuning')
    warnings = check(
        'imagenet_tuning', 'model.data_preprocessor.mean=(127.5,127.5,127.5)'
    )
    assert re.search(
        r'pipeline.6.fill_color is .*127.5.*: erased pixels differ', *warnings
    )


@pytest.mark.parametrize('changed', ['dataset', 'evaluator'])
def test_an_evaluation_by_another_file_is_a_warning(changed):
    """Each part of a set often counts its images from 1."""
    place = 'evaluator' if changed == 'evaluator' else 'dataloader.dataset'
    (warning,) = check('detection', f'test_{place}.ann_file=other.json')
    assert warning.startswith('test_evaluator.ann_file is ')
    assert 'other.json' in warning


@pytest.mark.parametrize(
    ('task', 'change', 'words'), SIZES, ids=[' '.join(s[:2]) for s in SIZES]
)
def test_a_size_that_does_not_agree_is_a_warning(task, change, words):
    warnings = check(task, change)
    assert re.search(words, warnings[0])
    assert all(re.search('img_size', warning) for warning in warnings)


def test_a_comparison_that_fails_is_a_warning(monkeypatch):
    """A bug in the check neither passes in silence nor ends a run."""

    def broken(whole):
        yield 'A fault.'
        raise KeyError('patch')

    monkeypatch.setattr(checking, 'WARNINGS', (broken,))
    fault, failed = check('pretraining')
    assert fault == 'A fault.'
    assert "broken of the check of settings failed (KeyError: 'pat" in failed
    monkeypatch.setattr(checking, 'AGREEMENTS', (broken,))
    with pytest.raises(SimimError, match=r'^A fault\.$'):
        check('pretraining')


def paths(settings: object, depth: int = 3) -> Iterator[tuple]:
    """Yield the path of every setting, down to a depth."""
    if isinstance(settings, dict) and depth:
        for key, value in settings.items():
            yield (key,)
            yield from ((key, *path) for path in paths(value, depth - 1))


@pytest.mark.parametrize('task', ['row_mae', 'linear', 'cascade', 'upernet'])
def test_a_config_without_one_setting_is_compared_or_refused(task):
    whole = config_of(NAMES[task]).to_dict()
    kept = {
        key: value
        for key, value in whole.items()
        if re.match('model|train_|test_|optim|default_', key)
    }
    for number, path in enumerate(paths(kept)):
        config = copy.deepcopy(kept)
        inner = config
        for key in path[:-1]:
            inner = inner[key]
        if number % 2:
            del inner[path[-1]]
        else:
            inner[path[-1]] = None
        try:
            warnings = check_settings(config)
        except SimimError:
            continue
        assert not [w for w in warnings if 'failed' in w], path


def test_online_knn_needs_square_images():
    base = config_of(NAMES['pretraining'])
    config = Config(base.to_dict())
    config.merge_from_dict(
        parse(
            'model.backbone.img_size=(64,128)',
            'model.neck.grid=(8,16)',
            'train_dataloader.dataset.pipeline.1.size=(64,128)',
            'train_dataloader.dataset.pipeline.2.grid=(8,16)',
        )
    )
    assert check_settings(config, base.text) == []
    config.custom_hooks.append(dict(type='OnlineKNN', train='a', val='b'))
    with pytest.raises(SimimError, match='OnlineKNN, which crops squares'):
        check_settings(config)


@pytest.mark.parametrize(
    ('task', 'change', 'words'),
    [
        (
            'detection',
            'param_scheduler.1.milestones=[889,5000]',
            r'milestones has \[5000\] and train_cfg.max_iters is 1000',
        ),
        (
            'pretraining',
            'param_scheduler.eta_min=5',
            'the learning rate rises',
        ),
    ],
    ids=['milestones', 'eta_min'],
)
def test_a_schedule_without_sense_is_a_warning(task, change, words):
    (warning,) = check(task, change)
    assert re.search(words, warning)


# Unusual settings that are right
RIGHT = [
    ('pretraining', 'param_scheduler.warmup=8'),
    ('pretraining', 'train_cfg.max_epochs=3.0'),
    ('pretraining', 'randomness.seed=None'),
    ('pretraining', 'optim_wrapper.clip_grad=None'),
    ('pretraining', 'optim_wrapper.clip_grad.max_norm=inf'),
    (
        'pretraining',
        'optim_wrapper.clip_grad._delete_=True '
        'optim_wrapper.clip_grad.type=value '
        'optim_wrapper.clip_grad.clip_value=0.5',
    ),
    ('pretraining', 'default_hooks.checkpoint.interval=-1'),
    ('pretraining', 'custom_hooks.0.base_momentum=1.0'),
    ('pretraining', 'custom_hooks.0.priority=LOW'),
    ('pretraining', 'model.head.negative_weight=0'),
    ('pretraining', 'model.backbone.init_cfg=None'),
    ('pretraining', 'optim_wrapper.optimizer.foreach=True'),
    ('pretraining', 'optim_wrapper.optimizer.weight_decay=0'),
    ('pretraining', 'train_dataloader.pin_memory=True'),
    ('pretraining', 'train_dataloader.num_batch_per_epoch=3'),
    ('pretraining', 'train_dataloader.dataset.indices=6'),
    ('pretraining', 'model.backbone.norm_cfg.eps=1e-5'),
    ('pretraining', 'compile=True'),
    ('pretraining', 'model.data_preprocessor.colours=True'),
    ('pretraining', 'compile.modules=[backbone,neck]'),
    ('pretraining', 'compile.mode=reduce-overhead'),
    ('pretraining', 'param_scheduler.begin=2'),
    ('pretraining', 'train_dataloader.dataset.indices=[0,5]'),
    ('pretraining', 'env_cfg.dist_cfg.timeout=60.5'),
    ('pretraining', 'find_unused_parameters=True'),
    ('pretraining', 'model_wrapper_cfg.static_graph=True'),
    ('pretraining', 'model_wrapper_cfg.type=FullyShard'),
    ('pretraining', 'model.backbone.with_cp=True'),
    ('imagenet', 'model.backbone.arch=BASE'),
    ('tuning', 'train_cfg.val_begin=2'),
    ('tuning', 'model.backbone.interpolate_mode=bilinear'),
    ('tuning', f'{LABELS}.class_weight=[{EIGHT}]'),
    ('detection', f'{BOXES}.class_weight=[{EIGHT},0.1]'),
    ('detection', 'model.rpn_head.loss_cls.class_weight=[2]'),
    ('upernet', f'{PIXELS}.class_weight=weights.npy'),
    ('detection', 'model.test_cfg.rcnn.score_thr=0.1'),
    ('detection', 'model.roi_head.bbox_head.reg_class_agnostic=True'),
    ('upernet', 'model.decode_head.act_cfg.type=GELU'),
]


@pytest.mark.parametrize(
    ('task', 'change'), RIGHT, ids=[' '.join(case) for case in RIGHT]
)
def test_an_unusual_setting_passes(task, change):
    assert check(task, *change.split()) == []

"""The values that single settings may have: one table.

A key is CLASS.SETTING and holds for every class that inherits CLASS, * for all
classes; of a dictionary without class, it is the dictionary's last name. A
setting that equals the default of its class always passes.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from numbers import Integral, Real
from typing import Any, NamedTuple

from mmengine.fileio.backends.registry_utils import backends


class Rule(NamedTuple):
    """A condition on a value, and the words for it."""

    holds: Callable[[Any], bool]
    words: str


def number(
    least: float = -math.inf,
    most: float = math.inf,
    *,
    above: float = -math.inf,
    below: float = math.inf,
    whole: bool = False,
    infinite: bool = False,
) -> Rule:
    """Return the rule of a number within bounds.

    Args:
        least (float): smallest number.
        most (float): largest number.
        above (float): a smaller number that is excluded.
        below (float): a larger number that is excluded.
        whole (bool): allow integers only.
        infinite (bool): allow infinity.
    """
    kind: Any = Integral if whole else Real

    def holds(value: Any) -> bool:
        return (
            isinstance(value, kind)
            and not isinstance(value, bool)
            and (infinite or math.isfinite(value))
            and least <= value <= most
            and above < value
            and (value < below or below == math.inf)
        )

    bounds = [
        f'{word} {bound:,}'
        for word, bound in (
            *(('at least', least), ('above', above)),
            *(('at most', most), ('below', below)),
        )
        if math.isfinite(bound)
    ]
    words = 'a whole number' if whole else 'a number'
    return Rule(holds, ' '.join([words, ' and '.join(bounds)]).strip())


def count(least: int = 1, most: int = 10**9) -> Rule:
    """Return the rule of a whole number."""
    return number(least, most, whole=True)


def either(rule: Rule, *others: Any) -> Rule:
    """Return a rule that allows some other values, too."""

    def holds(value: Any) -> bool:
        return rule.holds(value) or any(
            value is other or (type(value) is type(other) and value == other)
            for other in others
        )

    words = ' or '.join([rule.words, *map(repr, others)])
    return Rule(holds, words)


def each(rule: Rule, length: int | None = None) -> Rule:
    """Return the rule of a list whose items follow a rule."""

    def holds(value: Any) -> bool:
        return (
            isinstance(value, Sequence)
            and not isinstance(value, str)
            and len(value) > 0
            and length in (None, len(value))
            and all(map(rule.holds, value))
        )

    many = 'a list' if length is None else f'{length} values'
    return Rule(holds, f'{many}, each {rule.words}')


def one_of(*names: str) -> Rule:
    """Return the rule of a name from a list."""
    return Rule(
        lambda value: isinstance(value, str) and value in names,
        'one of ' + ', '.join(names),
    )


def rising(least: float, most: float) -> Rule:
    """Return the rule of two numbers, above ``least`` and not falling."""
    pair = each(number(above=least, most=most), 2)

    def holds(value: Any) -> bool:
        return pair.holds(value) and value[0] <= value[1]

    return Rule(
        holds,
        f'two numbers (low, high) with {least} < low <= high'
        + (f' <= {most:g}' if math.isfinite(most) else ''),
    )


def one_or_two(rule: Rule) -> Rule:
    """Return the rule of one value, or of a height and a width."""
    pair = each(rule, 2)
    return Rule(
        lambda value: rule.holds(value) or pair.holds(value),
        f'{rule.words}, or two',
    )


def _leaves(value: Any) -> list[Any]:
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [leaf for item in value for leaf in _leaves(item)]
    return [value]


def leaves(rule: Rule) -> Rule:
    """Return the rule of one value, or of lists of them."""

    def holds(value: Any) -> bool:
        found = _leaves(value)
        return len(found) > 0 and all(map(rule.holds, found))

    return Rule(holds, f'{rule.words}, or several')


def pattern(value: Any) -> bool:
    """Return whether a value is a regular expression."""
    try:
        re.compile(value)
    except (re.error, TypeError):
        return False
    return True


SHARE = number(0, 1)
FACTOR = number(0, 10**4)
STAGE = Rule(
    lambda value: each(count(0), 2).holds(value) and count().holds(value[1]),
    'a start and an interval of 1 or more',
)
STAGES = either(each(STAGE), None)
YES_NO = Rule(lambda value: isinstance(value, bool), 'True or False')
SEED = either(count(0, 2**32 - 1), None)
SIDE = one_or_two(count())
DROP = number(0, below=1)
NEVER = either(count(), -1)
LENGTH = Rule(
    lambda value: number(1, 10**9).holds(value) and value == int(value),
    'a whole number at least 1',
)
CROP = rising(0, 1)
LENGTHS = leaves(number(above=0, infinite=True))
ROTARY = either(one_of('dinov3', 'eva02', 'capi'), True, False)
WHERE_RESUMED = Rule(
    lambda value: False,
    'its default, the work directory: --resume looks there',
)
WINDOW = either(
    Rule(
        lambda value: each(number(), 2).holds(value) and value[0] < value[1],
        'two levels, the lower one first,',
    ),
    *('percentiles', None),
)
NO_EFFECT = Rule(lambda value: False, 'its default, since nothing reads it')
"""Rule of what a class inherits and its own methods do not read."""

_WEIGHTS = each(number(0))
BACKENDS = sorted(backends)

RULES: dict[str, Rule] = {
    '*.loss_weight': leaves(number(0)),
    '*.class_weight': Rule(
        lambda value: (
            value is None
            or isinstance(value, str)  # a file
            or number(0).holds(value)  # of DETR
            or _WEIGHTS.holds(value)
        ),
        f'{_WEIGHTS.words}, or None',
    ),
    '*.loss_name': Rule(
        lambda value: isinstance(value, str) and 'loss' in value,
        "a name that contains 'loss'; others are logged and not minimised",
    ),
    '*.reduction': one_of('none', 'mean', 'sum'),
    '*.backend_args': Rule(
        lambda value: (
            value is None
            or (
                isinstance(value, Mapping)
                and value.get('backend', 'local') in BACKENDS
            )
        ),
        'None, or a dictionary whose backend is one of ' + ', '.join(BACKENDS),
    ),
    # Runs
    'EpochBasedTrainLoop.max_epochs': LENGTH,
    'EpochBasedTrainLoop.val_interval': LENGTH,
    'EpochBasedTrainLoop.val_begin': count(0),
    'EpochBasedTrainLoop.dynamic_intervals': STAGES,
    'IterBasedTrainLoop.max_iters': LENGTH,
    'IterBasedTrainLoop.val_interval': LENGTH,
    'IterBasedTrainLoop.val_begin': count(0),
    'IterBasedTrainLoop.dynamic_intervals': STAGES,
    'BaseMetric.collect_device': one_of('cpu', 'gpu', 'npu', 'mlu'),
    'set_randomness.seed': SEED,
    'DefaultSampler.seed': SEED,
    'InfiniteSampler.seed': SEED,
    'env_cfg.cudnn_benchmark': YES_NO,
    'env_cfg.resource_limit': count(),
    'mp_cfg.mp_start_method': one_of('fork', 'spawn', 'forkserver'),
    'mp_cfg.opencv_num_threads': count(-1),
    'dist_cfg.backend': one_of(
        *('nccl', 'gloo', 'mpi', 'ucc', 'xccl', 'hccl', 'cncl', 'mccl'),
        'smddp',
    ),
    'dist_cfg.timeout': either(number(above=0, most=10**7), None),
    'DataLoader.batch_size': count(most=10**6),
    'DataLoader.num_workers': count(0, 1024),
    'DataLoader.prefetch_factor': either(count(most=1024), None),
    'DataLoader.num_batch_per_epoch': either(count(), None),
    'DataLoader.in_order': Rule(
        lambda value: value is True,
        'True; --resume cannot repeat batches in the order of their workers',
    ),
    'DataLoader.generator': Rule(
        lambda value: value is None, 'None; samplers have a seed'
    ),
    'DataLoader.timeout': number(0, infinite=True),
    'ImageSet.skip_broken': SHARE,
    'BaseDataset.max_refetch': count(0),
    'BaseDataset.indices': Rule(
        lambda value: (
            (count(-(10**9)).holds(value) and value != 0)
            or each(count(-(10**9))).holds(value)
        ),
        'the number of images (below 0: from the end), or a list of indices',
    ),
    'LoadRGBImage.channels': count(most=512),
    'LoadImage.channels': count(most=512),
    'LoadRGBImage.window': WINDOW,
    'LoadImage.window': WINDOW,
    'VisionTransformer.in_channels': count(most=512),
    'ViTSAM.in_channels': count(most=512),
    'MAE.in_channels': count(most=512),
    # Optimisation
    'OptimWrapper.accumulative_counts': count(most=10**6),
    'Optimizer.lr': number(above=0, most=10**4),
    'Optimizer.weight_decay': number(0, 10),
    'Optimizer.momentum': DROP,
    'AmpOptimWrapper.dtype': either(
        one_of('float16', 'bfloat16', 'float64'), None
    ),
    'AmpOptimWrapper.loss_scale': Rule(
        lambda value: (
            value == 'dynamic'
            or isinstance(value, Mapping)
            or number(above=0).holds(value)
        ),
        "a number above 0, 'dynamic' or a dictionary",
    ),
    'Optimizer.eps': number(0, 1),
    'Optimizer.maximize': Rule(
        lambda value: value is False, 'False, since a loss is minimised'
    ),
    'Optimizer.capturable': Rule(
        lambda value: value is False, 'False; no run records CUDA graphs'
    ),
    'Optimizer.differentiable': Rule(
        lambda value: value is False, 'False; no run differentiates steps'
    ),
    'Adam.betas': each(DROP, 2),
    'Optimizer.betas': each(DROP),
    'ProbeLARS.trust': number(above=0),
    'clip_grad_norm_.max_norm': number(above=0, infinite=True),
    'clip_grad_norm_.norm_type': number(above=0, infinite=True),
    'clip_grad.type': one_of('norm', 'value'),
    'clip_grad_value_.clip_value': number(above=0),
    'paramwise_cfg.layer_decay_rate': number(above=0, most=1),
    'paramwise_cfg.flat_decay_mult': FACTOR,
    'paramwise_cfg.norm_decay_mult': FACTOR,
    'paramwise_cfg.bias_decay_mult': FACTOR,
    'paramwise_cfg.bias_lr_mult': FACTOR,
    'paramwise_cfg.dwconv_decay_mult': FACTOR,
    'paramwise_cfg.dcn_offset_lr_mult': FACTOR,
    'paramwise_cfg.bypass_duplicate': YES_NO,
    'auto_scale_lr.base_batch_size': count(),
    '_ParamScheduler.begin': number(0),
    '_ParamScheduler.end': number(above=0, infinite=True),
    '_ParamScheduler.last_step': Rule(
        lambda value: False, 'its default; --resume goes on with a schedule'
    ),
    'WarmupCosineLR.warmup': number(0),
    'WarmupCosineLR.eta_min': number(0),
    'LinearLR.start_factor': number(above=0, most=1),
    'MultiStepParamScheduler.gamma': number(above=0),
    'PolyParamScheduler.power': number(above=0),
    # Hooks
    'LoggerHook.interval': count(),
    'LoggerHook.interval_exp_name': count(),
    'CheckpointHook.interval': NEVER,
    'CheckpointHook.save_begin': count(0),
    'CheckpointHook.filename_tmpl': one_of('epoch_{}.pth', 'iter_{}.pth'),
    'SafeCheckpointHook.out_dir': WHERE_RESUMED,
    'LogProcessor.by_epoch': YES_NO,
    'MMDistributedDataParallel.static_graph': YES_NO,
    'MMDistributedDataParallel.find_unused_parameters': YES_NO,
    'MMDistributedDataParallel.broadcast_buffers': YES_NO,
    'MMDistributedDataParallel.gradient_as_bucket_view': YES_NO,
    'LogProcessor.window_size': count(),
    'LogProcessor.num_digits': count(0, 30),
    'LogProcessor.mean_pattern': Rule(pattern, 'a regular expression'),
    'MomentumHook.base_momentum': SHARE,
    'ThroughputHook.interval': count(),
    'ThroughputHook.max_wait': SHARE,
    'SmallViewsFirst.scale': SHARE,
    'SmallViewsFirst.share': SHARE,
    'CollapseMonitor.interval': count(),
    'CollapseMonitor.patience': count(),
    'CollapseMonitor.min_rank': SHARE,
    'CollapseMonitor.min_token_std': number(0),
    'CollapseMonitor.max_cos_image': SHARE,
    'CollapseMonitor.max_cos_batch': SHARE,
    'CollapseMonitor.min_teacher_std': SHARE,
    'CollapseMonitor.max_teacher_cos': SHARE,
    'NonFiniteGuard.max_in_row': count(),
    'NonFiniteGuard.max_saved': count(0),
    'OnlineKNN.interval': count(),
    'OnlineKNN.k': count(),
    'OnlineKNN.batch_size': count(),
    'OnlineKNN.num_workers': count(0, 1024),
    'OnlineKNN.max_train': either(count(), None),
    'OnlineKNN.max_val': either(count(), None),
    'OnlineKNN.pool': either(one_of('mean', 'cls'), None),
    'OnlineKNN.branch': one_of('online', 'target', 'student', 'teacher'),
    'ClassCountHook.parts': each(
        Rule(lambda value: isinstance(value, str), 'a part of the model')
    ),
    'VisualizationHook.interval': count(),
    'DetVisualizationHook.interval': count(),
    'SegVisualizationHook.interval': count(),
    'CheckpointHook.max_keep_ckpts': NEVER,
    'MultiStepParamScheduler.milestones': each(count()),
    # Views and masks
    'PairedViews.size': SIDE,
    'PairedViews.crop_scale': CROP,
    'PairedViews.aspect_ratio': rising(0, math.inf),
    'SmallTargetViews.target_size': SIDE,
    'MultiCropViews.aspect_ratio': rising(0, math.inf),
    'CropMasks.grid': SIDE,
    'CropMasks.prob': number(above=0, most=1),
    'CropMasks.num_global': count(),
    'CropMasks.min_block': count(),
    'BlockwiseMask.grid': SIDE,
    'BlockwiseMask.num_masked': count(),
    'BlockwiseMask.min_block': count(),
    'RandomMask.grid': SIDE,
    'RandomMask.num_masked': count(),
    'FastColorJitter.prob': SHARE,
    'FastGrayscale.prob': SHARE,
    'FastGaussianBlur.prob': SHARE,
    'RandomResizedCrop.crop_ratio_range': CROP,
    'torchvision/RandomResizedCrop.scale': CROP,
    'Resize.scale': LENGTHS,
    'RandomResize.scale': LENGTHS,
    'RandomResize.ratio_range': rising(0, math.inf),
    'RandomCrop.crop_size': LENGTHS,
    'RandomCrop.crop_type': one_of(
        *('absolute', 'absolute_range', 'relative', 'relative_range')
    ),
    'RandomCrop.cat_max_ratio': number(above=0, most=1),
    'RandomFlip.prob': either(leaves(SHARE), None),
    # Models
    'data_preprocessor.mean': either(each(number()), None),
    'data_preprocessor.std': either(each(number(above=0)), None),
    'VisionTransformer.img_size': SIDE,
    'VisionTransformer.patch_size': SIDE,
    'VisionTransformer.interpolate_mode': one_of(
        *('bicubic', 'bilinear', 'nearest', 'nearest-exact', 'area')
    ),
    'norm_cfg.eps': number(0, most=1),
    'VisionTransformer.drop_rate': DROP,
    'VisionTransformer.drop_path_rate': DROP,
    'PlainViT.rotary': ROTARY,
    'VisionTransformer.frozen_stages': count(-1),
    'SiameseIMViTDet.img_size': count(),
    'SiameseIMViTDet.pretrain_img_size': count(),
    'SiameseIMViTDet.patch_size': count(),
    'SiameseIMViTDet.window_size': count(),
    'SiameseIMViTDet.rotary': ROTARY,
    'SiameseIMViTDet.drop_rate': DROP,
    'SiameseIMViTDet.drop_path_rate': DROP,
    'SiameseIMSegViT.out_type': one_of('featmap'),
    'arch.embed_dims': count(),
    'arch.num_layers': count(),
    'arch.num_heads': count(),
    'arch.feedforward_channels': count(),
    'TransformerProjector.in_dims': count(),
    'TransformerProjector.embed_dims': count(),
    'TransformerProjector.depth': count(0),
    'TransformerProjector.num_heads': count(),
    'RelativePositionDecoder.grid': each(count(), 2),
    'RelativePositionDecoder.embed_dims': count(),
    'RelativePositionDecoder.depth': count(0),
    'RelativePositionDecoder.num_heads': count(),
    'RelativePositionDecoder.target_grid': either(each(count(), 2), None),
    'PixelDecoder.out_dims': count(),
    'PairDataPreprocessor.colours': YES_NO,
    'PairDataPreprocessor.non_blocking': YES_NO,
    'PairedViews.defer': YES_NO,
    'UniGradHead.negative_weight': number(0, 10**6),
    'UniGradHead.eps': number(above=0, most=1),
    'InfoNCEHead.temperature': number(above=0),
    'DistillationHead.out_dims': count(2),
    'DistillationHead.num_global': count(),
    'DistillationHead.student_temperature': number(above=0),
    'DistillationHead.teacher_temperature': number(above=0),
    'DistillationHead.centre_momentum': SHARE,
    'AssignmentHead.num_prototypes': count(2),
    'AssignmentHead.temperature': number(above=0),
    'AssignmentHead.sharpening': number(above=0),
    'AssignmentHead.me_max_weight': number(0),
    'PatchTokenizer.num_tokens': count(2),
    'PatchTokenizer.patch_size': count(),
    'DALLETokenizer.patch_size': count(),
    'TokenBatchNorm.eps': number(above=0, most=1),
    'TokenBatchNorm.momentum': SHARE,
    'MAEViT.mask_ratio': number(above=0, below=1),
    'LinearClsHead.num_classes': count(),
    'LinearClsHead.in_channels': count(),
    'ClsDataPreprocessor.num_classes': either(count(), None),
    'LabelSmoothLoss.label_smooth_val': DROP,
    'SiameseIMFeaturePyramid.in_channels': count(),
    'SiameseIMFeaturePyramid.out_channels': count(),
    'BBoxHead.num_classes': count(),
    'FCNMaskHead.num_classes': count(),
    'AnchorGenerator.scales': each(number(above=0)),
    'AnchorGenerator.ratios': leaves(number(above=0)),
    'MaxIoUAssigner.pos_iou_thr': SHARE,
    'MaxIoUAssigner.neg_iou_thr': leaves(SHARE),
    'MaxIoUAssigner.min_pos_iou': SHARE,
    'BaseSampler.num': count(),
    'BaseSampler.pos_fraction': SHARE,
    'nms.iou_threshold': SHARE,
    'rcnn.score_thr': SHARE,
    'rcnn.max_per_img': NEVER,
    'rcnn.mask_thr_binary': either(SHARE, -1),
    'rcnn.pos_weight': either(number(above=0), -1),
    'rpn.pos_weight': either(number(above=0), -1),
    '*.target_stds': each(number(above=0)),
    'nms.type': one_of('nms', 'soft_nms', 'nms_match', 'nms_quadri'),
    'roi_layer.sampling_ratio': count(-1),
    'SingleRoIExtractor.finest_scale': count(),
    'CocoMetric.iou_thrs': either(leaves(SHARE), None),
    'CocoMetric.proposal_nums': each(count()),
    'CocoMetric.metric_items': either(
        each(
            one_of(
                *('mAP', 'mAP_50', 'mAP_75', 'mAP_s', 'mAP_m', 'mAP_l'),
                *('AR@100', 'AR@300', 'AR@1000'),
                *('AR_s@1000', 'AR_m@1000', 'AR_l@1000'),
            )
        ),
        None,
    ),
    'LVISMetric.metric_items': Rule(lambda value: True, ''),
    'Accuracy.thrs': either(leaves(either(SHARE, None)), None),
    'IoUMetric.beta': number(above=0),
    'BaseSampler.neg_pos_ub': number(-1),
    'MaxIoUAssigner.ignore_iof_thr': number(-1, 1),
    'FCNMaskHead.roi_feat_size': NO_EFFECT,
    'DetLocalVisualizer.alpha': SHARE,
    'SegLocalVisualizer.alpha': SHARE,
    'DetDataPreprocessor.pad_size_divisor': count(),
    'DetDataPreprocessor.pad_value': number(),
    'SegDataPreProcessor.pad_val': number(),
    'filter_cfg.min_size': number(0),
    'rpn.max_per_img': NEVER,
    'rpn_proposal.max_per_img': NEVER,
    'FederatedLoss.num_classes': count(),
    'FederatedLoss.num_sampled': count(),
    'FederatedLoss.power': number(),
    'BaseDecodeHead.num_classes': count(),
    'BaseDecodeHead.channels': count(),
    'BaseDecodeHead.dropout_ratio': either(SHARE, -1),
    'UPerHead.pool_scales': each(count()),
    'FCNHead.num_convs': count(0),
    'IoUMetric.iou_metrics': each(one_of('mIoU', 'mDice', 'mFscore')),
    'IoUMetric.nan_to_num': either(number(), None),
    'KNNSegHead.k': count(),
    'KNNSegHead.temperature': number(above=0),
    # Inherited, but never read
    'AnyChannelCrop.backend': NO_EFFECT,
    'SiameseIMViTDet.out_indices': NO_EFFECT,
    'SiameseIMViTDet.out_type': NO_EFFECT,
    'SiameseIMViTDet.interpolate_mode': NO_EFFECT,
    'SiameseIMViTDet.out_channels': NO_EFFECT,
    'SiameseIMViTDet.use_abs_pos': NO_EFFECT,
    'PairDataPreprocessor.pad_size_divisor': NO_EFFECT,
    'PairDataPreprocessor.pad_value': NO_EFFECT,
    'NormedUniGradHead.eps': NO_EFFECT,
    'PredictorHead.temperature': NO_EFFECT,
    'LinearSegHead.norm_cfg': NO_EFFECT,
    'LinearSegHead.conv_cfg': NO_EFFECT,
    'LinearSegHead.act_cfg': NO_EFFECT,
    'KNNSegHead.norm_cfg': NO_EFFECT,
    'KNNSegHead.conv_cfg': NO_EFFECT,
    'KNNSegHead.act_cfg': NO_EFFECT,
    'FastColorJitter.backend': NO_EFFECT,
    'SingleDrawCrop.max_attempts': NO_EFFECT,
    'LoadLabelMap.imdecode_backend': NO_EFFECT,
    'LoadInstances.with_keypoints': NO_EFFECT,
    'ImageFolder.filter_cfg': NO_EFFECT,
    'ImageFolder.data_prefix': NO_EFFECT,
    'ImageFolder.metainfo': NO_EFFECT,
    'ImageFolder.classes': NO_EFFECT,
    'LabelledFolder.filter_cfg': NO_EFFECT,
    'LabelledFolder.with_label': NO_EFFECT,
    'ImageNetSketch.with_label': NO_EFFECT,
    'CorruptedFolder.with_label': NO_EFFECT,
    'LocalCIFAR10.filter_cfg': NO_EFFECT,
    'CheckedSegDataset.filter_cfg': NO_EFFECT,
    'CheckedSegDataset.ignore_index': NO_EFFECT,
    'NumPy2LVISMetric.use_mp_eval': NO_EFFECT,
    # Evaluation
    'Accuracy.topk': leaves(count()),
    'FrozenFeatureLoop.pool': one_of('mean', 'cls'),
    'KNNClassifier.ks': each(count()),
    'KNNClassifier.temperature': number(above=0),
    'LogisticClassifier.l2': either(number(above=0), None),
    'LogisticClassifier.solver': one_of('sklearn', 'cyanure'),
    'KNNSegLoop.patches_per_image': either(count(), None),
}

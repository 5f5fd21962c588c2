"""Wrong settings of the Runner and of its own parts end in one sentence."""

import pytest
from mmengine.config import Config

from simim_plugin.errors import SimimError
from simim_plugin.settings import check_settings

from .test_wrong_settings import NAMES, check, config_of

# Words of --cfg-options in pretraining, and words of the sentence
WRONG = {
    'env_cfg.dist_cfg.timeout=0': 'timeout is 0; set it to a number above 0',
    'env_cfg.dist_cfg.timeout=-5': 'timeout is -5',
    'env_cfg.dist_cfg.backend=nkkl': "is 'nkkl'; set it to one of nccl, gloo",
    'env_cfg.mp_cfg.mp_start_method=frok': 'one of fork, spawn',
    'env_cfg.resource_limit=0': 'limit is 0',
    'env_cfg.cudnn_benchmark=maybe': "is 'maybe'; set it to True or False",
    'env_cfg=None': 'env_cfg is None; set it to a dictionary',
    'randomness=3': 'randomness is 3; set it to a dictionary',
    'randomness.deterministic=3': 'deterministic is 3; set it to True or',
    'log_level=LOUD': "is 'LOUD'; set it to DEBUG, INFO",
    'train_dataloader.dataset.indices=0': 'indices is 0; set it to the number',
    'train_dataloader.dataset.indices=[]': r'indices is \[\]',
    'train_dataloader.dataset.pipeline.2.min_block=39': 'no block fits; set',
    'train_dataloader.sampler.seed=-1': 'seed is -1',
    'train_dataloader.drop_last=False': 'whole number of optimizer steps',
    'train_dataloader.collate_fn.type=default_colate': 'mean default_coll',
    'train_dataloader.num_batch_per_epoch=0': 'per_epoch is 0',
    'sync_bn=torchh': 'one of torch, mmcv',
    'find_unused_parameters=perhaps': 'True or False',
    'compile.modules=backbone': 'True or a list of names of modules',
    'compile=3': 'compile is 3',
    'compile.foo=1': 'no argument of torch.compile; set one of backend',
    'auto_scale_lr=True': 'auto_scale_lr is True; set it to a dictionary',
    'optim_wrapper.optimizer.eps=10': 'eps is 10',
    'optim_wrapper.optimizer.maximize=True': 'since a loss is minimised',
    'optim_wrapper.clip_grad.norm_type=-3': 'norm_type is -3',
    'optim_wrapper.clip_grad=3': 'clip_grad is 3; set it to a dictionary',
    'optim_wrapper.paramwise_cfg.custom_keys.backbone.lr_mul=0.1': (
        'set lr_mul'
    ),
    'optim_wrapper.paramwise_cfg.custom_keys.backbone.lr_mult=-1': (
        'mult is -1'
    ),
    'optim_wrapper.paramwise_cfg.custom_keys.backbone=2': r'dict\(lr_mult=0.1',
    'param_scheduler.begin=5 param_scheduler.end=2': 'begin is 5 and end 2',
    'param_scheduler.begin=-1': 'begin is -1',
    'param_scheduler.begin=2 param_scheduler.warmup=19': 'ends after 18 ep',
    'param_scheduler.last_step=7': '--resume goes on',
    'default_hooks.checkpoint.save_best=auto': 'run has no validation',
    'default_hooks.checkpoint.rule=less': 'without save_best',
    'default_hooks.checkpoint.filename_tmpl=abc': r'one of epoch_\{\}.pth',
    'default_hooks.checkpoint.out_dir=/elsewhere': '--resume looks there',
    'default_hooks.chekpoint.interval=1': 'chekpoint has no type; set',
    'log_processor.mean_pattern=(': 'set it to a regular expression',
    'log_processor.num_digits=-1': 'digits is -1',
    'default_scope=mmpretain': 'name of an installed library',
    'launcher=foo': 'one of none, pytorch',
    'resume=3': 'resume is 3; set it to True or False',
    'load_from=3': 'load_from is 3; set it to a name',
    'custom_hooks=3': 'custom_hooks is 3; set it to a list',
    'custom_hooks=[3]': 'custom_hooks.0 is 3; set it to a dictionary',
    'model=3': 'model is 3; set it to a dictionary',
    'model_wrapper_cfg.type=Foo': "no 'Foo' for model_wrapper_cfg",
    'model_wrapper_cfg.static_graf=True': 'did you mean static_graph',
    'model_wrapper_cfg.static_graph=perhaps': 'True or False',
    'model_wrapper_cfg.static_graph=True optim_wrapper.accumulative_counts=2 '
    'default_hooks.checkpoint.interval=1': 'so the graph changes',
    'model_wrapper_cfg.type=FullyShard model_wrapper_cfg.mesh=2': (
        'mesh is no setting of FullyShard'
    ),
    'model_wrapper_cfg.type=FullyShard compile.modules=True': (
        'FullyShard cannot be compiled'
    ),
    'model_wrapper_cfg.type=FullyShard optim_wrapper.type=AmpOptimWrapper': (
        'set optim_wrapper.type to AutocastOptimWrapper'
    ),
    'model_wrapper_cfg.type=FullyShard '
    'default_hooks.average.type=EMAHook': 'default_hooks.average does',
    'activation_checkpointing=[backbone]': 'set model.backbone.with_cp',
    'default_hooks.logger.backend_args.backend=foo': 'backend is one of ',
    'default_hooks.logger.backend_args.backend=local': 'out_dir, which is not',
    'default_hooks.logger.keep_local=False': 'set default_hooks.logger.out_d',
    'train_dataloader.dataset.backend_args.backend=foo': 'backend_args is no',
    'train_dataloader.in_order=False': 'in_order is False; set it to True',
    'train_dataloader.generator=3': 'generator is 3; set it to None',
    'train_dataloader.dataset.test_mode=True': 'test_mode is True, which',
    'optim_wrapper.optimizer.capturable=True': 'capturable is True; set',
    'optim_wrapper.optimizer.differentiable=True': 'differentiable is True',
    'optim_wrapper.optimizer.self=3': 'self is no setting of AdamW',
    'train_cfg.val_begin=-2': 'val_begin is -2',
    'train_cfg.dynamic_intervals=[(0,0)]': 'each a start and an interval',
    'optim_wrapper.type=AmpOptimWrapper optim_wrapper.dtype=float17': (
        'float17'
    ),
}


@pytest.mark.parametrize(('change', 'words'), WRONG.items(), ids=WRONG)
def test_a_wrong_setting_of_the_runner(change, words):
    with pytest.raises(SimimError, match=words) as error:
        check('pretraining', *change.split())
    assert str(error.value).endswith('.')
    assert '\n' not in str(error.value)


def test_shards_are_not_trained_by_lamb():
    config = Config(config_of(NAMES['pretraining']).to_dict())
    config.optim_wrapper.optimizer = dict(type='Lamb', lr=0.1)
    config.model_wrapper_cfg = dict(type='FullyShard')
    with pytest.raises(SimimError, match='type to AdamW or LARS'):
        check_settings(config)

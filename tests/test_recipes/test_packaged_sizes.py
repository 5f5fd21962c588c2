"""The packaged configs of a folder train at other sizes, by one number."""

import pytest
from mmengine.config import Config

import simim_plugin
from simim_plugin.recipes.trial import try_step
from simim_plugin.settings import apply_img_size, check_settings

from .data import picture

FOLDERS = dict(
    tiny='siamese_im_vit-tiny-p16_1xb256-accum4-amp-coslr-400e_folder.py',
    small='siamese_im_vit-small-p16_1xb256-accum4-amp-coslr-400e_folder.py',
    base='siamese_im_vit-base-p16_1xb64-accum8-amp-coslr-400e_folder.py',
)


@pytest.mark.parametrize('side', [224, 128, 64])
@pytest.mark.parametrize('name', FOLDERS)
def test_a_folder_is_pretrained_at_any_size(name, side, tmp_path):
    for k in range(4):
        picture(tmp_path / 'photographs' / f'{k}.png', (80, 72), k)
    packaged = simim_plugin.config_path(FOLDERS[name])
    file = tmp_path / 'mine.py'
    file.write_text(
        f'_base_ = {str(packaged)!r}\n'
        f'img_size = {side}\n'
        'train_dataloader = dict(\n'
        f'    batch_size=2, dataset=dict(data_root={str(tmp_path)!r}))\n'
    )
    config = Config.fromfile(file)
    apply_img_size(config)
    check_settings(config)
    assert config.model.backbone.img_size == side
    (views,) = (
        step
        for step in config.train_dataloader.dataset.pipeline
        if step.type == 'PairedViews'
    )
    assert views.size == side
    assert tuple(config.model.neck.grid) == (side // 16, side // 16)
    hooks = {hook.type for hook in config.custom_hooks}
    assert {'CollapseMonitor', 'OnlineMatches'} <= hooks
    if side == 64:
        assert try_step(file, steps=1).batch == 2


def test_padding_and_the_edge_of_a_crop_follow_one_size():
    pads = [
        dict(type='Pad', size=(64, 64)),
        dict(type='EvaluationCrop', size=64, edge=73),
        dict(type='Resize', scale=(64, 64)),
    ]
    augments = [dict(type='BatchFixedSizePad', size=(64, 64))]
    config = Config(
        dict(
            img_size=32,
            model=dict(
                type='MaskRCNN',
                backbone=dict(img_size=64, patch_size=16),
                data_preprocessor=dict(batch_augments=augments),
            ),
            train_dataloader=dict(dataset=dict(pipeline=pads[:1])),
            test_dataloader=dict(dataset=dict(pipeline=pads[1:2])),
            tta_pipeline=pads[2:],
        )
    )
    apply_img_size(config)
    (pad,) = config.train_dataloader.dataset.pipeline
    (crop,) = config.test_dataloader.dataset.pipeline
    (resize,) = config.tta_pipeline
    (batch,) = config.model.data_preprocessor.batch_augments
    assert pad.size == batch.size == resize.scale == (32, 32)
    assert (crop.size, crop.edge) == (32, 36)

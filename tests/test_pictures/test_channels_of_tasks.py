"""Five channels of 16 bits through every transfer, from files to a score."""

import json
from pathlib import Path

import numpy as np
import pytest
import tifffile
from mmengine.config import Config
from PIL import Image

import simim_plugin
from simim_plugin.engine import SiameseIMRunner
from simim_plugin.errors import SimimError

SIZE = 64


def stack(seed: int, channels: int) -> np.ndarray:
    """Return bands (H, W, N) of levels from 1000 to 3000."""
    draw = np.random.default_rng(seed)
    coarse = draw.integers(1000, 3000, (8, 8, channels), dtype=np.uint16)
    return np.kron(coarse, np.ones((8, 8, 1), np.uint16))


def write(file: Path, seed: int, channels: int) -> str:
    file.parent.mkdir(parents=True, exist_ok=True)
    planes = stack(seed, channels).transpose(2, 0, 1)
    tifffile.imwrite(file, planes, photometric='minisblack')
    return file.name


def labelled(root: Path, channels: int) -> None:
    for k in range(8):
        split, name = ('train', 'val')[k % 2], ('cat', 'dog')[k // 4]
        write(root / split / name / f'{k}.tif', k, channels)


def coco(root: Path, channels: int) -> None:
    for split in ('train', 'val'):
        images, anns = [], []
        for k in range(4 if split == 'train' else 1):
            file = write(root / f'{k}.tif', k, channels)
            images.append(dict(id=k, file_name=file, width=SIZE, height=SIZE))
            anns.append(
                dict(
                    id=k,
                    image_id=k,
                    category_id=1,
                    iscrowd=0,
                    area=400,
                    bbox=[8, 8, 20, 20],
                    segmentation=[[8, 8, 28, 8, 28, 28, 8, 28]],
                )
            )
        content = dict(
            images=images,
            annotations=anns,
            categories=[dict(id=1, name='disc')],
        )
        (root / f'{split}.json').write_text(json.dumps(content))


def pairs(root: Path, channels: int) -> None:
    for k in range(4):
        write(root / 'images' / f'{k}.tif', k, channels)
        (root / 'maps').mkdir(exist_ok=True)
        labels = np.arange(SIZE * SIZE).reshape(SIZE, SIZE) // 2000 % 2
        Image.fromarray(labels.astype('u1')).save(root / 'maps' / f'{k}.png')


def config(name: str, channels: int, tmp_path: Path) -> Config:
    """Return a packaged config for a number of channels."""
    cfg = Config.fromfile(
        simim_plugin.config_path(f'siamese_im_vit-micro-p8_{name}.py')
    )
    cfg.work_dir = str(tmp_path / 'run')
    cfg.model.backbone.in_channels = channels
    statistics = dict(mean=[120.0] * channels, std=[60.0] * channels)
    cfg.model.data_preprocessor.update(statistics)
    for split in ('train', 'val', 'test'):
        loader = cfg.get(f'{split}_dataloader')
        if loader is None:
            continue
        loader.update(num_workers=0, persistent_workers=False, batch_size=2)
        if split != 'train':
            loader.dataset.indices = 1
        for step in loader.dataset.pipeline:
            if step.type in ('LoadRGBImage', 'LoadImageFromFile'):
                step.window = 'percentiles'
    return cfg


def classification(cfg: Config, root: Path) -> None:
    cfg.model.head.num_classes = 2
    cfg.model.data_preprocessor.num_classes = 2
    cfg.train_cfg.max_epochs = 1
    cfg.param_scheduler.warmup = 0
    for split in ('train', 'val', 'test'):
        loader = cfg[f'{split}_dataloader']
        loader.dataset.data_root = str(
            root / ('train' if split == 'train' else 'val')
        )


def detection(cfg: Config, root: Path) -> None:
    heads = cfg.model.roi_head
    heads.bbox_head.num_classes = heads.mask_head.num_classes = 1
    for split in ('train', 'val', 'test'):
        cfg[f'{split}_dataloader'].dataset.update(
            data_root=str(root),
            ann_file='train.json' if split == 'train' else 'val.json',
            metainfo=dict(classes=['disc']),
        )
    for split in ('val', 'test'):
        cfg[f'{split}_evaluator'].ann_file = str(root / 'val.json')


def segmentation(cfg: Config, root: Path) -> None:
    for head in (cfg.model.decode_head, cfg.model.auxiliary_head):
        head.num_classes = 2
    for split in ('train', 'val', 'test'):
        cfg[f'{split}_dataloader'].dataset.update(
            data_root=str(root),
            metainfo=dict(classes=['even', 'odd']),
            reduce_zero_label=False,
            img_suffix='.tif',
            data_prefix=dict(img_path='images', seg_map_path='maps'),
        )


def two_steps(cfg: Config) -> None:
    if 'max_iters' in cfg.train_cfg:
        cfg.train_cfg.update(max_iters=1, val_interval=1)
        cfg.param_scheduler = []


TASKS = {
    'fine-tuning': ('ft-1xb64-amp-coslr-10e_demo', labelled, classification),
    'probing': ('linear-1xb64-amp-coslr-20e_demo', labelled, classification),
    'detection': ('vitdet-1xb4-1000it_demo', coco, detection),
    'segmentation': ('upernet-1xb16-amp-200i_demo', pairs, segmentation),
}


@pytest.mark.parametrize(
    ('task', 'channels'),
    [
        *(('fine-tuning', 5), ('probing', 1)),
        *(('detection', 5), ('segmentation', 1)),
    ],
)
def test_from_files_to_a_score(tmp_path, task, channels):
    name, make, adapt = TASKS[task]
    make(tmp_path, channels)
    cfg = config(name, channels, tmp_path)
    adapt(cfg, tmp_path)
    two_steps(cfg)
    runner = SiameseIMRunner.from_cfg(cfg)
    runner.train()
    loader = runner.train_dataloader
    images = loader.dataset[0]['inputs']
    assert images.shape[0] == channels
    # The levels of the set fill the eight bits.
    assert images.amin() < 30
    assert images.amax() > 225
    written = Config.fromfile(Path(cfg.work_dir, 'config.py'))
    windows = {
        tuple(step.window)
        for split in ('train', 'val', 'test')
        for step in written[f'{split}_dataloader'].dataset.pipeline
        if 'window' in step
    }
    ((low, high),) = windows
    assert 1000 <= low < 1100
    assert 2900 < high <= 3000
    with pytest.raises(SimimError, match=r'use the config\.py'):
        SiameseIMRunner.from_cfg(
            dict(
                cfg,
                train_cfg=None,
                train_dataloader=None,
                optim_wrapper=None,
                param_scheduler=None,
            )
        ).test()

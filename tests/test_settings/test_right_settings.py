"""No config of ours, and none of the libraries, is refused."""

import importlib
from pathlib import Path

import pytest
from mmengine.config import Config

import simim_plugin.operators  # noqa: F401  # of stock detectors
from simim_plugin.config_files import ABLATION_SCALES
from simim_plugin.settings import check_settings

ROOT = Path(__file__).resolve().parents[2] / 'configs'
OURS = [f for f in sorted(ROOT.rglob('*.py')) if f.parent.name != '_base_']
ROWS = [f for f in OURS if f.parent.name in ('ablations', 'rivals')]


def findings(file: Path) -> list[str]:
    config = Config.fromfile(file)
    return check_settings(config, config.text)


@pytest.mark.parametrize('file', OURS, ids=lambda file: file.stem)
def test_a_packaged_config(file):
    assert findings(file) == []


@pytest.mark.parametrize('scale', [s for s in ABLATION_SCALES if s != 'in1k'])
def test_the_ablations_of_a_scale(scale, monkeypatch):
    monkeypatch.setenv('SIMIM_SCALE', scale)
    assert {
        file.stem: found for file in ROWS if (found := findings(file))
    } == {}


STOCK = [
    'mmpretrain mae/mae_vit-base-p16_8xb512-amp-coslr-300e_in1k.py',
    'mmpretrain mocov3/mocov3_vit-base-p16_16xb256-amp-coslr-300e_in1k.py',
    'mmpretrain mae/benchmarks/vit-base-p16_8xb128-coslr-100e_in1k.py',
    'mmpretrain swin_transformer/swin-tiny_16xb64_in1k.py',
    'mmpretrain resnet/resnet50_8xb32-coslr-preciseBN_in1k.py',
    'mmpretrain simclr/simclr_resnet50_16xb256-coslr-200e_in1k.py',
    'mmpretrain simsiam/simsiam_resnet50_8xb32-coslr-100e_in1k.py',
    'mmpretrain arcface/resnet50-arcface_8xb32_inshop.py',
    'mmdet mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py',
    'mmdet ssd/ssd300_coco.py',
    'mmdet nas_fcos/nas-fcos_r50-caffe_fpn_fcoshead-gn-head_4xb4-1x_coco.py',
    'mmdet detr/detr_r50_8xb2-150e_coco.py',
    'mmdet yolox/yolox_s_8xb8-300e_coco.py',
    'mmseg mae/mae-base_upernet_8xb2-amp-160k_ade20k-512x512.py',
    'mmseg hrnet/fcn_hr18_4xb4-160k_ade20k-512x512.py',
    'mmseg mask2former/mask2former_r50_8xb2-160k_ade20k-512x512.py',
    'mmseg san/san-vit-b16_coco-stuff164k-640x640.py',
    'mmseg segformer/segformer_mit-b0_8xb2-160k_ade20k-512x512.py',
]


@pytest.mark.parametrize('name', STOCK)
def test_a_stock_config(name):
    library, path = name.split()
    package = importlib.import_module(library)
    file = Path(package.__file__).parent / '.mim' / 'configs' / path
    assert findings(file) == []

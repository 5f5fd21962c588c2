"""Checkpoints of the demo's configs, with weights of random numbers."""

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

from simim_plugin import config_path

FINETUNED = 'siamese_im_vit-micro-p8_ft-1xb64-amp-coslr-10e_demo.py'
LINEAR = 'siamese_im_vit-micro-p8_linear-1xb64-amp-coslr-20e_demo.py'
CIFAR = (
    'siamese_im_vit-tiny-p4_ft-1xb128-amp-coslr-50e_cifar10.py',
    'siamese_im_vit-tiny-p4_linear-1xb512-amp-coslr-50e_cifar10.py',
)
VITDET = 'siamese_im_vit-micro-p8_vitdet-1xb4-1000it_demo.py'
UPERNET = 'siamese_im_vit-micro-p8_upernet-1xb16-amp-200i_demo.py'
SEG_LINEAR = 'siamese_im_vit-micro-p8_seg-linear-1xb16-amp-200i_demo.py'
NAMES = {'mmpretrain': 8, 'mmdet': 8, 'mmseg': 14}


def names_of(count: int) -> tuple[str, ...]:
    return tuple(f'Größe {k}' for k in range(count))


@pytest.fixture(scope='package')
def checkpoint(tmp_path_factory):
    """Return a function that writes a checkpoint of a packaged config."""
    made = {}

    def write(name: str) -> str:
        if name not in made:
            config = Config.fromfile(config_path(name))
            init_default_scope(config.default_scope)
            torch.manual_seed(0)
            model = MODELS.build(config.model)
            for part in model.modules():  # scores that differ
                if isinstance(part, torch.nn.Linear):
                    torch.nn.init.normal_(part.weight, std=0.2)
            count = 10 if name in CIFAR else NAMES[config.default_scope]
            meta = dict(dataset_meta=dict(classes=names_of(count)))
            file = tmp_path_factory.mktemp('run') / 'last.pth'
            torch.save(dict(meta=meta, state_dict=model.state_dict()), file)
            made[name] = str(file)
        return made[name]

    return write

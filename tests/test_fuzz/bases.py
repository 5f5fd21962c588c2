"""Write the small files that the fuzz test changes."""

import json
import pickle
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import torch
from mmengine.logging import HistoryBuffer
from PIL import Image
from safetensors.torch import save_file
from transformers import ViTConfig, ViTModel

from simim_plugin.checkpoint import to_official

from ..test_checkpoint.families import CLASSES, TIMM
from ..test_checkpoint.helpers import PATCH, SIZE, our_vit, wrap
from ..test_detection.test_annotations import content_of, make, write
from ..test_models.helpers import small_model
from .changing import ARCH


def hugging_face_vit() -> ViTModel:
    config = ViTConfig(
        hidden_size=ARCH['embed_dims'],
        num_hidden_layers=ARCH['num_layers'],
        num_attention_heads=ARCH['num_heads'],
        intermediate_size=ARCH['feedforward_channels'],
        image_size=SIZE,
        patch_size=PATCH,
    )
    return ViTModel(config)


def write_checkpoints(folder: Path) -> None:
    layer = torch.nn.Linear(3, 2)
    state = layer.state_dict()
    optimizer = torch.optim.AdamW(layer.parameters())
    content = dict(
        state_dict=state,
        optimizer=optimizer.state_dict(),
        meta=dict(epoch=1, cfg='x = 1', seed=None),
        message_hub=dict(loss=HistoryBuffer([1.0, 2.0], [1, 1])),
    )
    for protocol in (2, 4):
        torch.save(
            content, folder / f'{protocol}.pth', pickle_protocol=protocol
        )
    torch.save(
        content, folder / 'old.pth', _use_new_zipfile_serialization=False
    )
    arrays = {name: value.numpy() for name, value in state.items()}
    (folder / 'arrays.pkl').write_bytes(pickle.dumps(arrays))
    save_file(state, folder / 'file.safetensors')


def write_weights(folder: Path) -> None:
    for kind, (cls, options) in TIMM.items():
        model = CLASSES[cls](
            img_size=SIZE,
            patch_size=PATCH,
            embed_dim=ARCH['embed_dims'],
            depth=ARCH['num_layers'],
            num_heads=ARCH['num_heads'],
            num_classes=0,
            **options,
        )
        torch.save(model.state_dict(), folder / f'{kind}.pth')
    ours = small_model().state_dict()
    states = {
        'hugging-face': hugging_face_vit().state_dict(),
        'encoder': wrap(our_vit(arch=ARCH).state_dict(), 'backbone.'),
        'ours': ours,
        'released': to_official(ours),
    }
    for name, state in states.items():
        torch.save(state, folder / f'{name}.pth')


def write_descriptions(folder: Path) -> None:
    model = hugging_face_vit()
    model.save_pretrained(folder)
    state = model.state_dict()
    (folder / 'model.safetensors').unlink()
    torch.save(state, folder / 'part.bin')
    index = dict(metadata={}, weight_map=dict.fromkeys(state, 'part.bin'))
    prepared = dict(
        do_normalize=True,
        do_center_crop=True,
        image_mean=[0.5, 0.5, 0.5],
        image_std=[0.5, 0.5, 0.5],
        resample=3,
        crop_size=dict(height=32, width=32),
        size=dict(shortest_edge=36),
    )
    for name, content in (
        ('pytorch_model.bin.index', index),
        ('preprocessor_config', prepared),
    ):
        (folder / f'{name}.json').write_text(json.dumps(content))


def picture(size: int = 16) -> Image.Image:
    levels = np.random.default_rng(0).integers(0, 256, (size, size, 3))
    return Image.fromarray(levels.astype(np.uint8))


def write_pictures(folder: Path) -> None:
    image = picture()
    for ending in ('png', 'jpg', 'bmp', 'gif', 'webp', 'tif', 'ppm', 'jp2'):
        image.save(folder / f'colour.{ending}')
    image.convert('L').save(folder / 'grey.png')
    image.convert('CMYK').save(folder / 'cmyk.jpg')
    image.convert('P').save(folder / 'palette.png')
    deep = np.arange(256, dtype=np.uint16).reshape(16, 16) * 256
    Image.fromarray(deep).save(folder / 'deep.png')
    Image.fromarray(deep).save(folder / 'deep.tif', compression='tiff_lzw')
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(folder / 'turned.jpg', exif=exif)


def write_archives(folder: Path) -> None:
    image = folder.parent / 'picture.png'
    picture().save(image)
    with (
        zipfile.ZipFile(folder / 'set.zip', 'w') as archive,
        tarfile.open(folder / 'set.tar', 'w') as tar,
    ):
        for name in ('ant/0.png', 'bee/1.png', 'bee/2.png'):
            archive.write(image, name)
            tar.add(image, name)
    image.unlink()


def write_annotations(folder: Path) -> None:
    """Write polygons, run-length masks of both kinds, and a crowd."""
    contents = []
    for masks in ('polygon', 'runs', 'compressed'):
        make(folder, masks)
        contents.append(content_of(folder))
    whole = contents[0]
    for k, content in ((2, contents[1]), (3, contents[2]), (4, contents[2])):
        whole['annotations'][k] = content['annotations'][k]
    whole['annotations'][2]['iscrowd'] = 1
    write(folder, whole)


def write_bases(root: Path) -> None:
    """Write the files of each reader to a folder of its name."""
    for name, write_those in (
        ('checkpoints', write_checkpoints),
        ('weights', write_weights),
        ('descriptions', write_descriptions),
        ('annotations', write_annotations),
        ('pictures', write_pictures),
        ('archives', write_archives),
    ):
        (root / name).mkdir()
        write_those(root / name)

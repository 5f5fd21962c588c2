"""The readers, and how the files that they read are changed.

Each reader yields a description and a function that reads a changed file. It
reads the unchanged ones first, so that what reading imports is there.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import torch

from simim_plugin.checkpoint import read_checkpoint
from simim_plugin.checkpoint.loading import (
    load_backbone,
    load_model,
    load_weights,
    read_weights,
)
from simim_plugin.checkpoint.portable import Portable
from simim_plugin.datasets import LabelledFolder
from simim_plugin.datasets.loading import LoadRGBImage
from simim_plugin.detection import CheckedCocoDataset
from simim_plugin.errors import SimimError
from simim_plugin.models import SiameseIMViT
from simim_plugin.recipes.encoders import read_encoder
from simim_plugin.segmentation.label_maps import read_label_map

from ..test_checkpoint.hostile import changed_files, mutated
from ..test_models.helpers import small_model
from .changing import ARCH, as_json, changed, changed_state
from .reading import Read

Files = Iterator[tuple[str, Read]]


def checkpoints(folder: Path, draw: Random) -> Files:
    """Bytes and opcodes of checkpoints of every format."""
    files = sorted(file for file in folder.iterdir() if file.is_file())
    for file in files:
        read_checkpoint(file)
    (folder / 'changed').mkdir(exist_ok=True)
    for file in changed_files(files, draw, folder / 'changed'):
        yield file.name, partial(read_checkpoint, file)
        file.unlink()


def weights(folder: Path, draw: Random) -> Files:
    """Encoders of which tensors have other names, shapes and values."""
    vit, model = (
        SiameseIMViT(arch=ARCH, img_size=32, patch_size=8),
        small_model(),
    )
    uses: list[Callable[[Path], Any]] = [
        lambda file: read_encoder(str(file), num_heads=4),
        lambda file: Portable(read_weights(file), 4),
        partial(load_backbone, vit),
        partial(load_backbone, vit, partial=True, resize_patches=True),
        partial(load_backbone, vit, branch='target', channels='mean'),
        partial(load_weights, model),
        partial(load_model, model),
    ]
    bases = {
        file: torch.load(file, weights_only=True)
        for file in sorted(folder.glob('*.pth'))
    }
    for file in bases:
        for use in uses:
            with suppress(SimimError):
                use(file)
    file = folder / 'changed.pt'
    while True:
        base = draw.choice([*bases])
        torch.save(changed_state(bases[base], draw), file)
        number = draw.randrange(len(uses))
        yield f'{base.stem}:{number}', partial(uses[number], file)


def descriptions(folder: Path, draw: Random) -> Files:
    """The JSON files in a folder that Hugging Face wrote."""
    bases = {
        file: json.loads(file.read_text())
        for file in sorted(folder.glob('*.json'))
    }
    vit = SiameseIMViT(arch=ARCH, img_size=32, patch_size=8)
    uses: list[Callable[[Path], Any]] = [
        read_checkpoint,
        lambda file: read_encoder(str(file)),
        lambda file: Portable(read_weights(file)),
        partial(load_backbone, vit),
    ]
    for use in uses:
        with suppress(SimimError):
            use(folder)
    while True:
        for file, content in bases.items():
            file.write_bytes(as_json(changed(content, draw), draw))
            number = draw.randrange(len(uses))
            yield f'{file.name}:{number}', partial(uses[number], folder)
            file.write_text(json.dumps(content))


def annotations(folder: Path, draw: Random) -> Files:
    """Files of COCO that train boxes and masks."""
    file = folder / 'all.json'
    base = json.loads(file.read_text())
    tasks = dict(with_mask=True), dict(with_bbox=True)

    def read(task: dict) -> None:
        images = CheckedCocoDataset(
            data_root=str(folder),
            ann_file=file.name,
            data_prefix=dict(img='images/'),
            metainfo=dict(classes=('disc', 'bar')),
            serialize_data=False,  # True collects garbage each time
            pipeline=[
                dict(type='mmpretrain.LoadRGBImage'),
                dict(type='mmdet.LoadInstances', **task),
            ],
        )
        images[0]

    for task in tasks:
        read(task)
    while True:
        file.write_bytes(as_json(changed(base, draw), draw))
        yield file.name, partial(read, draw.choice(tasks))


def pictures(folder: Path, draw: Random) -> Files:
    """Images and label maps of every format."""
    bases = {file: file.read_bytes() for file in sorted(folder.iterdir())}
    load = LoadRGBImage()
    for file in bases:
        load(dict(img_path=str(file)))
        with suppress(SimimError):  # colours
            read_label_map(str(file))
    while True:
        base = draw.choice([*bases])
        file = folder / f'changed{base.suffix}'
        file.write_bytes(mutated(bases[base], draw))
        if draw.random() < 0.2:
            yield f'{base.name}:label', partial(read_label_map, str(file))
        else:
            yield base.name, partial(load, dict(img_path=str(file)))
        file.unlink()


def archives(folder: Path, draw: Random) -> Files:
    """Archives of pictures by class, and lists of images."""
    bases = {file: file.read_bytes() for file in sorted(folder.iterdir())}

    def read(file: Path) -> None:
        images = LabelledFolder(
            str(file), pipeline=[LoadRGBImage()], serialize_data=False
        )
        images[0]

    for file in bases:
        read(file)
    while True:
        base = draw.choice([*bases])
        file = folder / f'changed{base.suffix}'
        file.write_bytes(mutated(bases[base], draw))
        yield base.name, partial(read, file)
        file.unlink()


READERS = dict(
    checkpoints=checkpoints,
    weights=weights,
    descriptions=descriptions,
    annotations=annotations,
    pictures=pictures,
    archives=archives,
)

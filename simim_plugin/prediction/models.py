"""Build the predictor of a config and a checkpoint."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.logging import print_log

from ..checkpoint.reading import read_checkpoint
from ..errors import SimimError
from ..visualization.predictions import class_colours
from .names import category_ids, class_names
from .predictors import (
    ClassPredictor,
    ObjectPredictor,
    PixelPredictor,
    Predictor,
)

_FITTED = ('FrozenFeatureLoop', 'KNNSegLoop')


def check_predicts(config: Config) -> None:
    """Check that a config and a checkpoint are enough to predict.

    Raises:
        SimimError: if not.
    """
    loop = (config.get('test_cfg') or {}).get('type', '')
    if loop.rpartition('.')[2] in _FITTED:
        raise SimimError(
            'This config fits kNN or logistic regression to training images '
            'at each test, and no file keeps the fit: predict with a config '
            'that trains a head (fine-tuning or linear).'
        )
    if not config.get('test_dataloader'):
        raise SimimError(
            'This config has no test_dataloader, so its model predicts no '
            'classes: pass the config of a classifier, a detector or a '
            'segmentor.'
        )
    steps = config.test_dataloader.dataset.pipeline
    if any(step['type'] == 'TestTimeAug' for step in steps):
        raise SimimError(
            'This config tests several sizes of each image: pass the config '
            'of the same name without -ms, with the same checkpoint.'
        )


def build_predictor(
    config: Config,
    checkpoint: str | Path,
    out: Path,
    device: str = 'cpu',
    top: int = 5,
    threshold: float = 0.3,
) -> Predictor:
    """Build the predictor for the task of a config.

    Args:
        config (Config): of a classifier, a detector or a segmentor.
        checkpoint (str | Path): of its run.
        out (Path): folder of the results.
        device (str): of the model. Defaults to 'cpu'.
        top (int): classes of a picture. Defaults to 5.
        threshold (float): smallest score of an object that is drawn.
            Defaults to 0.3.

    Raises:
        CheckpointError: if the checkpoint cannot be read or does not fit.
        SimimError: if the config predicts nothing, or names other classes.
    """
    check_predicts(config)
    meta = read_checkpoint(checkpoint).get('meta') or {}
    with warnings.catch_warnings():
        # About names of classes, which are found here.
        warnings.filterwarnings('ignore', message='dataset_meta or class')
        warnings.filterwarnings('ignore', message='palette does not exist')
        warnings.filterwarnings('ignore', message='Failed to add <class')
        inferencer = _inferencer(config, str(checkpoint), device)
    names = class_names(config, meta, inferencer.model)
    if names[0] == 'class 0':
        print_log(
            'Neither the checkpoint nor the config names the classes: they '
            'are numbered.',
            'current',
        )
    common = dict(inferencer=inferencer, names=names, out=out)
    if config.default_scope == 'mmpretrain':
        return ClassPredictor(top=top, **common)
    if config.default_scope == 'mmdet':
        ids = category_ids(config, names) or _numbered(names)
        return ObjectPredictor(ids=ids, threshold=threshold, **common)
    palette = (meta.get('dataset_meta') or {}).get('palette')
    if palette is None or len(palette) != len(names):
        palette = class_colours(len(names))
    return PixelPredictor(palette=palette, **common)


def _inferencer(config: Config, checkpoint: str, device: str) -> Any:
    if config.default_scope == 'mmdet':
        from mmdet.apis import DetInferencer

        return DetInferencer(
            config, checkpoint, device=device, show_progress=False
        )
    if config.default_scope == 'mmseg':
        from mmseg.apis import MMSegInferencer

        return MMSegInferencer(
            config, weights=checkpoint, device=device, show_progress=False
        )
    from mmpretrain import ImageClassificationInferencer

    return ImageClassificationInferencer(config, checkpoint, device=device)


def _numbered(names: list[str]) -> dict[str, int]:
    print_log(
        "The annotations of the config's test set are not here, or do not "
        'name all classes: category ids count from 1 in the order of the '
        'classes.',
        'current',
    )
    return {name: k + 1 for k, name in enumerate(names)}

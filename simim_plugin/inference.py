"""Correct faults of the libraries' functions for inference."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial, wraps
from itertools import chain
from types import SimpleNamespace
from typing import Any

import cv2
import mmcv
import mmengine
import numpy as np
from mmengine import fileio, runner
from mmengine.infer import BaseInferencer
from mmengine.registry import FUNCTIONS
from PIL import Image

from .errors import SimimError
from .pictures import array_to_rgb, decode_to_draw
from .pictures.distinct import distinct_names
from .pictures.levels import measured_window
from .pictures.walking import EXTENSIONS, Census, list_images


def accept_collate_settings() -> None:
    """Let inferencers read ``collate_fn=dict(type=...)`` as the Runner does.

    MMEngine's inferencers look the dictionary up as if it were a name.
    """
    stock = BaseInferencer._init_collate
    if hasattr(stock, '__wrapped__'):
        return

    @wraps(stock)
    def init_collate(self: BaseInferencer, cfg: Any) -> Any:
        given = (cfg.get('test_dataloader') or {}).get('collate_fn')
        if not isinstance(given, dict):
            return stock(self, cfg)
        options = dict(given)
        return partial(FUNCTIONS.get(options.pop('type')), **options)

    BaseInferencer._init_collate = init_collate


def correct_inferencer(kind: Any) -> None:
    """Let an inferencer list, draw and name pictures by our rules.

    The inferencers of MMDetection and MMSegmentation decode files by MMCV,
    which knows fewer formats and turns fewer of them upright, and take arrays
    for RGB, which exchanges red and blue. Folders and names are those of
    :func:`take_folders`.

    Args:
        kind (type): ``DetInferencer`` or ``MMSegInferencer``.
    """
    stock = kind.visualize
    if hasattr(stock, '__wrapped__'):
        return

    @wraps(stock)
    def visualize(self: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        if not is_ours(self.model):
            return stock(self, inputs, *args, **kwargs)
        names = drawn_names(self, inputs, ending=True)
        names = [name and _writable(name) for name in names]
        inputs = [
            as_drawn(image) if isinstance(image, np.ndarray) else image
            for image in inputs
        ]
        with our_reader(), drawing(self.visualizer, 'add_datasample', names):
            return stock(self, inputs, *args, **kwargs)

    kind.visualize = visualize
    take_folders(kind, lambda inferencer: is_ours(inferencer.model))


def take_folders(kind: Any, ours: Callable[[Any], bool]) -> None:
    """Let an inferencer take our formats of a folder, at any depth.

    OpenMMLab's take all files, of the notes too, or those of some formats.
    They name results by the file, so those of ``left/0.jpg`` and
    ``right/0.jpg`` replace each other.

    Args:
        kind (type): an inferencer.
        ours (Callable): says whether an inferencer is to follow our rules.
    """
    stock = kind._inputs_to_list

    @wraps(stock)
    def inputs_to_list(self: Any, inputs: Any) -> list:
        if not ours(self):
            return stock(self, inputs)
        several = isinstance(inputs, list | tuple)
        given = (
            [*chain.from_iterable(map(_listed, inputs))]
            if several
            else (_listed(inputs))
        )
        self.given_pictures = [x for x in given if isinstance(x, str)]
        return given

    kind._inputs_to_list = inputs_to_list


def _listed(given: Any) -> list:
    """Return the pictures of a folder, or a list of what is given."""
    if not isinstance(given, str | os.PathLike):
        return [given]
    place = os.fspath(given)
    if not os.path.isdir(place):
        return [place]
    census = Census()
    found = list_images(place, census=census)
    census.report(place)
    if not found:
        raise SimimError(
            f'There is no picture ({" ".join(EXTENSIONS)}) in {place} or '
            'below; check the path.'
        )
    return found


def drawn_names(
    inferencer: Any, inputs: Sequence, ending: bool = False
) -> list[str | None]:
    """Return a name for the drawing of each input, None for arrays."""
    given = getattr(inferencer, 'given_pictures', ())
    names = distinct_names(
        [*given, *(x for x in inputs if isinstance(x, str))], ending
    )
    return [names[x] if isinstance(x, str) else None for x in inputs]


@contextmanager
def drawing(
    visualizer: Any, method: str, names: Sequence[str | None]
) -> Iterator[None]:
    """Let a visualizer write its next pictures under these names.

    Args:
        visualizer (Visualizer, optional): of an inferencer.
        method (str): of it that draws one picture, with ``out_file``.
        names (Sequence[str | None]): of the files; None keeps the given one.
    """
    if visualizer is None:
        yield
        return
    stock, waiting = getattr(visualizer, method), iter(names)

    def draw(*args: Any, out_file: str | None = None, **options: Any) -> Any:
        name = next(waiting)
        if out_file is not None and name is not None:
            out_file = os.path.join(os.path.dirname(out_file), name)
        return stock(*args, out_file=out_file, **options)

    setattr(visualizer, method, draw)
    try:
        yield
    finally:
        delattr(visualizer, method)


def _writable(name: str) -> str:
    """Return a name whose ending OpenCV writes."""
    return name if cv2.haveImageWriter(name) else f'{name}.png'


def is_ours(model: Any) -> bool:
    """Return whether the backbone of a model is one of this package."""
    backbone = getattr(model, 'backbone', None)
    return type(backbone).__module__.startswith('simim_plugin.')


def as_drawn(image: np.ndarray) -> np.ndarray:
    """Return an array that is given to an inferencer as (H, W, 3) RGB.

    The first three of more than four channels are shown.
    """
    if image.ndim == 3 and image.shape[2] not in (1, 3, 4):
        bands = image[..., :3] if image.shape[2] > 4 else image[..., :1]
        image = bands[..., ::-1]
    return array_to_rgb(image, measured_window([image]))


@contextmanager
def our_reader() -> Iterator[None]:
    """Let MMCV decode the bytes of image files by our rules, to draw them."""
    stock, stock_read = mmcv.imfrombytes, mmcv.imread

    def from_bytes(
        content: bytes, *_: Any, channel_order: str = 'bgr', **__: Any
    ) -> np.ndarray:
        image = decode_to_draw(content)
        return image if channel_order == 'rgb' else image[..., ::-1]

    def read(file: Any, *_: Any, **options: Any) -> np.ndarray:
        return from_bytes(fileio.get(file), **options)

    mmcv.imfrombytes, mmcv.imread = from_bytes, read
    try:
        yield
    finally:
        mmcv.imfrombytes, mmcv.imread = stock, stock_read


def correct_detection() -> None:
    """Correct MMDetection's functions.

    ``inference_detector`` reads files after an array: MMDetection sets the
    detector's own config to read arrays. ``init_detector`` gets our loader
    of weights, even if it was imported first.
    """
    from mmdet.apis import DetInferencer, inference

    correct_inferencer(DetInferencer)
    _name_predictions(DetInferencer)
    stock = inference.get_test_pipeline_cfg
    if hasattr(stock, '__wrapped__'):
        return

    @wraps(stock)
    def pipeline(cfg: Any) -> Any:
        return copy.deepcopy(stock(cfg))

    inference.get_test_pipeline_cfg = pipeline
    inference.load_checkpoint = runner.load_checkpoint


def _name_predictions(kind: Any) -> None:
    """Let ``DetInferencer`` name its JSON files as its pictures."""
    stock = kind.pred2dict
    if hasattr(stock, '__wrapped__'):
        return

    @wraps(stock)
    def pred2dict(self: Any, sample: Any, pred_out_dir: str = '') -> dict:
        if not pred_out_dir or not is_ours(self.model):
            return stock(self, sample, pred_out_dir)
        result = stock(self, sample)
        (name,) = drawn_names(self, [sample.get('img_path')])
        if name is None:
            name = str(self.num_predicted_imgs)
            self.num_predicted_imgs += 1
        mmengine.dump(
            result, os.path.join(pred_out_dir, 'preds', f'{name}.json')
        )
        return result

    kind.pred2dict = pred2dict


def _name_label_maps(kind: Any) -> None:
    """Let ``MMSegInferencer`` write label maps of all classes, and name them.

    MMSegmentation numbers them, and writes 8 bits, in which class 256 is 0.
    Here they have the names of their pictures; those of arrays keep their
    numbers. Maps of more than 256 classes have 16 bits.
    """
    stock = kind.postprocess
    if hasattr(stock, '__wrapped__'):
        return

    @wraps(stock)
    def postprocess(
        self: Any,
        preds: Any,
        visualization: Any,
        return_datasample: bool = False,
        pred_out_dir: str = '',
    ) -> Any:
        if pred_out_dir and is_ours(self.model):
            files = [sample.get('img_path') for sample in preds]
            names = drawn_names(self, files)
            for k, (sample, name) in enumerate(zip(preds, names, strict=True)):
                name = name or f'{self.num_pred_imgs + k:08}_pred'
                _write_label_map(sample, os.path.join(pred_out_dir, name))
            pred_out_dir = ''
        return stock(
            self, preds, visualization, return_datasample, pred_out_dir
        )

    kind.postprocess = postprocess


def _write_label_map(sample: Any, path: str) -> None:
    """Write the classes of the pixels to a PNG file, without its ending."""
    labels = sample.pred_sem_seg.cpu().numpy().data[0]
    kind = np.uint16 if labels.max() > 255 else np.uint8
    os.makedirs(os.path.dirname(path), exist_ok=True)
    Image.fromarray(labels.astype(kind)).save(f'{path}.png')


def correct_segmentation() -> None:
    """Correct MMSegmentation's functions.

    ``inference_model`` reads files after an array: MMSegmentation sets the
    segmentor's own config to read arrays. ``init_model`` gets our loader of
    weights, even if it was imported first. ``show_result_pyplot`` draws on
    files as they are read.
    """
    from mmseg import apis
    from mmseg.apis import MMSegInferencer, inference

    correct_inferencer(MMSegInferencer)
    _name_label_maps(MMSegInferencer)
    stock = inference._preprare_data
    if hasattr(stock, '__wrapped__'):
        return

    @wraps(stock)
    def prepare(imgs: Any, model: Any) -> Any:
        return stock(imgs, SimpleNamespace(cfg=copy.deepcopy(model.cfg)))

    inference._preprare_data = prepare
    inference.load_checkpoint = runner.load_checkpoint
    show = inference.show_result_pyplot

    @wraps(show)
    def show_result_pyplot(model: Any, *args: Any, **kwargs: Any) -> Any:
        with our_reader() if is_ours(model) else nullcontext():
            return show(model, *args, **kwargs)

    inference.show_result_pyplot = show_result_pyplot
    apis.show_result_pyplot = show_result_pyplot

"""Write a classifier, a segmentor or a detector as an ONNX graph.

The file is compared with PyTorch on whole pictures, through the pipeline of
the config, before it gets its name.

Shape key: B batch, C channels, H x W pixels, K objects, N classes.
"""

from __future__ import annotations

import copy
import io
import json
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from mmengine.config import Config
from torch import Tensor, nn

from .. import __version__
from ..environment import require
from ..errors import SimimError
from ..files import complete_file
from ..text import clean
from .models import build_predictor
from .predictors import Predictor

OPSET = 17
"""RoIAlign with pixel centres at halves needs 16, LayerNormalization 17."""

BOUND = 1e-3
"""Largest difference of scores, and of logits in units of their largest."""

SHARE = 0.98
"""Smallest share of pixels or objects that stay the same."""

SIZES = ((120, 160), (120, 160), (150, 90))
"""Heights and widths of the pictures that are compared."""

Call = Callable[..., list[Tensor]]
"""Run the file: inputs to outputs."""


class Plan(NamedTuple):
    """The graph of a task, and how to compare and describe it.

    Args:
        graph (nn.Module): from normalised pixels to outputs.
        inputs (tuple[Tensor, ...]): an example, normalised.
        outputs (list[str]): their names.
        axes (dict): names of the dimensions of any size.
        about (dict[str, str]): how to use the file.
        compare (Callable): compares the file with the model.
    """

    graph: nn.Module
    inputs: tuple[Tensor, ...]
    outputs: list[str]
    axes: dict[str, dict[int, str]]
    about: dict[str, str]
    compare: Callable[[Predictor, Call], str]


class FromLevels(nn.Module):
    """A graph behind the normalisation of its images.

    Args:
        graph (nn.Module): takes normalised images first.
        mean (Tensor): (C, 1, 1).
        std (Tensor): (C, 1, 1).
    """

    mean: Tensor
    std: Tensor

    def __init__(self, graph: nn.Module, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.graph = graph
        self.register_buffer('mean', mean)
        self.register_buffer('std', std)

    def forward(self, images: Tensor, *others: Tensor) -> Any:
        """Normalise images (B, C, H, W) and pass them on."""
        return self.graph((images - self.mean) / self.std, *others)


@torch.no_grad()
def export_onnx(config: Config, checkpoint: str | Path, out: Path) -> str:
    """Write the model of a run as an ONNX file that computes the same.

    Args:
        config (Config): of a classifier, a detector or a segmentor.
        checkpoint (str | Path): of its run.
        out (Path): file to write; it must not exist.

    Returns:
        str: a report of what was written and compared.

    Raises:
        SimimError: if ``out`` exists, the model has no such graph, or the
            file computes something else; nothing is left behind then.
    """
    require('export to ONNX')
    if out.exists():
        raise SimimError(
            f'{out} exists already; choose another name or remove it.'
        )
    with tempfile.TemporaryDirectory() as folder:
        predictor = build_predictor(config, checkpoint, Path(folder), 'cpu')
        model = predictor.inferencer.model
        plan = _PLANS[config.default_scope](predictor, config)
        part = model.data_preprocessor
        whole = FromLevels(plan.graph, part.mean, part.std).eval()
        levels = plan.inputs[0] * part.std + part.mean
        file = Path(folder, 'model.onnx')
        _write(whole, (levels, *plan.inputs[1:]), plan, file)
        about = _about(predictor, plan, part, checkpoint)
        _add_metadata(file, about)
        compared = plan.compare(predictor, _session(file, plan, part))
        with complete_file(out) as written:
            written.write_bytes(file.read_bytes())
    return (
        f'Wrote {clean(out)}: an ONNX graph, {plan.about["input"]}\n'
        f'Outputs: {plan.about["output"]}\n'
        f'Compared {clean(checkpoint)} in PyTorch with onnxruntime on '
        f'{len(SIZES)} pictures of {len({*SIZES})} sizes: {compared}.'
    )


def _write(
    graph: nn.Module, inputs: tuple[Tensor, ...], plan: Plan, file: Path
) -> None:
    """Trace a graph into a file.

    Raises:
        SimimError: if an operator has no form in ONNX.
    """
    options: dict[str, Any] = {}
    if torch.__version__ >= '2.5':
        options = dict(dynamo=False)  # boxes of any number need a trace
    values = sum(p.numel() for p in graph.parameters())
    if 4 * values > 1.9e9:
        raise SimimError(
            'The model has more than 1.9 GB of weights, too many for one ONNX '
            'file; predict with PyTorch.'
        )
    with _quiet(), _known_forms(graph):
        try:
            torch.onnx.export(
                graph,
                inputs,
                str(file),
                input_names=['images', 'size'][: len(inputs)],
                output_names=plan.outputs,
                dynamic_axes=plan.axes,
                opset_version=OPSET,
                **options,
            )
        except (RuntimeError, torch.onnx.errors.OnnxExporterError) as error:
            reason = ' '.join(str(error).split())[:200]
            raise SimimError(
                f'The model cannot be written as ONNX ({reason}); predict '
                'with PyTorch.'
            ) from error


def _add_metadata(file: Path, about: dict[str, str]) -> None:
    import onnx

    graph = onnx.load(str(file))
    onnx.helper.set_model_props(graph, about)
    onnx.checker.check_model(graph)
    onnx.save(graph, str(file))


def _about(
    predictor: Predictor, plan: Plan, part: Any, checkpoint: str | Path
) -> dict[str, str]:
    return dict(
        plan.about,
        classes=json.dumps(predictor.names, ensure_ascii=False),
        mean=json.dumps([round(x, 3) for x in part.mean.flatten().tolist()]),
        std=json.dumps([round(x, 3) for x in part.std.flatten().tolist()]),
        normalisation='inside the graph, by mean and std',
        source=clean(Path(checkpoint).name),
        simim_plugin_version=__version__,
    )


def _session(file: Path, plan: Plan, part: Any) -> Call:
    """Return a function from normalised images to the file's outputs."""
    import onnxruntime

    session = onnxruntime.InferenceSession(
        str(file), providers=['CPUExecutionProvider']
    )

    def call(images: Tensor, *others: Tensor) -> list[Tensor]:
        values = [images * part.std + part.mean, *others]
        names = [node.name for node in session.get_inputs()]
        feed = {
            name: value.numpy()
            for name, value in zip(names, values, strict=True)
        }
        return [torch.from_numpy(x) for x in session.run(plan.outputs, feed)]

    return call


def _batches(predictor: Predictor) -> Iterator[dict]:
    """Yield smooth pictures of two sizes, as the model receives them."""
    model = predictor.inferencer.model
    channels = len(model.data_preprocessor.mean)
    draw = np.random.default_rng(0)
    for height, width in SIZES:
        coarse = draw.integers(0, 256, (6, 7, channels), np.uint8)
        pixels = cv2.resize(coarse, (width, height))
        pixels = pixels.reshape(height, width, channels)
        (batch,) = predictor.inferencer.preprocess([pixels])
        batch = batch if isinstance(batch, dict) else batch[1]
        yield model.data_preprocessor(batch, False)


def _first(predictor: Predictor, model: str, advice: str) -> dict:
    """Return the first picture, if all have one size."""
    first, *others = _batches(predictor)
    shape = first['inputs'].shape
    if any(batch['inputs'].shape != shape for batch in others):
        raise SimimError(
            f'The graph of a {model} has a fixed size, and this config gives '
            f'pictures several: {advice}.'
        )
    return first


def _pixels_of(config: Config) -> str:
    channels = config.model.backbone.get('in_channels', 3)
    return 'RGB' if channels == 3 else f'{channels} channels'


def _classifier(predictor: Predictor, config: Config) -> Plan:
    model = predictor.inferencer.model
    example = _first(
        predictor,
        'classifier',
        'let its test pipeline resize and crop them to one',
    )['inputs']

    class Graph(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, images: Tensor) -> Tensor:
            features = self.model.extract_feat(images)
            return self.model.head(features).softmax(-1)

    def compare(predictor: Predictor, call: Call) -> str:
        worst = 0.0
        for data in _batches(predictor):
            (sample,) = model.predict(**data)
            (scores,) = call(data['inputs'])
            worst = max(worst, _difference(scores[0], sample.pred_score))
        return _within('scores', worst)

    height, width = example.shape[-2:]
    return Plan(
        Graph(),
        (example.repeat(2, 1, 1, 1),),
        ['scores'],
        dict(images={0: 'batch'}, scores={0: 'batch'}),
        dict(
            task='classification',
            input=f'images (batch, {example.shape[1]}, {height}, {width}) '
            f'float32, {_pixels_of(config)}, levels 0 to 255, resized and '
            'cropped as by the test pipeline',
            output='scores (batch, classes), 0 to 1',
        ),
        compare,
    )


def _segmentor(predictor: Predictor, config: Config) -> Plan:
    model = predictor.inferencer.model
    if model.test_cfg.mode != 'slide':
        raise SimimError(
            'The graph of a segmentor has a fixed size, and this config tests '
            "whole images of any size: set model.test_cfg to mode='slide' "
            'with crop_size and stride.'
        )
    height, width = model.test_cfg.crop_size
    channels = len(model.data_preprocessor.mean)

    class Graph(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, images: Tensor) -> Tensor:
            logits = self.model.decode_head(self.model.extract_feat(images))
            return F.interpolate(
                logits,
                (height, width),
                mode='bilinear',
                align_corners=self.model.align_corners,
            )

    def compare(predictor: Predictor, call: Call) -> str:
        worst, same = 0.0, 1.0
        for data in _batches(predictor):
            wanted, labels = _segment(model, data)
            model.encode_decode = lambda images, metas: call(images)[0]
            try:
                found, theirs = _segment(model, data)
            finally:
                del model.encode_decode
            size = max(1.0, float(wanted.abs().max()))
            worst = max(worst, _difference(found / size, wanted / size))
            share = (labels == theirs).double().mean().item()
            same = min(same, share)
        return f'{_within("logits", worst)}, {_same("pixels", same)}'

    stride = model.test_cfg.stride
    choice = 'take the largest'
    if model.out_channels == 1:
        threshold = model.decode_head.threshold
        choice = f'class 1 where their sigmoid is above {threshold}'
    return Plan(
        Graph(),
        (torch.zeros(2, channels, height, width),),
        ['logits'],
        dict(images={0: 'batch'}, logits={0: 'batch'}),
        dict(
            task='segmentation',
            input=f'images (batch, {channels}, {height}, {width}) float32, '
            f'{_pixels_of(config)}, levels 0 to 255: windows of the resized '
            'picture, smaller ones padded by the mean',
            output=f'logits (batch, classes, {height}, {width}); average '
            f'those of overlapping windows, resize, {choice}',
            window=json.dumps([height, width]),
            stride=json.dumps([*stride]),
        ),
        compare,
    )


def _segment(model: Any, data: dict) -> tuple[Tensor, Tensor]:
    """Return logits (N, H, W) and labels (1, H, W) of a picture."""
    # The model writes into the samples that it is given.
    samples = copy.deepcopy(data['data_samples'])
    (sample,) = model.predict(data['inputs'], samples)
    return sample.seg_logits.data, sample.pred_sem_seg.data


def _detector(predictor: Predictor, config: Config) -> Plan:
    from .detector_graph import DetectorGraph

    model = predictor.inferencer.model
    data = _first(
        predictor,
        'detector',
        'set pad_size_divisor of the data_preprocessor to the larger edge of '
        'Resize',
    )
    example = data['inputs']
    size = torch.tensor(data['data_samples'][0].img_shape, dtype=torch.float32)
    names = ['boxes', 'scores', 'labels']
    output = (
        'boxes (objects, 4) x1, y1, x2, y2 in pixels of the canvas, scores, '
        'labels (objects,)'
    )
    if model.roi_head.with_mask:
        names.append('masks')
        output += ', masks (objects, cells, cells) 0 to 1 within the boxes'
    channels, height, width = example.shape[1:]
    return Plan(
        DetectorGraph(model, example),
        (example, size),
        names,
        {name: {0: 'objects'} for name in names},
        dict(
            task='detection',
            input=f'images (1, {channels}, {height}, {width}) float32, '
            f'{_pixels_of(config)}, levels 0 to 255: the picture resized with '
            'its ratio at the upper left, the rest filled with the mean; '
            'size (2,) float32, height and width of the resized picture',
            output=output,
        ),
        _compare_objects,
    )


def _compare_objects(predictor: Predictor, call: Call) -> str:
    model = predictor.inferencer.model
    found_again, total, worst, apart, differ = 0, 0, 0.0, 0.0, 0.0
    for data in _batches(predictor):
        meta = data['data_samples'][0]
        size = torch.tensor(meta.img_shape, dtype=torch.float32)
        (sample,) = model.predict(*data.values(), rescale=False)
        wanted, found = sample.pred_instances, call(data['inputs'], size)
        pasted = _pasted(model, found, meta)
        total += max(len(wanted), len(found[0]))
        for k in range(min(len(wanted), len(found[0]))):
            gaps = (found[0] - wanted.bboxes[k]).abs().amax(1)
            gaps[found[2] != wanted.labels[k]] = torch.inf
            near = int(gaps.argmin())
            score = abs(float(found[1][near] - wanted.scores[k]))
            if gaps[near] > 0.1 or score > BOUND:
                continue
            found_again += 1
            worst, apart = max(worst, score), max(apart, float(gaps[near]))
            if pasted is not None:
                other = pasted[near] != wanted.masks[k]
                differ = max(differ, other.double().mean().item())
    share = found_again / total if total else 1.0
    words = f'{total} objects, {_same("objects", share)}'
    words += f', boxes differ by at most {apart:.1e} px'
    words += f', {_within("scores", worst)}'
    if model.roi_head.with_mask:
        words += f', {_same("pixels of each mask", 1 - differ)}'
    return words


def _pasted(model: Any, found: list[Tensor], meta: Any) -> Tensor | None:
    """Return the masks of a file on the picture, (K, H, W)."""
    if len(found) < 4 or not len(found[0]):
        return None
    boxes, _, labels, masks = found
    head = model.roi_head.mask_head
    # Logits, since the head takes them.
    return head._predict_by_feat_single(
        masks[:, None].logit(1e-6).expand(-1, head.num_classes, -1, -1),
        boxes.clone(),
        labels,
        meta.metainfo,
        model.test_cfg.rcnn,
        rescale=False,
    )


def _difference(a: Tensor, b: Tensor) -> float:
    return (a - b).abs().max().item()


def _within(what: str, difference: float) -> str:
    """Describe a difference, or refuse it."""
    words = f'{what} differ by at most {difference:.1e}'
    if not difference <= BOUND:
        raise SimimError(
            f'Nothing was written, as the ONNX graph computes other values: '
            f'{words} (allowed {BOUND:.0e}); predict with PyTorch.'
        )
    return words


def _same(what: str, share: float) -> str:
    """Describe the share that stays the same, or refuse it."""
    words = f'{100 * share:.2f} % of {what} are the same'
    if share < SHARE:
        raise SimimError(
            f'Nothing was written, as the ONNX graph predicts others: {words} '
            f'(at least {SHARE:.0%} are needed); predict with PyTorch.'
        )
    return words


class _ExactPool(nn.Module):
    """Adaptive average pooling as two products of matrices.

    ONNX has no operator for a size that is no divisor of the input's.
    """

    def __init__(self, size: Any) -> None:
        super().__init__()
        self.size = (size, size) if isinstance(size, int) else tuple(size)

    def forward(self, x: Tensor) -> Tensor:
        rows, columns = (
            _averaging(int(have), want or int(have)).to(x)
            for have, want in zip(x.shape[-2:], self.size, strict=True)
        )
        return rows @ x @ columns.T


def _averaging(have: int, want: int) -> Tensor:
    """Return the matrix (want, have) of an adaptive average."""
    matrix = torch.zeros(want, have)
    for k in range(want):
        start, end = k * have // want, -(-(k + 1) * have // want)
        matrix[k, start:end] = 1 / (end - start)
    return matrix


@contextmanager
def _known_forms(graph: nn.Module) -> Iterator[None]:
    """Give parts of a graph a form that ONNX knows, while it is traced.

    A norm without weight and bias has none either.
    """
    pools = [
        (parent, name, child)
        for parent in graph.modules()
        for name, child in parent.named_children()
        if isinstance(child, nn.AdaptiveAvgPool2d)
    ]
    norms: list[Any] = [
        part
        for part in graph.modules()
        if isinstance(part, nn.modules.batchnorm._BatchNorm)
        and part.weight is None
    ]
    for parent, name, child in pools:
        setattr(parent, name, _ExactPool(child.output_size))
    for norm in norms:
        norm.weight = nn.Parameter(torch.ones(norm.num_features))
        norm.bias = nn.Parameter(torch.zeros(norm.num_features))
    try:
        yield
    finally:
        for parent, name, child in pools:
            setattr(parent, name, child)
        for norm in norms:
            norm.weight = norm.bias = None


@contextmanager
def _quiet() -> Iterator[None]:
    """Hide the warnings of a trace, and the graph it prints on an error."""
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
        warnings.simplefilter('ignore')
        yield


_PLANS: dict[str, Callable[[Predictor, Config], Plan]] = {
    'mmpretrain': _classifier,
    'mmseg': _segmentor,
    'mmdet': _detector,
}

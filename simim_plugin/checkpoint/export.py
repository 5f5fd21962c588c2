"""Write weights in other formats, and check that the features agree."""

from __future__ import annotations

import os
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .. import __version__
from ..environment import require
from ..text import clean
from ..vit.arches import known_encoder
from .families import statement
from .hugging_face_export import write_folder
from .joining import own_tensors
from .loading import Weights, read_weights
from .names import (
    OFFICIAL,
    OURS,
    StateDict,
    to_official,
    to_timm,
)
from .portable import Features, Portable, released_forward
from .reading import CheckpointError, read_checkpoint
from .timm_export import build_extended, extended

BOUND, ONNX_BOUND = 1e-5, 1e-4
# float32 rounds features by about 1e-6 of their size, so the bound grows with
# features above this one.
ORDINARY = 20.0
# Entries of files that hold weights, or describe them.
_WEIGHTS = (
    *('state_dict', 'model', 'student', 'teacher'),
    *('config', 'preprocessor'),
)


def convert(
    source: str | Path,
    out: str | Path,
    to: str,
    *,
    branch: str = 'online',
    num_heads: int | None = None,
    entry: str | None = None,
    content: Mapping[str, Any] | None = None,
    grid: tuple[int, int] | None = None,
) -> str:
    """Write a checkpoint in another format if its features agree.

    Args:
        source (str | Path): see
            :func:`simim_plugin.checkpoint.load_backbone`.
        out (str | Path): file, or folder for ``hf``, to write. It must not
            exist, and a failed check leaves nothing there. The ending
            ``.safetensors`` chooses that format for timm.
        to (str): 'plugin' (all weights of a SiameseIM or classifier),
            'slim' (the plugin's encoder only), 'official', 'timm', 'hf' or
            'onnx'.
        branch (str): see :func:`simim_plugin.checkpoint.load_backbone`.
        num_heads (int, optional): attention heads of an unknown encoder.
        entry (str, optional): as branch.
        content (Mapping[str, Any], optional): the file's content, if read.
        grid (tuple[int, int], optional): as branch.

    Returns:
        str: a report of what was written and compared.

    Raises:
        CheckpointError: if the source cannot be read or has no such form,
            ``out`` exists, or the features differ by more than 1e-5
            (ONNX: 1e-4; in proportion more if some exceed 20).
    """
    out = Path(out)
    _check_target(out, to)
    content = read_checkpoint(source) if content is None else content
    weights = read_weights(source, branch, content, entry)
    model = Portable(weights, num_heads, grid)
    written, compared = _write(out, to, weights, model, branch)
    left_out = ', '.join(_left_out(content, weights, written.parts))
    choice = f'From {weights.choice}.\n' if weights.choice else ''
    return (
        f'Wrote {clean(out)}: {written.summary}\n'
        f'{choice}Left out: {clean(left_out) or "nothing"}.\n'
        f'Compared {clean(source)} in the plugin ({model.num_heads} attention '
        f'heads) with {written.reader}, {compared}.'
    )


class Written(NamedTuple):
    """The result of a writer.

    Args:
        features (Features): of the file, computed by ``reader``.
        parts (set[str]): the parts in the file: 'backbone', 'head', ...
        summary (str): a sentence on what the file is and how to use it.
        reader (str): what read the file and computed its features.
    """

    features: Features
    parts: set[str]
    summary: str
    reader: str


def _check_target(out: Path, to: str) -> None:
    if to not in WRITERS:
        raise CheckpointError(
            f'There is no format {to!r}; use one of {", ".join(WRITERS)}.'
        )
    formats = _ENDINGS.get(out.suffix.lower(), (to,))
    if to not in formats:
        fit = f'or choose --to {formats[0]}' if formats else 'such as .pth'
        raise CheckpointError(
            f'{out} ends in {out.suffix}, which is no ending of the format '
            f'{to}; choose another ending, {fit}.'
        )
    if out.exists():
        raise CheckpointError(
            f'{out} exists already; choose another name or remove it.'
        )


@torch.no_grad()
def _write(
    out: Path, to: str, weights: Weights, model: Portable, branch: str
) -> tuple[Written, str]:
    """Write and compare in a temporary folder, then move the result."""
    height, width = model.size
    images = torch.randn(
        (3, model.channels, height, width),
        generator=torch.Generator().manual_seed(0),
    )
    state = weights.state
    whole = weights.form.name in (OURS.name, OFFICIAL.name)
    if branch != 'online' or not whole:
        state = {name: state[name] for name in model.state_dict()}
    table = state.get('backbone.pos_embed')
    if table is not None and table.shape != model.backbone.pos_embed.shape:
        table = model.backbone.pos_embed.to(table)  # of the cls token's row
        state = {**state, 'backbone.pos_embed': table}
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent) as folder:
        written = WRITERS[to](Path(folder, out.name), state, model, images)
        bound = ONNX_BOUND if to == 'onnx' else BOUND
        compared = _compare(model(images), written.features, bound)
        for file in Path(folder).iterdir():
            os.replace(file, out.parent / file.name)
    return written, (
        f'{len(images)} fixed images of {height} x {width}: {compared}'
    )


def _left_out(
    content: Mapping[str, Any], weights: Weights, parts: set[str]
) -> list[str]:
    """Return the entries and parts of a file that were not written."""
    left_out = _parts(weights.state) - parts
    left_out |= {
        str(name)
        for name, value in content.items()
        if name not in _WEIGHTS and not isinstance(value, Tensor)
    }
    if 'simim_plugin_version' in weights.about:
        left_out -= {'meta'}  # our own exports have it written again
    return sorted(left_out)


def _compare(ours: Features, theirs: Features, bound: float) -> str:
    """Return a description of the largest differences between features.

    Raises:
        CheckpointError: if one exceeds ``bound``, for ordinary features.
    """
    lines = []
    pooled = 'head or fc_norm'
    for name, a, b in zip(('tokens', pooled), ours, theirs, strict=True):
        if a is None or b is None:
            continue
        allowed = bound * max(1.0, a.abs().max().item() / ORDINARY)
        difference = (a - b).abs().max().item()
        line = (
            f'{name} {tuple(a.shape)} differ by at most {difference:.1e} '
            f'(allowed {allowed:.1e})'
        )
        if not difference <= allowed:
            raise CheckpointError(
                f'Nothing was written, as the features would change: {line}; '
                'check --num-heads and the eps of the norms.'
            )
        lines.append(line)
    return ', '.join(lines)


def _write_plugin(
    file: Path, state: StateDict, model: Portable, images: Tensor
) -> Written:
    meta = dict(
        statement(model.family, model.options, model.grid),
        simim_plugin_version=__version__,
    )
    torch.save(dict(state_dict=own_tensors(state), meta=meta), file)
    again = read_weights(file)
    _check_tensors(again.state, state, file)
    parts = _parts(state)
    summary = (
        'all weights of a pretraining, for another one to start from '
        '(--pretrained); --resume needs the checkpoint that the run wrote.'
        if 'target' in parts
        else 'weights of the plugin.'
    )
    return Written(
        Portable(again)(images), parts, summary, 'the file read back'
    )


def _write_slim(
    file: Path, state: StateDict, model: Portable, images: Tensor
) -> Written:
    slim = {n: x for n, x in state.items() if n.startswith('backbone.')}
    written = _write_plugin(file, slim, model, images)
    summary = 'a slim export: the encoder only, plain tensors.'
    features = written.features
    if model.head is not None:  # the source has logits, the file has not
        features = features._replace(pooled=None)
    return written._replace(summary=summary, features=features)


def _write_official(
    file: Path, state: StateDict, model: Portable, images: Tensor
) -> Written:
    if model.final_norm:
        raise CheckpointError(
            'The released code has no norm after its last block, and this '
            'encoder has; convert it to timm or plugin.'
        )
    named = to_official(state)
    torch.save(dict(model=own_tensors(named)), file)
    again = torch.load(file, weights_only=True)['model']
    _check_tensors(again, named, file)
    parts = _parts(state)
    return Written(
        released_forward(again, images, model.num_heads),
        parts,
        'the `model` entry of a released checkpoint.',
        'our version of the released forward pass',
    )


def _write_timm(
    file: Path, state: StateDict, model: Portable, images: Tensor
) -> Written:
    require('export to timm')
    if model.final_norm and model.fc_norm:
        raise CheckpointError(
            'The encoder has both a final norm and an fc_norm, a ViT of '
            'timm only one of them; convert it to plugin.'
        )
    named = own_tensors(to_timm(model.state_dict()))
    if extended(model):
        vit, named, call = build_extended(model, named)
        named = own_tensors(named)
    else:
        vit, call = _build_timm(model, named)
    if file.suffix == '.safetensors':
        require('use of safetensors')
        from safetensors.torch import save_file

        save_file(named, file)
    else:
        torch.save(named, file)
    vit.load_state_dict(read_checkpoint(file))
    vit.eval()
    tokens = vit.forward_features(images)
    pooled = vit(images) if model.pools else None
    norm = '' if model.final_norm or model.fc_norm else ', without any norm'
    return Written(
        Features(tokens, pooled),
        _parts(model.state_dict()),
        f'weights of {call}{norm}.',
        'timm',
    )


def _build_timm(model: Portable, named: StateDict) -> tuple[Any, str]:
    """Build the ViT of timm for these tensors; return it and the call."""
    import timm

    options: dict[str, Any] = dict(
        num_classes=model.num_classes,
        global_pool='avg' if model.fc_norm else 'token',
    )
    if not (model.final_norm or model.fc_norm):
        options |= dict(global_pool='', final_norm=False)
    known = known_encoder(model.dims, model.depth)
    size = known.name if known else 'unknown'
    name = f'vit_{size}_patch{model.patch}_{model.img_size}'
    call = f'timm.create_model({name!r}, '
    vit: Any = None
    if timm.is_model(name):
        vit = timm.create_model(name, **options)
    if vit is None or _shapes(vit.state_dict()) != _shapes(named):
        options |= dict(
            img_size=model.img_size,
            patch_size=model.patch,
            embed_dim=model.dims,
            depth=model.depth,
            num_heads=model.num_heads,
            mlp_ratio=model.hidden / model.dims,
            qkv_bias=model.qkv_bias,
        )
        if model.channels != 3:
            options['in_chans'] = model.channels
        call = 'timm.models.VisionTransformer('
        vit = timm.models.VisionTransformer(**options)
    arguments = ', '.join(f'{key}={value!r}' for key, value in options.items())
    return vit, f'{call}{arguments})'


def _write_hugging_face(
    folder: Path, state: StateDict, model: Portable, images: Tensor
) -> Written:
    require('export to Hugging Face')
    import transformers

    reader = write_folder(folder, model)
    options = dict(add_pooling_layer=False) if reader == 'ViTModel' else {}
    vit = getattr(transformers, reader).from_pretrained(folder, **options)
    output = vit.eval()(images, output_hidden_states=True)
    where = 'last_hidden_state'
    tokens = output.last_hidden_state
    if not model.final_norm:
        where = (
            'hidden_states[-1], before its final LayerNorm, which these '
            'weights do not have (written as 1 and 0)'
        )
        tokens = output.hidden_states[-1]
    summary = (
        f'a folder for {reader}.from_pretrained; read the features from '
        f'{where}.'
    )
    if model.fc_norm:
        summary += (
            ' The fc_norm after the mean of the patch tokens is left out.'
        )
    return Written(
        Features(tokens), {'backbone'}, summary, f"Hugging Face's {reader}"
    )


def _write_onnx(
    file: Path, state: StateDict, model: Portable, images: Tensor
) -> Written:
    require('export to ONNX')
    import onnxruntime

    names = ['tokens', 'logits' if model.head is not None else 'pooled']
    if not model.pools:
        names = ['tokens']
    values = sum(p.numel() for p in model.parameters())
    options: dict[str, Any]
    if torch.__version__ >= '2.5':
        options = dict(
            dynamo=True,
            dynamic_shapes=dict(images={0: torch.export.Dim('batch')}),
            external_data=4 * values > 1.9e9,  # a file of protobuf has 2 GB
        )
    else:  # only the exporter by TorchScript, deprecated since
        options = dict(
            dynamic_axes={name: {0: 'batch'} for name in ['images', *names]}
        )
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        torch.onnx.export(
            _Outputs(model),
            (images[:2],),
            str(file),
            verbose=False,
            input_names=['images'],
            output_names=names,
            **options,
        )
    session = onnxruntime.InferenceSession(
        file, providers=['CPUExecutionProvider']
    )
    outputs = session.run(names, dict(images=images.numpy()))
    return Written(
        Features(*map(torch.from_numpy, outputs)),
        _parts(model.state_dict()),
        f'an ONNX graph from `images` (batch, {model.channels}, '
        f'{model.size[0]}, {model.size[1]}), normalised, to '
        f'{" and ".join(names)}.',
        'onnxruntime',
    )


class _Outputs(nn.Module):
    """A :class:`Portable` whose outputs are a plain tuple."""

    def __init__(self, model: Portable) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return tuple(x for x in self.model(images) if x is not None)


_ENDINGS: dict[str, tuple[str, ...]] = {
    '.safetensors': ('timm',),
    '.onnx': ('onnx',),
    '.pkl': (),
    '.npz': (),
}
"""Formats that may have an ending; other endings fit all formats."""

WRITERS = {
    'plugin': _write_plugin,
    'slim': _write_slim,
    'official': _write_official,
    'timm': _write_timm,
    'hf': _write_hugging_face,
    'onnx': _write_onnx,
}


def _parts(state: StateDict) -> set[str]:
    return {name.partition('.')[0] for name in state}


def _shapes(state: StateDict) -> dict[str, torch.Size]:
    return {name: value.shape for name, value in state.items()}


def _check_tensors(again: StateDict, state: StateDict, file: Path) -> None:
    """Raise unless a file holds exactly these tensors, bit for bit."""
    same = again.keys() == state.keys() and all(
        again[name].dtype == value.dtype and torch.equal(again[name], value)
        for name, value in state.items()
    )
    if not same:
        raise CheckpointError(
            f'{file.name} does not give back the tensors written to it; '
            'check the disk.'
        )

"""Taking weights elsewhere, each time with proof that they do the same."""

from __future__ import annotations

import argparse
import os
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .. import __version__
from ..environment import require
from ..errors import one_line_errors
from .loading import read_weights
from .names import (
    OFFICIAL,
    OURS,
    StateDict,
    to_hugging_face,
    to_official,
    to_timm,
)
from .portable import Features, Portable, released_forward
from .reading import CheckpointError, read_checkpoint

BOUND, ONNX_BOUND = 1e-5, 1e-4
# Larger features have a bound in proportion: float32 rounds them by 1e-6.
ORDINARY = 20.0
# Entries of files that hold weights, or what describes them.
_WEIGHTS = ('state_dict', 'model', 'student', 'teacher', 'config')
SIZES = {192: 'tiny', 384: 'small', 768: 'base', 1024: 'large', 1280: 'huge'}


def convert(
    source: str | Path,
    out: str | Path,
    to: str,
    *,
    branch: str = 'online',
    num_heads: int | None = None,
) -> str:
    """Write a checkpoint in another format, once its features agree.

    Args:
        source (str | Path): see
            :func:`simim_plugin.checkpoint.load_backbone`.
        out (str | Path): file to write (``hf``: folder). Must not exist;
            nothing is left there unless the check passes. timm weights are
            safetensors if it ends so.
        to (str): 'plugin' (all weights that the source has of a SiameseIM
            or classifier), 'slim' (the plugin's encoder only), 'official',
            'timm', 'hf' or 'onnx'.
        branch (str): see :func:`simim_plugin.checkpoint.load_backbone`.
        num_heads (int, optional): of the encoder, where its width is none
            of the usual ones.

    Returns:
        str: what was written, and what was compared.

    Raises:
        CheckpointError: if the source cannot be read or has no such form,
            ``out`` exists, or the features differ by more than 1e-5
            (ONNX: 1e-4; if some exceed 20, in proportion more).
    """
    if to not in WRITERS:
        raise CheckpointError(
            f'There is no format {to!r}; use one of {", ".join(WRITERS)}.'
        )
    out = Path(out)
    if out.exists():
        raise CheckpointError(
            f'{out} exists already; choose another name or remove it.'
        )
    content = read_checkpoint(source)
    weights = read_weights(source, branch, content)
    model = Portable(weights, num_heads)
    size = (3, 3, model.size, model.size)
    images = torch.randn(size, generator=torch.Generator().manual_seed(0))
    state = weights.state
    if branch != 'online' or weights.form.name not in (
        OURS.name,
        OFFICIAL.name,
    ):
        state = {name: state[name] for name in model.state_dict()}
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent) as folder:
        part = Path(folder, out.name)
        with torch.no_grad():
            written = WRITERS[to](part, state, model, images)
            bound = ONNX_BOUND if to == 'onnx' else BOUND
            compared = _compare(model(images), written.features, bound)
        for file in Path(folder).iterdir():
            os.replace(file, out.parent / file.name)
    left_out = {name.partition('.')[0] for name in weights.state}
    left_out -= written.parts
    left_out |= {
        str(name)
        for name, value in content.items()
        if name not in _WEIGHTS and not isinstance(value, Tensor)
    }
    if 'simim_plugin_version' in weights.about:
        left_out -= {'meta'}  # of an export of ours: written again
    return (
        f'Wrote {out}: {written.said}\nLeft out: '
        f'{", ".join(sorted(left_out)) or "nothing"}.\nCompared {source} in '
        f'the plugin ({model.num_heads} attention heads) with '
        f'{written.reader}, {len(images)} fixed images of {model.size} x '
        f'{model.size}: {compared}.'
    )


class Written(NamedTuple):
    """What a writer made of the weights.

    Args:
        features (Features): of the file, computed by ``reader``.
        parts (set[str]): what the file has: 'backbone', 'head', ...
        said (str): what it is and how to use it, a sentence.
        reader (str): what read the file and computed its features.
    """

    features: Features
    parts: set[str]
    said: str
    reader: str


def _compare(ours: Features, theirs: Features, bound: float) -> str:
    """Say by how much features differ.

    Raises:
        CheckpointError: if by more than ``bound``, for ordinary features.
    """
    said = []
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
        said.append(line)
    return ', '.join(said)


def _write_plugin(
    file: Path, state: StateDict, model: Portable, images: Tensor
) -> Written:
    meta = dict(
        simim_plugin_version=__version__,
        num_attention_heads=model.num_heads,
        layer_norm_eps=model.eps,
    )
    torch.save(dict(state_dict=_own(state), meta=meta), file)
    again = read_weights(file)
    _check_tensors(again.state, state, file)
    parts = {name.partition('.')[0] for name in state}
    said = (
        'all weights of a pretraining, from which another can start '
        '(--pretrained); the full checkpoint, which --resume goes on from, '
        "is the run's own file."
        if 'target' in parts
        else 'weights of the plugin.'
    )
    return Written(Portable(again)(images), parts, said, 'the file read back')


def _write_slim(
    file: Path, state: StateDict, model: Portable, images: Tensor
) -> Written:
    slim = {n: x for n, x in state.items() if n.startswith('backbone.')}
    written = _write_plugin(file, slim, model, images)
    said = 'a slim export: the encoder only, plain tensors.'
    features = written.features
    if model.head is not None:  # the model compared with has logits
        features = features._replace(pooled=None)
    return written._replace(said=said, features=features)


def _write_official(
    file: Path, state: StateDict, model: Portable, images: Tensor
) -> Written:
    if model.final_norm:
        raise CheckpointError(
            'The released code has no norm after its last block, and this '
            'encoder has; convert it to timm or plugin.'
        )
    named = to_official(state)
    torch.save(dict(model=_own(named)), file)
    again = torch.load(file, weights_only=True)['model']
    _check_tensors(again, named, file)
    parts = {name.partition('.')[0] for name in state}
    return Written(
        released_forward(again, images, model.num_heads),
        parts,
        'the `model` entry of a released checkpoint.',
        "the released encoder's forward, written out",
    )


def _write_timm(
    file: Path, state: StateDict, model: Portable, images: Tensor
) -> Written:
    require('export to timm')
    import timm

    if model.final_norm and model.fc_norm:
        raise CheckpointError(
            'The encoder has both a final norm and an fc_norm, a ViT of '
            'timm only one of them; convert it to plugin.'
        )
    named = _own(to_timm(model.state_dict()))
    if file.suffix == '.safetensors':
        require('use of safetensors')
        from safetensors.torch import save_file

        save_file(named, file)
    else:
        torch.save(named, file)
    options: dict[str, Any] = dict(
        num_classes=model.num_classes,
        global_pool='avg' if model.fc_norm else 'token',
    )
    if not (model.final_norm or model.fc_norm):
        options |= dict(global_pool='', final_norm=False)
    name = f'vit_{SIZES.get(model.dims)}_patch{model.patch}_{model.size}'
    build = f'timm.create_model({name!r}, '
    vit: Any = None
    if timm.is_model(name):
        vit = timm.create_model(name, **options)
    if vit is None or _shapes(vit.state_dict()) != _shapes(named):
        options |= dict(
            img_size=model.size,
            patch_size=model.patch,
            embed_dim=model.dims,
            depth=model.depth,
            num_heads=model.num_heads,
            mlp_ratio=model.hidden / model.dims,
            qkv_bias=model.qkv_bias,
        )
        build = 'timm.models.VisionTransformer('
        vit = timm.models.VisionTransformer(**options)
    build += ', '.join(f'{key}={value!r}' for key, value in options.items())
    vit.load_state_dict(read_checkpoint(file))
    vit.eval()
    tokens = vit.forward_features(images)
    pooled = None if model(images[:1]).pooled is None else vit(images)
    norm = '' if model.final_norm or model.fc_norm else ', without any norm'
    return Written(
        Features(tokens, pooled),
        {name.partition('.')[0] for name in model.state_dict()},
        f'weights of {build}){norm}.',
        'timm',
    )


def _write_hugging_face(
    folder: Path, state: StateDict, model: Portable, images: Tensor
) -> Written:
    require('export to Hugging Face')
    import safetensors.torch
    import transformers

    config = transformers.ViTConfig(
        architectures=['ViTModel'],
        hidden_size=model.dims,
        num_hidden_layers=model.depth,
        num_attention_heads=model.num_heads,
        intermediate_size=model.hidden,
        layer_norm_eps=model.eps,
        image_size=model.size,
        patch_size=model.patch,
        qkv_bias=model.qkv_bias,
        simim_plugin_final_norm=model.final_norm,
    )
    encoder = {
        name: value
        for name, value in model.state_dict().items()
        if name.startswith('backbone.')
        and not name.startswith('backbone.ln2.')
    }
    if not model.final_norm:
        encoder['backbone.ln1.weight'] = torch.ones(model.dims)
        encoder['backbone.ln1.bias'] = torch.zeros(model.dims)
    # By name: transformers 5 has others in memory, but the same in files.
    config.save_pretrained(folder)
    safetensors.torch.save_file(
        _own(to_hugging_face(encoder)),
        Path(folder, 'model.safetensors'),
        dict(format='pt'),
    )
    again = transformers.ViTModel.from_pretrained(
        folder, add_pooling_layer=False
    )
    output = again.eval()(images, output_hidden_states=True)
    where = 'last_hidden_state'
    tokens = output.last_hidden_state
    if not model.final_norm:
        where = (
            'hidden_states[-1], before its final LayerNorm, which these '
            'weights do not have (written as 1 and 0)'
        )
        tokens = output.hidden_states[-1]
    said = (
        'a folder for ViTModel.from_pretrained; read the features from '
        f'{where}.'
    )
    if model.fc_norm:
        said += ' The fc_norm after the mean of the patch tokens is left out.'
    return Written(
        Features(tokens), {'backbone'}, said, "Hugging Face's ViTModel"
    )


def _write_onnx(
    file: Path, state: StateDict, model: Portable, images: Tensor
) -> Written:
    require('export to ONNX')
    import onnxruntime

    names = ['tokens', 'logits' if model.head is not None else 'pooled']
    if model(images[:1]).pooled is None:
        names = ['tokens']
    values = sum(p.numel() for p in model.parameters())
    options: dict[str, Any]
    if torch.__version__ >= '2.5':
        options = dict(
            dynamo=True,
            dynamic_shapes=dict(images={0: torch.export.Dim('batch')}),
            external_data=4 * values > 1.9e9,  # a file of protobuf has 2 GB
        )
    else:  # has only the exporter by TorchScript, which newer ones will drop
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
        {name.partition('.')[0] for name in model.state_dict()},
        f'an ONNX graph from `images` (batch, 3, {model.size}, '
        f'{model.size}), normalised, to {" and ".join(names)}.',
        'onnxruntime',
    )


class _Outputs(nn.Module):
    """A :class:`Portable` whose outputs are a plain tuple."""

    def __init__(self, model: Portable) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return tuple(x for x in self.model(images) if x is not None)


WRITERS = {
    'plugin': _write_plugin,
    'slim': _write_slim,
    'official': _write_official,
    'timm': _write_timm,
    'hf': _write_hugging_face,
    'onnx': _write_onnx,
}


def _own(state: StateDict) -> dict[str, Tensor]:
    """The tensors as plain ones, each with memory of its own."""
    return {name: x.detach().clone().contiguous() for name, x in state.items()}


def _shapes(state: StateDict) -> dict[str, torch.Size]:
    return {name: value.shape for name, value in state.items()}


def _check_tensors(again: StateDict, state: StateDict, file: Path) -> None:
    """Raise unless a file gives back the tensors bit for bit."""
    same = again.keys() == state.keys() and all(
        again[name].dtype == value.dtype and torch.equal(again[name], value)
        for name, value in state.items()
    )
    if not same:
        raise CheckpointError(
            f'{file.name} does not give back the tensors written to it; '
            'check the disk.'
        )


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line; errors meant for the user end in one line."""
    parser = argparse.ArgumentParser(
        description='Convert the weights of a ViT, and check that the '
        'result computes the same features.'
    )
    parser.add_argument(
        'source', metavar='IN', help='checkpoint of any known format'
    )
    parser.add_argument('out', metavar='OUT', help='file or folder to write')
    parser.add_argument(
        '--to',
        choices=list(WRITERS),
        required=True,
        help='plugin: the weights of all parts; slim: the encoder only; '
        'hf writes a folder',
    )
    parser.add_argument(
        '--branch',
        choices=['online', 'target', 'student', 'teacher'],
        default='online',
        help='which encoder, of a file with two',
    )
    parser.add_argument(
        '--num-heads', type=int, help='attention heads, for unusual widths'
    )
    args = parser.parse_args(argv)
    with one_line_errors():
        said = convert(
            args.source,
            args.out,
            args.to,
            branch=args.branch,
            num_heads=args.num_heads,
        )
    print(said)

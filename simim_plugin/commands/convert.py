"""Convert a ViT to the format of another library, or a model to ONNX."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

from .. import __version__
from ..checkpoint import load_weights
from ..checkpoint.adapters import adapted, merged
from ..checkpoint.export import WRITERS, convert
from ..checkpoint.loading import BRANCHES
from ..checkpoint.statement import FAMILY, stated_by_run
from ..errors import SimimError
from ..settings import check_settings, fit_channels
from .command_line import find_config
from .config_errors import add_traceback_option, explained_errors
from .numbers import whole


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line."""
    with explained_errors(argv):
        args = parse_args(argv)
        config = find_config(args.config) if args.config else None
        if config is not None and args.to == 'onnx' and not adapts(config):
            print(whole_model(config, args))
            return
        report = convert(
            args.source,
            args.out,
            args.to,
            branch=args.branch or 'online',
            num_heads=args.num_heads,
            entry=args.entry,
            grid=args.grid and tuple(args.grid),
            content=config and merged_content(config, args),
        )
        print(report)


def whole_model(config: Config, args: argparse.Namespace) -> str:
    """Write a classifier, segmentor or detector as ONNX; return a report.

    Raises:
        SimimError: if an option is given that chooses an encoder.
    """
    for name in ('branch', 'entry', 'num_heads', 'grid'):
        if getattr(args, name) is not None:
            raise SimimError(
                f'--{name.replace("_", "-")} chooses an encoder, and '
                '--to onnx --config writes the whole model of a run; leave '
                'out one of them.'
            )
    _check(config)
    from ..prediction.onnx_export import export_onnx

    return export_onnx(config, args.source, Path(args.out))


def adapts(config: Config) -> bool:
    """Return whether a config trains adapters (LoRA)."""
    kind = str(config.get('model', {}).get('type', ''))
    return kind.rpartition('.')[2] == 'LoRAModel'


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the options."""
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
        choices=[*BRANCHES],
        help='the encoder to convert, of a file with two. Defaults to online',
    )
    parser.add_argument(
        '--entry',
        metavar='NAME',
        help='entry of the file, such as model_ema, or prefix of its names',
    )
    parser.add_argument(
        '--num-heads', type=int, help='attention heads, for unusual widths'
    )
    parser.add_argument(
        '--grid',
        type=whole(),
        nargs=2,
        metavar=('ROWS', 'COLUMNS'),
        help='patches of learned positions that are no square',
    )
    parser.add_argument(
        '--config',
        help='of the run: --to onnx writes its whole classifier, segmentor '
        'or detector; adapters (LoRA) are merged into the encoder',
    )
    add_traceback_option(parser)
    return parser.parse_args(argv)


def merged_content(config: Config, args: argparse.Namespace) -> dict[str, Any]:
    """Return the content of a file whose adapters are merged.

    Args:
        config (Config): of the run.
        args (argparse.Namespace): the options.

    Raises:
        SimimError: if the config has no adapters.
    """
    _check(config, 'model', 'default_scope', 'custom_imports')
    model = MODELS.build(config.model)
    if not list(adapted(model)):
        raise SimimError(
            f'The config {args.config} has no LoRAModel, so there is nothing '
            'to merge; leave out --config, or write the whole model by '
            '--to onnx.'
        )
    load_weights(model, args.source)
    meta = stated_by_run(config.pretty_text)
    family = getattr(model.backbone, 'loaded_family', None)
    if family is not None:
        meta[FAMILY] = family
    meta['simim_plugin_version'] = __version__
    return dict(state_dict=merged(model), meta=meta)


def _check(config: Config, *names: str) -> None:
    """Fit a config to its channels and check it, before anything is built.

    Args:
        config (Config): of a run.
        *names (str): settings that are used. Defaults to all.
    """
    init_default_scope(config.get('default_scope', 'mmpretrain'))
    if not config.get('model'):
        raise SimimError(
            f'{config.filename} has no model; give the config.py of a run.'
        )
    fit_channels(config)
    used = {name for name in config if not names or name in names}
    check_settings({name: config[name] for name in used})

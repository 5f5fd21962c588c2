"""Predict pictures by a trained classifier, detector or segmentor."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

import torch
from mmengine.registry import init_default_scope
from tqdm import tqdm

from ..errors import SimimError
from ..pictures import UnreadableImageError
from ..prediction import Picture, Predictor, build_predictor, find_pictures
from ..settings import changed_too_late, check_settings, fit_channels
from ..text import clean, some
from .command_line import find_config
from .config_errors import add_traceback_option, explained_errors
from .numbers import share, whole
from .options import add_options, merge

TOP, THRESHOLD = 5, 0.3
"""Classes of a picture, and the smallest score of a drawn object."""


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line; the exit code is 1 if a picture is broken."""
    with explained_errors(argv):
        args = parse_args(argv)
        check_empty(args.out)
        pictures = find_pictures(args.pictures)
        config = find_config(args.config)
        merge(config, args.cfg_options)
        init_default_scope(config.get('default_scope', 'mmpretrain'))
        late = [*changed_too_late(config)]
        fit_channels(config)
        found = check_settings({**config}, config.text)
        for warning in [*found, *late] if args.cfg_options else []:
            print(clean(f'Warning: {warning}'), flush=True)
        check_options(args, config.get('default_scope', 'mmpretrain'))
        predictor = build_predictor(
            config,
            args.checkpoint,
            args.out,
            args.device,
            args.top,
            args.score_thr,
        )
        predict(predictor, pictures, not args.no_draw)


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the options."""
    parser = argparse.ArgumentParser(
        description='Predict classes, objects or label maps of pictures.'
    )
    parser.add_argument(
        'config',
        help='of the run, such as work_dirs/NAME/config.py, or a packaged '
        'name',
    )
    parser.add_argument('checkpoint', help='of the run')
    parser.add_argument(
        'pictures',
        nargs='+',
        metavar='PICTURES',
        help="files, folders, or patterns such as 'photos/**/*.jpg'",
    )
    parser.add_argument(
        '--out',
        type=Path,
        required=True,
        metavar='DIR',
        help='new folder for the JSON files and the drawn pictures',
    )
    parser.add_argument(
        '--top',
        type=whole(),
        default=TOP,
        help='classes of a picture, of a classifier. Defaults to 5',
    )
    parser.add_argument(
        '--score-thr',
        type=share,
        default=THRESHOLD,
        help='smallest score of an object that is drawn; the JSON file has '
        "all that the config's test_cfg keeps. Defaults to 0.3",
    )
    parser.add_argument(
        '--no-draw', action='store_true', help='write no drawn pictures'
    )
    parser.add_argument(
        '--device',
        type=_device,
        default='cuda' if torch.cuda.is_available() else 'cpu',
        help='Defaults to the GPU if there is one',
    )
    add_options(parser, 'override any setting of the config')
    add_traceback_option(parser)
    return parser.parse_args(argv)


def check_options(args: argparse.Namespace, scope: str) -> None:
    """Check that the model reads the options that are given.

    Args:
        args (argparse.Namespace): the options.
        scope (str): of the config, a library of OpenMMLab.

    Raises:
        SimimError: for ``--top`` of another model than a classifier, and
            ``--score-thr`` of another than a detector.
    """
    for name, default, library, model in (
        ('top', TOP, 'mmpretrain', 'classifier'),
        ('score_thr', THRESHOLD, 'mmdet', 'detector'),
    ):
        if getattr(args, name) != default and scope != library:
            raise SimimError(
                f'--{name.replace("_", "-")} has no effect, since the model '
                f'of {args.config} is no {model}; leave it out.'
            )


def predict(
    predictor: Predictor, pictures: Sequence[Picture], draw: bool = True
) -> None:
    """Predict pictures, write the files and print where they are.

    Args:
        predictor (Predictor): of the task.
        pictures (Sequence[Picture]): to predict.
        draw (bool): Defaults to True.

    Raises:
        SimimError: at the end, if pictures cannot be read.
    """
    broken = []
    for picture in tqdm(pictures, 'pictures', disable=None, leave=False):
        try:
            predictor(picture, draw)
        except UnreadableImageError as error:
            tqdm.write(f'Left out: {error}')
            broken.append(picture.path)
    done = len(pictures) - len(broken)
    files = [*predictor.finish(), *(['drawn/'] if draw and done else [])]
    print(
        clean(
            f'Predicted {done} of {len(pictures)} pictures: '
            f'{", ".join(files)} in {predictor.out}.'
            f'{predictor.note() if draw and done else ""}'
        )
    )
    if broken:
        raise SimimError(
            f'{len(broken)} of the {len(pictures)} pictures cannot be read '
            f'({some(broken)}), '
            'and the results have all others; replace or remove these files.'
        )


def check_empty(out: Path) -> None:
    """Check that the results get a folder of their own.

    Raises:
        SimimError: if it is a file, or holds anything.
    """
    if os.path.lexists(out) and not (out.is_dir() and not any(out.iterdir())):
        raise SimimError(
            f'{out} is a file or a folder that is not empty; choose a new '
            'folder by --out.'
        )


def _device(text: str) -> str:
    try:
        torch.empty(1, device=text).item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).strip().partition('\n')[0]
        raise argparse.ArgumentTypeError(
            f'{text} is no device that works here ({reason})'
        ) from error
    return text

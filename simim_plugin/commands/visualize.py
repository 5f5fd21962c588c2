"""Draw pictures of views, encoders and runs: one subcommand for each."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from mmengine.dataset import Compose
from mmengine.registry import init_default_scope
from mmpretrain.datasets import remove_transform

from ..datasets import LoadRGBImage, PairedViews
from ..datasets.paired_views import resize
from ..errors import SimimError
from ..evaluation import draw_pairs, match_patches
from ..pictures import Window, as_shown
from ..pictures.walking import EXTENSIONS, list_images
from ..settings import fit_channels
from ..settings.channels import channels_of
from ..text import clean
from ..visualization.curves import draw_runs, read_run
from ..visualization.encoder import FrozenEncoder
from ..visualization.saving import check_output, save_figures
from ..visualization.tokens import draw_across, draw_attention, draw_tokens
from ..visualization.views import draw_matches, draw_pair
from .command_line import find_config
from .config_errors import add_traceback_option, explained_errors
from .numbers import seed_number
from .options import add_encoder_options, typed_command

Captioned = list[tuple[str, Figure]]

MOST = 64
"""Largest number of images in one picture."""

PAIR_CONFIG = 'siamese_im_vit-base-p16_8xb512-amp-coslr-1600e_in1k.py'


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line."""
    with explained_errors(argv):
        args = parse_args(argv)
        check_output(args.out)
        init_default_scope('mmpretrain')
        figures = args.draw(args)
        command = typed_command('visualize', argv)
        save_figures(figures, args.out, args.heading, command)
        print(clean(f'Written to {args.out}.'))


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the options; ``draw`` is the function of the subcommand."""
    parser = argparse.ArgumentParser(
        description='Draw the views of the method or what an encoder has '
        'learned, as a PNG file or a self-contained HTML page.'
    )
    commands = parser.add_subparsers(required=True, metavar='PICTURE')

    pair = commands.add_parser(
        'pair',
        help='both crops, the mask, and the target grid in the online view',
    )
    pair.set_defaults(draw=pairs, heading='Pairs of views')
    _add_images(pair, 3)
    pair.add_argument(
        '--config',
        default=PAIR_CONFIG,
        help='pretraining config of the views, a file or a packaged name. '
        'Defaults to ViT-B on ImageNet',
    )

    match = commands.add_parser(
        'match', help='nearest patches in two views, or in two images'
    )
    match.set_defaults(draw=matches, heading='Nearest patches')
    _add_encoder(match, 3)
    match.add_argument(
        '--across',
        action='store_true',
        help='match the first image with the second, the third with the '
        'fourth, ..., instead of two views of each',
    )

    pca = commands.add_parser(
        'pca', help='patch tokens as colours, one basis for all images'
    )
    pca.set_defaults(draw=tokens, heading='Patch tokens as colours')
    _add_encoder(pca, 12)

    attention = commands.add_parser(
        'attention', help='attention of cls in the last block, by head'
    )
    attention.set_defaults(draw=attentions, heading='Attention of cls')
    _add_encoder(attention, 4)

    curves = commands.add_parser('curves', help='logs of several runs')
    curves.set_defaults(draw=runs, heading='Training curves')
    _add_runs(curves)
    return parser.parse_args(argv)


def _no_pairs(name: str) -> SimimError:
    return SimimError(
        f'{name} does not cut pairs of views with masks; name a pretraining '
        'config by --config.'
    )


def pairs(args: argparse.Namespace) -> Captioned:
    """Draw pairs of views by the pipeline of a config."""
    config = find_config(args.config)
    fit_channels(config)
    try:
        pipeline = config.train_dataloader.dataset.pipeline
        (grid,) = (
            step['grid']
            for step in pipeline
            if 'grid' in step and step.get('key', 'mask') == 'mask'
        )
        target_grid = config.model.neck.get('target_grid') or grid
    except (AttributeError, ValueError) as error:
        raise _no_pairs(args.config) from error
    transform = Compose(remove_transform(pipeline, 'PackInputs'))
    loaders = [s for s in transform.transforms if isinstance(s, LoadRGBImage)]
    load = [*loaders, LoadRGBImage(channels=channels_of(config))][0]
    paths = find_images(args.images, args.limit)
    drawn = draw_pairs(transform, [str(path) for path in paths], args.seed)
    if not all({'geometry', 'mask'} <= pair.keys() for pair in drawn):
        raise _no_pairs(args.config)
    return [
        (
            path.name,
            draw_pair(
                as_shown(load(dict(img_path=str(path)))['img']),
                [as_shown(view) for view in pair['img']],
                pair['geometry'],
                pair['mask'],
                grid,
                target_grid,
            ),
        )
        for path, pair in zip(paths, drawn, strict=True)
    ]


def matches(args: argparse.Namespace) -> Captioned:
    """Draw the nearest patches of two views, or of two images."""
    paths = find_images(args.images, args.limit, even=args.across)
    encoder = encoder_of(args)
    if args.across:
        images = squares(paths, encoder, args.window)
        features = encoder(images)
        images = [as_shown(image) for image in images]
        return [
            (
                f'{paths[i].name} and {paths[i + 1].name}',
                draw_across(images[i : i + 2], features[i], features[i + 1]),
            )
            for i in range(0, len(paths), 2)
        ]
    views = PairedViews(size=encoder.size, crop_scale=(0.2, 1.0))
    load = LoadRGBImage(channels=encoder.channels, window=args.window)
    transform = Compose([load, views])
    drawn = draw_pairs(transform, [str(path) for path in paths], args.seed)
    found = match_patches(encoder, drawn, grid=encoder.grid)
    figure = draw_matches(
        [[as_shown(view) for view in pair['img']] for pair in drawn],
        {'Nearest patches': found},
    )
    return [(', '.join(path.name for path in paths), figure)]


def tokens(args: argparse.Namespace) -> Captioned:
    """Draw the patch tokens of all images as colours."""
    paths = find_images(args.images, args.limit)
    encoder = encoder_of(args)
    images = squares(paths, encoder, args.window)
    names = ', '.join(path.name for path in paths)
    shown = [as_shown(image) for image in images]
    return [(names, draw_tokens(shown, encoder(images)))]


def attentions(args: argparse.Namespace) -> Captioned:
    """Draw the attention of the cls token in each image."""
    paths = find_images(args.images, args.limit)
    encoder = encoder_of(args)
    images = squares(paths, encoder, args.window)
    return [
        (path.name, draw_attention(as_shown(image), shares))
        for path, image, shares in zip(
            paths, images, encoder.cls_attention(images), strict=True
        )
    ]


def runs(args: argparse.Namespace) -> Captioned:
    """Draw the curves of several runs."""
    labels = labels_of(args.runs)
    curves = {
        label: read_run(run, args.names)
        for label, run in zip(labels, args.runs, strict=True)
    }
    return [(', '.join(map(str, args.runs)), draw_runs(curves))]


def encoder_of(args: argparse.Namespace) -> FrozenEncoder:
    """Load the encoder that the options name."""
    return FrozenEncoder(
        args.checkpoint,
        args.size,
        args.num_heads,
        args.branch,
        args.mean,
        args.std,
    )


def squares(
    paths: Sequence[Path],
    encoder: FrozenEncoder,
    window: Window | None = None,
) -> list[np.ndarray]:
    """Read images for an encoder, see :func:`read_image` and :func:`square`.

    Args:
        paths (Sequence[Path]): of the images.
        encoder (FrozenEncoder): which takes them.
        window (tuple[float, float], optional): of its training.
    """
    return [
        square(read_image(path, encoder.channels, window), encoder.size)
        for path in paths
    ]


def find_images(
    places: Sequence[Path], limit: int, even: bool = False
) -> list[Path]:
    """Return image files and those in folders, evenly spaced if too many.

    Args:
        places (Sequence[Path]): image files, or folders.
        limit (int): most images to return, 1 to ``MOST``.
        even (bool): return an even number of images, for pairs.

    Raises:
        SimimError: if a place is missing or has no image, if ``limit`` is
            out of range, or if no pair can be made.
    """
    if not 1 <= limit <= MOST:
        raise SimimError(
            f'Cannot draw {limit} images in one picture; --limit takes 1 to '
            f'{MOST}.'
        )
    found = []
    for place in places:
        if not os.path.exists(place):
            raise SimimError(
                f'There is no image or folder at {place}; check the path.'
            )
        inside = [place]
        if os.path.isdir(place):
            inside = [Path(path) for path in list_images(place)]
        if not inside:
            raise SimimError(
                f'There is no image ({" ".join(EXTENSIONS)}) in {place} or '
                'below; name another folder.'
            )
        found += inside
    if even:
        limit = min(limit, len(found)) // 2 * 2
        if limit < 2:
            raise SimimError(
                f'Matches across images need pairs of images, and there are '
                f'{len(found)}; name two or more, with --limit 2 or more.'
            )
    if len(found) > limit:
        chosen = np.linspace(0, len(found) - 1, limit).round().astype(int)
        print(f'{limit} of {len(found)} images, evenly spaced (--limit).')
        found = [found[i] for i in chosen]
    return found


def read_image(
    path: Path, channels: int = 3, window: Window | None = None
) -> np.ndarray:
    """Read an image as (H, W, N) uint8, RGB if N is 3.

    Args:
        path (Path): of the image.
        channels (int): N. Defaults to 3.
        window (tuple[float, float], optional): as in
            :class:`simim_plugin.datasets.LoadRGBImage`. Defaults to None.

    Raises:
        SimimError: if it cannot be read.
    """
    load = LoadRGBImage(channels=channels, window=window)
    return load(dict(img_path=str(path)))['img']


def square(image: np.ndarray, size: int) -> np.ndarray:
    """Crop the central square of an image, resized to (size, size, N)."""
    height, width = image.shape[:2]
    edge = min(height, width)
    top, left = (height - edge) // 2, (width - edge) // 2
    crop = image[top : top + edge, left : left + edge].copy()
    return resize(crop, (size, size))


def labels_of(folders: Sequence[Path]) -> list[str]:
    """Return the shortest distinct ends of paths."""
    parts = [folder.resolve().parts for folder in folders]
    for length in range(1, max(map(len, parts)) + 1):
        labels = ['/'.join(path[-length:]) for path in parts]
        if len(set(labels)) == len(labels):
            return labels
    raise SimimError('A run is named twice; name each work directory once.')


def _add_images(parser: argparse.ArgumentParser, limit: int) -> None:
    parser.add_argument(
        'images', nargs='+', type=Path, help='image files or folders'
    )
    parser.add_argument(
        '--limit',
        type=int,
        default=limit,
        help=f'images to draw, evenly spaced, at most {MOST}. Defaults to '
        f'{limit}',
    )
    parser.add_argument(
        '--seed', type=seed_number, default=0, help='of all random draws'
    )
    _add_out(parser)


def _add_encoder(parser: argparse.ArgumentParser, limit: int) -> None:
    parser.add_argument(
        'checkpoint',
        type=Path,
        help='any file of docs/encoders.md: of this package, MMPretrain, '
        'timm, Hugging Face, MAE, DINO, DINOv2, CLIP and others',
    )
    parser.add_argument(
        '--size',
        type=int,
        help='height and width of the images, pixels; larger ones give a '
        'finer picture. Defaults to that of the checkpoint',
    )
    add_encoder_options(parser, 'draw')
    for name in ('mean', 'std'):
        parser.add_argument(
            f'--{name}',
            nargs='+',
            type=float,
            help='of each channel in training, levels from 0 to 255, for an '
            'encoder of other channels than three. Defaults to that of the '
            "encoder's family",
        )
    parser.add_argument(
        '--window',
        nargs=2,
        type=float,
        metavar=('LOW', 'HIGH'),
        help='levels that become black and white in images of more than 8 '
        'bits, as in the training of the encoder',
    )
    _add_images(parser, limit)


def _add_runs(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('runs', nargs='+', type=Path, help='work directories')
    parser.add_argument(
        '--names',
        nargs='+',
        help='logged names of the figures. Defaults to the loss and its terms '
        'where all runs have them',
    )
    _add_out(parser)


def _add_out(parser: argparse.ArgumentParser) -> None:
    name = parser.prog.split()[-1]
    parser.add_argument(
        '--out',
        type=Path,
        default=Path('work_dirs', 'pictures', f'{name}.png'),
        help='.png, or .html. Defaults to %(default)s',
    )
    add_traceback_option(parser)

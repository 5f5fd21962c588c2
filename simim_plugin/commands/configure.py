"""Write the config of a task for data of one's own, and train it."""

from __future__ import annotations

import argparse
import logging
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path

import torch
from mmengine.logging import MMLogger

from ..errors import SimimError, Trouble
from ..files import complete_file
from ..recipes.configuring import METHODS, Choices, Recipe, make_recipe
from ..recipes.machine import UNTRIED, Precision
from ..recipes.plans import LEAST_BATCH, UNTRAINED, power_of_two
from ..recipes.samples import draw_samples
from ..recipes.trial import Trial, try_step
from ..text import clean, in_words
from ..visualization.saving import save_figures
from .config_errors import add_traceback_option, explained_errors
from .options import add_encoder_options, typed_command
from .report import LEARNED, METRICS
from .running import run_script, train_on

FASTER = 1.1
"""How many times as fast bf16 has to be on a processor, to be chosen."""

NAMED = 20
"""Classes whose names are printed."""


def main(
    argv: Sequence[str] | None = None, tools: Path = Path('tools')
) -> None:
    """Run the command line.

    Args:
        argv (Sequence[str], optional): arguments; those of the process if
            None.
        tools (Path): folder of train.py and test.py.
    """
    with explained_errors(argv):
        args = parse_args(argv)
        about = typed_command('configure', argv)
        recipe = write_config(args, about)
        if args.run:
            run_recipe(recipe, args.out, tools, about)


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse and check the options.

    Raises:
        SimimError: if the config exists, or is no .py file.
    """
    args = _parser().parse_args(argv)
    if args.out is None:
        args.out = Path(f'my_{args.task}.py')
    if args.out.suffix != '.py' or not args.out.stem.isidentifier():
        raise SimimError(
            f'Cannot write {args.out}: a config is a .py file whose name has '
            'letters, digits and underscores; choose another --out.'
        )
    if args.out.exists() and not args.overwrite:
        raise SimimError(
            f'{args.out} exists, perhaps with changes of yours; choose '
            'another --out, or replace it with --overwrite.'
        )
    if args.hours is not None and (args.epochs or args.no_trial):
        raise SimimError(
            '--hours sets the epochs from a trial step; leave out --epochs '
            'and --no-trial, or --hours.'
        )
    if args.hours is not None and not 0 < args.hours < math.inf:
        raise SimimError(f'--hours is {args.hours}; set a number above 0.')
    if args.hours is not None and args.method in UNTRAINED:
        raise SimimError(
            f'--hours has no effect on {args.method}, which trains nothing; '
            'leave it out.'
        )
    if args.ignored == ['others']:
        args.ignored = 'others'
    elif args.ignored is not None:
        try:
            args.ignored = tuple(map(int, args.ignored))
        except ValueError as error:
            raise SimimError(
                f'--ignore {" ".join(args.ignored)} takes values, or the '
                'word others alone.'
            ) from error
    return args


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description='Write a short config for your own pictures, labels and '
        'weights, and a picture of samples as the model will see them.'
    )
    parser.add_argument('task', choices=[*METHODS])
    _add_data_options(parser)
    _add_training_options(parser)
    parser.add_argument(
        '--out', type=Path, help='the config. Defaults to my_TASK.py'
    )
    parser.add_argument(
        '--no-trial', action='store_true', help='do not try a step'
    )
    parser.add_argument(
        '--overwrite',
        action='store_true',
        help='replace the config and the files beside it',
    )
    parser.add_argument(
        '--run', action='store_true', help='train, test and report at once'
    )
    add_traceback_option(parser)
    return parser


def _add_data_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the pictures and their annotations."""
    parser.add_argument(
        '--data',
        required=True,
        help='pictures or a list of them (pretraining), class folders or a '
        'list with labels (classification), a COCO file or its folder '
        '(detection), images/ and masks/ or a list of both (segmentation)',
    )
    parser.add_argument(
        '--val-data',
        help='a second list, folder, archive or COCO file, to test on',
    )
    parser.add_argument(
        '--val-share',
        type=float,
        default=Choices.val_share,
        help='share to test on, of data in one part. Defaults to 0.2',
    )
    parser.add_argument(
        '--seed', type=int, default=0, help='of the division of the data'
    )
    parser.add_argument(
        '--masks',
        action=argparse.BooleanOptionalAction,
        help='train masks, or boxes alone. Defaults to what the data has',
    )
    parser.add_argument(
        '--classes', help='file of label maps: VALUE NAME in each line'
    )
    parser.add_argument(
        '--ignore',
        dest='ignored',
        nargs='+',
        metavar='VALUE',
        help='values of no class in label maps; others: all that --classes '
        'does not list',
    )


def _add_training_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the encoder and of its training."""
    parser.add_argument(
        '--method',
        help='; '.join(f'{t}: {", ".join(m)}' for t, m in METHODS.items()),
    )
    parser.add_argument('--encoder', help='weights to start from')
    add_encoder_options(parser, 'take')
    parser.add_argument(
        '--arch', help='of a new encoder: tiny, small, base, large or huge'
    )
    parser.add_argument('--img-size', type=int, help='side, pixels')
    parser.add_argument('--batch-size', type=int, help='of a micro-step')
    parser.add_argument('--epochs', type=int, help='length of the training')
    parser.add_argument(
        '--hours', type=float, help='length, by the time of a trial step'
    )
    parser.add_argument(
        '--freeze', action='store_true', help='do not train the encoder'
    )
    parser.add_argument(
        '--encoder-lr',
        type=float,
        default=1.0,
        help='factor of the learning rate of the encoder, such as 0.1',
    )
    parser.add_argument(
        '--lora',
        type=int,
        metavar='RANK',
        help='train adapters of this rank in the place of the encoder',
    )


def choices_of(args: argparse.Namespace) -> Choices:
    """Return what the options choose, each by the option of its name."""
    return Choices(
        **{one.name: getattr(args, one.name) for one in fields(Choices)}
    )


def write_config(args: argparse.Namespace, about: str) -> Recipe:
    """Write the config, its files and its picture, and print what they are.

    If the config does not run, all files are as they were before.

    Raises:
        SimimError: for choices that do not fit, or if a file beside the
            config exists and --overwrite does not allow to replace it.
    """
    choices = choices_of(args)
    recipe = make_recipe(args.task, args.data, args.out, choices, about=about)
    say_data(recipe)
    say('encoder', recipe.encoder.about)
    say('machine', str(recipe.machine))
    picture = args.out.with_name(f'{args.out.stem}_samples.png')
    if args.task == 'pretraining' and Path(args.data).expanduser().is_dir():
        _refuse_inside(picture, Path(args.data).expanduser())
    before = contents([*recipe.files, picture, args.out])
    taken = [path for path, content in before.items() if content is not None]
    if taken and not args.overwrite:
        raise SimimError(
            f'{taken[0]} exists, and would be replaced; choose another --out, '
            'or replace it with --overwrite.'
        )
    try:
        recipe.write(args.out)
        trial = None
        if not args.no_trial and trains(recipe):
            recipe, trial = fit(recipe, args, choices, about)
        with quiet():  # the summary has it
            classes = getattr(recipe.data, 'classes', ())
            figure = draw_samples(args.out, classes)
        save_figures([('', figure)], picture)
    except BaseException:
        restore(before)
        raise
    say_plan(recipe, trial)
    for warning in recipe.plan.warnings:
        say('warning', warning)
    lines = len(str(recipe.written).splitlines())
    say('written', f'{args.out} ({lines} lines) and {picture}: look at it')
    say('next', ' '.join(next_command(recipe, args.out)))
    return recipe


def contents(paths: Iterable[Path]) -> dict[Path, bytes | None]:
    """Return what files hold, None for a file that does not exist."""
    return {p: p.read_bytes() if p.exists() else None for p in paths}


def restore(before: Mapping[Path, bytes | None]) -> None:
    """Make files hold again what :func:`contents` has returned."""
    for path, content in before.items():
        if content is None:
            path.unlink(missing_ok=True)
        else:
            with complete_file(path) as part:
                part.write_bytes(content)


@contextmanager
def quiet() -> Iterator[None]:
    """Keep MMEngine's logger from printing less than errors."""
    logger = MMLogger.get_current_instance()
    levels = {one: one.level for one in (logger, *logger.handlers)}
    try:
        for one in levels:
            one.setLevel(logging.ERROR)
        yield
    finally:
        for one, level in levels.items():
            one.setLevel(level)


def _refuse_inside(picture: Path, data: Path) -> None:
    """Refuse to write the samples among the pictures that train."""
    if picture.resolve().is_relative_to(data.resolve()):
        raise SimimError(
            f'The samples {picture} would be a training picture, since '
            f'{data} holds them; run the command in another folder, or set '
            '--out to one.'
        )


def say_data(recipe: Recipe) -> None:
    """Print what the data is, and its pictures and classes."""
    data = recipe.data
    say('data', str(data))
    if hasattr(data, 'read'):
        say('files', ', '.join(data.read))
    if str(data) != str(data.pictures):
        say('pictures', str(data.pictures))
    if hasattr(data, 'of_each_class'):
        names = data.of_each_class()
        more = len(names) - NAMED
        if more > 0:
            names = [*names[:NAMED], f'and {more} more']
        say('classes', ', '.join(names))


def say(what: str, text: str) -> None:
    """Print a line of the summary."""
    print(clean(f'{what:8} {text}'), flush=True)


def trains(recipe: Recipe) -> bool:
    """Whether the method of a recipe trains anything."""
    return recipe.method not in UNTRAINED


def say_plan(recipe: Recipe, trial: Trial | None) -> None:
    """Print the length of the training and what a step takes."""
    plan = recipe.plan
    if not trains(recipe):
        return
    say(
        'plan',
        f'{plan.epochs} epochs of {plan.images} pictures, {plan.steps} steps '
        f'of {plan.total}, learning rate {plan.lr:.2g}',
    )
    if trial is not None:
        seconds = trial.seconds * plan.batches()
        say(
            'trial',
            f'{trial.batch} images take {trial.seconds:.2f} s and '
            f'{trial.memory:.1f} GiB; the training takes about '
            f'{in_words(seconds)} without its tests',
        )


def fit(
    recipe: Recipe, args: argparse.Namespace, choices: Choices, about: str
) -> tuple[Recipe, Trial]:
    """Try a step of the written config, and adapt its batch to a GPU.

    With ``--hours``, adapt its length.

    Raises:
        SimimError: if the batch that the user chose, or one image, does not
            fit.
    """
    machine = recipe.machine

    def again(**changes: int) -> Recipe:
        nonlocal choices
        choices = replace(choices, **changes)  # type: ignore[arg-type]
        made = make_recipe(
            args.task, args.data, args.out, choices, machine, about
        )
        made.write(args.out)
        return made

    if machine.gpu:
        recipe, trial = fit_batch(recipe, args.out, choices.batch_size, again)
    elif machine.precision == UNTRIED:
        trial = fit_precision(recipe, args.out)
        machine = recipe.machine
    else:
        trial = try_step(args.out)
    if args.hours is not None:
        epoch = trial.seconds * recipe.plan.batches() / recipe.plan.epochs
        recipe = again(epochs=max(1, math.floor(args.hours * 3600 / epoch)))
    return recipe, trial


def fit_batch(
    recipe: Recipe, out: Path, asked: int | None, again: Callable[..., Recipe]
) -> tuple[Recipe, Trial]:
    """Try steps on a GPU until the batch fills its memory.

    Args:
        recipe (Recipe): that was written.
        out (Path): its config.
        asked (int, optional): the user's batch, which is kept.
        again (Callable): writes the config with another ``batch_size``.

    Raises:
        SimimError: if the batch that the user chose, or one image, does not
            fit.
    """
    least = LEAST_BATCH.get(recipe.method, 1)
    trial = None
    while trial is None:
        try:
            trial = try_step(out)
        except torch.cuda.OutOfMemoryError as error:
            if asked or recipe.plan.batch <= least:
                raise SimimError(
                    f'A batch of {recipe.plan.batch} does not fit the '
                    f'{recipe.machine.memory:.1f} GiB of '
                    f'{recipe.machine.device}; lower --batch-size or '
                    '--img-size, or take a smaller encoder; see '
                    f'{Trouble.OUT_OF_MEMORY}.'
                ) from error
            torch.cuda.empty_cache()
            recipe = again(batch_size=recipe.plan.batch // 2)
    used = trial.memory / recipe.machine.memory
    larger = min(int(0.8 / used), recipe.plan.accumulated) if used else 1
    if not asked and larger > 1:
        recipe = again(batch_size=recipe.plan.batch * power_of_two(larger))
        trial = try_step(out)
    return recipe, trial


def fit_precision(recipe: Recipe, out: Path) -> Trial:
    """Try steps on a processor in fp32 and bf16, and write the faster one.

    That is the one with less processor time.

    Args:
        recipe (Recipe): that was written; is changed.
        out (Path): its config.
    """
    tried = {}
    for name in ('fp32', 'bf16'):
        recipe.compute(Precision(name, 'is tried')).write(out)
        tried[name] = try_step(out, steps=3)
    factor = tried['fp32'].work / tried['bf16'].work
    about = f'{factor:.1f} times as fast in a trial'
    best = Precision('fp32', f'bf16 is {about}')
    if factor >= FASTER:
        best = Precision('bf16', about)
    recipe.compute(best).write(out)
    return tried[best.name]


def next_command(recipe: Recipe, out: Path) -> list[str]:
    """Return the command that trains the config, or tests it at once."""
    if trains(recipe):
        return ['python', 'tools/train.py', str(out)]
    return ['python', 'tools/report.py', str(out), str(recipe.encoder.file)]


def run_recipe(recipe: Recipe, out: Path, tools: Path, about: str) -> None:
    """Train the config, if its method trains; test it and write the report.

    Raises:
        SimimError: if a part fails.
    """
    work_dir = Path('work_dirs', out.stem)
    tested = str(work_dir)
    if trains(recipe):
        train_on(tools, [str(out)], work_dir, work_dir / 'train.log')
        say('trained', str(work_dir))
    else:
        tested = str(recipe.encoder.file)
    report = work_dir / 'report.html'
    words = [str(out), tested, '--out', str(report), '--made-by', about]
    run_script(tools / 'report.py', words, work_dir / 'report.log')
    text = (work_dir / 'report.log').read_text()
    for head in (METRICS, LEARNED):
        text = text.rpartition(head)[2]
    print(text.strip('\n'))

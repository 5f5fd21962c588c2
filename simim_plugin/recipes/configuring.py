"""Write the config of a task for data of one's own."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from datetime import date
from pathlib import Path
from typing import Any

from ..errors import SimimError
from ..files import complete_file
from ..pictures.archives import is_archive
from ..text import clean
from .encoders import Encoder, no_encoder, read_encoder
from .file_lists import is_list, read_labelled_lists
from .machine import Machine, Precision, this_machine
from .plans import UNTRAINED, Plan
from .tuning import Tuning
from .written import Written

METHODS = dict(
    pretraining=('siamese_im',),
    classification=('finetune', 'linear', 'knn', 'logistic'),
    detection=('vitdet',),
    segmentation=('upernet', 'linear'),
)
"""Tasks and their methods; the first is the default."""


@dataclass(frozen=True)
class Choices:
    """The choices of a user; the rest follows from data and machine.

    Args:
        method (str, optional): one of ``METHODS`` of the task.
        encoder (str, optional): file of weights to start from.
        branch (str): of a file with two encoders.
        num_heads (int, optional): of an encoder that does not state them.
        arch (str, optional): of a new encoder. Defaults to 'small' on a GPU,
            else 'tiny'.
        img_size (int, optional): side of the images, pixels.
        batch_size (int, optional): of a micro-step.
        epochs (int, optional): length.
        val_data (str, optional): a second list, folder or COCO file, to
            test on.
        val_share (float): of data in one part, to test on.
        seed (int): of that division.
        freeze (bool): see :class:`Tuning`.
        encoder_lr (float): see :class:`Tuning`.
        lora (int, optional): see :class:`Tuning`.
        masks (bool, optional): of a detector; None: if the data has them.
        classes (str, optional): file with values and names for label maps.
        ignored (tuple[int, ...] | str, optional): values of no class in
            them, or 'others'.
    """

    method: str | None = None
    encoder: str | None = None
    branch: str = 'online'
    num_heads: int | None = None
    arch: str | None = None
    img_size: int | None = None
    batch_size: int | None = None
    epochs: int | None = None
    val_data: str | None = None
    val_share: float = 0.2
    seed: int = 0
    freeze: bool = False
    encoder_lr: float = 1.0
    lora: int | None = None
    masks: bool | None = None
    classes: str | None = None
    ignored: tuple[int, ...] | str | None = None


@dataclass
class Recipe:
    """A config that is ready to be written.

    Args:
        task (str): key of ``METHODS``.
        method (str): of the task.
        data (Any): the data set, as its reader returns it.
        encoder (Encoder): to start from.
        machine (Machine): that trains.
        plan (Plan): of the training.
        written (Written): its settings.
        files (dict[Path, str]): texts of the other files that it needs.
    """

    task: str
    method: str
    data: Any
    encoder: Encoder
    machine: Machine
    plan: Plan
    written: Written
    files: dict[Path, str]

    def compute(self, precision: Precision) -> Recipe:
        """Set how the machine computes, and return the recipe."""
        self.machine = replace(self.machine, precision=precision)
        set_precision(self.written, self.machine)
        return self

    def write(self, out: Path) -> None:
        """Write the config and its files."""
        for path, text in {**self.files, out: str(self.written)}.items():
            with complete_file(path) as part:
                part.write_text(text, encoding='utf-8')


def check_choices(task: str, choices: Choices) -> str:
    """Return the method of the task.

    Raises:
        SimimError: for an unknown task or method, or a choice that the task
            has no use for.
    """
    if task not in METHODS:
        raise SimimError(
            f'There is no task {task!r}; choose one of {", ".join(METHODS)}.'
        )
    method = choices.method or METHODS[task][0]
    if method not in METHODS[task]:
        raise SimimError(
            f'{task} has no method {method!r}; choose one of '
            f'{", ".join(METHODS[task])}.'
        )
    tunes = method in ('finetune', 'vitdet', 'upernet')
    uses = dict(
        masks=task == 'detection',
        classes=task == 'segmentation',
        ignored=task == 'segmentation',
        freeze=tunes,
        encoder_lr=tunes,
        epochs=method not in UNTRAINED,
        batch_size=method not in UNTRAINED,
        branch=choices.encoder is not None,
        num_heads=choices.encoder is not None,
        lora=tunes,
        val_data=task != 'pretraining',
    )
    default = Choices()
    for name, used in uses.items():
        if not used and getattr(choices, name) != getattr(default, name):
            without = '' if choices.encoder else ' without --encoder'
            raise SimimError(
                f'{name.replace("_", "-")} has no effect on {task} by '
                f'{method}{without}; leave it out.'
            )
    _check_values(choices)
    return method


def _check_values(choices: Choices) -> None:
    """Refuse values out of range and values that exclude each other."""
    if choices.seed < 0:
        raise SimimError(
            f'--seed is {choices.seed}; set a whole number from 0.'
        )
    if choices.encoder and choices.arch:
        raise SimimError(
            '--arch is that of a new encoder, and --encoder has its own; '
            'leave one of them out.'
        )
    if choices.lora and (choices.freeze or choices.encoder_lr != 1):
        raise SimimError(
            '--lora trains adapters beside an encoder that is held; leave '
            'out --freeze and --encoder-lr.'
        )
    if choices.freeze and choices.encoder_lr != 1:
        raise SimimError(
            '--freeze holds the encoder, so --encoder-lr has no effect; leave '
            'out one of them.'
        )
    for name in ('img_size', 'batch_size', 'epochs', 'num_heads', 'lora'):
        value = getattr(choices, name)
        if value is not None and value < 1:
            raise SimimError(
                f'--{name.replace("_", "-")} is {value}; set 1 or more.'
            )
    if not 0 <= choices.encoder_lr <= 1:
        raise SimimError(
            f'--encoder-lr is {choices.encoder_lr}, a factor of the learning '
            'rate; set it between 0 and 1, such as 0.1.'
        )


def make_recipe(
    task: str,
    data: str,
    out: Path,
    choices: Choices,
    machine: Machine | None = None,
    about: str = '',
) -> Recipe:
    """Read data and encoder, and choose the settings of a task.

    Args:
        task (str): key of ``METHODS``.
        data (str): the folder or file.
        out (Path): of the config.
        choices (Choices): of the user.
        machine (Machine, optional): that trains. Defaults to this one.
        about (str): the command, for the first lines of the config.

    Raises:
        SimimError: for data, weights or choices that do not fit.
    """
    method = check_choices(task, choices)
    data = os.path.expanduser(data)
    _check_form(task, data)
    if choices.val_data:
        val_data = os.path.expanduser(choices.val_data)
        _check_form(task, val_data)
        choices = replace(choices, val_data=val_data)
    if choices.encoder:
        encoder = read_encoder(
            os.path.expanduser(choices.encoder),
            choices.branch,
            choices.num_heads,
        )
        machine = machine or this_machine()
    else:
        machine = machine or this_machine()
        encoder = no_encoder(
            choices.arch or ('small' if machine.gpu else 'tiny')
        )
    stem = out.with_suffix('').absolute()
    order = Order(task, method, data, stem, encoder, machine, choices, about)
    recipe = _MAKERS[task](order)
    _check_size(recipe.written.settings['img_size'].value, encoder, task)
    read = (data, choices.val_data, choices.classes, choices.encoder)
    _refuse_replacing([*recipe.files, out], [f for f in read if f])
    return recipe


def _refuse_replacing(written: Iterable[Path], read: Iterable[str]) -> None:
    """Refuse to write a file that was read."""
    # A pattern of archives is no file.
    there = [f for f in map(os.path.expanduser, read) if os.path.exists(f)]
    for path in written:
        for file in there:
            if path.exists() and path.samefile(file):
                raise SimimError(
                    f'{path} is read, and a file of this name would be '
                    'written beside the config; choose another --out.'
                )


def _check_form(task: str, data: str) -> None:
    """Refuse lists and archives that a task cannot read."""
    if is_list(data) and task == 'detection':
        raise SimimError(
            f'{data} lists pictures, and a detector needs their boxes: a JSON '
            "file in COCO's format is its list of pictures and boxes; pass "
            'that file.'
        )
    if is_archive(data) and task in ('detection', 'segmentation'):
        raise SimimError(
            f'{data} is an archive, and {task} reads pictures and '
            'annotations of a folder; unpack it.'
        )


def configure(task: str, data: str, out: str | Path, **choices: Any) -> Recipe:
    """Write the config of a task for data of one's own.

    It is ``tools/configure.py`` without the trial step and the picture::

        recipe = simim_plugin.configure(
            'detection', 'my/coco', 'my_detector.py', encoder='encoder.pth')
        print(recipe.data, recipe.plan.warnings)

    Args:
        task (str): key of ``METHODS``.
        data (str): the folder or file.
        out (str | Path): the config, a .py file, which is replaced; lists
            and annotation files of a division lie beside it.
        **choices: of :class:`Choices`.

    Returns:
        Recipe: what was written.

    Raises:
        SimimError: for data, weights or choices that do not fit.
    """
    out = Path(out)
    known = {one.name for one in fields(Choices)}
    unknown = sorted(choices.keys() - known)
    if unknown:
        raise SimimError(
            f'configure has no choice {", ".join(unknown)}; it takes '
            f'{", ".join(sorted(known))}.'
        )
    recipe = make_recipe(task, data, out, Choices(**choices))
    recipe.write(out)
    return recipe


@dataclass(frozen=True)
class Order:
    """The inputs of a recipe; see :func:`make_recipe`.

    Args:
        task (str): key of ``METHODS``.
        method (str): of the task.
        root (str): the folder or file of the data.
        stem (Path): of the files that are written.
        encoder (Encoder): to start from.
        machine (Machine): that trains.
        choices (Choices): of the user.
        about (str): the command.
    """

    task: str
    method: str
    root: str
    stem: Path
    encoder: Encoder
    machine: Machine
    choices: Choices
    about: str

    def plan(self, size: int) -> tuple[Any, ...]:
        """Return the last arguments of a task's function that plans."""
        return size, self.choices.epochs, self.choices.batch_size

    def head(self, data: Any) -> list[str]:
        """Return the first lines of the config."""
        by = self.about or f'simim_plugin.configure, {self.task}'
        about = textwrap.wrap(clean(str(data)), 76, break_long_words=False)
        return [f'{date.today()}: {clean(by)}', *about]

    def tuning(self) -> Tuning:
        """Return how the encoder is trained."""
        choices = self.choices
        return Tuning(choices.freeze, choices.encoder_lr, choices.lora)

    def lists(
        self, lists: Mapping[str, list[str]]
    ) -> tuple[dict[Path, str], dict[str, str]]:
        """Return the texts of lists of pictures, and their files by part."""
        names = {part: f'{self.stem}_{part}.txt' for part in lists}
        texts = {
            Path(names[part]): '\n'.join(lines) + '\n'
            for part, lines in lists.items()
        }
        return texts, names

    def recipe(
        self,
        data: Any,
        plan: Plan,
        written: Written,
        files: dict[Path, str],
    ) -> Recipe:
        """Return the recipe that was made."""
        if self.method not in UNTRAINED:
            set_precision(written, self.machine)
            if not self.machine.gpu:
                written.set('default_hooks.logger.interval', 10)
        return Recipe(
            *(self.task, self.method, data, self.encoder, self.machine),
            *(plan, written, files),
        )


def set_precision(written: Written, machine: Machine) -> None:
    """Write how the machine computes, with the reason."""
    name, why = machine.precision
    key, why = 'optim_wrapper', f'{name}: {why}'
    if not machine.gpu:
        written.set(f'{key}.on_cpu', name == 'bf16', why)
        return
    kind = dict(
        bf16='mmpretrain.AutocastOptimWrapper', fp16='AmpOptimWrapper'
    ).get(name, 'OptimWrapper')
    written.set(f'{key}.type', kind, why)
    if name == 'fp16':
        written.set(f'{key}.dtype', 'float16')
        written.set(f'{key}.loss_scale', 'dynamic')


def _check_division(choices: Choices, divided: bool) -> None:
    """Refuse choices of a division of data that is not divided."""
    for name in ('val_share', 'seed'):
        if not divided and getattr(choices, name) != getattr(Choices, name):
            raise SimimError(
                f'--{name.replace("_", "-")} has no effect, since the data is '
                'not divided; leave it out.'
            )


# The libraries of one task are imported for no other.


def _pretraining(order: Order) -> Recipe:
    from . import pretraining as task

    encoder, machine = order.encoder, order.machine
    _check_division(order.choices, divided=False)
    data = task.read_unlabelled(order.root)
    files, lists = order.lists(data.lists)
    size = task.view_size(
        data.pictures, encoder.patch, machine, order.choices.img_size
    )
    plan = task.plan_pretraining(data, encoder, machine, *order.plan(size[0]))
    written = task.write_pretraining(
        *(data, encoder, machine, plan, size, order.head(data)), lists=lists
    )
    return order.recipe(data, plan, written, files)


def _classification(order: Order) -> Recipe:
    from . import class_folders
    from . import classification as task

    choices, encoder, machine = order.choices, order.encoder, order.machine
    parts = order.root, choices.val_data, choices.val_share, choices.seed
    if is_list(order.root):
        data = read_labelled_lists(*parts)
    else:
        data = class_folders.read_class_folders(*parts)
    _check_division(choices, bool(data.lists) and not choices.val_data)
    size = task.image_size(encoder, data.pictures.sides[0], choices.img_size)
    plan = task.plan_classification(
        data, encoder, machine, order.method, *order.plan(size[0])
    )
    files, lists = order.lists(data.lists)
    written = task.write_classification(
        *(data, encoder, machine, plan, order.method, size, order.head(data)),
        tuning=order.tuning(),
        lists=lists,
    )
    return order.recipe(data, plan, written, files)


def _detection(order: Order) -> Recipe:
    from . import boxes
    from . import detection as task

    choices, encoder, machine = order.choices, order.encoder, order.machine
    data = boxes.read_boxes(
        *(order.root, choices.val_share, choices.seed, order.stem),
        *(choices.masks, choices.val_data),
    )
    _check_division(choices, data.train.content is not None)
    size = task.image_side(data, machine, choices.img_size)
    plan = task.plan_detection(data, encoder, machine, *order.plan(size[0]))
    files = {
        Path(part.file): boxes.write_part(part)
        for part in (data.train, data.val)
        if part.content is not None
    }
    _refuse_replacing(files, data.read)
    written = task.write_detection(
        *(data, encoder, machine, plan, size, order.head(data)),
        tuning=order.tuning(),
    )
    return order.recipe(data, plan, written, files)


def _segmentation(order: Order) -> Recipe:
    from . import label_maps
    from . import segmentation as task

    choices, encoder, machine = order.choices, order.encoder, order.machine
    data = label_maps.read_label_maps(
        *(order.root, choices.val_share, choices.seed, choices.classes),
        *(choices.ignored, choices.val_data),
    )
    _check_division(choices, data.divided)
    size = task.crop_side(data, encoder, machine, choices.img_size)
    plan = task.plan_segmentation(
        data, encoder, machine, order.method, *order.plan(size[0])
    )
    files, lists = order.lists(
        dict(train=data.train.lines(), val=data.val.lines())
    )
    written = task.write_segmentation(
        *(data, encoder, machine, plan, order.method, size, order.head(data)),
        tuning=order.tuning(),
        lists=lists,
    )
    return order.recipe(data, plan, written, files)


_MAKERS = dict(
    pretraining=_pretraining,
    classification=_classification,
    detection=_detection,
    segmentation=_segmentation,
)


def _check_size(size: int, encoder: Encoder, task: str) -> None:
    patch = 16 if task == 'detection' else encoder.patch
    if size % patch or size < 2 * patch:
        raise SimimError(
            f'--img-size {size} is no whole number of patches of {patch} px, '
            f'two or more; set {max(size // patch, 2) * patch}.'
        )

"""Run a row of the ablations with one seed, within its budget."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from mmengine.config import Config

from .. import __version__
from ..config_files import config_path
from ..errors import SimimError
from ..files import last_checkpoint, read_json, write_json
from ..text import clean
from .evaluate import digest_of
from .options import merge
from .protocols import PREFIX as PACKAGED
from .protocols import SCALES
from .row_figures import learning_curve, matched_share, segmentation_options
from .rows import (
    CONTENT_MATCHES,
    COSTED,
    MATCHES,
    METRICS,
    PREFIX,
    SEGMENTATION,
    UNTRAINED,
    config_of,
)
from .running import run_script, train_on

DATA = {
    'in1k': ('data/imagenet', 'train'),
    'cifar10': ('data/cifar10', ''),
    'cifar10-micro': ('data/cifar10-folders', 'train'),
    'demo': ('data/demo', 'train'),
}
"""By scale, the folder of the images and of those for pretraining in it."""

BUDGETS = {
    'images': '',
    'time': 'seconds a step',
    'flops': 'GFLOPs an image',
}
"""By budget, the cost that a row has beside row (i)."""

OWN_TEACHER = ('dino', 'ibot', 'msn')
"""Rivals whose authors evaluate the teacher."""


@dataclass(frozen=True)
class RowRun:
    """The pretraining and the evaluation of a row with one seed.

    Args:
        args (argparse.Namespace): options of ``tools/ablate.py``.
        row (str): name of the row.
        seed (int): of the pretraining and the evaluation.
        tools (Path): folder of train.py, evaluate.py and test.py.
    """

    args: argparse.Namespace
    row: str
    seed: int
    tools: Path

    @property
    def folder(self) -> Path:
        """The folder of all files of the run."""
        return self.args.work_dir / self.row / f'seed{self.seed}'

    @property
    def branch(self) -> str:
        """The branch that is evaluated."""
        return 'teacher' if self.row in OWN_TEACHER else 'online'

    def run(self) -> None:
        """Pretrain and evaluate the row, unless that is done.

        Raises:
            SimimError: if a part fails, or the row was begun with another
                config.
        """
        done = self.folder / 'row.json'
        print(f'[{self.row}, seed {self.seed}]', flush=True)
        self._check_config()
        if done.is_file():
            print(clean(f'  done before: {done}'), flush=True)
            figures = json.loads(done.read_text())
        else:
            figures = self._figures()
            write_json(done, figures)
        if self.args.curves and self.row != UNTRAINED:
            self._follow(figures.get('knn'))

    def _check_config(self) -> None:
        """Note the config of the row, or compare it with the noted one."""
        name = 'i' if self.row == UNTRAINED else self.row
        digest = digest_of(Config.fromfile(config_of(name)))
        file = self.folder / 'config.json'
        if not file.is_file():
            write_json(file, dict(sha256=digest, version=__version__))
        elif json.loads(file.read_text())['sha256'] != digest:
            raise SimimError(
                f'{self.folder} was made by another config of the row '
                f'{self.row}, such as that of another version, and would not '
                'compare; move it away, or choose another --work-dir.'
            )

    def _figures(self) -> dict[str, float]:
        """Pretrain the row and return its figures by task."""
        if self.row == UNTRAINED:
            weights = config_path(f'{PREFIX}i.py')
        else:
            weights = str(self._pretrain())
        tasks = self.args.tasks.split(',')
        evaluated = evaluated_tasks(self.args)
        figures = self._evaluate(evaluated, weights) if evaluated else {}
        for task in (MATCHES, CONTENT_MATCHES):
            if task in tasks:
                figures[task] = self._match(weights, task == CONTENT_MATCHES)
        if SEGMENTATION in tasks:
            figures[SEGMENTATION] = self._segment(weights)
        return {task: figures[task] for task in tasks}

    def _pretrain(self) -> Path:
        """Pretrain the row, or resume it, and return its last checkpoint."""
        args, work_dir = self.args, self.folder / 'pretraining'
        images = args.data / DATA[args.scale][1]
        words = [
            config_of(self.row),
            *('--cfg-options', f'randomness.seed={self.seed}'),
            f'train_dataloader.dataset.data_root={images}',
            *args.cfg_options,
        ]
        if args.budget != 'images':
            words.append(f'train_cfg.max_epochs={_epochs(args, self.row)}')
        log = self.folder / 'pretraining.log'
        train_on(self.tools, words, work_dir, log, args.gpus)
        return last_checkpoint(work_dir)

    def _evaluate(
        self, tasks: Sequence[str], weights: str
    ) -> dict[str, float]:
        """Return the figures of the tasks of ``tools/evaluate.py``."""
        args, work_dir = self.args, self.folder / 'evaluation'
        words = [weights, '--seed', str(self.seed), f'--gpus={args.gpus}']
        if self.branch != 'online':
            words += ['--branch', self.branch]
        words += evaluation_words(args, tasks, work_dir)
        log = self.folder / 'evaluation.log'
        run_script(self.tools / 'evaluate.py', words, log)
        results = json.loads((work_dir / 'results.json').read_text())
        return {
            task: results['tasks'][task]['metrics'][METRICS[task][1]]
            for task in tasks
        }

    def _match(self, weights: str, without_place: bool) -> float:
        """Return the share of patches that find their partner."""
        config = Config.fromfile(config_path(f'{PREFIX}i.py'))
        data, seed = self.args.data, self.seed
        return matched_share(
            weights, self.branch, config, data, seed, without_place
        )

    def _segment(self, weights: str) -> float:
        """Return the mIoU of kNN segmentation by frozen patches."""
        # tools/evaluate.py leaves what is no file of its own there.
        name = 'untrained' if weights.endswith('.py') else self.branch
        kept = self.folder / 'evaluation' / f'{name}.pth'
        file = kept if kept.is_file() else Path(weights)
        out = self.folder / 'segmentation' / 'metrics.json'
        config = config_path('siamese_im_vit-micro-p8_seg-knn_demo.py')
        words = [config, str(file)]
        words += ['--work-dir', str(out.parent), '--out', str(out)]
        words += ['--cfg-options', *segmentation_options(file, self.args.data)]
        log = self.folder / 'segmentation.log'
        run_script(self.tools / 'test.py', words, log)
        return json.loads(out.read_text())[METRICS[SEGMENTATION][1]]

    def _follow(self, last: float | None) -> None:
        """Measure the kNN accuracy of every epoch.

        Args:
            last (float, optional): that of the last one, if it is known.
        """
        name = SCALES[self.args.scale.partition('-')[0]].configs['knn'][0]
        knn = Config.fromfile(config_path(f'{PACKAGED}{name}.py'))
        pretraining = self.folder / 'pretraining'
        config = Config.fromfile(pretraining / 'config.py')
        learning_curve(
            pretraining,
            self.branch,
            knn.model.backbone.img_size,
            self.args.data,
            config.train_dataloader.batch_size * self.args.gpus,
            self.folder / 'curve.json',
            last,
        )


def evaluated_tasks(args: argparse.Namespace) -> list[str]:
    """Return the tasks that ``tools/evaluate.py`` runs."""
    tasks = args.tasks.split(',')
    ours = (MATCHES, CONTENT_MATCHES, SEGMENTATION)
    evaluated = [task for task in tasks if task not in ours]
    if SEGMENTATION in tasks and not evaluated:
        evaluated = ['knn']  # writes the encoder of a branch to a file
    return evaluated


def evaluation_words(
    args: argparse.Namespace, tasks: Sequence[str], folder: Path
) -> list[str]:
    """Return options of ``tools/evaluate.py``."""
    words = ['--tasks', ','.join(tasks), '--data', str(args.data)]
    words += ['--work-dir', str(folder)]
    if args.evaluation_options:
        words += ['--cfg-options', *args.evaluation_options]
    return words


def measured_costs(args: argparse.Namespace) -> dict[str, float]:
    """Return the costs of a step of all rows that train.

    Those that ``costs.json`` lacks are measured in one run, in turns, beside
    row (i), whose first figures stay.
    """
    from ..benchmarks.training import measure_methods

    rows = dict.fromkeys(['i', *args.rows])
    rows.pop(UNTRAINED, None)
    file = args.work_dir / 'costs.json'
    costs = read_json(file, {})
    missing = [r for r in rows if f'{r}: {BUDGETS["flops"]}' not in costs]
    if missing:
        files = {r: Path(config_of(r)).name for r in ('i', *missing)}
        options = dict(word.split('=', 1) for word in args.cfg_options)
        found = measure_methods(
            *(files, args.scale),
            batch=COSTED,
            rounds=3,
            change=partial(merge, options=options),
        )
        costs = {**found, **costs}
        write_json(file, costs)
    return costs


def _epochs(args: argparse.Namespace, row: str) -> int:
    """Return the epochs of a row within the budget of row (i)."""
    epochs = epochs_of_i(args)
    name = BUDGETS[args.budget]
    share = measured_costs(args).get(f'{row}: {name}, / (i)', 1.0)
    whole = max(1, round(epochs / share))
    print(
        f'  {whole} epochs cost {whole * share / epochs:.2f} of the '
        f'{args.budget} of row i',
        flush=True,
    )
    return whole


def epochs_of_i(args: argparse.Namespace) -> int:
    """Return the epochs of row (i).

    Raises:
        SimimError: if the options set no number.
    """
    config = Config.fromfile(config_of('i'))
    epochs = str(config.train_cfg.max_epochs)
    for word in args.cfg_options:
        if word.startswith('train_cfg.max_epochs='):
            epochs = word.partition('=')[2]
    if not epochs.isdecimal():
        raise SimimError(
            f'train_cfg.max_epochs={epochs} in --cfg-options is no number of '
            'epochs; set it to at least 1.'
        )
    return int(epochs)

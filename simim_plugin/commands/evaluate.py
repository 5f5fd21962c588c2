"""Evaluate an encoder by the tasks of the paper's tables.

A task is one or more packaged configs, or for labelled images of one's own
the config that ``tools/configure.py`` writes. ``tools/train.py`` and
``tools/test.py`` run each config in its own folder, where it can also be run
by hand.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.runner import set_random_seed
from mmpretrain.registry import DATASETS, MODELS

from .. import __version__
from ..checkpoint import read_weights
from ..checkpoint.families import described
from ..checkpoint.names import OFFICIAL, OURS
from ..config_files import config_path, write_plainly
from ..datasets.local_cifar10 import steps_of_files
from ..errors import SimimError
from ..evaluation import robustness_average
from ..files import complete_file, last_checkpoint, read_json, write_json
from ..pictures.walking import class_folders
from ..recipes.class_folders import is_divided
from ..recipes.configuring import Choices, Recipe, make_recipe
from ..recipes.file_lists import is_list
from ..settings import changed_too_late
from ..text import clean, markdown_table
from ..vit.arches import arch_name
from .command_line import check_merged, find_config
from .config_errors import add_traceback_option, explained_errors
from .numbers import seed_number, whole
from .options import add_encoder_options, add_options, merge
from .protocols import (
    PAPER,
    PREFIX,
    SCALES,
    TASKS,
    classes_of,
    dictionaries,
    find_encoder,
    fit_model,
)
from .running import run_script, train_on

CLASSIFIERS = dict(knn='KNNClassifier', logistic='LogisticClassifier')
"""By task, what is fitted to features that both tasks may share."""

ROBUSTNESS_DATA = Path('data')
"""Folder of the robustness sets."""


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
        results = Evaluation(args, tools).run()
        print('\n' + table(results))
        print(
            '\n'
            + clean(f'Written to {args.work_dir}: results.json, results.md')
        )


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse and check the options.

    Raises:
        SimimError: if a task does not exist.
    """
    args = _parser().parse_args(argv)
    args.seed = _seed_of(args)
    args.tasks = args.tasks.split(',')
    unknown = sorted(set(args.tasks) - set(TASKS))
    if unknown:
        raise SimimError(
            f'There is no task called {", ".join(unknown)}; --tasks takes '
            f'{",".join(TASKS)}.'
        )
    if args.work_dir is None:
        args.work_dir = Path('work_dirs', 'evaluation', args.checkpoint.stem)
    args.work_dir = args.work_dir.absolute()
    return args


def _seed_of(args: argparse.Namespace) -> int:
    """Return the seed, which an option of the configs may set, too."""
    text = args.cfg_options.pop('randomness.seed', str(args.seed))
    try:
        value = seed_number(text)
    except argparse.ArgumentTypeError as error:
        raise SimimError(
            f'The randomness.seed of --cfg-options: {error}; correct it, or '
            'set --seed.'
        ) from error
    if args.seed not in (0, value):
        raise SimimError(
            f'--seed is {args.seed} and the randomness.seed of --cfg-options '
            f'{value}; leave out one of them.'
        )
    return value


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description='Evaluate an encoder on classification.'
    )
    parser.add_argument(
        'checkpoint',
        type=Path,
        help='weights; or a pretraining config, to evaluate its untrained '
        'encoder for comparison',
    )
    parser.add_argument(
        '--tasks',
        default='knn',
        help=f'comma-separated, from {",".join(TASKS)}. Defaults to knn',
    )
    parser.add_argument(
        '--data',
        type=Path,
        help='folder of the images: train/ and val/, or folders of classes; '
        'or a list of images and labels',
    )
    parser.add_argument(
        '--val-share',
        type=float,
        default=Choices.val_share,
        help='share to test on, of data in one part. Defaults to 0.2',
    )
    parser.add_argument(
        '--robustness-data',
        type=Path,
        default=ROBUSTNESS_DATA,
        help='folder of imagenet-a/, imagenet-r/, imagenet-sketch/ and '
        'imagenet-c/ (cifar10-c/, demo-c/). Defaults to data',
    )
    parser.add_argument(
        '--work-dir',
        type=Path,
        help='folder of results and logs. Defaults to '
        'work_dirs/evaluation/NAME',
    )
    add_encoder_options(parser, 'evaluate')
    parser.add_argument(
        '--seed', type=seed_number, default=0, help='of all tasks'
    )
    parser.add_argument(
        '--gpus', type=whole(), default=1, help='processes, one on each GPU'
    )
    add_options(parser, 'override settings of every config that has them')
    add_traceback_option(parser)
    return parser


class Evaluation:
    """The tasks of one checkpoint.

    Missing data, including the robustness sets, is reported before a task
    runs.

    Args:
        args (argparse.Namespace): of :func:`parse_args`.
        tools (Path): folder of train.py and test.py.

    Raises:
        CheckpointError: if the weights cannot be read.
        SimimError: if no config evaluates this encoder or has a given option,
            if the statistics of other channels than three are not given, if
            data is missing, or if the work directory holds another
            evaluation.
    """

    def __init__(self, args: argparse.Namespace, tools: Path) -> None:
        self.args = args
        self.tools = tools
        self.settings: dict[str, Any] = dict(
            branch=args.branch,
            seed=args.seed,
            cfg_options=args.cfg_options,
            untrained=None,
        )
        self.checkpoint = args.checkpoint
        if self.checkpoint.suffix == '.py':
            pretraining = find_config(self.checkpoint)
            self.settings['untrained'] = digest_of(pretraining)
            self._claim_folder()  # before the encoder is written there
            self.checkpoint = untrained(pretraining, args)
        self.source = self.checkpoint  # its names show the family
        weights = read_weights(self.source, args.branch)
        self.fine_tuned = 'head.fc.weight' in weights.state
        self.encoder = find_encoder(weights)
        self.options = weights.options(args.num_heads)
        self.family = weights.family
        self.scale = SCALES[self.encoder.scale]
        self.data = args.data or Path(self.scale.data)
        self.own = {task for task in args.tasks if self._is_own(task)}
        self.recipes: dict[str, Recipe] = {}
        self._check_options()
        self._check_data()
        self.settings |= dict(
            sha256=_digest(self.checkpoint),
            encoder=self.options,
            family=self.family.name,
            names=weights.form.name,
            data=str(self.data.resolve()),
        )
        if self.own:
            self.settings['val_share'] = args.val_share
        if 'robustness' in args.tasks:
            folder = args.robustness_data.resolve()
            self.settings['robustness_data'] = str(folder)
        self._claim_folder()
        if args.branch in ('target', 'teacher'):
            # The scripts read the online branch, so this one gets a file.
            self.checkpoint = args.work_dir / f'{args.branch}.pth'
            with complete_file(self.checkpoint) as part:
                torch.save(weights.encoder_file(args.num_heads), part)

    def _is_own(self, task: str) -> bool:
        """Whether the images are not those that a packaged config is for.

        They have other classes, are not divided, or have no list of the 1 %
        that are labelled, which logistic regression needs.
        """
        if is_list(self.data):
            return task != 'robustness'
        train, val = (self.data / part for part in ('train', 'val'))
        if (
            task == 'robustness'
            or (self.data / 'cifar-10-batches-py').is_dir()
        ):
            return False
        if not train.is_dir():
            return self.data.is_dir() and bool(class_folders(self.data))
        classes = len(class_folders(train))
        if not val.is_dir() and classes:
            return True
        if task == 'logistic':
            listed = (self.data / '1percent.txt').is_file()
            return self.encoder.scale == 'in1k' and not listed
        (name,) = self._packaged(task)
        return classes > 0 and classes_of(name) not in (None, classes)

    def _check_options(self) -> None:
        """Refuse options that no config has, and missing ones."""
        tasks = dict.fromkeys(
            task
            for key in self.args.cfg_options
            if (task := key.rpartition(':')[0])
        )
        if tasks.keys() - {*self.args.tasks}:
            raise SimimError(
                f'--cfg-options has options of {", ".join(tasks)}, and '
                f'--tasks is {", ".join(self.args.tasks)}; correct one.'
            )
        self._check_keys()
        self._check_effects()
        channels = self.options.get('in_channels', 3)
        needed = [
            f'model.data_preprocessor.{name}' for name in ('mean', 'std')
        ]
        if channels != len(self.family.mean) and not (
            self.args.cfg_options.keys() >= {*needed}
        ):
            values = ' '.join(f'{name}=[...]' for name in needed)
            raise SimimError(
                f'{self.checkpoint} takes images of {channels} channels; pass '
                'the mean and the std of its training, one value for each '
                f'channel: --cfg-options {values}.'
            )
        self._read_statistics(needed)

    def _check_keys(self) -> None:
        """Refuse options whose first word no config of their tasks has."""
        known: dict[str, set[str]] = {}
        for option in self.args.cfg_options:
            task, _, key = option.rpartition(':')
            tasks = [task] if task else self.args.tasks
            for name in tasks:
                known[name] = known.get(name) or self._keys(name)
            if not any(key.partition('.')[0] in known[name] for name in tasks):
                other = ', or add the task that it is for to --tasks'
                raise SimimError(
                    f'No config of {", ".join(tasks)} has {key}; correct '
                    f'--cfg-options{"" if task else other}.'
                )

    def _keys(self, task: str) -> set[str]:
        """Return the first words of the keys of a task's configs."""
        if task not in self.own:
            files = [
                config_path(f'{name}.py') for name in self._packaged(task)
            ]
            return {key for file in files for key in Config.fromfile(file)}
        if self._begun(task):
            return {*Config.fromfile(self._own_file(task))}
        written = self._recipe(task).written
        base = Config.fromfile(config_path(written.base))
        return {*base, *(key.partition('.')[0] for key in written.settings)}

    def _read_statistics(self, keys: Sequence[str]) -> None:
        """Let the mean and the std of ``--cfg-options`` count."""
        options = self.args.cfg_options
        config = Config(dict(model=dict(data_preprocessor={})))
        merge(config, {key: options[key] for key in keys if key in options})
        given = config.model.data_preprocessor
        if all(isinstance(values, list) for values in given.values()):
            self.family = self.family._replace(**given)

    def _check_effects(self) -> None:
        """Refuse options that no task reads."""
        if self.args.val_share != Choices.val_share and not self.own:
            raise SimimError(
                '--val-share has no effect, since the images are divided '
                'already; leave it out.'
            )
        robust = 'robustness' in self.args.tasks
        if self.args.robustness_data != ROBUSTNESS_DATA and not robust:
            raise SimimError(
                '--robustness-data has no effect, since --tasks has no '
                'robustness; leave it out, or add the task.'
            )

    def _check_data(self) -> None:
        """Refuse to start without the data of every task."""
        tasks = self.args.tasks
        folders = ('train', 'cifar-10-batches-py')
        if set(tasks) - self.own - {'robustness'} and not any(
            (self.data / name).is_dir() for name in folders
        ):
            raise SimimError(
                f'There are no images at {self.data}; it needs '
                f'{self.scale.layout}, or name another folder by --data.'
            )
        self._check_classifier()
        if 'robustness' not in tasks:
            return
        for name in self._configs('robustness'):
            if not self._result('robustness', name).is_file():
                config = self._config('robustness', name)
                dataset = config.test_dataloader.dataset
                dataset.update(pipeline=[], lazy_init=True)
                DATASETS.build(dataset).check_folders()

    def _check_classifier(self) -> None:
        """Refuse a robustness that is not that of the fine-tuned weights."""
        tasks = self.args.tasks
        tuned = self._result('finetune').is_file()
        others = (
            self._result('robustness', name).is_file()
            for name in self._packaged('robustness')
        )
        if 'finetune' in tasks and not tuned and any(others):
            raise SimimError(
                f'{self.args.work_dir} has the robustness of the classifier '
                f'in {self.checkpoint}, and finetune trains another; choose '
                'another --work-dir.'
            )
        if 'robustness' not in tasks:
            return
        if 'finetune' in self.own or (tuned and self._is_own('finetune')):
            raise SimimError(
                f'The images at {self.data} have classes of their own, and '
                'the robustness sets those of the packaged config; leave '
                'robustness out of --tasks.'
            )
        if not (self.fine_tuned or tuned or 'finetune' in tasks):
            raise SimimError(
                f'Robustness needs a fine-tuned classifier, and '
                f'{self.checkpoint} is an encoder alone; add finetune to '
                '--tasks.'
            )

    def _claim_folder(self) -> None:
        """Write the settings; refuse a folder of another evaluation."""
        file = self.args.work_dir / 'settings.json'
        known = read_json(file, {})
        for key in {'data', 'robustness_data'} & known.keys():
            # Earlier versions wrote them as typed.
            known[key] = str(Path(known[key]).resolve())
        ours = json.loads(json.dumps(self.settings))  # as lists, not tuples
        changed = [
            key
            for key, value in ours.items()
            if known.get(key, value) != value
        ]
        if changed:
            raise SimimError(
                f'{self.args.work_dir} holds an evaluation of other weights, '
                f'data or options ({", ".join(changed)}; see {file}); choose '
                'another --work-dir.'
            )
        write_json(file, known | ours)

    def check(self) -> None:
        """Check the settings of all tasks that are not done.

        Raises:
            SimimError: for a setting that one cannot take.
        """
        for task in self.args.tasks:
            for name in self._configs(task):
                if not self._result(task, name).is_file():
                    check_merged(self._config(task, name))

    def run(self) -> dict[str, Any]:
        """Run all tasks, and return the content of ``results.json``.

        Finished tasks are kept, and an interrupted training is resumed.

        Raises:
            SimimError: if a setting is wrong, or a task fails.
        """
        self.check()
        print(f'The encoder is read as {clean(described(self.family))}.')
        file = self.args.work_dir / 'results.json'
        begun = dict(checkpoint=str(self.args.checkpoint), tasks={})
        results = read_json(file, begun) | self.settings
        for task in sorted(self.args.tasks, key=TASKS.index):
            print(f'[{task}]', flush=True)
            parts = [
                self._part(task, config) for config in self._configs(task)
            ]
            metrics = {
                metric: value
                for part in parts
                for metric, value in part['metrics'].items()
            }
            if len(parts) == 4:
                parts.append(_average(metrics, parts))
                metrics |= parts[-1]['metrics']
            results['tasks'][task] = dict(metrics=metrics, parts=parts)
            write_json(file, results)
            with complete_file(self.args.work_dir / 'results.md') as page:
                page.write_text(table(results) + '\n')
        return results

    def _configs(self, task: str) -> tuple[str, ...]:
        """Return the packaged names, or one that stands for our own."""
        if task in self.own:
            return (f'configure.py --method {task}',)
        return self._packaged(task)

    def _packaged(self, task: str) -> tuple[str, ...]:
        own = self.encoder.finetune
        if task == 'finetune' and own is not None:
            return (PREFIX + own,)
        return tuple(PREFIX + name for name in self.scale.configs[task])

    def _part(self, task: str, name: str) -> dict[str, Any]:
        """Return the result of one config, which is run unless it is done."""
        done = self._result(task, name)
        folder = done.parent
        if done.is_file():
            print(clean(f'  done before: {done}'), flush=True)
            return json.loads(done.read_text())
        file, metrics = folder / 'config.py', folder / 'metrics.json'
        folder.mkdir(parents=True, exist_ok=True)
        config = self._config(task, name)
        names = {task: name} | self._sharing(task, config)
        write_plainly(config)
        config.dump(file)
        weights = self.checkpoint
        if task == 'robustness':
            weights = self._classifier()
        elif task in ('linear', 'finetune'):
            training = folder / 'training'
            words = [str(file)]
            if task not in self.own:  # its config names them
                words += ['--pretrained', str(weights)]
            log = folder / 'train.log'
            train_on(self.tools, words, training, log, self.args.gpus)
            weights = last_checkpoint(training)
        words = [str(file), str(weights), '--out', str(metrics)]
        words += ['--work-dir', str(folder / 'testing')]
        log = folder / 'test.log'
        run_script(self.tools / 'test.py', words, log, self.args.gpus)
        measured = json.loads(metrics.read_text())
        for one in reversed(names):  # the task itself at last
            own = [m for m in measured if m.startswith(f'{one}/')]
            result = dict(
                config=names[one],
                metrics={
                    metric: measured[metric]
                    for metric in (own if len(names) > 1 else measured)
                },
                plugin=f'{__version__} {_commit()}'.strip(),
                date=date.today().isoformat(),
            )
            write_json(self._result(one, names[one]), result)
        return result

    def _sharing(self, task: str, config: Config) -> dict[str, str]:
        """Let a test of features classify them for other tasks, too.

        Such a task differs from this one in nothing but its classifier. It
        is not done. The images are encoded once.

        Args:
            task (str): of the test.
            config (Config): of the test, whose classifiers are changed.

        Returns:
            dict[str, str]: the names of the configs of the other tasks.
        """
        self._report(task, config)
        found = {}
        classifiers = [config.test_cfg.get('classifier')]
        features = self._features(task, config)
        for other in CLASSIFIERS:
            chosen = other in self.args.tasks and other != task
            if features is None or not chosen or self._result(other).is_file():
                continue
            (name,) = self._configs(other)
            second = self._config(other, name)
            if self._features(other, second) == features:
                self._report(other, second)
                classifiers.append(second.test_cfg.classifier)
                found[other] = name
        if found:
            print(f'  and {", ".join(found)}, by the same features')
            config.test_cfg.classifier = classifiers
        return found

    def _features(self, task: str, config: Config) -> Any:
        """Return all that decides the features of a task, or None."""
        test = config.test_cfg
        fitted = (test.get('classifier') or {}).get('type')
        if fitted is None or fitted != CLASSIFIERS.get(task):
            return None
        settings = config.to_dict()
        settings['test_cfg'].pop('classifier')
        folder = self._result(task).parent
        lists = sorted(folder.glob(f'{self._own_file(task).stem}_*.txt'))
        return (
            json.dumps(settings, default=str).replace(str(folder), ''),
            [file.read_bytes() for file in lists if task in self.own],
        )

    def _report(self, task: str, config: Config) -> None:
        """Print what a config reads, and warnings about it."""
        self._report_recipe(task)
        for warning in self._late_options(config, task):
            print(clean(f'  warning: {warning}'), flush=True)

    def _result(self, task: str, name: str = '') -> Path:
        """Return the file that holds the result of a finished config."""
        folder = f'{task}-{name}' if task == 'robustness' else task
        return self.args.work_dir / folder / 'result.json'

    def _classifier(self) -> Path:
        """Return the fine-tuned weights to test for robustness."""
        done = self._result('finetune')
        if 'finetune' in self.args.tasks or done.is_file():
            return last_checkpoint(done.parent / 'training')
        return self.checkpoint

    def _config(self, task: str, name: str) -> Config:
        """Adapt a packaged config to the encoder, the data and the options."""
        if task in self.own:
            return self._with_options(self._own_config(task), task)
        config = Config.fromfile(config_path(f'{name}.py'))
        fit_model(config, task, self.options, self.family)
        as_folders = (self.data / 'train').is_dir()
        for dataset in list(dictionaries(config._cfg_dict, 'data_root')):
            if dataset['type'] == 'LocalCIFAR10' and as_folders:
                size = config.model.backbone.img_size
                _read_folders(dataset, self.data, size)
            else:
                self._move(dataset)
        return self._with_options(config, task)

    def _own_file(self, task: str) -> Path:
        """Return the config that is written for the images."""
        return self._result(task).with_name('own.py')

    def _begun(self, task: str) -> bool:
        """Whether a training by the written config has a checkpoint."""
        file = self._own_file(task)
        return file.is_file() and any(file.parent.glob('training/*.pth'))

    def _recipe(self, task: str) -> Recipe:
        """Choose the settings for the images and the machine."""
        if task not in self.recipes:
            choices = Choices(
                method=task,
                encoder=str(self.source),
                branch=self.args.branch,
                num_heads=self.args.num_heads,
                val_share=self.args.val_share,
                # It divides the images, and other data refuse one.
                seed=0 if is_divided(str(self.data)) else self.args.seed,
            )
            self.recipes[task] = make_recipe(
                'classification',
                str(self.data),
                self._own_file(task),
                choices,
            )
        return self.recipes[task]

    def _own_config(self, task: str) -> Config:
        """Write and read a config for the images and the machine.

        That of a training which was begun stays, since a machine of other
        free memory would give it another batch.
        """
        file = self._own_file(task)
        if self._begun(task):
            config = Config.fromfile(file)
            backbone = config.model.backbone
            source = str(self.source.absolute())  # it may have moved
            if isinstance(backbone.pretrained, dict):
                backbone.pretrained['file'] = source
            else:
                backbone.pretrained = source
            return config
        self._recipe(task).write(file)
        return Config.fromfile(file)

    def _report_recipe(self, task: str) -> None:
        """Print what a written config reads, unless it was written before."""
        if task in self.own and not self._begun(task):
            recipe = self._recipe(task)
            print(clean(f'  {recipe.data}'), flush=True)
            for warning in recipe.plan.warnings:
                print(clean(f'  warning: {warning}'), flush=True)

    def _with_options(self, config: Config, task: str) -> Config:
        """Set the seed and ``--cfg-options`` in place; return the config."""
        config.randomness.seed = self.args.seed
        merge(config, self._options_of(config, task))
        return config

    def _options_of(self, config: Config, task: str) -> dict[str, str]:
        """Return the options of a task that its config has.

        An option ``TASK:KEY=VALUE`` is of that task.
        """
        options = {
            key.rpartition(':')[2]: value
            for key, value in self.args.cfg_options.items()
            if key.rpartition(':')[0] in ('', task)
        }
        return {
            key: value
            for key, value in options.items()
            if key.partition('.')[0] in config  # a test has no train_cfg
        }

    def _late_options(self, config: Config, task: str) -> list[str]:
        """Return warnings about options that reach nothing.

        The config is written with its names beside their uses, so that the
        scripts cannot tell.
        """
        read = Config.fromfile(config.filename)
        merge(read, self._options_of(read, task))
        return [*changed_too_late(read)]

    def _move(self, dataset: dict) -> None:
        """Point a data set to the folders that the command names."""
        for key in ('data_root', 'list_file'):
            place = Path(dataset.get(key) or '.')
            if place.is_relative_to(self.scale.data):
                inside = place.relative_to(self.scale.data)
                dataset[key] = str(self.data / inside)
            elif place.is_relative_to('data'):
                inside = place.relative_to('data')
                dataset[key] = str(self.args.robustness_data / inside)


_ABOUT = ('config', 'simim_plugin', 'date')


def table(results: dict[str, Any]) -> str:
    """Return a Markdown table of our figures beside those of the paper."""
    encoder = dict(results['encoder'])
    own = results['names'] in (OURS.name, OFFICIAL.name)
    arch = encoder.pop('arch')
    plain = encoder.keys() == {'patch_size', 'norm_cfg'}  # others have more
    paper = PAPER if own and plain and arch_name(arch) == 'base' else {}
    found = [
        (
            (task, metric, '-' if value is None else f'{value:.2f}'),
            paper.get(f'{task}: {metric}', '-')
            if part['config'].startswith(PREFIX)
            else '-',
            (part['config'], part['plugin'], part['date']),
        )
        for task, result in results['tasks'].items()
        for part in result['parts']
        for metric, value in part['metrics'].items()
    ]
    known = any(figure != '-' for _, figure, _ in found)
    head = ('task', 'metric', '*ours*'), '*paper*', _ABOUT
    rows = markdown_table(
        [*ours, *([figure] if known else []), *about]
        for ours, figure, about in (head, *found)
    )
    return (
        f'{rows}\n\n*ours*: {clean(results["checkpoint"])} (sha256 '
        f'{results["sha256"][:8]}), {results["branch"]} branch, seed '
        f'{results["seed"]}, options {results["cfg_options"] or "none"}.'
        + known
        * ' *paper*: ViT-B/16, 1600 epochs.'
    )


def _average(
    metrics: dict[str, float], parts: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    """Return the paper's average of the four robustness sets as a part."""
    average = robustness_average(
        imagenet_a=metrics['imagenet-a/top1_200way'],
        imagenet_r=metrics['imagenet-r/top1_200way'],
        imagenet_sketch=metrics['imagenet-sketch/top1'],
        imagenet_c=metrics['imagenet-c/100-mCE'],
    )
    about = {
        key: ', '.join(dict.fromkeys(part[key] for part in parts))
        for key in ('config', 'plugin', 'date')
    }
    return dict(about, metrics={'average': average})


def untrained(config: Config, args: argparse.Namespace) -> Path:
    """Save the untrained encoder of a pretraining config."""
    file = args.work_dir / 'untrained.pth'
    if not file.is_file():
        init_default_scope(config.default_scope)
        set_random_seed(args.seed)
        model = MODELS.build(config.model)
        model.init_weights()
        with complete_file(file) as part:
            torch.save(dict(state_dict=model.state_dict()), part)
    return file


def digest_of(config: Config) -> str:
    """Return the SHA-256 of all settings of a config."""
    text = json.dumps(config.to_dict(), default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def _digest(checkpoint: Path) -> str:
    """Return the SHA-256 of a file, or of all files of a folder."""
    files = [checkpoint]
    if checkpoint.is_dir():
        files = sorted(
            path for path in checkpoint.rglob('*') if path.is_file()
        )
    digest = hashlib.sha256()
    for file in files:
        with file.open('rb') as content:
            while block := content.read(2**20):
                digest.update(block)
    return digest.hexdigest()


def _read_folders(dataset: dict, root: Path, size: int) -> None:
    """Turn a CIFAR-10 data set into one of class folders.

    Args:
        dataset (dict): its settings, which are changed.
        root (Path): with ``train`` and ``val``.
        size (int): of the encoder's images. Others are resized to it.
    """
    split = 'train' if dataset['split'] == 'train' else 'val'
    pipeline = [*steps_of_files(size), *dataset['pipeline']]
    dataset.clear()
    dataset.update(
        type='LabelledFolder', data_root=str(root / split), pipeline=pipeline
    )


def _commit() -> str:
    """Return the commit of this checkout, '' for an installed package."""
    root = Path(__file__).parents[2]
    if not (root / '.git').exists():
        return ''
    command = ['git', 'describe', '--always', '--dirty']
    try:
        done = subprocess.run(
            command, cwd=root, capture_output=True, text=True, check=False
        )
    except OSError:  # there is no git
        return ''
    return done.stdout.strip()

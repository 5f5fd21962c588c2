"""The evaluation command: a checkpoint to the numbers of the paper's tables.

Every task is one packaged config, run by ``tools/train.py`` and
``tools/test.py`` in a folder of its own, so that each can also be run, or
run again, by hand.
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import json
import subprocess
import sys
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config, DictAction
from mmengine.registry import init_default_scope
from mmengine.runner import set_random_seed
from mmpretrain.registry import DATASETS, MODELS

from .. import __version__
from ..checkpoint import read_weights
from ..checkpoint.names import OFFICIAL, OURS
from ..config_files import config_path
from ..errors import SimimError, one_line_errors
from ..evaluation.protocols import (
    ENCODERS,
    FROZEN,
    PAPER,
    PREFIX,
    SCALES,
    TASKS,
    find_encoder,
)
from ..evaluation.robustness import robustness_average
from ..files import complete_file, write_json
from .running import run_logged


def main(
    argv: Sequence[str] | None = None, tools: Path = Path('tools')
) -> None:
    """Run the command line; errors meant for the user end in one line.

    Args:
        argv (Sequence[str], optional): arguments, of this process if None.
        tools (Path): the folder of train.py and test.py.
    """
    with one_line_errors():
        args = parse_args(argv)
        results = Evaluation(args, tools).run()
        print('\n' + table(results))
        print(f'\nWritten to {args.work_dir}: results.json, results.md')


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Options of the command."""
    parser = argparse.ArgumentParser(
        description='Evaluate an encoder on classification.'
    )
    parser.add_argument(
        'checkpoint',
        type=Path,
        help='weights to evaluate; or a pretraining config, whose untrained '
        'encoder is evaluated for comparison',
    )
    parser.add_argument(
        '--tasks',
        default='knn',
        help=f'separated by commas, of {",".join(TASKS)}. Defaults to knn',
    )
    parser.add_argument(
        '--data', type=Path, help='folder of the images, train/ and val/'
    )
    parser.add_argument(
        '--robustness-data',
        type=Path,
        default=Path('data'),
        help='folder of imagenet-a/, imagenet-r/, imagenet-sketch/ and '
        'imagenet-c/ (cifar10-c/, demo-c/). Defaults to data',
    )
    parser.add_argument(
        '--work-dir',
        type=Path,
        help='for results and logs. Defaults to work_dirs/evaluation/NAME',
    )
    parser.add_argument(
        '--branch',
        choices=['online', 'target', 'student', 'teacher'],
        default='online',
        help='which encoder, of a file with two',
    )
    parser.add_argument('--seed', type=int, default=0, help='of all tasks')
    parser.add_argument(
        '--gpus', type=int, default=1, help='processes, one on each GPU'
    )
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        default={},
        metavar='KEY=VALUE',
        help='override settings, in every config that has such ones',
    )
    args = parser.parse_args(argv)
    args.seed = args.cfg_options.pop('randomness.seed', args.seed)
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


class Evaluation:
    """The tasks of one checkpoint, done one after the other.

    Args:
        args (argparse.Namespace): of :func:`parse_args`.
        tools (Path): the folder of train.py and test.py.

    Raises:
        CheckpointError: if the weights cannot be read.
        SimimError: if no config is for this encoder or has an option that
            was given, data is missing, or the work directory holds another
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
            pretraining = _pretraining_config(self.checkpoint)
            self.settings['untrained'] = _digest_of(pretraining)
            self._claim_folder()  # before an encoder is left there
            self.checkpoint = untrained(pretraining, args)
        weights = read_weights(self.checkpoint, args.branch)
        self.fine_tuned = 'head.fc.weight' in weights.state
        self.final_norm = 'backbone.ln1.weight' in weights.state
        self.encoder = find_encoder(weights)
        self.scale = SCALES[self.encoder.scale]
        self.data = args.data or Path(self.scale.data)
        self._check_options()
        self._check_data()
        self.settings |= dict(
            sha256=_digest(self.checkpoint),
            arch=self.encoder.arch,
            names=weights.form.name,
            final_norm=self.final_norm,
            data=str(self.data),
        )
        if 'robustness' in args.tasks:
            self.settings['robustness_data'] = str(args.robustness_data)
        self._claim_folder()
        if args.branch in ('target', 'teacher'):
            # Where the scripts find it as they find any other.
            self.checkpoint = args.work_dir / f'{args.branch}.pth'
            with complete_file(self.checkpoint) as part:
                torch.save(weights.part('backbone'), part)

    def _check_options(self) -> None:
        """Refuse options that would change nothing."""
        known = {
            key
            for task in self.args.tasks
            for name in self._configs(task)
            for key in Config.fromfile(config_path(f'{name}.py'))
        }
        unused = [
            key
            for key in self.args.cfg_options
            if key.partition('.')[0] not in known
        ]
        if unused:
            raise SimimError(
                f'No config of {", ".join(self.args.tasks)} has '
                f'{", ".join(unused)}; correct --cfg-options, or add the '
                'task that it is for to --tasks.'
            )

    def _check_data(self) -> None:
        """Find now what a later task would miss."""
        tasks = self.args.tasks
        folders = ('train', 'cifar-10-batches-py')
        if set(tasks) != {'robustness'} and not any(
            (self.data / name).is_dir() for name in folders
        ):
            raise SimimError(
                f'There are no images at {self.data}; it needs '
                f'{self.scale.layout}, or name another folder by --data.'
            )
        if 'robustness' not in tasks:
            return
        tuned = self.fine_tuned or 'finetune' in tasks
        if not tuned and not self._result('finetune').is_file():
            raise SimimError(
                f'Robustness needs a fine-tuned classifier, and '
                f'{self.checkpoint} is an encoder alone; add finetune to '
                '--tasks.'
            )
        for name in self._configs('robustness'):
            if not self._result('robustness', name).is_file():
                dataset = self._config(
                    'robustness', name
                ).test_dataloader.dataset
                dataset.update(pipeline=[], lazy_init=True)
                DATASETS.build(dataset).check_folders()

    def _claim_folder(self) -> None:
        """Write what is evaluated here, or refuse another's folder."""
        file = self.args.work_dir / 'settings.json'
        known = json.loads(file.read_text()) if file.is_file() else {}
        ours = json.loads(json.dumps(self.settings))  # as lists, not tuples
        if any(known.get(key, value) != value for key, value in ours.items()):
            raise SimimError(
                f'{self.args.work_dir} holds an evaluation of other weights, '
                f'data or options ({file}); choose another --work-dir.'
            )
        write_json(file, known | ours)

    def run(self) -> dict[str, Any]:
        """All tasks; what ``results.json`` holds.

        A task that was done before is not done again, and an interrupted
        training goes on.
        """
        file = self.args.work_dir / 'results.json'
        results: dict[str, Any] = dict(
            checkpoint=str(self.args.checkpoint), tasks={}
        )
        if file.is_file():
            results = json.loads(file.read_text())
        results |= self.settings
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
        own = self.encoder.finetune
        if task == 'finetune' and own is not None:
            return (PREFIX + own,)
        return tuple(PREFIX + name for name in self.scale.configs[task])

    def _part(self, task: str, name: str) -> dict[str, Any]:
        """What one config gives, from an earlier run if there was one."""
        done = self._result(task, name)
        folder = done.parent
        if done.is_file():
            print(f'  done before: {done}', flush=True)
            return json.loads(done.read_text())
        config = self._config(task, name)
        file = folder / 'config.py'
        folder.mkdir(parents=True, exist_ok=True)
        config.dump(file)
        trained = task in ('linear', 'finetune')
        weights = self.checkpoint
        if task == 'robustness':
            weights = self._classifier()
        elif trained:
            training = folder / 'training'
            options = ['--work-dir', str(training), '--resume']
            options += ['--pretrained', str(self.checkpoint)]
            self._call('train.py', [str(file), *options], folder)
            weights = _last_checkpoint(training)
        metrics_file = folder / 'metrics.json'
        options = ['--out', str(metrics_file)]
        options += ['--work-dir', str(folder / 'testing')]
        self._call('test.py', [str(file), str(weights), *options], folder)
        result = dict(
            config=name,
            metrics=json.loads(metrics_file.read_text()),
            plugin=f'{__version__} {_commit()}'.strip(),
            date=date.today().isoformat(),
        )
        write_json(done, result)
        return result

    def _result(self, task: str, name: str = '') -> Path:
        """Where the result of a config is written when it is done."""
        folder = f'{task}-{name}' if task == 'robustness' else task
        return self.args.work_dir / folder / 'result.json'

    def _classifier(self) -> Path:
        """The fine-tuned weights that robustness is measured on."""
        if self.fine_tuned:
            return self.checkpoint
        return _last_checkpoint(self._result('finetune').parent / 'training')

    def _call(self, script: str, words: list[str], folder: Path) -> None:
        """Run a script of ``tools``, on as many GPUs as were asked for."""
        command = [sys.executable, '-u']
        if self.args.gpus > 1:
            command += ['-m', 'torch.distributed.run', '--standalone']
            command += [f'--nproc_per_node={self.args.gpus}']
            words = [*words, '--launcher', 'pytorch']
        command += [str(self.tools / script), *words]
        run_logged(command, folder / f'{Path(script).stem}.log')

    def _config(self, task: str, name: str) -> Config:
        """A packaged config for this encoder, these images, this seed."""
        config = Config.fromfile(config_path(f'{name}.py'))
        model = config.model
        width, depth, patch = next(
            key for key, value in ENCODERS.items() if value == self.encoder
        )
        model.backbone.arch = copy.deepcopy(self.encoder.arch)
        model.backbone.patch_size = patch
        if task in FROZEN:  # fine-tuning has a norm of its own
            model.backbone.final_norm = self.final_norm
        if model.get('head') is not None:
            model.head.in_channels = width
        if 'frozen_stages' in model.backbone:
            model.backbone.frozen_stages = depth
        as_folders = (self.data / 'train').is_dir()
        for dataset in _datasets(config._cfg_dict):
            if dataset['type'] == 'LocalCIFAR10' and as_folders:
                _read_folders(dataset, self.data)
            else:
                self._move(dataset)
        config.randomness.seed = self.args.seed
        options = {
            key: value
            for key, value in self.args.cfg_options.items()
            if key.partition('.')[0] in config  # testing has no training
        }
        config.merge_from_dict(options)
        return config

    def _move(self, dataset: dict) -> None:
        """Read from the folders that the command names."""
        for key in ('data_root', 'list_file'):
            place = Path(dataset.get(key) or '.')
            if place.is_relative_to(self.scale.data):
                inside = place.relative_to(self.scale.data)
                dataset[key] = str(self.data / inside)
            elif place.is_relative_to('data'):
                inside = place.relative_to('data')
                dataset[key] = str(self.args.robustness_data / inside)


def table(results: dict[str, Any]) -> str:
    """A Markdown table of what was measured, the paper's numbers beside."""
    own = results['names'] in (OURS.name, OFFICIAL.name)
    own = own and not results['final_norm']  # which other encoders have
    paper = PAPER if own and results['arch'] == 'base' else {}
    rows = [
        '| task | metric | *ours* | *paper* | config | simim_plugin | date |',
        '|---|---|---|---|---|---|---|',
    ]
    for task, result in results['tasks'].items():
        for part in result['parts']:
            for metric, value in part['metrics'].items():
                cells = (
                    task,
                    metric,
                    '-' if value is None else f'{value:.2f}',
                    paper.get(f'{task}: {metric}', '-'),
                    part['config'],
                    part['plugin'],
                    part['date'],
                )
                rows.append(f'| {" | ".join(map(str, cells))} |')
    rows.append(
        f'\n*ours*: {results["checkpoint"]} (sha256 '
        f'{results["sha256"][:8]}), {results["branch"]} branch, seed '
        f'{results["seed"]}, options {results["cfg_options"] or "none"}. '
        f'*paper*: ViT-B/16, 1600 epochs.'
    )
    return '\n'.join(rows)


def _average(
    metrics: dict[str, float], parts: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    """The paper's average of the four robustness sets, as one more part."""
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


def _pretraining_config(file: Path) -> Config:
    """A config by its file or its packaged name."""
    return Config.fromfile(file if file.is_file() else config_path(str(file)))


def untrained(config: Config, args: argparse.Namespace) -> Path:
    """Save the encoder that a pretraining config begins with."""
    file = args.work_dir / 'untrained.pth'
    if not file.is_file():
        init_default_scope(config.default_scope)
        set_random_seed(args.seed)
        model = MODELS.build(config.model)
        model.init_weights()
        with complete_file(file) as part:
            torch.save(dict(state_dict=model.state_dict()), part)
    return file


def _last_checkpoint(training: Path) -> Path:
    """Where it lies now: its folder may have been moved since."""
    last = (training / 'last_checkpoint').read_text().strip()
    return training / Path(last).name


def _digest_of(config: Config) -> str:
    """SHA-256 of all settings of a config."""
    text = json.dumps(config.to_dict(), default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def _digest(checkpoint: Path) -> str:
    """SHA-256 of a file, or of all files of a folder."""
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


def _datasets(node: Any) -> list[dict]:
    """All dicts below ``node`` that describe a data set."""
    if isinstance(node, dict):
        found = [node] if 'data_root' in node else []
        return found + [d for value in node.values() for d in _datasets(value)]
    if isinstance(node, list | tuple):
        return [d for value in node for d in _datasets(value)]
    return []


def _read_folders(dataset: dict, root: Path) -> None:
    """Turn a CIFAR-10 data set into folders of its images."""
    split = 'train' if dataset['split'] == 'train' else 'val'
    pipeline = [dict(type='LoadRGBImage'), *dataset['pipeline']]
    dataset.clear()
    dataset.update(
        type='LabelledFolder', data_root=str(root / split), pipeline=pipeline
    )


def _commit() -> str:
    """The commit of the checkout this runs from, '' for an installed one."""
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

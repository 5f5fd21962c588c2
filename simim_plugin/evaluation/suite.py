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
from mmpretrain.registry import MODELS

from .. import __version__
from ..checkpoint import read_weights
from ..errors import SimimError, told_in_a_sentence
from ..files import complete_file, write_json
from ..logged_command import run_logged
from ..packaged import config_path
from .protocols import (
    ENCODERS,
    PAPER,
    PREFIX,
    SCALES,
    TASKS,
    find_encoder,
)
from .robustness import robustness_average


def main(
    argv: Sequence[str] | None = None, tools: Path = Path('tools')
) -> None:
    """Run the command line; errors meant for the user end in one line.

    Args:
        argv (Sequence[str], optional): arguments, of this process if None.
        tools (Path): the folder of train.py and test.py.
    """
    with told_in_a_sentence():
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
    args.tasks = args.tasks.split(',')
    unknown = sorted(set(args.tasks) - set(TASKS))
    if unknown:
        raise SimimError(
            f'There is no task called {", ".join(unknown)}; --tasks takes '
            f'{",".join(TASKS)}.'
        )
    if args.work_dir is None:
        args.work_dir = Path('work_dirs', 'evaluation', args.checkpoint.stem)
    return args


class Evaluation:
    """The tasks of one checkpoint, done one after the other.

    Args:
        args (argparse.Namespace): of :func:`parse_args`.
        tools (Path): the folder of train.py and test.py.

    Raises:
        CheckpointError: if the weights cannot be read.
        SimimError: if no config is for this encoder, data is missing, or
            the work directory holds another evaluation.
    """

    def __init__(self, args: argparse.Namespace, tools: Path) -> None:
        self.args = args
        self.tools = tools
        self.checkpoint = args.checkpoint
        if self.checkpoint.suffix == '.py':
            self.checkpoint = untrained(args)
        weights = read_weights(self.checkpoint)
        self.fine_tuned = 'head.fc.weight' in weights.state
        self.encoder = find_encoder(weights)
        self.scale = SCALES[self.encoder.scale]
        self.data = args.data or Path(self.scale.data)
        if set(args.tasks) != {'robustness'} and not self.data.is_dir():
            raise SimimError(
                f'There are no images at {self.data}; it needs '
                f'{self.scale.layout}, or name another folder by --data.'
            )
        self.settings = dict(
            sha256=_digest(self.checkpoint),
            arch=self.encoder.arch,
            data=str(self.data),
            seed=args.seed,
            cfg_options=args.cfg_options,
        )
        self._claim_folder()

    def _claim_folder(self) -> None:
        """Write what is evaluated here, or refuse another's folder."""
        file = self.args.work_dir / 'settings.json'
        if not file.is_file():
            write_json(file, self.settings)
        elif json.loads(file.read_text()) != self.settings:
            raise SimimError(
                f'{self.args.work_dir} holds an evaluation of other weights, '
                f'data or options ({file}); choose another --work-dir.'
            )

    def run(self) -> dict[str, Any]:
        """All tasks; what ``results.json`` holds.

        A task that was done before is not done again, and an interrupted
        training goes on.
        """
        file = self.args.work_dir / 'results.json'
        results: dict[str, Any] = dict(
            checkpoint=str(self.args.checkpoint), **self.settings, tasks={}
        )
        if file.is_file():
            results = json.loads(file.read_text())
        for task in sorted(self.args.tasks, key=TASKS.index):
            print(f'[{task}]', flush=True)
            parts = [
                self._part(task, config) for config in self._configs(task)
            ]
            metrics: dict[str, float] = {}
            for part in parts:
                metrics |= part['metrics']
            if task == 'robustness' and len(parts) == 4:
                metrics['average'] = robustness_average(
                    imagenet_a=metrics['imagenet-a/top1_200way'],
                    imagenet_r=metrics['imagenet-r/top1_200way'],
                    imagenet_sketch=metrics['imagenet-sketch/top1'],
                    imagenet_c=metrics['imagenet-c/100-mCE'],
                )
            results['tasks'][task] = dict(
                metrics=metrics,
                configs=[part['config'] for part in parts],
                plugin=parts[-1]['plugin'],
                date=parts[-1]['date'],
            )
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
        folder = self.args.work_dir / (
            f'{task}-{name}' if task == 'robustness' else task
        )
        done = folder / 'result.json'
        if done.is_file():
            print(f'  done before: {done}', flush=True)
            return json.loads(done.read_text())
        config = self._config(name)
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
            last = (training / 'last_checkpoint').read_text().strip()
            weights = Path(last)
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

    def _classifier(self) -> Path:
        """The fine-tuned weights that robustness is measured on."""
        if self.fine_tuned:
            return self.checkpoint
        last = self.args.work_dir / 'finetune/training/last_checkpoint'
        if not (self.args.work_dir / 'finetune/result.json').is_file():
            raise SimimError(
                f'Robustness needs a fine-tuned classifier, and '
                f'{self.checkpoint} is an encoder alone; add finetune to '
                '--tasks.'
            )
        return Path(last.read_text().strip())

    def _call(self, script: str, words: list[str], folder: Path) -> None:
        """Run a script of ``tools``, on as many GPUs as were asked for."""
        command = [sys.executable, '-u']
        if self.args.gpus > 1:
            command += ['-m', 'torch.distributed.run', '--standalone']
            command += [f'--nproc_per_node={self.args.gpus}']
            words = [*words, '--launcher', 'pytorch']
        command += [str(self.tools / script), *words]
        run_logged(command, folder / f'{Path(script).stem}.log')

    def _config(self, name: str) -> Config:
        """A packaged config for this encoder, these images, this seed."""
        config = Config.fromfile(config_path(f'{name}.py'))
        model = config.model
        width, depth, patch = next(
            key for key, value in ENCODERS.items() if value == self.encoder
        )
        model.backbone.arch = copy.deepcopy(self.encoder.arch)
        model.backbone.patch_size = patch
        if model.get('head') is not None:
            model.head.in_channels = width
        if 'frozen_stages' in model.backbone:
            model.backbone.frozen_stages = depth
        as_folders = (self.data / 'train').is_dir()
        for dataset in _datasets(config._cfg_dict):
            if dataset['type'] == 'CIFAR10' and as_folders:
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
    paper = PAPER if results['arch'] == 'base' else {}
    rows = [
        '| task | metric | *ours* | *paper* | config | simim_plugin | date |',
        '|---|---|---|---|---|---|---|',
    ]
    for task, result in results['tasks'].items():
        about = (', '.join(result['configs']), result['plugin'])
        for metric, value in result['metrics'].items():
            cells = (
                task,
                metric,
                '-' if value is None else f'{value:.2f}',
                paper.get(f'{task}: {metric}', '-'),
                *about,
                result['date'],
            )
            rows.append(f'| {" | ".join(map(str, cells))} |')
    rows.append(
        f'\n*ours*: {results["checkpoint"]} (sha256 '
        f'{results["sha256"][:8]}), seed {results["seed"]}, options '
        f'{results["cfg_options"] or "none"}. *paper*: ViT-B/16, 1600 epochs.'
    )
    return '\n'.join(rows)


def untrained(args: argparse.Namespace) -> Path:
    """Save the encoder that a pretraining config begins with."""
    file = args.work_dir / 'untrained.pth'
    if not file.is_file():
        name = str(args.checkpoint)
        config = Config.fromfile(
            name if args.checkpoint.is_file() else config_path(name)
        )
        init_default_scope(config.default_scope)
        set_random_seed(args.seed)
        model = MODELS.build(config.model)
        model.init_weights()
        with complete_file(file) as part:
            torch.save(dict(state_dict=model.state_dict()), part)
    return file


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
    done = subprocess.run(
        ['git', 'describe', '--always', '--dirty'],
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.strip()

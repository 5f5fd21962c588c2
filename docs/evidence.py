"""Repeat the long runs behind the figures of docs/.

    python docs/evidence.py [NAME...]

They take hours on two CPU cores. Every run has a folder in work_dirs/evidence
with a log of each command. Finished commands are not repeated, and
interrupted ones are resumed.
"""

from __future__ import annotations

import argparse
import itertools
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from simim_plugin.commands.rows import UNTRAINED, row_names
from simim_plugin.commands.running import run_logged
from simim_plugin.config_files import config_path
from simim_plugin.errors import SimimError, one_line_errors
from simim_plugin.files import complete_folder

ROOT = Path(__file__).resolve().parents[1]
OUT = Path('work_dirs/evidence')
SHARED = ROOT.parent / 'shared' / 'data'
PHOTOGRAPHS = SHARED / 'imagenet_sample' / 'images'
SEEDS = (0, 1, 2)

BASE = 'siamese_im_vit-base-p16_8xb512-amp-coslr-400e_in1k.py'
DEMO = 'siamese_im_vit-micro-p8_demo.py'
MICRO = 'siamese_im_vit-micro-p4_1xb64-coslr-2e_cifar10.py'
DETECTOR = 'siamese_im_vit-micro-p8_vitdet-1xb4-1000it_demo.py'
LONG_TAIL = 'siamese_im_vit-micro-p8_vitdet-1xb4-1000it_demo-lvis.py'
COCO = 'siamese_im_vit-micro-p16_vitdet-1xb2-600it_coco-tiny-256x256.py'
UPERNET = 'siamese_im_vit-micro-p8_upernet-1xb16-amp-200i_demo.py'
LINEAR = 'siamese_im_vit-micro-p8_seg-linear-1xb16-amp-200i_demo.py'
KNN = 'siamese_im_vit-micro-p8_seg-knn_demo.py'
ADE = 'siamese_im_vit-micro-p16_upernet-1xb6-amp-200i_ade20k-tiny-128x128.py'

CIFAR = OUT / 'cifar10' / 'folders'
CIFAR_CONFIG = OUT / 'cifar10' / 'config.py'
SHORT = 'train_cfg.max_epochs=2 param_scheduler.warmup=0.5'
TASKS = f'--tasks knn,linear,logistic,finetune --data {CIFAR}'
FIGURES = '--tasks knn,logistic,matches,matches-without-place'
FROM_ZERO = 'optim_wrapper.paramwise_cfg.layer_decay_rate=1.0'
METHODS = 'i mae moco-v3 dino ibot msn densecl beit supervised'
RATES = ('5e-4', '1e-3', '2e-3')
HELD_OUT = OUT / 'cifar10_rates' / 'folders'
CIFAR_ROWS = 'a e f g h j k mocov3'
PAPER_ROWS = 'mae a b c d e f g h i j k mocov3'
FEW_SCENES = 'val_dataloader.dataset.indices=200 val_evaluator.ann_file=None'


def pretrained(seed: int) -> str:
    """Return the checkpoint of the run ``demo``."""
    return f'{OUT}/demo/seed{seed}/pretraining/epoch_20.pth'


def transfers(config: str, name: str, more: str = '') -> list[str]:
    """Train a config from pretrained and from random weights.

    Layer decay is off: it would slow the training of random weights.
    """
    decay = FROM_ZERO if config in (DETECTOR, UPERNET) else ''
    return [
        f'tools/train.py {config} --work-dir {OUT}/{name}/{kind}{seed} '
        f'{start} --amp --resume --cfg-options randomness.seed={seed} '
        f'{decay} {more}'
        for seed in SEEDS
        for kind, start in (
            ('random', ''),
            ('pretrained', f'--pretrained {pretrained(seed)}'),
        )
    ]


def eight_photographs() -> list[str]:
    """Train a detector on eight photographs and validate on them."""
    train = 'train_dataloader.dataset'
    options = [
        f'{train}.indices=8',
        f'{train}.pipeline.2.prob=0.0',
        f'"{train}.pipeline.3.ratio_range=(1.0,1.0)"',
        FROM_ZERO,
        'val_dataloader.dataset.indices=8',
        'val_dataloader.dataset.ann_file=annotations/instances_train2017.json',
        'val_dataloader.dataset.data_prefix.img=train2017/',
        'val_evaluator.ann_file=None',
    ]
    return [
        f'tools/train.py {COCO} --amp --work-dir {OUT}/eight_photographs/run '
        f'--resume --cfg-options {" ".join(options)}'
    ]


def six_pairs() -> list[str]:
    """Train on six pairs of ADE20k and validate on them."""
    options = ['train_dataloader.dataset.indices=6']
    for loader in ('val_dataloader', 'test_dataloader'):
        prefix = f'{loader}.dataset.data_prefix'
        options += [
            f'{loader}.dataset.indices=6',
            f'{prefix}.img_path=images/training',
            f'{prefix}.seg_map_path=annotations/training',
        ]
    return [
        f'tools/train.py {ADE} --work-dir {OUT}/six_pairs/run --resume '
        f'--cfg-options {" ".join(options)}'
    ]


def patch_neighbours() -> list[str]:
    """Test kNN segmentation of untrained and pretrained encoders."""
    commands = []
    for seed in SEEDS:
        folder = f'{OUT}/patch_neighbours/seed{seed}'
        commands += [
            # Writes the untrained encoder to its folder.
            f'tools/evaluate.py {DEMO} --tasks knn --seed {seed} '
            f'--work-dir {folder}',
            f'tools/test.py {KNN} {folder}/untrained.pth '
            f'--work-dir {folder}/a --out {folder}/untrained.json',
            f'tools/test.py {KNN} {pretrained(seed)} '
            f'--work-dir {folder}/b --out {folder}/pretrained.json',
        ]
    return commands


RUNS: dict[str, list[str]] = {
    'demo': [
        f'tools/demo.py --seed {seed} --work-dir {OUT}/demo/seed{seed}'
        for seed in SEEDS
    ],
    'segmentation': transfers(UPERNET, 'segmentation/upernet')
    + transfers(LINEAR, 'segmentation/linear'),
    'patch_neighbours': patch_neighbours(),
    'detection': transfers(DETECTOR, 'detection/coco', FEW_SCENES),
    'long_tail': [
        f'tools/train.py {LONG_TAIL} --work-dir {OUT}/long_tail/run --amp '
        f'--resume --pretrained {pretrained(0)}'
    ],
    'eight_photographs': eight_photographs(),
    'six_pairs': six_pairs(),
    'speed': [
        f'tools/benchmark.py --parts step loss --json {OUT}/speed.json',
        f'tools/benchmark.py --parts pipeline --images {PHOTOGRAPHS}',
        'tools/benchmark.py --parts variants --batch-size 4 --rounds 3',
        f'tools/benchmark.py --parts monitors --config {DEMO} --batch-size 64',
        'tools/benchmark.py --parts monitors',
    ],
    'dense_steps': [
        'tools/benchmark.py --parts detection-step --bf16 --rounds 1',
        'tools/benchmark.py --parts segmentation-attention --batch-size 2 '
        '--rounds 7',
        'tools/benchmark.py --parts segmentation-step --batch-size 2 '
        '--rounds 3',
        'tools/benchmark.py --parts segmentation-step --batch-size 2 '
        '--rounds 3 --bf16',
    ],
    'photographs': [
        f'tools/train.py {BASE} --work-dir {OUT}/photographs/run '
        '--cfg-options train_dataloader.batch_size=64 '
        f'train_dataloader.dataset.data_root={PHOTOGRAPHS} '
        'train_cfg.max_epochs=1 param_scheduler.warmup=0'
    ],
    'kills': [f'docs/kills.py --kills 100 --folder {OUT}/kills/runs'],
    'faults': ['SIMIM_KILLS=20 -m pytest -s tests/test_faults.py -k kills'],
    'load': [
        f'-m docs.load {part}'
        for part in (
            'listing large files shm disk',
            'steps',
            'collapse',
            'healthy',
        )
    ],
    'cifar10': [
        f'tools/train.py {CIFAR_CONFIG} --resume '
        f'--work-dir {OUT}/cifar10/pretraining',
        f'tools/evaluate.py {OUT}/cifar10/pretraining/epoch_2.pth {TASKS} '
        f'--work-dir {OUT}/cifar10/pretrained --cfg-options {SHORT}',
        f'tools/evaluate.py {MICRO} {TASKS} '
        f'--work-dir {OUT}/cifar10/untrained --cfg-options {SHORT}',
        f'tools/make_corruptions.py {CIFAR}/few '
        f'{OUT}/cifar10/corrupted/cifar10-c',
        'tools/evaluate.py '
        f'{OUT}/cifar10/pretrained/finetune/training/epoch_2.pth '
        f'--tasks robustness --robustness-data {OUT}/cifar10/corrupted '
        f'--work-dir {OUT}/cifar10/robustness',
    ],
    'ablations': [
        f'tools/ablate.py {rows} --work-dir {OUT}/ablations/rows '
        f'--seeds {seeds} {FIGURES}'
        for rows, seeds in (
            (f'{UNTRAINED} {" ".join(row_names())}', '0'),
            (PAPER_ROWS, '1 2'),
        )
    ],
    'rivals': [
        f'tools/ablate.py {UNTRAINED} {METHODS} --seeds 0 1 2 --costs '
        f'--curves {FIGURES},segmentation '
        f'--work-dir {OUT}/rivals/rows'
    ],
    # Chooses the rates of ablation_cifar10-micro.py.
    'cifar10_rates': [
        f'tools/ablate.py {METHODS} --scale cifar10-micro --data {HELD_OUT} '
        f'--tasks knn --work-dir {OUT}/cifar10_rates/{rate} --cfg-options '
        f'train_cfg.max_epochs=1 optim_wrapper.optimizer.lr={rate}'
        for rate in RATES
    ],
    # The methods, rows of table 3 and small views first, in equal images.
    'cifar10_rows': [
        f'tools/ablate.py {rows} --scale cifar10-micro --data {CIFAR} '
        f'--seeds {seeds} --costs --curves {FIGURES} '
        f'--work-dir {OUT}/cifar10_rows/images'
        for rows, seeds in (
            (f'{UNTRAINED} {METHODS} {CIFAR_ROWS} small-first', '0'),
            ('i mae moco-v3 small-first', '1 2'),
        )
    ],
    'small_first': [
        f'tools/ablate.py small-first --scale cifar10-micro --data {CIFAR} '
        f'--seeds 0 1 2 --budget time {FIGURES} '
        f'--work-dir {OUT}/small_first/rows'
    ],
}
"""Commands of each run; a run may use the results of earlier ones."""


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        description='Repeat the runs behind the figures of docs/.'
    )
    parser.add_argument(
        'names', nargs='*', metavar='NAME', help=', '.join(RUNS)
    )
    names = parser.parse_args(argv).names or list(RUNS)
    with one_line_errors():
        unknown = sorted(set(names) - set(RUNS))
        if unknown:
            raise SimimError(
                f'There is no run called {", ".join(unknown)}; take some of '
                f'{", ".join(RUNS)}.'
            )
        failed = []
        for name in names:
            print(f'[{name}]', flush=True)
            try:
                DATA.get(name, lambda: None)()
                for number, command in enumerate(RUNS[name]):
                    run_once(command, OUT / name / f'command_{number}.log')
            except SimimError as error:  # the others may take hours
                print(f'  failed: {error}', flush=True)
                failed.append(name)
        if failed:
            raise SimimError(
                f'{", ".join(failed)} failed, as stated above and in the logs '
                f'in {OUT}; the same command goes on from there.'
            )


def link(folder: str) -> Callable[[], None]:
    """Return a function that links a folder of the shared data if needed."""

    def make() -> None:
        target = Path('data', folder)
        if target.exists():
            return
        if not (SHARED / folder).is_dir():
            raise SimimError(f'{target} is missing: put the data set there.')
        target.parent.mkdir(exist_ok=True)
        target.symlink_to(SHARED / folder)

    return make


def unpack_cifar10() -> None:
    """Write CIFAR-10 to class folders, and a config that reads them."""
    for split, name in (('train', 'train'), ('test', 'val')):
        file = SHARED / 'cifar10' / f'cifar10_{split}_jpeg.npz'
        if not file.is_file():
            raise SimimError(f'{file} is missing: put CIFAR-10 there.')
        if not (CIFAR / name).is_dir():
            packed = np.load(file)
            jpeg, labels = packed['jpeg'].tobytes(), packed['labels']
            spans = list(itertools.pairwise(packed['offsets']))
            for number, (start, end) in enumerate(spans):
                label = labels[number]
                folders = [CIFAR / f'{name}.part' / str(label)]
                # A hundred of each class for the corruptions.
                if split == 'test' and number % 1000 < 100:
                    folders.append(CIFAR / 'few' / str(label))
                for folder in folders:
                    folder.mkdir(parents=True, exist_ok=True)
                    image = folder / f'{number}.jpg'
                    image.write_bytes(jpeg[start:end])
            (CIFAR / f'{name}.part').rename(CIFAR / name)
    CIFAR_CONFIG.write_text(
        f"""_base_ = {config_path(MICRO)!r}
train_dataloader = dict(dataset=dict(
    _delete_=True, type='ImageFolder', data_root='{CIFAR / 'train'}',
    pipeline=[dict(type='LoadRGBImage'), *_base_.train_pipeline]))
"""
    )


def hold_out_cifar10() -> None:
    """Split the training images of CIFAR-10: 500 of each class are held out.

    They choose the learning rates, so that no test image does.
    """
    unpack_cifar10()
    if HELD_OUT.is_dir():
        return
    with complete_folder(HELD_OUT) as part:
        for folder in sorted((CIFAR / 'train').iterdir()):
            files = sorted(folder.iterdir(), key=lambda file: int(file.stem))
            for name, some in (('train', files[:-500]), ('val', files[-500:])):
                (part / name / folder.name).mkdir(parents=True)
                for file in some:
                    os.link(file, part / name / folder.name / file.name)


DATA = {
    'cifar10': unpack_cifar10,
    'cifar10_rates': hold_out_cifar10,
    'cifar10_rows': unpack_cifar10,
    'small_first': unpack_cifar10,
    'eight_photographs': link('coco_tiny'),
    'six_pairs': link('ade_tiny'),
}
"""By run, the function that makes data which no earlier run makes."""


def run_once(command: str, log: Path) -> None:
    """Run a command unless the same one succeeded before.

    Args:
        command (str): ``NAME=VALUE`` settings, then arguments of Python.
        log (Path): file for its output.
    """
    done = log.with_suffix('.done')
    if done.is_file() and done.read_text() == command:
        print(f'  done before: {log}', flush=True)
        return
    words = shlex.split(command)
    settings = [*itertools.takewhile(lambda word: '=' in word, words)]
    words = words[len(settings) :]
    run_logged(['env', *settings, sys.executable, '-u', *words], log)
    done.write_text(command)


if __name__ == '__main__':
    main()

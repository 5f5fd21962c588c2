"""The long runs whose figures stand in docs/: python tests/evidence.py [NAME].

Hours on two CPU cores. Every run has a folder in work_dirs/evidence with a
log of each of its commands; what is done is not done again.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from simim_plugin.errors import SimimError, told_in_a_sentence
from simim_plugin.logged_command import run_logged

ROOT = Path(__file__).resolve().parents[1]
OUT = Path('work_dirs/evidence')
SHARED = ROOT.parent / 'shared' / 'data'
SEEDS = (0, 1, 2)

DEMO = 'siamese_im_vit-tiny-p8_demo.py'
MICRO = 'siamese_im_vit-micro-p4_1xb64-coslr-2e_cifar10.py'
SHORT = 'train_cfg.max_epochs=2 param_scheduler.warmup=0.5'
TASKS = 'knn,linear,logistic,finetune'
DETECTOR = 'siamese_im_vit-tiny-p8_vitdet-1xb4-1000it_demo.py'
PHOTOGRAPHS = 'siamese_im_vit-tiny-p16_vitdet-1xb2-600it_coco-tiny-256x256.py'
UPERNET = 'siamese_im_vit-tiny-p8_upernet-1xb16-amp-200i_demo.py'
LINEAR = 'siamese_im_vit-tiny-p8_seg-linear-1xb16-amp-200i_demo.py'
KNN = 'siamese_im_vit-tiny-p8_seg-knn_demo.py'
ADE = 'siamese_im_vit-tiny-p16_upernet-1xb6-amp-200i_ade20k-tiny-128x128.py'
PART = 'dataset.data_prefix'


def transfers(name: str, *configs: str, more: str = '') -> list[str]:
    """Train each config from pretrained and from random weights."""
    return [
        f'tools/train.py {config} --work-dir {OUT}/{name}/{kind}{seed}/{k} '
        f'{given} --amp --cfg-options randomness.seed={seed} {more}'
        for seed in SEEDS
        for kind, given in (
            ('random', ''),
            ('pretrained', f'--pretrained {pretrained(seed)}'),
        )
        for k, config in enumerate(configs)
    ]


def pretrained(seed: int) -> str:
    """What the run ``demo`` leaves."""
    return f'{OUT}/demo/seed{seed}/pretraining/epoch_8.pth'


def eight_photographs() -> list[str]:
    """Train a detector on eight photographs and validate on the same."""
    train = 'train_dataloader.dataset'
    options = [
        f'{train}.indices=8',
        f'{train}.pipeline.2.prob=0.0',
        f'"{train}.pipeline.3.ratio_range=(1.0,1.0)"',
        'optim_wrapper.paramwise_cfg.layer_decay_rate=1.0',
        'val_dataloader.dataset.indices=8',
        'val_dataloader.dataset.ann_file=annotations/instances_train2017.json',
        'val_dataloader.dataset.data_prefix.img=train2017/',
        'val_evaluator.ann_file=None',
    ]
    return [
        f'tools/train.py {PHOTOGRAPHS} --amp '
        f'--work-dir {OUT}/eight_photographs/run '
        f'--cfg-options {" ".join(options)}'
    ]


def six_pairs() -> list[str]:
    """Train on six pairs of ADE20k and validate on the same six."""
    options = ['train_dataloader.dataset.indices=6']
    for loader in ('val_dataloader', 'test_dataloader'):
        options += [
            f'{loader}.dataset.indices=6',
            f'{loader}.{PART}.img_path=images/training',
            f'{loader}.{PART}.seg_map_path=annotations/training',
        ]
    return [
        f'tools/train.py {ADE} --work-dir {OUT}/six_pairs/run '
        f'--cfg-options {" ".join(options)}'
    ]


def patch_neighbours() -> list[str]:
    """kNN segmentation by untrained and by pretrained encoders."""
    commands = []
    for seed in SEEDS:
        folder = f'{OUT}/patch_neighbours/seed{seed}'
        commands += [
            # Leaves the untrained encoder in its folder.
            f'tools/evaluate.py {DEMO} --tasks knn --seed {seed} '
            f'--work-dir {folder}',
            f'tools/test.py {KNN} {folder}/untrained.pth '
            f'--work-dir {folder}/a --out {folder}/untrained.json',
            f'tools/test.py {KNN} {pretrained(seed)} '
            f'--work-dir {folder}/b --out {folder}/pretrained.json',
        ]
    return commands


RUNS: dict[str, list[str]] = {
    'demo': [f'tools/demo.py --seeds 0 1 2 --work-dir {OUT}/demo'],
    'speed': [
        f'tools/benchmark.py --parts step loss --json {OUT}/speed.json',
        'tools/benchmark.py --parts variants --batch-size 4 --rounds 3 '
        f'--json {OUT}/variants.json',
    ],
    'cifar10': [
        f'tools/train.py {MICRO} --work-dir {OUT}/cifar10/pretraining',
        f'tools/evaluate.py {OUT}/cifar10/pretraining/epoch_2.pth '
        f'--tasks {TASKS} --work-dir {OUT}/cifar10/pretrained '
        f'--cfg-options {SHORT}',
        f'tools/evaluate.py {MICRO} --tasks {TASKS} '
        f'--work-dir {OUT}/cifar10/untrained --cfg-options {SHORT}',
    ],
    'detection': transfers(
        'detection',
        DETECTOR,
        more='val_dataloader.dataset.indices=200 val_evaluator.ann_file=None',
    ),
    'segmentation': transfers('segmentation', UPERNET, LINEAR),
    'patch_neighbours': patch_neighbours(),
    'eight_photographs': eight_photographs(),
    'six_pairs': six_pairs(),
    'ablations': [f'tools/ablate.py --work-dir {OUT}/ablations/rows'],
}
"""Commands of each run, in the order in which the runs need each other."""

DATA = {
    'cifar10': 'data/cifar10',
    'eight_photographs': 'data/coco_tiny',
    'six_pairs': 'data/ade_tiny',
}
"""Folders that a run reads, beside what runs before it have made."""


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line; errors meant for the user end in one line."""
    parser = argparse.ArgumentParser(
        description='Make the figures of docs/ again.'
    )
    parser.add_argument(
        'names', nargs='*', metavar='NAME', help=f'of {", ".join(RUNS)}'
    )
    names = parser.parse_args(argv).names or list(RUNS)
    with told_in_a_sentence():
        unknown = sorted(set(names) - set(RUNS))
        if unknown:
            raise SimimError(
                f'There is no run called {", ".join(unknown)}; take some of '
                f'{", ".join(RUNS)}.'
            )
        for name in names:
            need(DATA.get(name))
        for name in names:
            print(f'[{name}]', flush=True)
            for number, command in enumerate(RUNS[name]):
                run_once(command, OUT / name / f'command_{number}.log')


def need(folder: str | None) -> None:
    """Find a folder of real data, or link to it in the shared one.

    Raises:
        SimimError: if it is in neither.
    """
    if folder is None or Path(folder).exists():
        return
    shared = SHARED / Path(folder).name
    if not shared.is_dir():
        raise SimimError(f'{folder} is missing: put the data set there.')
    Path(folder).parent.mkdir(exist_ok=True)
    Path(folder).symlink_to(shared)


def run_once(command: str, log: Path) -> None:
    """Run a command unless the same one has ended well before."""
    done = log.with_suffix('.done')
    if done.is_file() and done.read_text() == command:
        print(f'  done before: {log}', flush=True)
        return
    run_logged([sys.executable, '-u', *shlex.split(command)], log)
    done.write_text(command)


if __name__ == '__main__':
    main()

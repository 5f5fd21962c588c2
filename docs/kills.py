"""Kill a small pretraining run again and again, and resume it each time.

    python docs/kills.py [--kills 100] [--folder FOLDER] [--seed 0]

Each kill is a kill -9 at a random moment of a phase. Four kinds of runs take
turns: plain, with two loader workers, with accumulated gradients, and with
two processes. At the end each must equal, bit by bit, a run that nobody
killed. An interrupted call goes on where it was.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import cv2
import numpy as np
import torch

from simim_plugin.checkpoint import read_checkpoint
from simim_plugin.config_files import config_path
from simim_plugin.errors import (
    SimimError,
    one_line_errors,
    one_line_interrupt,
)
from simim_plugin.files import write_json

ROOT = Path(__file__).resolve().parents[1]
INTERVAL = 4
STEPS = 6  # of an epoch
PHASES = ('imports', 'training', 'checkpoint', 'online kNN')
END = 'the end'
DATA = 'train_dataloader'
CASES: dict[str, list[str]] = {
    'plain': [],
    'two workers': [
        f'{DATA}.num_workers=2',
        f'{DATA}.persistent_workers=True',
    ],
    'accumulated': [
        f'{DATA}.batch_size=2',
        'optim_wrapper.accumulative_counts=2',
    ],
    'two processes': [f'{DATA}.batch_size=2'],
}
CONFIG = """
_base_ = {base!r}
custom_imports = dict(imports=[
    'simim_plugin.pretraining', 'simim_plugin.evaluation', 'phases'])
grid = (4, 4)
model = dict(
    backbone=dict(
        arch=dict(embed_dims=24, num_layers=1, num_heads=2,
                  feedforward_channels=48), img_size=32),
    projector=dict(in_dims=24, embed_dims=16, num_heads=2),
    neck=dict(grid=grid, embed_dims=16, depth=1, num_heads=2))
train_dataloader = dict(
    batch_size=4, num_workers=0, persistent_workers=False,
    dataset=dict(data_root={images!r}, pipeline=[
        _base_.load,
        dict(type='PairedViews', size=32, crop_scale=(0.2, 1.0),
             online=_base_.colour, target=_base_.colour),
        dict(type='BlockwiseMask', grid=grid, num_masked=9, min_block=3),
        _base_.pack]))
custom_hooks = [
    *_base_.custom_hooks,
    dict(type='PhaseHook'),
    dict(type='OnlineKNN', train={labelled!r}, val={labelled!r}, interval=1)]
default_hooks = dict(
    logger=dict(interval=1),
    checkpoint=dict(by_epoch=False, interval={interval}, max_keep_ckpts=2))
log_processor = dict(window_size=1)
"""
PHASE_HOOK = """
from mmengine.hooks import Hook
from mmpretrain.registry import HOOKS


@HOOKS.register_module()
class PhaseHook(Hook):
    def note(self, runner, name):
        if runner.rank == 0:
            with open(runner.work_dir + '/phase', 'w') as file:
                file.write(name)

    def before_train(self, runner):
        self.note(runner, 'training')

    before_train_epoch = before_train

    def after_train_epoch(self, runner):
        self.note(runner, 'online kNN')

    def after_train(self, runner):
        self.note(runner, 'the end')
"""


def prepare(folder: Path) -> None:
    """Write the images, the config and the hook."""
    generator = np.random.default_rng(0)
    for k in range(24):
        pixels = generator.integers(0, 256, (6, 6, 3), np.uint8)
        for name in ('images', f'labelled/{k % 2}'):
            file = folder / name / f'{k:02}.png'
            file.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(file), cv2.resize(pixels, (40, 40)))
    (folder / 'phases.py').write_text(PHASE_HOOK)
    (folder / 'kills_config.py').write_text(
        CONFIG.format(
            base=config_path('siamese_im_vit-micro-p8_demo.py'),
            images=str(folder / 'images'),
            labelled=str(folder / 'labelled'),
            interval=INTERVAL,
        )
    )


class Run:
    """The training command, in one process or two.

    Args:
        folder (Path): of the config.
        work_dir (Path): of the run; each start has a log in it.
        case (str): one of ``CASES``.
        epochs (int): length.
    """

    started: ClassVar[list[subprocess.Popen]] = []

    def __init__(
        self, folder: Path, work_dir: Path, case: str, epochs: int
    ) -> None:
        work_dir.mkdir(parents=True, exist_ok=True)
        (work_dir / 'phase').unlink(missing_ok=True)
        self.work_dir = work_dir
        processes = 2 if case == 'two processes' else 1
        interval = INTERVAL * (2 if case == 'accumulated' else 1)
        command = [
            *(sys.executable, str(ROOT / 'tools/train.py')),
            *(str(folder / 'kills_config.py'), '--resume'),
            *('--work-dir', str(work_dir)),
            *(('--launcher', 'pytorch') if processes == 2 else ()),
            *('--cfg-options', f'train_cfg.max_epochs={epochs}'),
            f'default_hooks.checkpoint.interval={interval}',
            'env_cfg.dist_cfg.timeout=150',
            *CASES[case],
        ]
        paths = [str(folder), str(ROOT), os.environ.get('PYTHONPATH', '')]
        with socket.socket() as free:
            free.bind(('127.0.0.1', 0))
            port = str(free.getsockname()[1])
        self.log = work_dir / f'start_{time.time_ns()}.txt'
        self.processes: list[subprocess.Popen] = []
        for rank in range(processes):
            environment = dict(
                os.environ,
                PYTHONPATH=os.pathsep.join(filter(None, paths)),
                OMP_NUM_THREADS='1',
                MASTER_ADDR='127.0.0.1',
                MASTER_PORT=port,
                WORLD_SIZE=str(processes),
                RANK=str(rank),
                LOCAL_RANK=str(rank),
            )
            with self.log.open('a') as log:
                self.processes.append(
                    subprocess.Popen(
                        command,
                        stdout=log,
                        stderr=log,
                        env=environment,
                        start_new_session=True,
                    )
                )

        self.started.extend(self.processes)

    @property
    def is_alive(self) -> bool:
        return all(process.poll() is None for process in self.processes)

    @property
    def phase(self) -> str:
        try:
            return (self.work_dir / 'phase').read_text()
        except FileNotFoundError:
            return 'imports'

    def kill(self, ranks: Sequence[int]) -> None:
        """Kill processes and their workers; wait for all to end."""
        for rank in ranks:
            os.killpg(self.processes[rank].pid, signal.SIGKILL)
        for process in self.processes:
            process.wait()

    @classmethod
    def kill_all(cls) -> None:
        """Leave no process behind."""
        for process in cls.started:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)

    def end(self) -> None:
        """Wait for the end.

        Raises:
            SimimError: if the run fails.
        """
        for process in self.processes:
            if process.wait():
                raise SimimError(f'A run failed; see {self.log}.')


def steps(work_dir: Path) -> Iterator[tuple[int, float]]:
    """Yield step and loss of every line that a run has logged."""
    for file in sorted(work_dir.glob('*/vis_data/scalars.json')):
        for text in file.read_text().splitlines():
            try:
                line = json.loads(text)
            except ValueError:  # a kill cut it off
                continue
            if 'loss' in line:
                yield line['step'], line['loss']


def reached(work_dir: Path) -> int:
    """Return the last step that a run has logged."""
    return max(dict(steps(work_dir)), default=0)


def wait_for(
    run: Run, true: Callable[[], object], pause: float = 0.0005
) -> bool:
    """Wait until something is true; return False if the run ends first."""
    while not true():
        if not run.is_alive:
            return False
        time.sleep(pause)
    return True


def kill_in(run: Run, phase: str, imports: float, rng: random.Random) -> bool:
    """Kill a run at a random moment of a phase; return False if it ended."""
    if phase == 'imports':
        time.sleep(rng.uniform(0, imports))
    elif phase == 'training':
        goal = reached(run.work_dir) + rng.randint(1, 2 * INTERVAL)
        if not wait_for(run, lambda: reached(run.work_dir) >= goal, 0.02):
            return False
        time.sleep(rng.uniform(0, 0.05))
    elif phase == 'checkpoint':
        if not wait_for(run, lambda: list(run.work_dir.glob('*.part'))):
            return False
    else:
        if not wait_for(run, lambda: run.phase == phase):
            return False
        time.sleep(rng.uniform(0, 0.05 if phase == 'online kNN' else 0.5))
    if not run.is_alive:
        return False
    ranks = list(range(len(run.processes)))
    if phase != 'imports' and rng.random() < 0.5:
        ranks = [rng.choice(ranks)]  # the other one ends by itself
    run.kill(ranks)
    return True


def same(a: Any, b: Any) -> bool:
    """Return whether two nested structures are equal, bit by bit."""
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


def kill_case(folder: Path, case: str, kills: int, seed: int) -> list[dict]:
    """Kill a run of one kind; return the phase and the loss of each kill.

    Raises:
        SimimError: if more than the interval is lost, or the end differs.
    """
    own = folder / case.replace(' ', '_')
    notes = own / 'kills.json'
    found = json.loads(notes.read_text()) if notes.exists() else []
    epochs = kills + 6
    timing = own / 'imports.json'
    if not timing.exists():
        start = time.monotonic()
        whole = Run(folder, own / 'whole', case, epochs)
        wait_for(whole, lambda: whole.phase != 'imports')
        imports = time.monotonic() - start
        whole.end()
        write_json(timing, imports)
    imports = json.loads(timing.read_text())
    last = max(1, kills // 6)
    plan = [PHASES[k % len(PHASES)] for k in range(kills - last)]
    plan += [END] * last
    attempts = itertools.count()
    while len(found) < kills:
        phase = plan[len(found)]
        rng = random.Random(f'{seed} {case} {next(attempts)}')
        run = Run(folder, own / 'run', case, epochs)
        if not kill_in(run, phase, imports, rng):
            run.end()
            if phase != END:
                raise SimimError(f'The run of {own} ended before its kills.')
            continue  # it was over a moment before
        half = bool(list((own / 'run').glob('*.part')))
        found.append(
            dict(phase=phase, reached=reached(own / 'run'), half=half)
        )
        note_resumed(found, run.log)
        write_json(notes, found)
        print(f'  {case}: kill {len(found)} of {kills}, {phase}', flush=True)
    run = Run(folder, own / 'run', case, epochs)
    run.end()
    note_resumed([*found, {}], run.log)
    write_json(notes, found)
    check_end(own)
    most = INTERVAL * (2 if case == 'accumulated' else 1)
    for number, kill in enumerate(found, 1):
        if not 0 <= kill['reached'] - kill['resumed'] <= most:
            raise SimimError(f'Kill {number} of {own} lost too much: {kill}.')
    return found


def note_resumed(found: list[dict], log: Path) -> None:
    """Note from which step a start went on after the kill before it.

    A start that is killed before it has read a checkpoint says nothing; then
    the next one does.
    """
    text = log.read_text()
    _, resumed, words = text.partition('resumed epoch: ')
    if resumed or 'Epoch(train)' in text:  # or it began anew
        step = int(words.split()[2]) if resumed else 0
        for kill in found[:-1]:
            kill.setdefault('resumed', step)


def check_end(own: Path) -> None:
    """Compare the end of a case with the run that nobody killed."""
    expected = dict(steps(own / 'whole'))
    step = max(expected)
    if reached(own / 'run') != step:
        raise SimimError(f'The run of {own} has not reached step {step}.')
    if any(expected[k] != loss for k, loss in steps(own / 'run')):
        raise SimimError(f'A loss of {own} differs from the whole run.')
    names = [max((own / r).glob('iter_*.pth'), key=_number) for r in
             ('whole', 'run')]  # fmt: skip
    whole, run = map(read_checkpoint, names)
    for key in ('state_dict', 'optimizer', 'param_schedulers'):
        if not same(whole[key], run[key]):
            raise SimimError(f'The {key} of {own} differs after {step} steps.')


def _number(file: Path) -> int:
    return int(file.stem.rpartition('_')[2])


def table(kills: dict[str, list[dict]]) -> str:
    """Return a table of the kills by phase and kind of run."""
    lines = [
        f'| killed in | {" | ".join(kills)} | steps lost, at most |',
        f'|---|{"---|" * len(kills)}---|',
    ]
    for phase in (*PHASES, END):
        of = [[k for k in x if k['phase'] == phase] for x in kills.values()]
        lost = [
            kill['reached'] - kill['resumed'] for each in of for kill in each
        ]
        counts = ' | '.join(str(len(each)) for each in of)
        lines.append(f'| {phase} | {counts} | {max(lost, default=0)} |')
    every = [kill for each in kills.values() for kill in each]
    half = sum(kill['half'] for kill in every)
    lines.append(f'\n{len(every)} kills, {half} with half a checkpoint.')
    return '\n'.join(lines)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--kills', type=int, default=100)
    parser.add_argument('--cases', nargs='+', default=list(CASES),
                        choices=list(CASES))  # fmt: skip
    parser.add_argument(
        '--folder', type=Path, default=Path('work_dirs/evidence/kills')
    )
    parser.add_argument('--seed', type=int, default=0)
    args = parser.parse_args(argv)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with one_line_interrupt(), one_line_errors():
        folder = args.folder.absolute()
        prepare(folder)
        share = -(-args.kills // len(args.cases))
        try:
            kills = {
                case: kill_case(folder, case, share, args.seed)
                for case in args.cases
            }
        finally:
            Run.kill_all()
        print(table(kills))


if __name__ == '__main__':
    main()

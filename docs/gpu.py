"""Measure on a GPU what no CPU can show, in one call of about ten minutes.

    python docs/gpu.py [--images FOLDER] [--minutes 10] [--out FOLDER]

It writes ``gpu.json`` and ``gpu.md``, a table. A part that fails or for which
no time is left says so in both, and the others go on. Without a GPU all parts
are skipped; ``--try-on-cpu`` runs those that a CPU can run, on a micro model.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
import torch.distributed as dist
from torch.multiprocessing import start_processes
from torch.profiler import ProfilerActivity, profile

from simim_plugin.benchmarks.timing import DEVICE, Timed, median_seconds
from simim_plugin.benchmarks.training import (
    EFFICIENT,
    pretraining_step,
    view_shares,
)
from simim_plugin.demo.data import make_demo_data
from simim_plugin.engine.seeding import seed_by
from simim_plugin.files import write_json

ROOT = Path(__file__).resolve().parents[1]
GPU = DEVICE == 'cuda'
MICRO = 'siamese_im_vit-micro-p8_demo.py'
SIZES = {
    'ViT-S': ('small-p16_1xb256-accum4-amp-coslr-400e_in1k', 256),
    'ViT-B': ('base-p16_8xb512-amp-coslr-1600e_in1k', 256),
    'ViT-L': ('large-p16_32xb128-amp-coslr-1600e_in1k', 128),
}
Figures = dict[str, float | str]


def sizes() -> Mapping[str, tuple[str, int]]:
    """Return the config and the batch of each model."""
    if not GPU:
        return {'micro': (MICRO, 4)}
    return {
        name: (f'siamese_im_vit-{config}.py', batch)
        for name, (config, batch) in SIZES.items()
    }


def base() -> tuple[str, int]:
    """Return the config of ViT-B and a batch, or of the micro model."""
    return (sizes()['ViT-B'][0], 64) if GPU else (MICRO, 4)


def compiling() -> dict[str, object]:
    """Return what compiles; a CPU without a compiler has no inductor."""
    return dict(modules=True, backend='inductor' if GPU else 'aot_eager')


def agreement(_: argparse.Namespace) -> Figures:
    """Compare the losses of five steps with those in float32."""
    kinds: dict[str, tuple[bool | torch.dtype, dict | None]] = {
        'fp32': (False, None),
        'fp32 compiled': (False, compiling()),
        'bf16': (torch.bfloat16, None),
        'bf16 compiled': (torch.bfloat16, compiling()),
    }
    if GPU:
        kinds['fp16'] = (torch.float16, None)
    losses = {}
    for kind, (dtype, compiled) in kinds.items():
        seed_by(0)  # weights and views
        step = pretraining_step(*base(), dtype, compiled)
        losses[kind] = torch.stack([step() for _ in range(5)]).cpu()
        torch._dynamo.reset()
    return {
        f'loss of five steps, {kind}, largest difference to fp32': float(
            ((loss - losses['fp32']).abs() / losses['fp32']).max()
        )
        for kind, loss in losses.items()
        if kind != 'fp32'
    }


def steps(_: argparse.Namespace) -> Figures:
    """Time the step alone, eager and then compiled."""
    figures: Figures = {}
    for name, (config, batch) in sizes().items():
        kinds: dict[str, dict | None] = {
            'eager': None,
            'compiled': compiling(),
        }
        for kind, compiled in kinds.items():
            step = pretraining_step(config, batch, True, compiled)
            if GPU:
                torch.cuda.reset_peak_memory_stats()
            (seconds,) = median_seconds({kind: step}, 8).values()
            figures[f'{name}, bf16, {kind}: images/s'] = batch / seconds
            if GPU:
                peak = torch.cuda.max_memory_allocated() / 1e9
                figures[f'{name}, bf16, {kind}: peak GB'] = peak
            del step
            torch._dynamo.reset()
    return figures


def recipe(_: argparse.Namespace) -> Figures:
    """Time the cheaper variants beside the method, in turns."""
    os.environ['SIMIM_SCALE'] = 'in1k' if GPU else 'demo'
    batch = 128 if GPU else 4
    rows = ('i', *EFFICIENT) if GPU else ('i', 'small-first')
    files = {row: f'siamese_im_row-{row}.py' for row in rows}
    shares = {row: view_shares(file) for row, file in files.items()}
    made = {
        f'{row}, {small}': pretraining_step(file, batch, True, small=small)
        for row, file in files.items()
        for small in shares[row]
    }
    seconds = median_seconds(made, 5)
    steps = {
        row: Timed.sum(
            [seconds[f'{row}, {small}'] * n for small, n in parts.items()]
        )
        for row, parts in shares.items()
    }
    return {
        f'row {row}: share of a step': steps[row] / steps['i']
        for row in rows[1:]
    }


def waits(_: argparse.Namespace) -> Figures:
    """Count the times that a step waits for the GPU."""
    step = pretraining_step(*base(), True)
    step()
    if not GPU:
        return {'waits for the GPU in a step': 'skipped: no GPU'}
    torch.cuda.set_sync_debug_mode('warn')
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter('always')
        step()
    torch.cuda.set_sync_debug_mode('default')
    names = {f'{Path(w.filename).name}:{w.lineno}' for w in found}
    return {
        'waits for the GPU in a step': len(found),
        'places of the waits': ', '.join(sorted(names)) or 'none',
    }


def kernels(_: argparse.Namespace) -> Figures:
    """Profile three steps: the twenty kernels that take the most time."""
    step = pretraining_step(*base(), True)
    step()
    kinds = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if GPU else [])]
    with profile(activities=kinds) as found:
        for _ in range(3):
            step()
        if GPU:
            torch.cuda.synchronize()
    kind = 'self_device_time_total' if GPU else 'self_cpu_time_total'
    events = found.key_averages()
    whole = sum(getattr(event, kind) for event in events) or 1
    events = sorted(events, key=lambda event: -getattr(event, kind))[:20]
    return {
        f'kernel {number:02} {event.key[:60]}: % of the time': 100
        * getattr(event, kind)
        / whole
        for number, event in enumerate(events, 1)
    }


def training(args: argparse.Namespace) -> Figures:
    """Train by the command: colours on the CPU, and on the device."""
    folder = args.images
    if folder is None:
        folder = args.out / 'scenes'
        count = 4096 if GPU else 32
        if not folder.exists():
            make_demo_data(folder, train=count, val=8, size=(256, 320))
        folder /= 'train'
    config, batch = sizes()['ViT-B'] if GPU else (MICRO, 4)
    figures: Figures = {}
    kinds = {
        'eager': [],
        'compiled': ['compile.modules=True'],
        'colours on the device': ['model.data_preprocessor.colours=True'],
    }
    for kind, options in kinds.items():
        run = args.out / 'runs' / kind.replace(' ', '_')
        words = [sys.executable, str(ROOT / 'tools/train.py'), config]
        words += ['--work-dir', str(run), '--cfg-options', *options]
        words += [
            f'train_dataloader.dataset.data_root={folder}',
            f'train_dataloader.batch_size={batch}',
            f'train_dataloader.num_workers={os.cpu_count() if GPU else 1}',
            'train_cfg.max_epochs=3',
            'param_scheduler.warmup=0',
            'default_hooks.logger.interval=4',
            'log_processor.window_size=4',
        ]
        done = subprocess.run(words, capture_output=True, text=True)
        if done.returncode:
            last = (done.stderr or done.stdout).strip().splitlines()[-1]
            figures[f'training command, {kind}'] = f'failed: {last}'
            continue
        *_, file = sorted(run.glob('*/vis_data/scalars.json'))
        lines = [json.loads(line) for line in file.read_text().splitlines()]
        last = lines[-1]
        for name in ('images_per_second', 'data_wait', 'memory'):
            figures[f'training command, {kind}: {name}'] = last[name]
    return figures


def _in_process(rank: int, port: int, out: str) -> None:
    os.environ.update(MASTER_ADDR='127.0.0.1', MASTER_PORT=str(port))
    torch.cuda.set_device(0)
    dist.init_process_group('nccl', rank=rank, world_size=2)
    total = torch.ones(3, device='cuda')
    dist.all_reduce(total)
    if rank == 0:
        Path(out).write_text(str(total.tolist()))


def nccl(args: argparse.Namespace) -> Figures:
    """Add by NCCL in two processes on one card, which NCCL may refuse."""
    if not GPU:
        return {'NCCL, two processes on one card': 'skipped: no GPU'}
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    file = args.out / 'nccl.txt'
    file.unlink(missing_ok=True)
    start_processes(_in_process, (port, str(file)), 2, start_method='spawn')
    return {'NCCL, two processes on one card': file.read_text()}


PARTS: tuple[Callable[[argparse.Namespace], Figures], ...] = (
    agreement, waits, steps, training, recipe, kernels, nccl,
)  # fmt: skip


def measure(args: argparse.Namespace) -> dict[str, Figures]:
    """Run the parts until the time is over."""
    end = time.monotonic() + 60 * args.minutes
    found: dict[str, Figures] = {}
    for part in PARTS:
        name = part.__name__
        if args.parts and name not in args.parts:
            continue
        begun = time.monotonic()
        if not (GPU or args.try_on_cpu):
            found[name] = {'all': 'skipped: no GPU'}
        elif begun > end:
            found[name] = {'all': f'skipped: {args.minutes} minutes are over'}
        else:
            try:
                found[name] = part(args)
            except Exception as error:  # the other parts go on
                words = f'{type(error).__name__}: {error}'.splitlines()[0]
                found[name] = {'all': f'failed: {words}'}
            found[name]['seconds of this part'] = time.monotonic() - begun
        print(name, found[name], flush=True)
        write(args.out, found)  # also if the machine is taken away
    return found


def write(out: Path, found: Mapping[str, Figures]) -> None:
    """Write ``gpu.json`` and ``gpu.md``."""
    card = torch.cuda.get_device_name() if GPU else 'CPU'
    machine = dict(
        card=card, torch=torch.__version__, cores=os.cpu_count() or 0
    )
    write_json(out / 'gpu.json', dict(machine=machine, figures=found))
    rows = [
        f'{card}, {os.cpu_count()} CPU cores, torch {torch.__version__}.',
        '',
    ]
    rows += ['| part | what | figure |', '|---|---|---|']
    for part, figures in found.items():
        for name, value in figures.items():
            shown = value if isinstance(value, str) else f'{value:.4g}'
            cells = (part, name, shown)
            rows.append(
                f'| {" | ".join(c.replace("|", "/") for c in cells)} |'
            )
    (out / 'gpu.md').write_text('\n'.join(rows) + '\n')


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument(
        '--images', type=Path, help='folder; generated scenes without it'
    )
    parser.add_argument('--minutes', type=float, default=10.0)
    parser.add_argument('--out', type=Path, default=Path('work_dirs/gpu'))
    parser.add_argument(
        '--parts', nargs='+', choices=[part.__name__ for part in PARTS]
    )
    parser.add_argument(
        '--try-on-cpu', action='store_true', help='on a micro model'
    )
    args = parser.parse_args(argv)
    args.out = args.out.absolute()
    args.out.mkdir(parents=True, exist_ok=True)
    measure(args)


if __name__ == '__main__':
    main()

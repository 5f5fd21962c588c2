"""Measure what much data, small limits and long runs do to the package.

    python -m docs.load PART...

docs/results.md holds the figures. Linux; ``shm`` and ``disk`` need root, for a
small tmpfs in a mount namespace of their own.
"""

from __future__ import annotations

import argparse
import io
import os
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
import time
import zipfile
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from simim_plugin.commands import train
from simim_plugin.commands.command_line import build_runner
from simim_plugin.demo.data import make_demo_data
from tests.training_processes import TINY

ROOT = Path(__file__).resolve().parents[1]
OUT = Path('work_dirs/evidence/load').absolute()
TRAIN = f'{shlex.quote(sys.executable)} {ROOT / "tools/train.py"}'
SEEDS = range(20)
DEMO = 'siamese_im_vit-micro-p8_demo.py'

LISTING = """
import re, sys, time
from pathlib import Path
from simim_plugin.datasets import ImageFolder
from simim_plugin.pictures.listing import keeping_lists
def memory(name):
    status = Path('/proc/self/status').read_text()
    return int(re.search(name + r':\\s+(\\d+)', status)[1]) / 1024
Path('/proc/self/clear_refs').write_text('5')  # imports have a peak, too
before, start, cpu = memory('VmRSS'), time.monotonic(), time.process_time()
with keeping_lists(Path(sys.argv[2]), relist=sys.argv[3] == 'first'):
    data = ImageFolder(sys.argv[1], pipeline=[])
print(f'{Path(sys.argv[1]).name}, {sys.argv[3]} start: {len(data)} images, '
      f'{time.monotonic() - start:.1f} s, of these '
      f'{time.process_time() - cpu:.1f} s of the processor, '
      f'{memory("VmRSS") - before:.0f} MiB, at the peak '
      f'{memory("VmHWM") - before:.0f} MiB')
"""

DECODING = """
import sys
from simim_plugin.datasets import LoadRGBImage
print(LoadRGBImage()(dict(img_path=sys.argv[1]))['img'].shape)
"""


def picture(path: Path, size: int = 40, seed: int = 0) -> None:
    """Write a picture of noise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = (size, size, 3)
    pixels = np.random.default_rng(seed).integers(0, 256, shape, np.uint8)
    Image.fromarray(pixels).save(path)


def small_run(name: str) -> Path:
    """Return an empty folder with a tiny config and 24 images."""
    folder = OUT / name
    shutil.rmtree(folder, ignore_errors=True)
    for number in range(24):
        picture(folder / 'images' / f'{number}.png', seed=number)
    (folder / 'tiny.py').write_text(TINY)
    return folder


def scenes() -> Path:
    """Return a folder of generated scenes."""
    make_demo_data(OUT / 'scenes', train=1600, val=10)
    return OUT / 'scenes'


def shell(script: str, folder: Path, alone: bool = False) -> None:
    """Run a script, and print its exit code and its last two lines."""
    command = ['sh', '-c', script]
    if alone:
        command = ['unshare', '--mount', *command]
    done = subprocess.run(
        command,
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors='replace',
    )
    lines = done.stdout.strip().splitlines()
    errors = [line for line in lines if line.startswith('error: ')]
    tail = errors or [line[:100] for line in lines[-1:]]
    print(f'exit code {done.returncode}: ' + '\n  '.join(tail), flush=True)


def listing() -> None:
    """List 200,000 pictures of folders and archives, three starts each."""
    roots = [OUT / 'one_folder', OUT / 'many_folders']
    for root, folders in zip(roots, (1, 50_000), strict=True):
        if not root.exists():
            part = root.with_name(f'{root.name}.part')
            for number in range(200_000):
                inside = part / f'{number % folders:05d}'
                source = part.with_name(f'{root.name}_{number // 50_000}.jpg')
                if not source.exists():
                    picture(source)
                if number < folders:
                    inside.mkdir(parents=True)
                os.link(source, inside / f'{number:06d}.jpg')
            part.rename(root)
    content = (roots[0] / '00000' / '000000.jpg').read_bytes()
    with (
        zipfile.ZipFile(OUT / 'pictures.zip', 'w') as packed,
        tarfile.open(OUT / 'pictures.tar', 'w') as tape,
    ):
        for number in range(200_000):
            packed.writestr(f'{number:06d}.jpg', content)
            member = tarfile.TarInfo(f'{number:06d}.jpg')
            member.size = len(content)
            tape.addfile(member, io.BytesIO(content))
    roots += [OUT / 'pictures.zip', OUT / 'pictures.tar']
    for root in roots:
        for start in ('first', 'second', 'third'):
            command = [sys.executable, '-c', LISTING, str(root)]
            command += [str(OUT / '.listings'), start]
            subprocess.run(command, check=True, cwd=ROOT)


def large() -> None:
    """Read a picture of 20,000 x 20,000 in 6 GB, and without a limit."""
    for ending in ('png', 'jpg'):
        path = OUT / f'large.{ending}'
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new('RGB', (20_000, 20_000), (9, 99, 199)).save(path)
        for limit in ('', 'ulimit -v 6000000;'):
            code = f'{sys.executable} -c {shlex.quote(DECODING)} {path}'
            print(f'{ending} {limit}', end=' ', flush=True)
            shell(f'{limit} {code}', ROOT)


def files() -> None:
    """Train under a limit of 64 open files, with workers."""
    for workers in (2, 16):
        folder = small_run('files')
        print(f'{workers} workers', end=' ', flush=True)
        shell(
            f'ulimit -n 64; {TRAIN} tiny.py --cfg-options '
            f'train_dataloader.num_workers={workers} '
            'train_dataloader.batch_size=24',
            folder,
        )


def shm() -> None:
    """Train with workers and 1 MB of shared memory."""
    mount = 'mount -t tmpfs -o size=1m tmpfs /dev/shm'
    for batch in (4, 64):
        print(f'{batch} images a batch', end=' ', flush=True)
        shell(
            f'{mount} && {TRAIN} {DEMO} --work-dir shm{batch} --cfg-options '
            f'train_dataloader.dataset.data_root={scenes()}/train '
            'train_dataloader.num_workers=2 train_cfg.max_epochs=1 '
            'train_dataloader.dataset.indices=128 '
            f'train_dataloader.batch_size={batch}',
            OUT,
            alone=True,
        )


def disk() -> None:
    """Train and draw on a disk that fills."""
    for kilobytes in (16, 256, 1024):
        folder = small_run('disk')
        (folder / 'run').mkdir()
        mount = f'mount -t tmpfs -o size={kilobytes}k tmpfs run'
        print(f'run, {kilobytes} KB', end=' ', flush=True)
        shell(
            f'{mount} && {TRAIN} tiny.py --cfg-options train_cfg.max_epochs=9',
            folder,
            alone=True,
        )
    tool = TRAIN.replace('train.py', 'visualize.py')
    for ending in ('png', 'html'):
        print(f'page.{ending}', end=' ', flush=True)
        mount = 'mount -t tmpfs -o size=16k tmpfs run'
        shell(
            f'{mount} && {tool} pair images --out run/page.{ending}; '
            'code=$?; ls -A run; exit $code',
            folder,
            alone=True,
        )


def steps() -> None:
    """Watch memory, open files and logs over 3,000 steps."""
    folder = small_run('steps')
    command = [*shlex.split(TRAIN), 'tiny.py', '--cfg-options']
    command += ['train_cfg.max_epochs=500', 'custom_hooks.2.interval=10']
    command += ['default_hooks.checkpoint.interval=500']
    log = folder / 'printed.txt'
    with log.open('w') as sink:
        run = subprocess.Popen(
            command, cwd=folder, stdout=sink, stderr=subprocess.STDOUT
        )
    due = 500
    while run.poll() is None:
        time.sleep(0.05)
        found = re.findall(r'\]\[ *\d+/\d+\].*', log.read_text()[-2000:])
        scalars = next(folder.glob('run/*/vis_data/scalars.json'), None)
        if not found or scalars is None:
            continue
        done = sum(1 for _ in scalars.open())
        if done >= due:
            status = Path(f'/proc/{run.pid}/status').read_text()
            resident = re.search(r'VmRSS:\s+(\d+)', status)
            open_files = len(os.listdir(f'/proc/{run.pid}/fd'))
            written = sum(
                file.stat().st_size
                for file in folder.glob('run/*/**/*')
                if file.is_file()
            )
            saved = sorted(folder.glob('run/iter_*.pth'))
            sizes = [file.stat().st_size // 1024 for file in saved]
            print(
                f'{done} steps: {int(resident[1]) / 1024:.1f} MiB, '
                f'{open_files} files open, logs {written / done:.0f} bytes a '
                f'step, checkpoint {sizes} KiB',
                flush=True,
            )
            due += 500
    print(f'exit code {run.returncode}')


def verdicts(folder: Path) -> int:
    """Count the collapses that the logs of a run report."""
    logs = folder.glob('run/*/*.log')
    return sum(log.read_text().count('Collapse at') for log in logs)


COLLAPSING = {
    'learning rate x 100': 'optim_wrapper.optimizer.lr=0.4 '
    'train_cfg.max_epochs=4',
    'no negatives, no momentum': 'model.head.negative_weight=0.0 '
    'custom_hooks.0.base_momentum=0.0 model.projector.norm_cfg.type=LN '
    'model.neck.norm_cfg.type=LN',
}


def scenes_run(name: str, *options: str) -> int:
    """Train a tiny model, 100 steps by default, and count the verdicts."""
    folder = OUT / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / 'tiny.py').write_text(TINY)
    torch.set_num_threads(1)
    words = [f'{folder}/tiny.py', '--work-dir', f'{folder}/run']
    words += [
        '--cfg-options',
        f'train_dataloader.dataset.data_root={scenes()}/train',
        'train_dataloader.batch_size=16',
        'train_dataloader.dataset.indices=800',
        'train_cfg.max_epochs=2',
        'auto_scale_lr.enable=False',
        'custom_hooks.2.interval=5',
        'default_hooks.checkpoint.interval=100',
        *options,
    ]
    log = folder / 'printed.txt'
    with log.open('w') as sink, redirect_stdout(sink):
        build_runner(train.configure(train.parse_args(words))).train()
    return verdicts(folder)


def collapse() -> None:
    """Provoke collapses."""
    for number, (words, options) in enumerate(COLLAPSING.items()):
        found = scenes_run(f'collapse{number}', *options.split())
        print(f'{words}: {found} verdicts', flush=True)


def healthy() -> None:
    """Start twenty healthy runs."""
    for seed in SEEDS:
        found = scenes_run(f'healthy{seed}', f'randomness.seed={seed}')
        print(f'seed {seed}: {found} verdicts', flush=True)


PARTS = {
    part.__name__: part
    for part in (
        listing, large, files, shm, disk, steps, collapse, healthy,
    )
}  # fmt: skip


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('parts', nargs='+', choices=list(PARTS))
    for name in parser.parse_args(argv).parts:
        print(f'[{name}]', flush=True)
        PARTS[name]()


if __name__ == '__main__':
    main()

"""Time the training step of another program beside ours, in turns."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from collections.abc import Mapping

import torch

from ..benchmarks.timing import Timed, median_seconds, middle
from ..benchmarks.training import (
    changed_config,
    pretraining_step,
    step_settings,
)
from ..errors import SimimError

_LINE = re.compile(r'seconds a step[: ]\s*(\S+)\s+cpu\s+(\S+)')


def measure_peer(
    command: str,
    config: str,
    batch: int,
    rounds: int,
    bf16: bool = False,
    img_size: int | None = None,
    masked: int | None = None,
) -> dict[str, float]:
    """Time our step and another program's in turns, and compare medians.

    Args:
        command (str): starts the program; see :func:`peer_words`.
        config (str): our packaged pretraining config.
        batch (int): images per step.
        rounds (int): runs of the program; before each, one step of ours.
        bf16 (bool): under autocast. Defaults to False.
        img_size (int, optional): side of the views, pixels. Defaults to that
            of the config.
        masked (int, optional): patches that a mask hides, likewise.

    Returns:
        dict[str, float]: seconds a step of both, and their ratio.

    Raises:
        SimimError: if the program fails or prints no time.
    """
    settings = dict(
        batch_size=batch,
        threads=torch.get_num_threads(),
        precision='bf16' if bf16 else 'fp32',
        **step_settings(changed_config(config, img_size, masked)),
    )
    words = peer_words(command, settings)
    step = pretraining_step(
        config, batch, bf16, img_size=img_size, masked=masked
    )
    step()  # the first one is slower
    times: list[tuple[Timed, Timed]] = []
    for _ in range(rounds):
        ours = median_seconds(dict(ours=step), 1)['ours']
        times.append((ours, _run(words, os.getloadavg()[0])))
    ours, theirs = map(middle, zip(*times, strict=True))
    return {
        'ours: seconds a step': ours,
        'peer: seconds a step': theirs,
        'peer / ours': theirs / ours,
    }


def peer_words(command: str, settings: Mapping[str, object]) -> list[str]:
    """Return the words of a command with the settings in their places.

    Args:
        command (str): as typed in a shell, without pipes; ``{batch_size}``
            and the other names in braces become our settings.
        settings (Mapping[str, object]): by name.

    Raises:
        SimimError: for a name that is none of them.
    """
    try:
        return [word.format(**settings) for word in shlex.split(command)]
    except (KeyError, IndexError, ValueError) as error:
        names = ', '.join(f'{{{name}}}' for name in settings)
        raise SimimError(
            f'--peer {command!r} cannot be filled in ({error}); it takes '
            f'{names}, and other braces are doubled.'
        ) from error


def _run(words: list[str], load: float) -> Timed:
    """Run the program once and return the time that it prints."""
    threads = dict(OMP_NUM_THREADS=str(torch.get_num_threads()))
    try:
        done = subprocess.run(
            words,
            capture_output=True,
            text=True,
            env={**os.environ, **threads},
            check=False,
        )
    except OSError as error:
        raise SimimError(f'--peer cannot start {words[0]}: {error}.') from None
    found = _LINE.findall(done.stdout)
    if done.returncode or len(found) != 1:
        last = (done.stderr.strip().splitlines() or ['nothing'])[-1]
        raise SimimError(
            f'--peer {shlex.join(words)} ended with code {done.returncode} '
            f'and {len(found)} lines "seconds a step: WALL cpu CPU"; it has '
            f'to print one. Its last words: {last[:200]}'
        )
    try:
        wall, cpu = (float(number) for number in found[0])
    except ValueError:
        raise SimimError(
            f'--peer printed {" and ".join(found[0])}, which are no seconds.'
        ) from None
    return Timed(wall, cpu, load)

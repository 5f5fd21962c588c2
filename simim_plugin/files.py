"""Write files and folders that are complete whenever they exist.

Also find the last checkpoint of a work directory, and distinguish files from
pipes and devices, which may block for ever.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import stat
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .errors import SimimError

_IRREGULAR = {
    stat.S_IFIFO: 'a named pipe',
    stat.S_IFSOCK: 'a socket',
    stat.S_IFCHR: 'a device',
    stat.S_IFBLK: 'a device',
}
_LONGEST_NAME = 255


def check_regular(path: str | os.PathLike[str]) -> None:
    """Refuse to read a pipe, a socket or a device, or a link to one.

    Raises:
        OSError: for one of these. A folder, no file and a remote file pass.
    """
    try:
        kind = stat.S_IFMT(os.stat(path).st_mode)
    except (OSError, ValueError):  # the reader explains it
        return
    if kind in _IRREGULAR:
        reason = f'{_IRREGULAR[kind]}, not a regular file'
        raise OSError(errno.EINVAL, reason, os.fspath(path))


def read_text(path: Path) -> str:
    """Read a regular file of text in UTF-8, with or without a mark.

    Raises:
        OSError: see :func:`check_regular`.
    """
    check_regular(path)
    return path.read_text(encoding='utf-8-sig')


@contextmanager
def complete_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path, and rename it to ``path`` on success.

    The folder is created. A failure leaves no file behind. Its error names
    ``path``, which that of a full disk does not.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f'{path.name}.part')
    if len(os.fsencode(part.name)) > _LONGEST_NAME:
        part = path.with_name(f'.{os.getpid()}.part')
    try:
        yield part
        os.replace(part, path)
    except OSError as error:
        error.filename = error.filename or os.fspath(path)
        raise
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def complete_folder(path: Path, resume: bool = False) -> Iterator[Path]:
    """Yield a folder to write to, and rename it to ``path`` at the end.

    Args:
        path (Path): must be absent, or an empty folder, at the end.
        resume (bool): keep the partial folder if writing fails, and yield
            it again at the next call. Defaults to False: nothing is left
            behind, and concurrent processes write to folders of their own.
    """
    path = path.resolve()  # a link stays one
    # Processes of two containers may have one number.
    owner = '' if resume else f'.{uuid.uuid4().hex[:8]}'
    part = path.with_name(f'.{path.name}{owner}.partial')
    part.mkdir(parents=True, exist_ok=resume)
    try:
        yield part
        os.replace(part, path)
    finally:
        if not resume:
            shutil.rmtree(part, ignore_errors=True)


@contextmanager
def full_disk_reported(folder: Path, advice: str) -> Iterator[None]:
    """Turn the error of a full disk into a sentence that ends in ``advice``.

    Raises:
        SimimError: if the disk is full while ``folder`` is written.
    """
    try:
        yield
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        raise SimimError(f'The disk of {folder} is full: {advice}.') from error


def write_json(path: Path, content: Any) -> None:
    """Write plain values as a complete JSON file."""
    with complete_file(path) as part:
        part.write_text(json.dumps(content, indent=1) + '\n')


def read_json(path: Path, missing: Any) -> Any:
    """Read a JSON file, or return ``missing`` where there is no file."""
    return json.loads(path.read_text()) if path.is_file() else missing


def last_checkpoint(work_dir: Path) -> Path:
    """Return the checkpoint that a run noted last, in its work directory.

    mmengine notes the path at the time of writing; only its name still holds
    after the directory is moved.
    """
    noted = read_text(work_dir / 'last_checkpoint').strip()
    return work_dir / Path(noted).name

"""Write files that are whole whenever they exist; find the last checkpoint."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def complete_file(path: Path) -> Iterator[Path]:
    """Yield a path to write to, and rename that file to ``path`` at the end.

    The folder is created. If writing fails, nothing is left behind.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f'{path.name}.part')
    try:
        yield part
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def write_json(path: Path, content: Any) -> None:
    """Write plain values as JSON."""
    with complete_file(path) as part:
        part.write_text(json.dumps(content, indent=1) + '\n')


def last_checkpoint(work_dir: Path) -> Path:
    """Return the checkpoint that a run noted last, in its work directory.

    mmengine notes the path at the time of writing; only its name still holds
    after the directory is moved.
    """
    noted = (work_dir / 'last_checkpoint').read_text().strip()
    return work_dir / Path(noted).name

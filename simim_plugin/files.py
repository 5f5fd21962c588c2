"""Write files that are complete whenever they exist."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def complete_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path, and rename it to ``path`` on success.

    The folder is created. A failure leaves no file behind.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f'{path.name}.part')
    try:
        yield part
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def write_json(path: Path, content: Any) -> None:
    """Write plain values as a complete JSON file."""
    with complete_file(path) as part:
        part.write_text(json.dumps(content, indent=1) + '\n')

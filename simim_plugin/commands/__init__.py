"""The commands behind ``tools/``: each parses its options and runs."""

from __future__ import annotations

from contextlib import ExitStack
from importlib import import_module
from typing import Any

from ..environment import import_mmpretrain_fast, require, share_cores
from ..errors import one_line_errors, one_line_interrupt


def run(command: str, task: str | None = None, **options: Any) -> None:
    """Run a command of this package.

    Args:
        command (str): name of its module.
        task (str, optional): task of ``environment.TASKS`` whose libraries
            the module imports.
        **options: of the command's ``main``.
    """
    with one_line_interrupt(), ExitStack() as stack:
        share_cores()
        if task is not None:
            with one_line_errors():
                require(task)
                # It imports mmengine, and so torch.
                from ..runs.terminal import noted_notices

                stack.enter_context(noted_notices())
                import_mmpretrain_fast()
        import_module(f'.{command}', __name__).main(**options)

"""Install the operators into mmcv permanently, or remove them.

    python -m simim_plugin.commands.operators             # writes mmcv/_ext.py
    python -m simim_plugin.commands.operators --remove

Scripts that import ``mmcv.ops`` before they read a config need this:
MMDetection's ``test.py``, notebooks, spawned loader workers. Python prefers
compiled operators to this file if mmcv gets them later.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import mmcv

MARK = '# Written by simim_plugin.commands.operators; --remove deletes it.'
CONTENT = f"""{MARK}
import sys

from simim_plugin.operators.placing import Operators

sys.modules[__name__] = Operators()
"""


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        prog='python -m simim_plugin.commands.operators',
        description='Install operators by torchvision into mmcv permanently.',
    )
    parser.add_argument('--remove', action='store_true', help='remove them')
    args = parser.parse_args(argv)
    folder = Path(mmcv.__path__[0])
    file = folder / '_ext.py'
    if args.remove:
        if file.exists() and file.read_text().startswith(MARK):
            file.unlink()
        print(f'{folder} has no operators of simim_plugin.')
        return
    compiled = [path.name for path in folder.glob('_ext.*') if path != file]
    if compiled:
        print(f'mmcv has compiled operators ({compiled[0]}): nothing to do.')
        return
    try:
        file.write_text(CONTENT)
    except OSError as error:
        raise SystemExit(
            f'error: Cannot write {file} ({error.strerror}): run this as the '
            'owner of that folder.'
        ) from None
    print(f'Written: {file}')


if __name__ == '__main__':
    main()

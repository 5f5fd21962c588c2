"""Check this installation: python tools/doctor.py [--help]."""

import sys
from importlib.util import find_spec
from pathlib import Path

if find_spec('simim_plugin') is None:
    # This tool also runs where the plugin is not installed.
    sys.path.append(str(Path(__file__).resolve().parent.parent))

from simim_plugin.commands.doctor import main

if __name__ == '__main__':
    sys.exit(main())

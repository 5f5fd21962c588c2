"""Run the doctor as ``python -m simim_plugin.doctor``."""

import sys

from .commands.doctor import main

if __name__ == '__main__':
    sys.exit(main())

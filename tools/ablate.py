"""Run rows of the ablations and compare them: tools/ablate.py [--help]."""

import signal
import sys
from pathlib import Path

from simim_plugin.evaluation.ablations import main

if __name__ == '__main__':
    # What is stopped stops its training too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    main(tools=Path(__file__).parent)

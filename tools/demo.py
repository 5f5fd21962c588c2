"""Watch SiameseIM learn: python tools/demo.py [--help]."""

import signal
import sys
from pathlib import Path

from simim_plugin.demo.run import main

if __name__ == '__main__':
    # A demo that is stopped stops its training too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    main(train_script=str(Path(__file__).with_name('train.py')))

"""Watch SiameseIM learn: python tools/demo.py [--help]."""

from pathlib import Path

from simim_plugin.commands.demo import main

if __name__ == '__main__':
    main(train_script=str(Path(__file__).with_name('train.py')))

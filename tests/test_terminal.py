"""The terminal of a run is short, and its log file has every line."""

import logging
import os
import subprocess
import warnings
from collections import OrderedDict

import mmengine.logging
import pytest
from mmengine.logging import MMLogger
from mmengine.runner import Runner

from simim_plugin.demo.data import make_demo_data
from simim_plugin.engine import SiameseIMRunner
from simim_plugin.runs.terminal import ShortTerminal, noted_notices

from .training_processes import run_tool

FIRST_STEP = '(train) '
FEW = 14
LABELLED = ('classification', 'detection')
CONFIGS = {
    'pretraining': ('siamese_im_vit-micro-p8_demo.py', 'max_epochs=1'),
    'classification': (
        'siamese_im_vit-micro-p8_ft-1xb64-amp-coslr-10e_demo.py',
        'max_epochs=1',
    ),
    'detection': (
        'siamese_im_vit-micro-p8_vitdet-1xb4-1000it_demo.py',
        'max_iters=1',
    ),
    'segmentation': (
        'siamese_im_vit-micro-p8_upernet-1xb16-amp-200i_demo.py',
        'max_iters=1',
    ),
}


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp('terminal')
    make_demo_data(folder / 'data' / 'demo', train=16, val=8)
    return folder


@pytest.mark.parametrize('task', CONFIGS)
def test_few_lines_stand_before_the_first_step(task, folder):
    config, length = CONFIGS[task]
    words = [
        f'train_cfg.{length}',
        'default_hooks.logger.interval=1',
        'train_dataloader.batch_size=2',
    ]
    for part in ('train', 'val') if task != 'pretraining' else ('train',):
        words += [f'{part}_dataloader.num_workers=0']
        words += [f'{part}_dataloader.persistent_workers=False']
    run = folder / task
    words = [config, '--work-dir', run, '--cfg-options', *words]
    done = run_tool('train.py', *words, cwd=folder)
    assert done.returncode == 0, done.stderr[-2000:]
    printed = (done.stderr + done.stdout).splitlines()
    first = [FIRST_STEP in line for line in printed].index(True)
    before = '\n'.join(printed[:first])
    assert first <= FEW, before
    for word in ('Model: ', 'Images: 16', 'Length: ', 'Machine: ', 'Results'):
        assert word in before, word
    assert ('8 classes: ' in before) == (task in LABELLED)
    assert ('WARNING' in before) == (length == 'max_iters=1')  # no warm-up
    (log,) = run.glob('*/*.log')
    text = log.read_text()
    for word in ('System environment', 'Config:', 'Hooks will be executed'):
        assert word in text, word
        assert word not in before, word
    for line in filter(None, printed[:first]):
        assert line.rpartition(' - ')[2] in text, line


@pytest.fixture
def terminal(tmp_path, capsys, monkeypatch):
    """A logger with a file; return what each of the two has."""
    # Notices of the imports of this process wait for the first log file, and
    # a logger that the process has would get those of the test.
    monkeypatch.setattr('simim_plugin.runs.terminal._early', [])
    monkeypatch.setattr(MMLogger, '_instance_dict', OrderedDict())

    def make(level='INFO'):
        file = tmp_path / f'{level}.log'
        logger = MMLogger.get_instance(
            f'terminal {level}', log_file=str(file), log_level=level
        )
        short = ShortTerminal(logger)
        return (
            logger,
            short,
            lambda: (capsys.readouterr().out, file.read_text()),
        )

    return make


def by_library(logger, level, text):
    """Log a line as mmengine does."""
    names = dict(__name__='mmengine.runner.runner', logger=logger)
    exec(f'logger.log({level}, {text!r})', names)


def test_what_a_terminal_prints(terminal):
    logger, short, both = terminal()
    by_library(logger, logging.INFO, 'a table of hooks')
    by_library(logger, logging.INFO, 'resumed epoch: 1, iter: 6')
    by_library(logger, logging.WARNING, 'a key is missing')
    by_library(logger, logging.WARNING, '"X" will be deprecated in future')
    by_library(logger, logging.ERROR, 'deprecated, and so broken')
    logger.info('a line of ours, or of a hook of the user')
    short.started = True
    by_library(logger, logging.INFO, 'Saving checkpoint at 1 epochs')
    printed, file = both()
    assert [line.rpartition(' - ')[2] for line in printed.splitlines()] == [
        'resumed epoch: 1, iter: 6',
        'a key is missing',
        'deprecated, and so broken',
        'a line of ours, or of a hook of the user',
        'Saving checkpoint at 1 epochs',
    ]
    assert len(file.splitlines()) == 7


def test_debug_prints_all(terminal):
    logger, _, both = terminal('DEBUG')
    with noted_notices():
        by_library(logger, logging.INFO, 'a table of hooks')
        warnings.warn('x is deprecated', stacklevel=1)
    printed, file = both()
    for text in (printed, file):
        assert 'a table of hooks' in text
        assert 'x is deprecated' in text


def test_warnings_of_python_are_in_the_log(terminal, capsys):
    """A notice of another library is there alone."""
    with pytest.warns(UserWarning) as seen, noted_notices(), noted_notices():
        mmengine.logging.print_log('Could not import', level=logging.DEBUG)
        mmengine.logging.print_log('a line')
        MMLogger.get_current_instance().warning('Line NMS is not compiled.')
        assert capsys.readouterr().out == 'a line\n'
        _, _, both = terminal()
        warnings.warn('x is deprecated', stacklevel=1)
        warnings.warn('x overflows', stacklevel=1)
    assert [str(warning.message) for warning in seen] == ['x overflows']
    printed, file = both()
    assert not printed
    for text in (
        'INFO - Could not',
        'Line NMS',
        'Warning: x is',
        'Warning: x overflows',
    ):
        assert file.count(text) == 1, text


def test_a_missing_compiler_is_not_mentioned(monkeypatch, capfd):
    """mmengine asks for its version when it logs the environment."""

    def log_env(self, env_cfg):
        subprocess.run('no-such-compiler --version', shell=True, check=False)
        env_cfg['done'] = True

    monkeypatch.setattr(Runner, '_log_env', log_env)
    asked = {}
    SiameseIMRunner._log_env(object.__new__(SiameseIMRunner), asked)
    os.write(2, b'heard again')
    assert asked['done']
    assert capfd.readouterr().err == 'heard again'

"""The commands end in one sentence and exit code 1, before any training."""

import pytest
from mmengine.config import Config
from mmengine.registry import init_default_scope

from simim_plugin import config_path
from simim_plugin.commands import evaluate, test, train
from simim_plugin.commands.config_errors import sentence_of
from simim_plugin.engine import SiameseIMRunner
from simim_plugin.errors import SimimError

DEMO = 'siamese_im_vit-micro-p8_demo.py'
LINEAR = 'siamese_im_vit-micro-p8_linear-1xb64-amp-coslr-20e_demo.py'
UPERNET = 'siamese_im_vit-micro-p8_upernet-1xb16-amp-200i_demo.py'
OPTIONS = '--cfg-options'


def refused(capsys, main, *words) -> str:
    """Run a command that must fail and return its sentence."""
    with pytest.raises(SystemExit) as end:
        main([str(word) for word in words])
    printed = capsys.readouterr().err
    assert end.value.code == 1, printed
    (line,) = [x for x in printed.splitlines() if x.startswith('error: ')]
    assert ('Traceback' in printed) == ('--traceback' in words)
    return line


@pytest.fixture(autouse=True)
def elsewhere(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)


COMMANDS = [
    (train, [DEMO, OPTIONS, 'train_cfg.max_epochs=0'], 'max_epochs is 0'),
    (train, [DEMO, OPTIONS, 'model.type=SiameseI'], 'mean SiameseIM'),
    (train, [DEMO, OPTIONS, 'model.backbone.widht=1'], 'widht is no setting'),
    (train, [DEMO, OPTIONS, 'optim_wrapper=None'], 'set beside'),
    (train, [DEMO, OPTIONS, 'train_cfg.max_epochs'], 'takes KEY=VALUE'),
    (train, [DEMO, OPTIONS, 'custom_hooks.0.x=[1,2'], 'balance the brackets'),
    (train, [DEMO, OPTIONS, 'custom_hooks.9.interval=1'], 'no item of custom'),
    (train, [DEMO, OPTIONS, 'train_dataloader=3'], 'is 3; set it to a dict'),
    (train, [DEMO, OPTIONS, 'custom_imports.imports=[lost]'], 'lost'),
    (train, [DEMO, OPTIONS, 'runner_type=Foo'], "no 'Foo' for runner_type"),
    (train, [DEMO, OPTIONS, 'x=[dict(a=1,b=2),3]'], 'KEY.NAME=1'),
    (train, [DEMO, OPTIONS, 'model.head.type=3'], 'head'),
    (train, [DEMO, OPTIONS, 'model.backbone.norm_cfg=3'], 'SiameseIMViT'),
    (train, [DEMO, '--restart-epoch'], 'add --resume'),
    (train, [DEMO, '--traceback', OPTIONS, 'randomness.seed=-1'], 'seed'),
    (train, [LINEAR, OPTIONS, 'val_cfg.fp32=1'], 'fp32 is no setting of Val'),
    (test, [UPERNET, 'x.pth', OPTIONS, 'model.backbone.depth=1'], 'depth'),
    (test, [DEMO, 'x.pth'], '_test_loop` should not be None'),
]


@pytest.mark.parametrize(
    ('command', 'words', 'sentence'),
    COMMANDS,
    ids=[' '.join(words) for _, words, _ in COMMANDS],
)
def test_a_wrong_setting(capsys, command, words, sentence):
    pytest.importorskip('mmseg')
    init_default_scope('mmpretrain')
    assert sentence in refused(capsys, command.main, *words)


@pytest.mark.parametrize(
    ('text', 'sentence'),
    [
        ('model = dict(\n', 'SyntaxError'),
        ('model = nothing\n', "NameError: name 'nothing'"),
        ('x = _base_.nothing\n', 'nothing'),
        ("_base_ = './none.py'\n", 'none.py'),
        ('model = 3\n', 'model'),
        ('', 'model'),
    ],
    ids=['syntax', 'name', 'base name', 'base file', 'no model', 'empty'],
)
def test_a_broken_config_file(capsys, tmp_path, text, sentence):
    file = tmp_path / 'mine.py'
    base = f'_base_ = {config_path(DEMO)!r}\n' if 'nothing' in text else ''
    file.write_text(base + text)
    assert sentence in refused(capsys, train.main, file)
    assert [p.name for p in tmp_path.iterdir()] in (
        ['mine.py'],
        ['mine.py', 'work_dirs'],
        ['work_dirs', 'mine.py'],
    )


def test_evaluate(capsys, tmp_path):
    file = tmp_path / 'mine.py'
    file.write_text('model = dict(\n')
    assert 'SyntaxError' in refused(capsys, evaluate.main, file)


def test_a_runner_of_a_script_is_checked_before_it_builds(tmp_path):
    config = Config.fromfile(config_path(DEMO))
    config.work_dir = str(tmp_path / 'run')
    config.train_dataloader.batch_size = 0
    with pytest.raises(SimimError, match='batch_size is 0'):
        SiameseIMRunner.from_cfg(config)
    assert not (tmp_path / 'run').exists()


def test_a_warning_reaches_the_log(tmp_path):
    config = Config.fromfile(config_path(DEMO))
    config.work_dir = str(tmp_path / 'run')
    config.experiment_name = tmp_path.name
    config.merge_from_dict({'trian_cfg.max_epochs': 3})
    SiameseIMRunner.from_cfg(config)
    (log,) = (tmp_path / 'run').glob('*/*.log')
    assert 'did you mean train_cfg' in log.read_text()


def test_a_bug_keeps_its_traceback():
    try:
        {}['key']
    except KeyError as error:
        assert sentence_of(error) is None

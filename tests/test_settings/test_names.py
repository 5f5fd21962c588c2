"""A config names its parts; a change of a name must reach the parts."""

from pathlib import Path

import pytest
from mmengine.config import Config

from simim_plugin.config_files import ABLATION_SCALES, config_path
from simim_plugin.engine.runner import SiameseIMRunner
from simim_plugin.settings import changed_too_late

DEMO = 'siamese_im_vit-micro-p8_demo.py'
ROOT = Path(__file__).resolve().parents[2] / 'configs'
BASE = f'_base_ = {config_path(DEMO)!r}\n'


def read(folder, *files):
    """Write config files, each with a base, and read the last."""
    for i, text in enumerate(files):
        (folder / f'file{i}.py').write_text(text)
    return Config.fromfile(folder / f'file{len(files) - 1}.py')


def changes(config):
    return list(changed_too_late(config))


@pytest.mark.parametrize(
    'file', sorted(ROOT.glob('[!_]*/*.py')), ids=lambda file: file.stem
)
def test_no_packaged_config_changes_a_name_too_late(file, monkeypatch):
    scaled = file.parent.name in ('ablations', 'rivals')
    for scale in ABLATION_SCALES if scaled else ('in1k',):
        monkeypatch.setenv('SIMIM_SCALE', scale)
        assert changes(Config.fromfile(file)) == [], scale


@pytest.mark.parametrize(
    ('key', 'value', 'place'),
    [
        ('momentum_hook.base_momentum', 0.9, 'custom_hooks.0'),
        ('views.size', 96, 'train_dataloader.dataset.pipeline.1'),
        ('mask.num_masked', 3, 'train_dataloader.dataset.pipeline.2'),
    ],
)
def test_an_option_that_comes_too_late(key, value, place):
    config = Config.fromfile(config_path(DEMO))
    config.merge_from_dict({key: value})
    name = key.partition('.')[0]
    assert changes(config) == [
        f'The change of {name} by an option or a script has no effect, since '
        f'the config files have used {name} already; change the setting where '
        f'it is used, {place}.'
    ]


def test_a_script_that_changes_a_list_too_late():
    config = Config.fromfile(config_path(DEMO))
    config.train_pipeline.pop()
    (sentence,) = changes(config)
    assert sentence.startswith('The change of train_pipeline by an option')
    assert sentence.endswith('change the setting where it is used.')


def test_a_file_that_changes_a_name_too_late(tmp_path):
    config = read(tmp_path, BASE + 'views = dict(size=64)')
    assert changes(config) == [
        'The change of views in file0.py has no effect, since only files that '
        'it inherits use views; use views in this file, too, or change the '
        'setting where it is used, train_dataloader.dataset.pipeline.1.'
    ]
    assert config.views.size == 64
    assert config.train_dataloader.dataset.pipeline[1].size == 48


def test_the_name_of_the_base_is_the_part_before_the_change(tmp_path):
    config = read(
        tmp_path,
        BASE + 'views = dict(size=64)\n'
        'train_pipeline = [_base_.load, _base_.views, _base_.pack]\n'
        'train_dataloader = dict(dataset=dict(pipeline=train_pipeline))',
    )
    (sentence,) = changes(config)
    assert sentence.startswith('The change of views in file0.py has no effect')
    assert config.train_dataloader.dataset.pipeline[1].size == 48


@pytest.mark.parametrize(
    'files',
    [
        (
            'views = dict(type="PairedViews", size=64)\n'
            'train_dataloader = dict(dataset=dict(pipeline=[views]))',
        ),
        (
            'views = dict(size=64)',
            'pipeline = [_base_.views, _base_.pack]\n'
            'train_dataloader = dict(dataset=dict(pipeline=pipeline))',
        ),
        (
            'views = dict(size=64)',
            'pipeline = [{{_base_.views}}, {{_base_.pack}}]\n'
            'train_dataloader = dict(dataset=dict(pipeline=pipeline))',
        ),
        ('grid = (6, 6)', 'grid = (6, 6)'),
        ('author = "me"', 'model = dict(backbone=dict(drop_path_rate=0.1))'),
    ],
)
def test_a_change_in_time(files, tmp_path):
    first, *others = files
    texts = [f'_base_ = "./file{i}.py"\n{t}' for i, t in enumerate(others)]
    config = read(tmp_path, BASE + first, *texts)
    assert changes(config) == []


def test_a_config_without_files_is_not_compared(tmp_path):
    config = Config(Config.fromfile(config_path(DEMO)).to_dict())
    config.views.size = 96
    assert changes(config) == []


def test_a_file_that_has_changed_since_is_not_compared(tmp_path):
    config = read(tmp_path, BASE)
    (tmp_path / 'file0.py').write_text(BASE + 'views = dict(size=64)')
    assert changes(config) == []


def test_a_late_change_is_a_warning_of_the_run(tmp_path, capfd):
    config = Config.fromfile(config_path(DEMO))
    config.merge_from_dict({'mask.num_masked': 3})
    config.work_dir = str(tmp_path)
    SiameseIMRunner.from_cfg(config)
    output = ''.join(capfd.readouterr())
    assert 'WARNING - The change of mask by an option' in output

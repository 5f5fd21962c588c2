"""Errors of the testing command for bad checkpoints and bad data."""

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmpretrain.registry import MODELS
from PIL import Image

from simim_plugin import config_path
from simim_plugin.commands.test import configure, main, parse_args
from simim_plugin.datasets.robustness import CORRUPTIONS, SEVERITIES

CLASSIFIER = 'siamese_im_vit-micro-p8_ft-1xb64-amp-coslr-10e_demo.py'
LOGISTIC = 'siamese_im_vit-micro-p8_logistic_demo.py'
CORRUPTED = 'siamese_im_vit-micro-p8_demo-c.py'
DATA = 'test_dataloader.dataset.data_root'


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    """Create one image of each of 8 classes, and weights of a classifier."""
    root = tmp_path_factory.mktemp('demo')
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    for label in range(8):
        folder = root / 'data' / f'class{label}'
        folder.mkdir(parents=True)
        Image.fromarray(pixels).save(folder / '0.png')
    init_default_scope('mmpretrain')
    model = MODELS.build(Config.fromfile(config_path(CLASSIFIER)).model)
    model.init_weights()
    state = model.state_dict()
    torch.save(dict(state_dict=state), root / 'good.pth')
    whole = (root / 'good.pth').read_bytes()
    (root / 'truncated.pth').write_bytes(whole[: len(whole) // 2])
    (root / 'empty.pth').touch()
    (root / 'directory').mkdir()
    state['head.fc.bias'][2] = float('nan')
    torch.save(dict(state_dict=state), root / 'nan.pth')
    return root


@pytest.fixture
def refuse(tmp_path, capsys):
    """Run the command, which must fail; return its one-sentence error."""

    def run(config, file, **options):
        loaders = ['test_dataloader']
        if config == LOGISTIC:
            loaders.append('test_cfg.train_dataloader')
        options |= {f'{loader}.num_workers': 0 for loader in loaders}
        options['experiment_name'] = tmp_path.name
        words = [f'{key}={value}' for key, value in options.items()]
        out = tmp_path / 'out.json'
        with pytest.raises(SystemExit) as end:
            main(
                [
                    *(config, str(file), '--out', str(out)),
                    *('--work-dir', str(tmp_path / 'work')),
                    *('--cfg-options', *words),
                ]
            )
        assert end.value.code == 1
        assert not out.exists()
        printed = capsys.readouterr().err
        (line,) = [x for x in printed.splitlines() if x.startswith('error: ')]
        assert printed.endswith(f'{line}\n')
        assert line.endswith('.')
        assert '. ' not in line
        return line

    return run


@pytest.mark.parametrize(
    ('name', 'words'),
    [
        ('truncated.pth', 'it is truncated'),
        ('empty.pth', 'is an empty file'),
        ('directory', 'is a folder without model.safetensors'),
        ('nan.pth', 'not finite in 1 of 56 tensors (head.fc.bias)'),
        ('none.pth', 'There is no checkpoint file at'),
    ],
)
def test_bad_checkpoints(root, refuse, name, words):
    error = refuse(CLASSIFIER, root / name, **{DATA: root / 'data'})
    assert words in error
    assert str(root / name) in error


def test_missing_listed_images(root, refuse, tmp_path):
    file = tmp_path / 'list.txt'
    names = [f'class{k}/{number}.png' for number in (0, 7) for k in range(4)]
    file.write_text('\n'.join(names))
    train = 'test_cfg.train_dataloader.dataset'
    options = {DATA: root / 'data', f'{train}.data_root': root / 'data'}
    options[f'{train}.list_file'] = file
    error = refuse(LOGISTIC, root / 'good.pth', **options)
    assert f'4 of the 8 images listed in {file}' in error
    assert '(class0/7.png, class1/7.png, class2/7.png, ...)' in error


def test_different_number_of_classes(root, refuse, tmp_path):
    folder = tmp_path / 'data'
    for label in range(3):
        (folder / f'class{label}').mkdir(parents=True)
        image = (root / 'data' / 'class0' / '0.png').read_bytes()
        (folder / f'class{label}' / '0.png').write_bytes(image)
    error = refuse(CLASSIFIER, root / 'good.pth', **{DATA: folder})
    assert "model's head has 8 classes" in error
    assert f'test set of {folder} has 3' in error


def test_missing_severity(root, refuse, tmp_path):
    folder = tmp_path / 'demo-c'
    for corruption in CORRUPTIONS:
        for severity in SEVERITIES:
            place = folder / corruption / str(severity)
            if (corruption, severity) != ('snow', 5):
                place.mkdir(parents=True)
    error = refuse(CORRUPTED, root / 'good.pth', **{DATA: folder})
    assert f'CorruptedFolder at {folder} lacks 1 folder (snow/5)' in error


def test_dumped_config_of_a_resumed_run_does_not_resume_the_test(tmp_path):
    """A run saves its config together with its ``resume`` option."""
    file = tmp_path / 'config.py'
    file.write_text(f'_base_ = {config_path(CLASSIFIER)!r}\nresume = True')
    config = configure(parse_args([str(file), 'weights.pth']))
    assert config.resume is False
    assert config.load_from == 'weights.pth'

"""No entrance runs code from a file, whatever asks for it."""

import json
import os
import pickle
import subprocess
import sys

import mmengine
import numpy as np
import pytest
import torch
from mmdet.apis import DetInferencer, init_detector
from mmdet.registry import MODELS as DETECTORS
from mmengine.model import BaseModule
from mmengine.registry import DefaultScope
from mmengine.runner import CheckpointLoader, load_checkpoint
from mmpretrain import (
    FeatureExtractor,
    ImageClassificationInferencer,
    get_model,
)
from mmpretrain.registry import MODELS
from mmseg.apis import MMSegInferencer, init_model
from mmseg.models.backbones.mae import MAEAttention
from mmseg.registry import MODELS as SEGMENTORS

import simim_plugin.detection
import simim_plugin.evaluation
import simim_plugin.segmentation  # noqa: F401
from simim_plugin.checkpoint import CheckpointError
from simim_plugin.commands import convert, evaluate, visualize
from simim_plugin.commands import test as testing
from simim_plugin.commands import train as training
from simim_plugin.commands.command_line import find_config
from simim_plugin.demo.data import make_demo_data
from simim_plugin.errors import SimimError

from .conftest import ROOT
from .test_checkpoint.helpers import Malicious, our_vit, wrap

PRETRAINING = 'siamese_im_vit-micro-p8_demo.py'
FINETUNING = 'siamese_im_vit-micro-p8_ft-1xb64-amp-coslr-10e_demo.py'
LINEAR = 'siamese_im_vit-micro-p8_linear-1xb64-amp-coslr-20e_demo.py'
KNN = 'siamese_im_vit-micro-p8_knn_demo.py'
VITDET = 'siamese_im_vit-micro-p8_vitdet-1xb4-1000it_demo.py'
UPERNET = 'siamese_im_vit-micro-p8_upernet-1xb16-amp-200i_demo.py'
SEG_LINEAR = 'siamese_im_vit-micro-p8_seg-linear-1xb16-amp-200i_demo.py'
TASKS = {
    PRETRAINING: ('mmpretrain', MODELS),
    FINETUNING: ('mmpretrain', MODELS),
    LINEAR: ('mmpretrain', MODELS),
    'siamese_im_row-mae.py': ('mmpretrain', MODELS),
    'siamese_im_row-mocov3.py': ('mmpretrain', MODELS),
    VITDET: ('mmdet', DETECTORS),
    UPERNET: ('mmseg', SEGMENTORS),
    SEG_LINEAR: ('mmseg', SEGMENTORS),
}
FORMS = ['zip', 'stream', 'bare', 'pkl', 'bin', 'folder', 'index']


@pytest.fixture(scope='module')
def demo(tmp_path_factory):
    folder = tmp_path_factory.mktemp('scenes') / 'demo'
    make_demo_data(folder, train=16, val=8, seed=3)
    return folder


@pytest.fixture
def witness(tmp_path):
    """Return the file that a payload writes, and check that none did."""
    file = tmp_path / 'witness'
    yield file
    assert not file.exists()


def hostile(folder, witness, form):
    """Write a payload beside weights that fit, in a form of file."""
    state = wrap(our_vit().state_dict(), 'backbone.')
    content = dict(state_dict=state, meta={}, payload=Malicious(witness))
    (folder / 'hostile').mkdir(exist_ok=True)
    file = folder / 'hostile' / 'file.pth'
    match form:
        case 'zip':
            torch.save(content, file)
        case 'stream':
            torch.save(content, file, _use_new_zipfile_serialization=False)
        case 'bare':
            file.write_bytes(pickle.dumps(Malicious(witness)))
        case 'pkl':
            file = file.with_suffix('.pkl')
            file.write_bytes(pickle.dumps(dict(x=Malicious(witness))))
        case 'bin':
            file = file.with_suffix('.bin')
            torch.save(content, file)
        case 'folder':
            torch.save(content, folder / 'hostile' / 'pytorch_model.bin')
            file = folder / 'hostile'
        case 'index':
            torch.save(content, folder / 'outside.bin')
            names = dict.fromkeys(state, '../outside.bin')
            index = folder / 'hostile' / 'pytorch_model.bin.index.json'
            index.write_text(json.dumps(dict(weight_map=names)))
            file = folder / 'hostile'
    return str(file)


def build(name):
    """Build the model of a packaged config."""
    scope, registry = TASKS[name]
    config = find_config(name)
    with DefaultScope.overwrite_default_scope(scope):
        return registry.build(config.model)


def parts(model):
    """Return a part of each class at each depth that takes an init_cfg."""
    found = {type(part): part for part in model.modules()}
    return [
        part
        for part in found.values()
        if isinstance(part, BaseModule) and not isinstance(part, MAEAttention)
    ]  # MAEAttention's init_weights does nothing


@pytest.mark.parametrize('name', TASKS)
def test_init_cfg_of_each_part(tmp_path, witness, name):
    file = hostile(tmp_path, witness, 'zip')
    model = build(name)
    tried = parts(model)
    assert len(tried) > 3
    for part in tried:
        for prefix in (None, 'backbone.'):
            part.init_cfg = dict(
                type='Pretrained', checkpoint=file, prefix=prefix
            )
            part._is_init = False
            with pytest.raises(SimimError):
                part.init_weights()
            part.init_cfg = None


@pytest.mark.parametrize('form', FORMS)
def test_pretrained_of_each_class(tmp_path, witness, form):
    file = hostile(tmp_path, witness, form)
    tried = TASKS if form == 'zip' else (FINETUNING, VITDET)
    for name in tried:
        scope, registry = TASKS[name]
        settings = find_config(name).model
        keys = [settings.backbone]
        if scope != 'mmdet':  # it renames the argument to the backbone's
            keys.append(settings)
        for place in keys:
            place.pretrained = file
            with DefaultScope.overwrite_default_scope(scope):
                try:
                    model = registry.build(settings)
                except TypeError:  # no such argument
                    continue
                else:
                    with pytest.raises(SimimError):
                        model.init_weights()
                finally:
                    place.pop('pretrained')


@pytest.mark.parametrize('form', FORMS)
def test_functions_of_the_libraries(tmp_path, witness, form):
    file = hostile(tmp_path, witness, form)
    detector, segmentor = (find_config(name) for name in (VITDET, UPERNET))
    classifier = get_model(FINETUNING.removesuffix('.py'))
    for read in (
        lambda: CheckpointLoader.load_checkpoint(file),
        lambda: load_checkpoint(classifier, file),
        lambda: load_checkpoint(torch.nn.Linear(2, 2), file),
        lambda: get_model('resnet18_8xb32_in1k', pretrained=file),
        lambda: get_model(KNN.removesuffix('.py'), pretrained=file),
        lambda: ImageClassificationInferencer(classifier, file),
        lambda: FeatureExtractor('resnet18_8xb32_in1k', file),
        lambda: init_detector(detector, file, device='cpu'),
        lambda: init_model(segmentor, file, device='cpu'),
        lambda: DetInferencer(detector, file, device='cpu'),
        lambda: DetInferencer(weights=file, device='cpu'),
        lambda: MMSegInferencer(segmentor, file, device='cpu'),
    ):
        with pytest.raises(CheckpointError):
            read()


def test_the_config_in_a_checkpoint_is_not_run(tmp_path, witness):
    """An inferencer without a config would take it from the file."""
    file = tmp_path / 'file.pth'
    code = f'open({str(witness)!r}, "w")'
    named = f"model = dict(type='os.mkdir', path={str(witness)!r})"
    for text in (code, named):
        meta = dict(cfg=text, dataset_meta={})
        hub = dict(runtime_info=dict(cfg=text))
        for content in (dict(meta=meta), dict(meta=meta, message_hub=hub)):
            torch.save(dict(content, state_dict={}), file)
            with pytest.raises(ValueError, match='Cannot find the config'):
                DetInferencer(weights=str(file), device='cpu')


def test_annotations_that_are_no_plain_values(tmp_path, witness):
    for ending, data in (
        ('pkl', pickle.dumps(dict(x=Malicious(witness)))),
        ('pickle', pickle.dumps(Malicious(witness))),
    ):
        file = tmp_path / f'annotations.{ending}'
        file.write_bytes(data)
        with pytest.raises(CheckpointError, match='may run code'):
            mmengine.load(file)
    plain = dict(data_list=[dict(img_path='a.jpg', gt_label=np.int64(3))])
    mmengine.dump(plain, tmp_path / 'plain.pkl')
    assert mmengine.load(tmp_path / 'plain.pkl') == plain
    file = tmp_path / 'annotations.yml'
    file.write_text(f'!!python/object/apply:os.mkdir ["{witness}"]')
    with pytest.raises(Exception, match='python/object/apply'):
        mmengine.load(file)
    file.write_text('{data_list: [1, 2]}')
    assert mmengine.load(file) == dict(data_list=[1, 2])


def run(command, *words):
    """Run a command in this process, which must end in an error."""
    with pytest.raises(SystemExit) as end:
        command.main(list(map(str, words)))
    assert end.value.code == 1


@pytest.mark.parametrize('form', ['zip', 'bare', 'index'])
def test_commands(tmp_path, witness, demo, capsys, form):
    file = hostile(tmp_path, witness, form)
    stock = tmp_path / 'stock.py'  # names no Runner of ours
    for name in (PRETRAINING, KNN):
        config = find_config(name)
        config.pop('runner_type')
        config.dump(stock)
        part = 'train' if name == PRETRAINING else 'test'
        options = ['--work-dir', tmp_path / 'run', '--cfg-options']
        options += [f'{part}_dataloader.dataset.data_root={demo}/train']
        options += [f'{part}_dataloader.num_workers=0']
        options += [f'{part}_dataloader.batch_size=4']
        tested = ['--out', tmp_path / 'out.json', *options]
        if name == KNN:
            run(testing, stock, file, *tested)
            run(testing, name, file, *tested)
        else:
            for words in (
                ['--resume', file],
                ['--pretrained', file],
            ):
                run(training, name, *words, *options)
                run(training, stock, *words, *options)
            run(training, stock, *options, f'load_from={file}')
    run(convert, file, tmp_path / 'out', '--to', 'timm')
    run(evaluate, file, '--data', demo, '--work-dir', tmp_path / 'evaluated')
    run(visualize, 'pca', file, demo / 'val', '--out', tmp_path / 'pictures')
    errors = capsys.readouterr().err.splitlines()
    assert all(line.startswith('error: ') for line in errors[-3:])
    assert not (tmp_path / 'out.json').exists()


@pytest.mark.slow
def test_stock_mim(tmp_path, witness, demo):
    file = hostile(tmp_path, witness, 'zip')
    config = find_config(KNN)
    config.test_dataloader.dataset.data_root = str(demo / 'val')
    train = config.test_cfg.train_dataloader
    train.dataset.data_root = str(demo / 'train')
    for loader in (config.test_dataloader, train):
        loader.num_workers = 0
        loader.persistent_workers = False
    config.dump(tmp_path / 'mine.py')
    command = [sys.executable, '-m', 'mim', 'test', 'mmpretrain', 'mine.py']
    done = subprocess.run(
        [*command, '--checkpoint', file],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env=dict(os.environ, PYTHONPATH=str(ROOT)),
    )
    assert done.returncode
    assert 'may run code' in done.stdout + done.stderr


@pytest.mark.slow
def test_any_import_replaces_the_stock_loading():
    """Whatever a config imports first, files are read by our loader."""
    code = (
        'import simim_plugin.engine; '
        'from mmengine.runner import CheckpointLoader as loader; '
        'print(loader._get_checkpoint_loader("file.pth").__module__)'
    )
    done = subprocess.run(
        [sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True
    )
    assert done.stdout.strip().endswith('stock_loading'), done.stderr

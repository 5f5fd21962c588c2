"""Every command and every Python block of the tutorials runs, made small."""

import multiprocessing
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
from markdown_it import MarkdownIt

# Every command is forked from here and imports nothing again.
import simim_plugin.commands.configure
import simim_plugin.commands.evaluate
import simim_plugin.commands.predict
import simim_plugin.detection
import simim_plugin.evaluation
import simim_plugin.segmentation  # noqa: F401

from .conftest import ROOT
from .test_recipes.data import class_folders, coco, label_maps, picture
from .training_processes import free_port, run_tool

FORK = multiprocessing.get_context('fork')
TUTORIALS = ROOT / 'docs' / 'tutorials'
PAGES = {p.stem for p in TUTORIALS.glob('*.md')} - {'notebook'}

SMALL = {
    '--train 2000 --val 400': '--train 8 --val 8',
    '--train 5000 --val 1000': '--train 24 --val 16',
    '--hours 8': '--epochs 1 --img-size 64 --arch tiny',
    'train.py my_cosine.py': 'train.py my_cosine.py --cfg-options '
    'train_dataloader.batch_size=8 default_hooks.checkpoint.interval=8',
    'dist_train.sh my_pretraining.py 8': 'dist_train.sh my_pretraining.py 2',
    'NNODES=2': 'NNODES=1',
    'MASTER_ADDR=node0': 'MASTER_ADDR=127.0.0.1',
    'configure.py pretraining': 'configure.py pretraining --batch-size 4',
    'configure.py detection': 'configure.py detection --img-size 64 '
    '--epochs 1 --batch-size 2',
    'configure.py segmentation': 'configure.py segmentation --img-size 64 '
    '--epochs 1 --batch-size 2',
    'configure.py classification': 'configure.py classification '
    '--img-size 64 --epochs 1',
    'my/masks --encoder dinov2_vits14_pretrain.pth': 'my/masks '
    '--encoder dinov2_vits14_pretrain.pth --img-size 56',
    '--out my_dinov2.py': '--out my_dinov2.py --epochs 1 --img-size 56',
}
"""What a page says, and what is run in its place."""

MY_PRETRAINING = """
_base_ = __import__('simim_plugin').config_path(
    'siamese_im_vit-micro-p8_demo.py')
train_dataloader = dict(
    batch_size=4, dataset=dict(data_root='my/photographs'))
train_cfg = dict(max_epochs=2)
"""


def blocks(page):
    """Return the kind and the text of each block that a reader copies."""
    text = (TUTORIALS / f'{page}.md').read_text()
    tokens = MarkdownIt().parse(text)
    found = [(t.info, t.content) for t in tokens if t.type == 'fence']
    assert {info for info, _ in found} <= {'bash', 'python', 'text'}
    return [block for block in found if block[0] != 'text']


def encoder(file, patch, **options):
    """Save an untrained ViT-Ti of 4 x 4 patches as timm does."""
    model = timm.models.VisionTransformer(
        img_size=4 * patch,
        patch_size=patch,
        embed_dim=192,
        num_heads=3,
        num_classes=0,
        **options,
    )
    torch.save(model.state_dict(), file)


@pytest.fixture
def desk(tmp_path, monkeypatch):
    """Return a folder with a checkout and what a reader has in ``my``."""
    for name in ('tools', 'simim_plugin', 'configs'):
        (tmp_path / name).symlink_to(ROOT / name)
    mine = tmp_path / 'my'
    for k in range(40):
        picture(mine / 'photographs' / f'{k}.png', (80, 72), k)
    class_folders(mine / 'classes', (20, 20, 20), broken=False)
    coco(mine / 'coco')
    label_maps(mine / 'masks')
    encoder(tmp_path / 'my_encoder.pth', 16)
    encoder(tmp_path / 'dinov2_vits14_pretrain.pth', 14, init_values=1e-5)
    stand_ins = tmp_path / 'bin'
    stand_ins.mkdir()
    for name, text in (('sbatch', 'exec bash "$1"'), ('srun', 'echo "$@"')):
        (stand_ins / name).write_text(f'#!/bin/sh\n{text}\n')
        (stand_ins / name).chmod(0o755)
    paths = (stand_ins, Path(sys.executable).parent, os.environ['PATH'])
    monkeypatch.setenv('PATH', ':'.join(map(str, paths)))
    monkeypatch.setenv('PORT', str(free_port()))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def in_shell(text, folder):
    """Run the lines of a block, and return what they print."""
    printed = ''
    for written, small in SMALL.items():
        text = text.replace(written, small)
    text = text.replace('PORT=29500', 'PORT=$PORT')
    if '<<' in text or 'python tools/' not in text:
        return bash(text, folder)
    for line in text.replace('\\\n', '').splitlines():
        if not line.startswith('python tools/'):
            printed += bash(line, folder)
            continue
        line = re.sub(
            r'\$\(cat (.*?)\)', lambda m: (folder / m[1]).read_text(), line
        )
        words = shlex.split(line)
        done = run_tool(
            Path(words[1]).name, *words[2:], cwd=folder, context=FORK
        )
        assert done.returncode == 0, (line, done.stderr[-3000:])
        printed += done.stdout
    return printed


def bash(text, folder):
    """Run a script whose every command must succeed."""
    done = subprocess.run(
        ['bash', '-euo', 'pipefail', '-c', text],
        cwd=folder,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, (text, done.stdout, done.stderr[-3000:])
    return done.stdout


def run_page(page, folder):
    """Run all blocks of a page in order; return what the commands print."""
    printed = []
    for kind, text in blocks(page):
        name = re.match(r'# (\w+\.py)(, at its end)?\n', text)
        if kind == 'bash':
            printed.append(in_shell(text, folder))
        elif name:
            with (folder / name[1]).open('a' if name[2] else 'w') as file:
                file.write(text)
        else:
            code = compile(text, f'{page}.md', 'exec')
            exec(code, {})
    return '\n'.join(printed)


WRITTEN = {
    'photographs': 'my_pretraining_samples.png curves.png match.png pca.png '
    'pairs.png work_dirs/second/last_checkpoint my_encoder.pth',
    'detector': 'my_detection_samples.png detector.html '
    'found/predictions.json found/drawn/0.png',
    'segmenter': 'my_segmentation_samples.png segmenter.html '
    'labelled/label_maps/0.png labelled/classes.json',
    'few-labels': 'classifier.html work_dirs/my_finetuned/config.py '
    'work_dirs/first_look/results.json named/predictions.json',
    'published-weights': 'work_dirs/dinov2/results.json my_segmentation.py '
    'work_dirs/my_dinov2/epoch_1.pth',
    'several-machines': 'work_dirs/my_pretraining/epoch_2.pth job.sh',
    'own-method': 'work_dirs/my_cosine/epoch_20.pth work_dirs/my_knn',
}
"""Files that a reader has at the end of each page."""


@pytest.mark.minutes
@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize('page', sorted(PAGES))
def test_a_reader_gets_what_the_page_promises(page, desk):
    if page == 'photographs':
        (desk / 'my_encoder.pth').unlink()
    if page == 'several-machines':
        (desk / 'my_pretraining.py').write_text(MY_PRETRAINING)
    printed = run_page(page, desk)
    for file in WRITTEN[page].split():
        assert (desk / file).exists(), (file, printed[-3000:])


@pytest.mark.minutes
@pytest.mark.slow
def test_the_notebook_runs_from_start_to_end(tmp_path, monkeypatch):
    """Sphinx and its notebooks are there from Python 3.11."""
    read = pytest.importorskip('myst_nb.core.read')
    nbclient = pytest.importorskip('nbclient')
    monkeypatch.setenv('SIMIM_NOTEBOOK_FOLDER', str(tmp_path))
    page = (TUTORIALS / 'notebook.md').read_text()
    notebook = read.read_myst_markdown_notebook(page)
    nbclient.NotebookClient(notebook, timeout=900).execute()
    outputs = [o for c in notebook.cells for o in c.get('outputs', ())]
    pictures = [o for o in outputs if 'image/png' in o.get('data', {})]
    assert len(pictures) == 4
    assert all(len(o.data['image/png']) > 20_000 for o in pictures)
    printed = ''.join(o.get('text', '') for o in outputs)
    (accuracy,) = re.findall(r'^trained: (.*) %$', printed, re.M)
    assert 0 < float(accuracy) < 100
    assert (tmp_path / 'encoder.pth').exists()

"""Names of files and folders reach no reader as anything but a name."""

import json
import os
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.logging import MMLogger
from mmengine.registry import init_default_scope
from PIL import Image
from torch.utils.data import DataLoader

from simim_plugin.checkpoint import load_weights, read_checkpoint
from simim_plugin.commands import ablate, convert, evaluate, train, visualize
from simim_plugin.commands.running import run_logged
from simim_plugin.datasets import ImageFolder, LabelledFolder, LoadRGBImage
from simim_plugin.datasets.robustness import CorruptedFolder, ImageNetSketch
from simim_plugin.errors import SimimError, one_line_errors
from simim_plugin.evaluation import folder_dataset
from simim_plugin.text import clean, in_markup, in_plot
from simim_plugin.visualization import draw_runs
from simim_plugin.visualization.saving import save_figures
from simim_plugin.visualization.style import new_figure

from .test_models.helpers import small_model
from .training_processes import TINY, Run, end_all

FAKE = '\nerror: FAKE LINE'
HOSTILE = f'x[/b]\x1b[31m\u202e$^$\x9b\x7f\r{FAKE}' + os.fsdecode(b'\xff')
FILE = f'<script>alert(1)\x1b]0;owned\x07$^{FAKE}.png'
CLASS = f'<img src=x onerror=alert(1)>\x1b[2J$^$\u2028{FAKE}'
CONFIG = f'evil\x1b[31m{FAKE}.py'

# A line may end, and mmengine colours the level of a message.
COLOUR = re.compile(r'\x1b\[[\d;]*m')
HIDDEN = re.compile(
    '[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]'
)


def harmless(text: str, coloured: bool = False) -> str:
    """Check that a printed text has no forged line, and return it."""
    if coloured:
        text = COLOUR.sub('', text)
    assert not HIDDEN.search(text.replace('\t', ' ')), repr(text[-3000:])
    forged = [x for x in text.split('\n') if x.startswith('error: FAKE')]
    assert not forged, text[-3000:]
    return text


def refused(capsys, function, *args, **kwargs) -> str:
    """Call what must fail as a command does, and return the one sentence."""
    with pytest.raises(SystemExit), one_line_errors():
        function(*args, **kwargs)
    printed = harmless(capsys.readouterr().err)
    assert printed.count('\n') == 1, printed
    assert printed.startswith('error: ')
    return printed


def picture(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture
def logged(tmp_path):
    """Return a function that reads what was logged."""
    file = tmp_path / 'run.log'
    logger = MMLogger.get_instance('names', log_file=str(file))
    del logger.handlers[0]  # the terminal, which is another one by now
    yield lambda: harmless(file.read_text())
    del MMLogger._instance_dict['names']


@pytest.fixture
def evil(tmp_path) -> Path:
    """Return a hostile folder of one hostile picture in a hostile class."""
    picture(tmp_path / HOSTILE / 'train' / CLASS / FILE)
    return tmp_path / HOSTILE


def test_cleaned_text():
    text = 'Tür 日本 \\ [b] $x$'
    assert clean(text) == text
    assert clean('a\n\x1b\u202e\udcff') == r'a\n\x1b\u202e\udcff'
    assert clean(HOSTILE).isprintable()
    assert in_markup('[/b]\n') == r'\[/b]\n'
    assert in_plot('$x$') == r'\$x\$'
    assert str(SimimError(HOSTILE)) == clean(HOSTILE)


def test_unlabelled_folder(evil, capsys, logged):
    data = ImageFolder(str(evil), pipeline=[dict(type='LoadRGBImage')])
    assert len(data) == 1
    harmless(capsys.readouterr().out)
    (evil / f'bad{FILE}').write_text('no image')
    data = ImageFolder(
        str(evil), pipeline=[dict(type='LoadRGBImage')], skip_broken=0.9
    )
    for number in range(2):
        data.prepare_data(number)
    assert 'Skipped broken image 1 of 2' in logged()
    data.skip_broken = 0.0
    for workers in (0, 1):
        loader = DataLoader(data, num_workers=workers, batch_size=None)
        words = refused(capsys, list, loader)
        assert 'Cannot read the image' in words
    refused(capsys, ImageFolder, str(evil / 'none'))


@pytest.mark.parametrize(
    'kind', [LabelledFolder, ImageNetSketch, CorruptedFolder, folder_dataset]
)
@pytest.mark.parametrize('inside', ['train', '.', 'none', f'train/{CLASS}'])
def test_labelled_folders(evil, capsys, logged, kind, inside):
    init_default_scope('mmpretrain')
    (evil / 'train' / f'empty{CLASS}').mkdir()
    args = (32,) if kind is folder_dataset else ()
    place = str(evil / inside)
    if inside == 'none' or kind in (ImageNetSketch, CorruptedFolder):
        refused(capsys, kind, place, *args)
    elif inside == 'train':
        data = kind(place, *args)
        assert data.metainfo['classes'] == (clean(CLASS),)
        assert 'without an image' in logged()
        missing = evil / f'list{FAKE}.txt'
        missing.write_text('a/\x1b[31m.png\n')
        kwargs = dict(list_file=str(missing))
        words = refused(capsys, LabelledFolder, place, **kwargs)
        assert r'a/\x1b[31m.png' in words


def test_checkpoints(tmp_path, capsys, logged):
    file = tmp_path / f'{HOSTILE}.pth'
    refused(capsys, read_checkpoint, file)
    file.parent.mkdir(parents=True)
    file.write_bytes(b'')
    refused(capsys, read_checkpoint, file)
    file.write_text('no checkpoint')
    refused(capsys, read_checkpoint, file)
    state = small_model().state_dict()
    torch.save(dict(state_dict=state), file)
    load_weights(small_model(), file)
    assert 'Loaded' in logged()
    state[f'backbone.{HOSTILE}'] = torch.zeros(1)
    torch.save(dict(state_dict=state), file)
    refused(capsys, load_weights, small_model(), file)


def test_commands_refuse_in_one_harmless_line(evil, capsys, tmp_path):
    weights = evil / f'weights{FAKE}.pth'
    config = tmp_path / CONFIG
    for main, words in (
        (train.main, [str(config)]),
        (evaluate.main, [str(weights)]),
        (evaluate.main, ['x.pth', '--tasks', HOSTILE]),
        (ablate.main, ['i', '--data', str(evil / 'none')]),
        (ablate.main, [HOSTILE]),
        (convert.main, [str(weights), str(evil / 'out'), '--to', 'slim']),
        (visualize.main, ['pca', str(weights), str(evil)]),
        (visualize.main, ['pair', str(evil / 'none')]),
        (visualize.main, ['curves', str(evil)]),
        (visualize.main, ['pair', str(evil), '--out', str(evil / 'x.gif')]),
    ):
        with pytest.raises(SystemExit):
            main(words)
        printed = harmless(capsys.readouterr().err)
        assert printed.startswith('error: ') and printed.count('\n') == 1


def test_names_of_configs_and_work_directories(tmp_path, capsys):
    config = tmp_path / CONFIG
    config.write_text(TINY)
    plain = tmp_path / 'plain.py'
    plain.write_text(TINY)
    for words in (
        [str(config), '--work-dir', 'run'],
        [str(plain), '--work-dir', HOSTILE],
    ):
        args = train.parse_args(words)
        assert 'control characters' in refused(capsys, train.configure, args)


def test_pages_and_pictures(evil, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    out = tmp_path / 'page.html'
    visualize.main(['pair', str(evil), '--out', str(out)])
    harmless(capsys.readouterr().out)
    page = harmless(out.read_text())
    assert '<script' not in page and '&lt;script&gt;alert(1)' in page
    visualize.main(['pair', str(evil), '--out', str(evil / 'x.png')])
    harmless(capsys.readouterr().out)
    out.unlink()
    save_figures([(FILE, new_figure(1, 1))], out, HOSTILE, CLASS)
    assert '<img src=x' not in harmless(out.read_text())


@pytest.mark.filterwarnings('error')
def test_labels_of_curves(tmp_path):
    curve = dict(iteration=[1, 2], loss=[1.0, 2.0])
    figure = draw_runs({f'$a_{{{HOSTILE}': curve, '_hidden $b$': curve})
    save_figures([('', figure)], tmp_path / 'x.png')
    (legend,) = figure.legends
    texts = [text.get_text() for text in legend.get_texts()]
    assert texts[1] == r'_hidden \$b\$'
    assert clean(HOSTILE).replace('$', r'\$') in texts[0]


@pytest.mark.parametrize('last', [FAKE, f'{FAKE}\n'])
def test_output_of_commands_that_run_others(tmp_path, capsys, last):
    """A child that prints names raw, as other libraries do."""
    script = f'print({HOSTILE[:-1] + last!r}); raise SystemExit(3)'
    with pytest.raises(SimimError) as error:
        run_logged([sys.executable, '-c', script, HOSTILE], tmp_path / 'x.log')
    harmless(str(error.value))
    printed = capsys.readouterr()
    harmless(printed.out)


def test_unpacked_errors_of_the_system(tmp_path, capsys):
    def raise_(error):
        raise error

    refused(capsys, open, tmp_path / HOSTILE)
    refused(capsys, raise_, FileNotFoundError(f'No {HOSTILE}.'))
    words = refused(capsys, open, tmp_path / ('x' * 300))
    assert 'File name too long' in words and 'Errno' not in words

    class Failing:
        def __len__(self):
            return 1

        def __getitem__(self, index):
            name = f'{HOSTILE}\nFileNotFoundError: FAKE LINE'
            raise FileNotFoundError(f'No {name}.')

    loader = DataLoader(Failing(), num_workers=1, batch_size=None)
    words = refused(capsys, list, loader)
    assert words.startswith(r'error: No x[/b]\x1b[31m')


@pytest.mark.slow
def test_a_run_with_its_logs(tmp_path, images):
    """Of the log, the scalars and TensorBoard nothing holds a raw name."""
    folder = tmp_path / HOSTILE
    for k, file in enumerate(images.iterdir()):
        place = folder / f'{k % 2}{CLASS}' / f'{k}{FILE}'
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(file.read_bytes())
    config = tmp_path / 'tiny.py'
    config.write_text(
        TINY.replace("data_root='images'", f'data_root={str(folder)!r}')
        + "custom_imports = dict(imports=['simim_plugin.evaluation'])\n"
        + f'root = {str(folder)!r}\n'
        + 'custom_hooks = [*_base_.custom_hooks, dict(type="OnlineKNN", '
        + 'train=root, val=root, interval=1)]\n'
        + 'train_cfg = dict(max_epochs=1)\n'
        + 'visualizer = dict(vis_backends=[dict(type="LocalVisBackend"), '
        + 'dict(type="TensorboardVisBackend")])\n'
    )
    try:
        printed = Run(tmp_path, config=str(config)).end()
    finally:
        end_all()
    harmless(printed, coloured=True)
    for pattern in ('*.log', '*.json', '*.py'):
        files = list((tmp_path / 'run').rglob(pattern))
        assert files
        for file in files:
            harmless(file.read_text())
    (events,) = (tmp_path / 'run').rglob('events.out.tfevents.*')
    assert b'\x1b[31m' not in events.read_bytes()
    for line in next((tmp_path / 'run').rglob('scalars.json')).open():
        json.loads(line)


def test_label_of_a_picture_with_predictions(tmp_path):
    """MMPretrain draws the names of classes by matplotlib."""
    from mmpretrain.structures import DataSample
    from mmpretrain.visualization import UniversalVisualizer

    from simim_plugin.evaluation import NamedPicturesHook

    UniversalVisualizer.get_instance(
        f'names{tmp_path}',
        vis_backends=[dict(type='LocalVisBackend')],
        save_dir=str(tmp_path),
    )._dataset_meta = dict(classes=[f'{clean(CLASS)}$\\frac$'])
    hook = NamedPicturesHook(
        enable=True, interval=1, out_dir=str(tmp_path / 'out')
    )
    names = [f'/data/{FILE}', f'/data/{"x" * 255}', f'/{"x" * 254}y']
    samples = [
        DataSample(metainfo=dict(img_path=name)).set_pred_label(0)
        for name in names
    ]
    batch = dict(inputs=torch.zeros(3, 3, 40, 40, dtype=torch.uint8))
    hook._draw_samples(0, batch, samples)
    drawn = [file.name for file in (tmp_path / 'out').iterdir()]
    assert len(drawn) == 3
    harmless('\n'.join(drawn))


@pytest.mark.parametrize('channels', [1, 2, 4, 5])
def test_pictures_of_other_channels(tmp_path, channels):
    from mmpretrain.structures import DataSample
    from mmpretrain.visualization import UniversalVisualizer

    from simim_plugin.evaluation import NamedPicturesHook

    UniversalVisualizer.get_instance(
        f'channels{tmp_path}',
        vis_backends=[dict(type='LocalVisBackend')],
        save_dir=str(tmp_path),
    )._dataset_meta = dict(classes=['a'])
    hook = NamedPicturesHook(
        enable=True,
        interval=1,
        out_dir=str(tmp_path / 'out'),
        draw_score=False,
    )
    sample = DataSample(metainfo=dict(img_path='/a.tif')).set_pred_label(0)
    levels = torch.arange(0, 50 * channels, 50, dtype=torch.uint8)
    batch = levels[None, :, None, None].expand(1, -1, 64, 64)
    hook._draw_samples(0, dict(inputs=batch), [sample])
    with Image.open(tmp_path / 'out/a.tif_0.png') as drawn:
        found = drawn.convert('RGB').getpixel((63, 63))
    assert found == ((0, 50, 100) if channels > 2 else (0, 0, 0))


def test_loading_names_the_file(tmp_path, capsys):
    load = LoadRGBImage()
    words = refused(capsys, load, dict(img_path=str(tmp_path / FILE)))
    assert clean(FILE) in words

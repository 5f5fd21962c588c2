"""Lists of pictures are read as people have them, or a line is named."""

import io
import tarfile
import zipfile

import pytest
from mmengine.config import Config
from mmengine.registry import DATASETS, DefaultScope
from mmengine.utils import import_modules_from_strings

from simim_plugin.datasets import ImageFolder
from simim_plugin.errors import SimimError
from simim_plugin.recipes.class_folders import read_class_folders
from simim_plugin.recipes.configuring import Choices, make_recipe
from simim_plugin.recipes.file_lists import read_labelled_lists, read_list
from simim_plugin.recipes.label_maps import read_label_maps
from simim_plugin.recipes.machine import Machine

from .data import label_maps, picture

CPU = Machine('CPU', 12.0, 1, gpu=False)
NAMES = [f'deep/bild {k}.png' for k in range(12)]
LABELS = ['Äpfel & Birnen', 'nut', 'nut'] * 4


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp('my lists')
    for k, name in enumerate(NAMES):
        picture(root / name, seed=k)
    (root / 'notes.md').touch()
    return root


def lines(form, labels=LABELS, names=NAMES):
    both = zip(names, labels, strict=True)
    return ''.join(form.format(name, label) + '\n' for name, label in both)


TABLES = {
    'text.txt': lines('{} {}', ['7', '10', '10'] * 4) + '\n',
    'tabs.lst': lines('{}\t{}'),
    'plain.csv': lines('{},{}'),
    'header.csv': '\ufeffid;Label;Filename\n' + lines('1;"{1}";{0}'),
    'blank.csv': '\n \n' + lines('{},{}'),
    'two.csv': 'path,animal\n' + lines('{},{}'),
    'tabs.tsv': 'image\tclass\tnote\n' + lines('{}\t{}\tx'),
}


@pytest.mark.parametrize('name', TABLES)
def test_forms_of_lists(name, root, tmp_path, monkeypatch):
    monkeypatch.chdir(root)  # paths of the list are below it
    file = tmp_path / name
    file.write_text(TABLES[name], encoding='utf-8')
    data = read_labelled_lists(str(file), None, 0.25, 0)
    names = ['7', '10'] if name == 'text.txt' else ['nut', 'Äpfel & Birnen']
    assert data.classes == sorted(names, key=len)
    assert sorted(data.counts.values()) == [3, 6]
    assert sorted(data.tested.values()) == [1, 2]
    assert data.train == str(root / 'deep')
    both = data.lists['train'] + data.lists['val']
    right = {
        f'bild {k}.png {data.classes.index(names[k % 3 == 0])}'
        for k in range(12)
    }
    if name == 'text.txt':
        right = {f'bild {k}.png {int(k % 3 > 0)}' for k in range(12)}
    assert {*both} == right
    assert data == read_labelled_lists(str(file), None, 0.25, 0)
    assert data.lists != read_labelled_lists(str(file), None, 0.25, 1).lists


@pytest.mark.parametrize(
    ('name', 'text', 'words'),
    [
        ('a.txt', 'deep/bild 0.png 1\n\nno.png 2\n', r"'no.png'.*line 3 of"),
        ('b.txt', 'deep/bild 0.png\n', r'line 1 of .* and a label'),
        ('c.csv', 'path,label\ndeep/bild 0.png,\n', 'no label in line 2'),
        ('d.csv', 'notes.md,1\n', r"'notes.md' in line 1 .* by its ending"),
        ('e.csv', 'deep/bild 0.png,1\n' * 2, 'line 2 .* stands in line 1'),
        ('f.csv', 'path,a,b\n', 'has 0 columns of labels among path, a, b'),
        ('g.csv', 'path,label\n"deep,1\n', 'Line 2 .* is no CSV'),
        ('h.csv', 'path,label\n', 'has no picture'),
        ('i.txt', b'\xff\xfe\x00', 'Cannot read the list .* as UTF-8'),
        ('j.txt', 'deep/bild 0.png 1\n', 'has 1 class,'),
        ('k.csv', lines('{},{}', range(12)), 'class 0 .* in one part only'),
    ],
    ids=lambda value: value if str(value).startswith('[a-k].') else None,
)
def test_bad_lines(name, text, words, root):
    file = root / name
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    try:
        with pytest.raises(SimimError, match=words):
            read_labelled_lists(str(file), None, 0.25, 0)
    finally:
        file.unlink()


def two_lists(root, tmp_path):
    train, val = tmp_path / 'train.csv', tmp_path / 'val.csv'
    paths = [str(root / name) for name in NAMES]
    train.write_text(lines('{},{}', LABELS[:9], paths[:9]))
    val.write_text(lines('{},{}', LABELS[9:], paths[9:]))
    return train, val


def test_two_lists(root, tmp_path):
    train, val = two_lists(root, tmp_path)
    data = read_labelled_lists(str(train), str(val), 0.2, 0)
    assert '2 classes, from 3 of Äpfel & Birnen to 6 of nut' in str(data)
    assert (len(data.lists['train']), len(data.lists['val'])) == (9, 3)
    with val.open('a') as stream:
        stream.write(f'{root / NAMES[0]},nut\n')
    with pytest.raises(SimimError, match=r'line 4 of .*val\.csv stands in'):
        read_labelled_lists(str(train), str(val), 0.2, 0)
    val.write_text(lines('{},{}', ['nuts'], [str(root / NAMES[11])]))
    with pytest.raises(SimimError, match=r"'nuts' in line 1 of"):
        read_labelled_lists(str(train), str(val), 0.2, 0)


def test_a_config_of_two_lists_reads_them(root, tmp_path):
    train, val = two_lists(root, tmp_path)
    out = tmp_path / 'mine.py'
    choices = Choices(val_data=str(val), img_size=32)
    recipe = make_recipe('classification', str(train), out, choices, CPU)
    recipe.write(out)
    config = Config.fromfile(out)
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        sets = [
            DATASETS.build(config[f'{part}_dataloader'].dataset)
            for part in ('train', 'test')
        ]
    assert [len(one) for one in sets] == [9, 3]
    for one in sets:
        assert one.metainfo['classes'] == ('nut', 'Äpfel & Birnen')
    found = {
        info['img_path']: info['gt_label']
        for one in sets
        for info in map(one.get_data_info, range(len(one)))
    }
    assert found == {
        str(root / name): int(label != 'nut')
        for name, label in zip(NAMES, LABELS, strict=True)
    }


def test_a_pretraining_on_a_list(root, tmp_path):
    file = root / 'mine.txt'
    file.write_text('\n'.join(NAMES[:9]) + '\n')
    out = tmp_path / 'mine.py'
    choices = Choices(img_size=64)
    recipe = make_recipe('pretraining', str(file), out, choices, CPU)
    recipe.write(out)
    file.unlink()
    assert recipe.data.pictures.count == 9
    settings = Config.fromfile(out).train_dataloader.dataset
    found = ImageFolder(settings.data_root, list_file=settings.list_file)
    paths = [found.get_data_info(k)['img_path'] for k in range(len(found))]
    assert paths == [str(root / name) for name in NAMES[:9]]
    whole = ImageFolder(settings.data_root)
    assert len(whole) == 12
    assert found.fingerprint != whole.fingerprint


def test_a_list_of_a_pretraining_names_what_is_missing(root):
    file = root / 'list.txt'
    file.write_text('deep/bild 0.png\n\nno.png\n')
    with pytest.raises(SimimError, match=r"'no\.png' .* line 3 of"):
        ImageFolder(str(root), list_file=str(file))
    with pytest.raises(SimimError, match=r'line 3 of'):
        read_list(str(file), labelled=False)


@pytest.mark.parametrize(
    ('task', 'val', 'words'),
    [
        ('pretraining', 'val.csv', 'val-data has no effect on pretraining'),
        ('detection', None, "file in COCO's format is its list of pictures"),
        ('segmentation', None, 'no two files .* line 1 of'),
        ('classification', 'missing.csv', 'no list missing.csv'),
    ],
)
def test_lists_without_use(task, val, words, root, tmp_path):
    train, _ = two_lists(root, tmp_path)
    out = tmp_path / 'mine.py'
    with pytest.raises(SimimError, match=words):
        make_recipe(task, str(train), out, Choices(val_data=val), CPU)


@pytest.fixture
def pairs(tmp_path):
    """Pictures and label maps of other names, and some of their lists."""
    label_maps(tmp_path, 8, (0, 7), 'photos', 'drawn/by hand')
    for k in range(8):
        mask = tmp_path / 'drawn/by hand' / f'bild {k}.png'
        mask.rename(mask.with_name(f'mask of {k}.png'))
    rows = [
        (f'photos/bild {k}.jpg', f'drawn/by hand/mask of {k}.png')
        for k in range(8)
    ]
    for name, form in PAIRED.items():
        head = {'header.csv': 'id,image,mask\n'}.get(name, '')
        lines = [form.format(k, *row) for k, row in enumerate(rows)]
        (tmp_path / name).write_text(head + '\n'.join(lines) + '\n')
    return tmp_path


PAIRED = {
    'text.txt': '{1} {2}',
    'tabs.txt': '{1}\t{2}',
    'commas.lst': '{1}, {2}',
    'plain.csv': '{1},{2}',
    'header.csv': '{0},{1},{2}',
}


@pytest.mark.parametrize('name', PAIRED)
def test_lists_of_pairs(name, pairs, tmp_path):
    """The data set of the config reads what the list names."""
    (pairs / 'classes.txt').write_text('0 ground\n7 plant\n')
    out = tmp_path / 'mine.py'
    choices = Choices(img_size=64)
    recipe = make_recipe('segmentation', str(pairs / name), out, choices, CPU)
    recipe.write(out)
    assert recipe.data.values == {0: 'ground', 7: 'plant'}
    config = Config.fromfile(out)
    import_modules_from_strings(**config.custom_imports)
    found = {}
    with DefaultScope.overwrite_default_scope('mmseg'):
        for part in ('train', 'test'):
            one = DATASETS.build(config[f'{part}_dataloader'].dataset)
            for k in range(len(one)):
                info = one.get_data_info(k)
                found[info['img_path']] = info['seg_map_path']
            sample = one[0]['data_samples'].gt_sem_seg.data
            assert {*sample.unique().tolist()} <= {0, 1, 255}
    assert found == {
        str(pairs / f'photos/bild {k}.jpg'): str(
            pairs / f'drawn/by hand/mask of {k}.png'
        )
        for k in range(8)
    }


def test_two_lists_of_pairs(pairs):
    lines = (pairs / 'plain.csv').read_text().splitlines()
    train, val = pairs / 'train.csv', pairs / 'val.csv'
    train.write_text('\n'.join(lines[:5]))
    val.write_text('\n'.join(lines[5:]))
    data = read_label_maps(str(train), 0.2, 0, val=str(val))
    assert (len(data.train.names), len(data.val.names)) == (5, 3)
    val.write_text('\n'.join(lines[4:]))
    with pytest.raises(SimimError, match=r'1 of 4 pictures .*bild 4\.jpg'):
        read_label_maps(str(train), 0.2, 0, val=str(val))
    label_maps(pairs / 'more', 3, (0, 7))
    data = read_label_maps(str(train), 0.2, 0, val=str(pairs / 'more'))
    assert (len(data.train.names), len(data.val.names)) == (5, 3)


@pytest.mark.parametrize(
    ('text', 'words'),
    [
        ('photos/bild 0.jpg\n', "no two files 'photos/bild 0.jpg'"),
        ('photos/bild 0.jpg no.png\n', "no two files .*no.png' below"),
        ('photos/bild 0.jpg photos/bild 1.jpg\n', r'endings \.png'),
        ('', 'has no pair'),
        (
            'photos/bild 0.jpg drawn/by hand/mask of 0.png\n' * 2,
            'line 2 of .* stands in line 1 too',
        ),
    ],
)
def test_bad_lines_of_pairs(text, words, pairs):
    (pairs / 'bad.txt').write_text(text)
    with pytest.raises(SimimError, match=words):
        read_label_maps(str(pairs / 'bad.txt'), 0.2, 0)


def test_archives(root, tmp_path):
    """As data of a pretraining, and two of a classification."""
    for part in ('train', 'val'):
        with zipfile.ZipFile(tmp_path / f'{part}.zip', 'w') as archive:
            for name, label in zip(NAMES, LABELS, strict=True):
                archive.write(root / name, f'{label}/{name}')
            archive.writestr('nut/broken.jpg', b'no picture')
    train, val = (str(tmp_path / f'{part}.zip') for part in ('train', 'val'))
    out = tmp_path / 'mine.py'
    recipe = make_recipe('pretraining', train, out, Choices(img_size=64), CPU)
    recipe.write(out)
    pictures = recipe.data.pictures
    assert (pictures.count, len(pictures.broken)) == (13, 1)
    settings = Config.fromfile(out).train_dataloader.dataset
    assert len(ImageFolder(settings.data_root)) == 13
    assert settings.skip_broken > 0
    with pytest.raises(SimimError, match='1 test pictures cannot be read'):
        read_class_folders(train, val, 0.2, 0)
    with pytest.raises(SimimError, match='in an archive, which is not'):
        read_class_folders(train, None, 0.2, 0)
    with pytest.raises(SimimError, match='segmentation reads pictures'):
        make_recipe('segmentation', train, out, Choices(), CPU)


def test_class_numbers_of_shards_have_no_gaps(root, tmp_path):
    def shard(file, labels):
        with tarfile.open(file, 'w') as archive:
            for k, label in enumerate(labels):
                archive.add(root / NAMES[k], f'{k}.png')
                member = tarfile.TarInfo(f'{k}.cls')
                member.size = 1
                archive.addfile(member, io.BytesIO(str(label).encode()))
        return str(file)

    train = shard(tmp_path / 'train.tar', [0, 1, 0, 1, 1])
    val = shard(tmp_path / 'val.tar', [1, 0])
    data = read_class_folders(train, val, 0.2, 0)
    assert data.counts == {'0': 2, '1': 3}
    assert data.tested == {'0': 1, '1': 1}
    gap = shard(tmp_path / 'gap.tar', [0, 2])
    with pytest.raises(SimimError, match='no picture of class 1'):
        read_class_folders(train, gap, 0.2, 0)

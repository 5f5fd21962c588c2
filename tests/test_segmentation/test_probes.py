"""Linear and nearest-neighbour probes of frozen patch features."""

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from mmengine.hooks import Hook
from torch import nn

from simim_plugin.errors import SimimError
from simim_plugin.evaluation import ClassCountHook
from simim_plugin.segmentation import KNNSegHead, LinearSegHead, probes
from simim_plugin.segmentation.probes import KNNSegLoop, label_shares

DIMS, CLASSES = 5, 3


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@given(size=st.tuples(*[st.integers(1, 3)] * 5), seed=st.integers(0, 2**16))
def test_label_shares_are_counts_per_patch(size, seed):
    batch, rows, columns, high, wide = size
    generator = torch.Generator().manual_seed(seed)
    shape = (batch, rows * high, columns * wide)
    labels = torch.randint(-1, CLASSES + 1, shape, generator=generator)
    labels[labels == CLASSES] = 255
    shares = label_shares(labels, (rows, columns), CLASSES)
    assert shares.shape == (batch, rows * columns, CLASSES)
    for b in range(batch):
        for row in range(rows):
            for column in range(columns):
                patch = labels[
                    b,
                    row * high : (row + 1) * high,
                    column * wide : (column + 1) * wide,
                ].flatten()
                counts = torch.stack(
                    [(patch == c).sum() for c in range(CLASSES)]
                )
                expected = counts / max(1, int(counts.sum()))
                got = shares[b, row * columns + column]
                torch.testing.assert_close(got, expected)


@pytest.mark.parametrize('chunk', [2**26, 1])
def test_votes_by_hand(monkeypatch, chunk):
    monkeypatch.setattr('simim_plugin.segmentation.probes._CHUNK', chunk)
    head = KNNSegHead(DIMS, CLASSES, k=4, temperature=0.2)
    memory = random(30, DIMS, seed=1)
    labels = random(30, CLASSES, seed=2).softmax(dim=1)
    head.remember(memory, labels)
    feature = random(2, DIMS, 3, 4)
    votes = head([random(1), feature])
    assert votes.shape == (2, CLASSES, 3, 4)
    for b, row, column in ((0, 0, 0), (1, 2, 3), (0, 1, 2)):
        query = feature[b, :, row, column]
        similarity = F.cosine_similarity(memory, query[None])
        nearest = sorted(range(30), key=lambda i: -similarity[i])[:4]
        weights = [(similarity[i] / 0.2).exp() for i in nearest]
        expected = sum(
            weight * labels[i]
            for weight, i in zip(weights, nearest, strict=True)
        ) / sum(weights)
        torch.testing.assert_close(votes[b, :, row, column], expected)


def test_fewer_patches_than_neighbours():
    head = KNNSegHead(DIMS, CLASSES, k=20)
    head.remember(random(2, DIMS), torch.eye(CLASSES)[:2])
    votes = head([random(1, DIMS, 2, 2)])
    torch.testing.assert_close(votes.sum(dim=1), torch.ones(1, 2, 2))


def test_nothing_remembered_is_refused():
    with pytest.raises(SimimError, match='KNNSegLoop'):
        KNNSegHead(DIMS, CLASSES)([random(1, DIMS, 2, 2)])


def test_knn_head_has_no_state():
    head = KNNSegHead(DIMS, CLASSES)
    head.remember(random(2, DIMS), torch.eye(CLASSES)[:2])
    head.init_weights()
    assert not head.state_dict()


def test_linear_head_is_linear_in_normalised_features():
    head = LinearSegHead(DIMS, CLASSES, in_index=-1)
    feature = 7 + 3 * random(4, DIMS, 2, 2)
    flat = feature.transpose(0, 1).flatten(1)  # (C, B x h x w)
    mean, std = flat.mean(dim=1), flat.std(dim=1, correction=0)
    normal = (feature - mean.view(1, -1, 1, 1)) / std.view(1, -1, 1, 1)
    weight = head.conv_seg.weight.flatten(1)
    expected = torch.einsum('bchw,lc->blhw', normal, weight)
    got = head([feature]) - head.conv_seg.bias.view(1, -1, 1, 1)
    torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-4)


class Run:
    """The part of a runner that the hook reads."""

    val_loop = None

    def __init__(self, classes):
        self.model = torch.nn.Module()
        self.model.decode_head = LinearSegHead(DIMS, CLASSES)
        metainfo = dict(classes=classes)
        pets = SimpleNamespace(data_root='data/pets', metainfo=metainfo)
        loader = SimpleNamespace(dataset=pets)
        self.train_dataloader = self.test_dataloader = loader


@pytest.mark.parametrize('stage', ['before_train', 'before_test'])
def test_heads_of_another_class_count(stage):
    hook: Hook = ClassCountHook(parts=('decode_head',))
    getattr(hook, stage)(Run(('cat', 'dog', 'sky')))
    with pytest.raises(SimimError) as caught:
        getattr(hook, stage)(Run(('cat', 'dog')))
    assert 'decode_head has 3 classes' in str(caught.value)
    assert 'data/pets has 2' in str(caught.value)


@pytest.mark.parametrize(
    ('trained', 'words'),
    [
        (('cat', 'dog', 'sky'), ''),
        (('n01', 'n02', 'n03'), ''),
        (('cat', 'dog'), ''),  # of another model
        (('dog', 'cat', 'sky'), 'another order'),
        (('cat', 'cow', 'dog'), 'label 1 is dog in the set and cow in the'),
    ],
    ids=['same', 'wnids', 'count', 'order', 'others'],
)
def test_names_of_classes(trained, words):
    """A head without weights is of no training, so it may have any."""
    hook: Hook = ClassCountHook(parts=('decode_head',))
    run = Run(('cat', 'dog', 'sky'))
    meta = dict(dataset_meta=dict(classes=trained))
    hook.after_load_checkpoint(run, dict(meta=meta))
    if words:
        with pytest.raises(SimimError, match=words):
            hook.before_test(run)
    else:
        hook.before_test(run)
    run.model.decode_head = KNNSegHead(DIMS, CLASSES)
    hook.before_test(run)


@pytest.mark.parametrize(('rank', 'expected'), [(0, 8), (1, 4), (2, 0)])
def test_repeated_images_are_remembered_once(rank, expected, monkeypatch):
    """Three images of two processes, and one process without any."""
    world = 3 if rank == 2 else 2
    images = 2 if rank == 2 else 3
    monkeypatch.setattr(probes, 'get_rank', lambda: rank)
    monkeypatch.setattr(probes, 'get_world_size', lambda: world)

    class Batches(list):
        dataset = range(images)

    labels = torch.zeros(1, 4, 4, dtype=torch.long)
    sample = SimpleNamespace(gt_sem_seg=SimpleNamespace(data=labels))
    batch = dict(inputs=torch.zeros(1, 3, 4, 4), data_samples=[sample])
    head = SimpleNamespace(
        in_channels=5,
        num_classes=2,
        _transform_inputs=lambda maps: torch.ones(1, 5, 2, 2),
    )
    model = nn.Module()
    model.decode_head = head
    model.data_preprocessor = lambda data, training: data
    model.extract_feat = lambda inputs: inputs
    loop = KNNSegLoop.__new__(KNNSegLoop)
    loop.fp16, loop.patches_per_image = False, None
    loop.train_dataloader = Batches([batch, batch])  # the second repeats
    features, shares = loop._patches(model)
    assert features.shape == (expected, 5)
    assert shares.shape == (expected, 2)

"""kNN against its definition, one image at a time."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from simim_plugin.errors import SimimError
from simim_plugin.evaluation import knn, knn_accuracy, loops


def slow_knn(train, train_labels, val, val_labels, k, temperature):
    """Compute the accuracy in numpy, one validation image at a time."""
    train = train / np.linalg.norm(train, axis=1, keepdims=True)
    hits = 0
    for feature, label in zip(val, val_labels, strict=True):
        similarity = train @ (feature / np.linalg.norm(feature))
        nearest = sorted(range(len(train)), key=lambda i: -similarity[i])[:k]
        votes = {}
        for i in nearest:
            vote = np.exp(similarity[i] / temperature)
            votes[train_labels[i]] = votes.get(train_labels[i], 0) + vote
        best = max(sorted(votes), key=votes.get)
        hits += best == label
    return 100 * hits / len(val)


def blobs(seed, train=90, val=40, classes=4, channels=6):
    """Draw overlapping classes with an accuracy far from 0 and 100 %."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(classes, channels))

    def draw(count):
        labels = rng.integers(classes, size=count)
        noise = rng.normal(size=(count, channels))
        return centres[labels] + noise, labels

    return *draw(train), *draw(val)


@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    k=st.integers(1, 120),
    temperature=st.sampled_from([0.02, 0.07, 1.0]),
)
def test_equals_the_definition(seed, k, temperature):
    data = blobs(seed)
    expected = slow_knn(*data, k, temperature)
    got = knn_accuracy(*map(torch.tensor, data), (k,), temperature)
    assert got == {k: pytest.approx(expected)}


def test_several_ks_equal_each_alone():
    data = [torch.tensor(part) for part in blobs(1)]
    together = knn_accuracy(*data, temperature=1.0)
    assert list(together) == [10, 20, 100, 200]
    assert len(set(together.values())) > 1
    for k, accuracy in together.items():
        assert knn_accuracy(*data, [k], 1.0) == {k: accuracy}


def test_chunks_change_nothing(monkeypatch):
    data = [torch.tensor(part) for part in blobs(2)]
    whole = knn_accuracy(*data)
    monkeypatch.setattr(knn, '_CHUNK', 3 * len(data[0]) + 1)
    assert knn_accuracy(*data) == whole


def test_near_vote_outweighs_two_far_ones():
    # One image at similarity 1 outweighs two at 0.8: exp(0.2 / 0.07) > 2.
    near, far = [1.0, 0.0], [0.8, 0.6]
    train = torch.tensor([near, far, far])
    labels = torch.tensor([1, 0, 0])
    val, val_label = torch.tensor([near]), torch.tensor([1])
    assert knn_accuracy(train, labels, val, val_label, [3]) == {3: 100.0}
    flat = knn_accuracy(train, labels, val, val_label, [3], temperature=1.0)
    assert flat == {3: 0.0}


def test_first_class_wins_a_tied_vote():
    train = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    val = torch.tensor([[1.0, 0.0]])
    for order in ([0, 1], [1, 0]):
        labels = torch.tensor(order)
        for label, accuracy in ((0, 100.0), (1, 0.0)):
            got = knn_accuracy(train, labels, val, torch.tensor([label]), [2])
            assert got == {2: accuracy}


def test_scale_of_features_is_ignored():
    train, train_labels, val, val_labels = map(torch.tensor, blobs(3))
    scaled = train * torch.rand(len(train), 1).add(0.1), train_labels
    assert knn_accuracy(*scaled, val / 7, val_labels) == knn_accuracy(
        train, train_labels, val, val_labels
    )


def test_half_precision_is_computed_in_float32():
    train, train_labels, val, val_labels = map(torch.tensor, blobs(4))
    # In float16 the squared norm of these large values would overflow.
    half = (100 * train).half(), train_labels, (100 * val).half(), val_labels
    wide = half[0].float(), train_labels, half[2].float(), val_labels
    assert knn_accuracy(*half) == knn_accuracy(*wide)


def test_k_above_the_training_images_uses_them_all():
    data = [torch.tensor(part) for part in blobs(5, train=30)]
    assert knn_accuracy(*data, [30])[30] == knn_accuracy(*data, [999])[999]


def test_class_without_training_images_is_never_predicted():
    train, val = torch.eye(2), torch.eye(2)
    labels = torch.tensor([0, 1])
    got = knn_accuracy(train, labels, val, torch.tensor([0, 7]), [1])
    assert got == {1: 50.0}


@pytest.mark.parametrize('value', [float('nan'), float('inf')])
@pytest.mark.parametrize('where', [0, 2])
def test_non_finite_features_are_refused(value, where):
    data = [torch.tensor(part) for part in blobs(6)]
    data[where][3, 2] = value
    name = 'training' if where == 0 else 'validation'
    with pytest.raises(SimimError, match=f'{name} features of 1 of .*finite'):
        knn_accuracy(*data)


def test_mismatched_shapes_are_refused():
    train, train_labels, val, val_labels = map(torch.tensor, blobs(7))
    with pytest.raises(SimimError, match='one label per image'):
        knn_accuracy(train, train_labels[1:], val, val_labels)
    with pytest.raises(SimimError, match='same model and pooling'):
        knn_accuracy(train, train_labels, val[:, 1:], val_labels)
    with pytest.raises(SimimError, match='at least one image'):
        knn_accuracy(train, train_labels, val[:0], val_labels[:0])
    with pytest.raises(SimimError, match='1 or more'):
        knn_accuracy(train, train_labels, val, val_labels, ks=[0])


def test_one_class_is_refused():
    features = torch.eye(4)
    labels = torch.zeros(4, dtype=torch.long)
    with pytest.raises(SimimError, match='of 1 class; kNN needs'):
        knn_accuracy(features, labels, features, labels)


def test_numbers_beyond_the_training_images_are_named(monkeypatch):
    lines = []
    monkeypatch.setattr(
        loops, 'print_log', lambda line, **_: lines.append(line)
    )
    labelled = torch.eye(5), torch.tensor([0, 0, 1, 1, 1])
    scores = loops.KNNClassifier(ks=(3, 10, 20))(labelled, labelled)
    assert scores['knn/top1_k10'] == scores['knn/top1_k20']
    (line,) = lines
    assert 'k = 10, 20 take all' in line

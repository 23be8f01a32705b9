"""Batches that are computed one by one: the rules of `ClassBatches`, whose draws alone differ."""

import numpy as np
import pytest

from tercet.data import class_index
from tercet.data.class_index import ClassIndex
from tercet.data.indexed import IndexedBatches
from tercet.data.permutation import keys, permuted
from tercet.data.samplers import ClassBatches
from tercet.errors import ConfigError, DataError, InputError


def ragged(classes=40, most=30):
    generator = np.random.default_rng(classes)
    return generator.permutation(np.repeat(np.arange(classes), generator.integers(1, most, classes)))


@pytest.mark.parametrize("n", [1, 2, 3, 5, 16, 17, 1000])
def test_permutations_hold_every_number_once(n):
    key = np.repeat(keys(3, np.arange(2)), n)
    found = permuted(np.tile(np.arange(n), 2), np.full(2 * n, n), key).reshape(2, n)
    assert all(sorted(row) == list(range(n)) for row in found.tolist())
    assert n < 5 or not np.array_equal(found[0], found[1])


@pytest.mark.parametrize("n", [2, 3, 4])
def test_permutations_of_a_few_are_nearly_equally_likely(n):
    rounds = 12000
    key = keys(5, np.arange(rounds))
    rows = np.stack([permuted(np.full(rounds, place), np.full(rounds, n), key) for place in range(n)], axis=1)
    found, counts = np.unique(rows, axis=0, return_counts=True)
    assert len(found) == np.prod(np.arange(1, n + 1))
    assert np.abs(counts * len(found) / rounds - 1).max() < 0.2


@pytest.mark.parametrize("size", [2, 3, 4, 7])
@pytest.mark.parametrize("sampling", ["size", "root", "class"])
def test_groups_are_those_of_class_batches(size, sampling):
    labels = ragged()
    plain = ClassBatches(labels, 5, size, 1, class_sampling=sampling)
    batches = IndexedBatches(ClassIndex.build(labels), 5, size, 1, class_sampling=sampling)
    for epoch in range(4):
        expected, found = plain.deal(epoch), batches.deal(epoch)
        assert [labels[one].tolist() for one in found] == [labels[one].tolist() for one in expected]


@pytest.mark.parametrize("size", [2, 3, 4, 7])
def test_every_sample_is_dealt_equally_often_and_never_twice_in_a_group(size):
    labels = ragged()
    sizes = np.bincount(labels)
    batches = IndexedBatches(ClassIndex.build(labels), 5, size, 1)
    count = np.zeros(len(labels), dtype=int)
    for epoch in range(2 * size):
        for batch in batches.deal(epoch):
            np.add.at(count, batch, 1)
            while len(batch):
                own = sizes[labels[batch[0]]]
                group, batch = np.split(batch, [1 if own == 1 else size])
                assert len(set(group)) == min(own, size)
                assert len(set(labels[group])) == 1
    assert (count[sizes[labels] >= size] == 2 * size).all()


def test_goes_on_where_a_state_was_taken(monkeypatch):
    monkeypatch.setattr("tercet.data.indexed.BLOCK", 60)
    index = ClassIndex.build(ragged())
    first, second = IndexedBatches(index, 5, 4, 1), IndexedBatches(index, 5, 4, 1)
    whole = [batch for epoch in range(2) for batch in first.deal(epoch)]
    for _ in range(len(first) + 3):
        first.next()
    state = first.state()
    second.restore(state)
    after = [second.next().tolist() for _ in range(10)]
    assert after == [first.next().tolist() for _ in range(10)]
    assert after == [batch.tolist() for batch in whole][first.count(0) + 3 : first.count(0) + 13]
    with pytest.raises(ConfigError, match="seed"):
        IndexedBatches(index, 5, 4, 2).restore(state)
    with pytest.raises(ConfigError, match="does not have"):
        second.restore(state | {"cursor": 10_000})


@pytest.mark.parametrize("dropped", [False, True])
def test_singletons(dropped):
    labels = np.array([0, 0, 1, 2, 2, 2, 3])
    batches = IndexedBatches(ClassIndex.build(labels), 4, 2, 0, "drop" if dropped else "negatives")
    used = set(labels[np.concatenate(batches.deal(0))])
    assert used == ({0, 2} if dropped else {0, 1, 2, 3})
    assert ("Left out" if dropped else "Negatives only") in batches.summary()


@pytest.mark.parametrize("labels", [[0, 0, 0], [0, 1, 2], []])
def test_too_few_classes(labels):
    with pytest.raises((DataError, ValueError)):
        IndexedBatches(ClassIndex.build(np.array(labels, dtype=np.int64)), 2, 2)
    with pytest.raises(InputError, match="samples_per_class 1"):
        IndexedBatches(ClassIndex.build(np.array([0, 0, 1])), 2, 1)


def test_an_index_in_files_equals_one_in_memory(tmp_path, monkeypatch):
    labels = ragged()
    expected = ClassIndex.build(labels)
    monkeypatch.setattr(class_index, "CHUNK", 37)
    for _ in range(2):  # the second replaces the first
        found = ClassIndex.build(labels.astype(np.int32), tmp_path / "index")
        assert np.array_equal(found.rows, expected.rows)
        assert np.array_equal(found.offsets, expected.offsets)
    assert all(
        expected.rows[expected.offsets[c] : expected.offsets[c + 1]].tolist() == np.flatnonzero(labels == c).tolist()
        for c in range(len(expected))
    )

import json
import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tercet.data.randomness import keyed
from tercet.data.records import Records
from tercet.data.samplers import ClassBatches, TupleBatches
from tercet.data.split import hold_out
from tercet.errors import ConfigError, DataError, InputError


def labels_of(sizes, seed=0):
    labels = np.repeat(np.arange(len(sizes)), sizes)
    return np.random.default_rng(seed).permutation(labels)


def epoch_of(sampler):
    return [sampler.next() for _ in range(len(sampler))]


sizes = st.lists(st.integers(1, 23), min_size=2, max_size=9).filter(lambda s: max(s) > 1)


@settings(max_examples=60, deadline=None)
@given(sizes, st.integers(2, 5), st.integers(2, 7), st.integers(0, 99))
def test_every_sample_is_used_equally_often_over_epochs(sizes, per_batch, size, seed):
    labels = labels_of(sizes, seed)
    sampler = ClassBatches(labels, per_batch, size, seed)
    used = Counter()
    for epoch in range(1, 9):
        used.update(int(i) for batch in epoch_of(sampler) for i in batch)
        for c, n in enumerate(sizes):
            counts = [used[i] for i in np.flatnonzero(labels == c)]
            if n == 1:
                assert counts == [epoch]
            elif n >= size:  # groups of K, with what is left over carried on
                dealt = size * (epoch * n // size)
                assert sum(counts) == dealt
                assert set(counts) <= {dealt // n, math.ceil(dealt / n)}
            else:  # one group an epoch: every sample, then some again
                assert sum(counts) == size * epoch
                assert min(counts) >= size // n * epoch
                assert max(counts) <= math.ceil(size / n) * epoch


@settings(max_examples=60, deadline=None)
@given(sizes, st.integers(2, 5), st.integers(2, 7), st.integers(0, 99))
def test_a_group_holds_one_class_and_no_sample_twice(sizes, per_batch, size, seed):
    labels = labels_of(sizes, seed)
    sampler = ClassBatches(labels, per_batch, size, seed)
    for _ in range(5):
        for batch in epoch_of(sampler):
            start = 0
            while start < len(batch):
                c = labels[batch[start]]
                group = batch[start : start + (1 if sizes[c] == 1 else size)]
                assert (labels[group] == c).all()
                if sizes[c] >= size:
                    assert len(set(group.tolist())) == len(group) == size
                else:
                    counts = Counter(group.tolist())
                    assert len(counts) == sizes[c]
                    assert max(counts.values()) - min(counts.values()) <= 1
                start += len(group)


@settings(max_examples=60, deadline=None)
@given(sizes, st.integers(2, 5), st.integers(2, 7), st.integers(0, 99))
def test_batches_are_even_and_spread_each_class(sizes, per_batch, size, seed):
    labels = labels_of(sizes, seed)
    sampler = ClassBatches(labels, per_batch, size, seed)
    for epoch in range(4):
        batches = epoch_of(sampler)
        groups = [  # groups in a batch of each class
            Counter({c: int((labels[b] == c).sum()) // (1 if sizes[c] == 1 else size) for c in set(labels[b].tolist())})
            for b in batches
        ]
        per = [sum(one.values()) for one in groups]
        assert len(batches) == math.ceil(sum(per) / per_batch)
        assert max(per) - min(per) <= 1
        assert max(per) <= per_batch
        for c, n in enumerate(sizes):
            total = sum(one[c] for one in groups)
            expected = 1 if n < size else (epoch + 1) * n // size - epoch * n // size
            assert total == expected
            assert max(one[c] for one in groups) == math.ceil(total / len(batches))


@settings(max_examples=40, deadline=None)
@given(sizes, st.integers(0, 40), st.integers(0, 99))
def test_a_restored_sampler_goes_on_the_same(sizes, steps, seed):
    labels = labels_of(sizes, seed)
    sampler = ClassBatches(labels, 3, 5, seed)
    for _ in range(steps):
        sampler.next()
    state = json.loads(json.dumps(sampler.state()))
    other = ClassBatches(labels, 3, 5, seed)
    other.restore(state)
    assert (other.epoch, other.cursor, len(other)) == (sampler.epoch, sampler.cursor, len(sampler))
    for _ in range(30):
        np.testing.assert_array_equal(other.next(), sampler.next())


def test_the_batches_depend_on_the_seed_and_the_epoch():
    labels = labels_of([7] * 11)
    one, same, other = (ClassBatches(labels, 4, 3, seed) for seed in (1, 1, 2))
    first, second = epoch_of(one), epoch_of(one)
    assert all((a == b).all() for a, b in zip(first, epoch_of(same), strict=True))
    assert any(a.tolist() != b.tolist() for a, b in zip(first, second, strict=False))
    assert any(a.tolist() != b.tolist() for a, b in zip(first, epoch_of(other), strict=False))


def test_a_class_is_dealt_alike_whatever_the_other_classes_have():
    """Randomness is keyed by the class: another class's growth does not change this one's groups."""
    few, many = labels_of([9, 9, 9]), labels_of([9, 9, 40])
    groups = []
    for labels in (few, many):
        sampler = ClassBatches(labels, 2, 4, seed=3)
        members = np.flatnonzero(labels == 0)
        groups.append([np.searchsorted(members, g).tolist() for g in sampler.groups(0, 5)])
    assert groups[0] == groups[1]


def test_a_long_tail_loses_nothing():
    sizes = [500, 120, 40, 13, 5, 4, 3, 2, 2, 1, 1]
    labels = labels_of(sizes)
    sampler = ClassBatches(labels, 4, 4)
    seen = np.unique(np.concatenate(epoch_of(sampler) + epoch_of(sampler)))
    assert len(seen) == len(labels)
    assert sampler.summary() == (
        "44 batches an epoch, each of up to 4 classes × 4 samples, from 691 samples in 11 classes. "
        "Drawn again to fill up 4 samples: 3 classes with fewer. Negatives only: 2 classes of one sample. "
        "Too large to be in a batch only once: 1 class."
    )


def test_batches_of_a_single_class_are_said():
    sampler = ClassBatches(labels_of([90, 3]), 2, 3)
    assert len(sampler) == 16
    assert sampler.summary() == (
        "16 batches an epoch, each of up to 2 classes × 3 samples, from 93 samples in 2 classes. "
        "Too large to be in a batch only once: 1 class. Without a negative, of a single class: 15 of 16 "
        "batches."
    )


def test_the_batches_of_an_epoch_come_in_any_order():
    """The one batch with a sample of the small class is not always the first or the last."""
    labels = labels_of([90, 3])
    sampler = ClassBatches(labels, 2, 3)
    places = set()
    for _ in range(30):
        places |= {place for place, batch in enumerate(epoch_of(sampler)) if (labels[batch] == 1).any()}
    assert len(places) > 8


def test_more_classes_asked_for_than_there_are_is_said():
    sampler = ClassBatches(labels_of([20, 20, 20]), 7, 4)
    assert sorted(len(batch) for batch in epoch_of(sampler)) == [20, 20, 20]
    assert "There are fewer than 7 classes, so a batch holds some of them more than once." in sampler.summary()


def test_singletons_can_be_left_out():
    labels = labels_of([4, 4, 1, 1, 1])
    sampler = ClassBatches(labels, 3, 2, singletons="drop")
    assert set(np.concatenate(epoch_of(sampler)).tolist()) == set(np.flatnonzero(labels < 2).tolist())
    assert "Left out: 3 classes of one sample." in sampler.summary()


def test_positions_are_int64_and_labels_may_have_any_codes():
    sampler = ClassBatches(np.array([10**12, 5, 10**12, 5], dtype=np.int64), 2, 2)
    (batch,) = epoch_of(sampler)
    assert batch.dtype == np.int64
    assert sorted(batch.tolist()) == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("sizes", "p", "k", "singletons", "error", "message"),
    [
        (
            [4, 4],
            1,
            2,
            "negatives",
            InputError,
            "classes_per_batch is 1; allowed is a whole number from 2 up.",
        ),
        (
            [4, 4],
            2,
            1,
            "negatives",
            InputError,
            "samples_per_class is 1; allowed is a whole number from 2 up.",
        ),
        (
            [4],
            2,
            2,
            "negatives",
            DataError,
            "Classes to train with: 1; at least two are needed to tell apart.",
        ),
        (
            [4, 1],
            2,
            2,
            "drop",
            DataError,
            "Classes to train with: 1 (left out: 1 of one sample); at least two are needed to tell apart.",
        ),
        (
            [1, 1, 1],
            2,
            2,
            "negatives",
            DataError,
            "None of the 3 classes has two samples, so nothing is like anything else.",
        ),
        ([4, 4], 2, 2, "dropped", InputError, None),
    ],
)
def test_what_cannot_be_dealt(sizes, p, k, singletons, error, message):
    with pytest.raises(error) as caught:
        ClassBatches(labels_of(sizes), p, k, singletons=singletons)
    if message:
        assert str(caught.value) == message


def test_a_state_of_other_data_is_refused():
    sampler = ClassBatches(labels_of([9, 9, 9]), 2, 2, seed=4)
    with pytest.raises(ConfigError, match=r"The state is of seed 5; this is 4"):
        sampler.restore({**sampler.state(), "seed": 5})
    with pytest.raises(ConfigError, match=r"The state is at batch 900, which epoch 0"):
        sampler.restore({**sampler.state(), "cursor": 900})
    with pytest.raises(ConfigError, match=r"'TupleBatches'"):
        sampler.restore(TupleBatches(5, 2, seed=4).state())


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 50), st.integers(1, 20), st.integers(0, 9))
def test_tuples_come_once_an_epoch(count, rows, seed):
    sampler = TupleBatches(count, rows, seed)
    orders = []
    for _ in range(3):
        batches = epoch_of(sampler)
        assert len(batches) == math.ceil(count / rows)
        assert max(map(len, batches)) - min(map(len, batches)) <= 1
        orders.append(np.concatenate(batches).tolist())
        assert sorted(orders[-1]) == list(range(count))
    sampler.next()
    other = TupleBatches(count, rows, seed)
    other.restore(sampler.state())
    np.testing.assert_array_equal(other.next(), sampler.next())


def test_seeds_are_checked():
    with pytest.raises(InputError, match=r"seed is -1"):
        keyed(-1, "deal")


# Held-out data


def labelled(sizes, kind="tabular"):
    labels = labels_of(sizes)
    items = np.arange(len(labels), dtype=np.float32)[:, None]
    names = [f"row {i + 1}" for i in range(len(labels))]
    classes = tuple(f"c{c}" for c in range(len(sizes)))
    return Records(kind, items, names, labels, classes, None, None, ("x",), (), "here", "")


def tuples(rows, similar=None):
    rows = np.array(rows, dtype=np.int64)
    items = [f"text {i}" for i in range(rows.max() + 1)]
    return Records("text", items, items, None, (), rows, similar, (), (), "here", "")


def items_of(records):
    return {records.items[i] for i in np.unique(records.tuples)}


def test_whole_classes_are_held_out():
    records = labelled([5, 4, 6, 3, 5, 5, 2, 1, 1, 7])
    train, held, sentence = hold_out(records, share=0.25, seed=3)
    assert not set(train.classes) & set(held.classes)
    assert set(train.classes) | set(held.classes) == set(records.classes)
    assert len(train) + len(held) == len(records)
    assert (np.bincount(held.labels) > 1).sum() == 2
    assert held.items[:, 0].tolist() == [float(name.split()[1]) - 1 for name in held.names]
    assert sentence == (
        f"Held out for validation: {len(held.classes)} classes of 10 ({len(held)} of 39 samples), "
        "which training does not see."
    )
    again = hold_out(records, share=0.25, seed=3)[1]
    assert again.names == held.names
    assert any(hold_out(records, share=0.25, seed=seed)[1].names != held.names for seed in range(5))


def test_few_classes_give_rows():
    records = labelled([10, 3, 20, 4])
    train, held, sentence = hold_out(records, share=0.2, seed=1)
    counts = {name: int(n) for name, n in zip(held.classes, np.bincount(held.labels), strict=True)}
    assert counts == {"c0": 2, "c2": 4, "c3": 2}
    assert np.bincount(train.labels).tolist() == [8, 3, 16, 2]
    assert not set(train.names) & set(held.names)
    assert sentence == (
        "Held out for validation: 8 of 37 samples, at least 2 of each of 3 classes; 1 class with fewer than "
        "4 keep theirs. Training sees these classes."
    )


def test_too_little_to_hold_out():
    with pytest.raises(DataError, match=r"here has 1 class with 4 samples"):
        hold_out(labelled([9, 2, 2]))
    with pytest.raises(DataError, match=r"here has 3 classes with two samples; to hold out whole classes"):
        hold_out(labelled([9, 2, 2]), by="class")
    with pytest.raises(InputError, match=r"holdout is 1.5; allowed is a number between 0 and 1"):
        hold_out(labelled([9, 9]), share=1.5)


def test_training_keeps_enough_whatever_the_share():
    train, held, _ = hold_out(labelled([5] * 6), share=0.99)
    assert (len(train.classes), len(held.classes)) == (2, 4)
    train, held, _ = hold_out(labelled([5] * 6), share=0.01)
    assert (len(train.classes), len(held.classes)) == (4, 2)
    train, _, _ = hold_out(labelled([9, 9]), share=0.99)
    assert np.bincount(train.labels).tolist() == [2, 2]


def test_tuples_are_held_out_without_shared_items():
    chains = [(3 * i + j, 3 * i + (j + 1) % 3, 99 + i) for i in range(33) for j in range(3)]
    records = tuples(chains)
    train, held, sentence = hold_out(records, share=0.2, seed=2)
    assert not items_of(train) & items_of(held)
    assert 15 <= len(held.tuples) <= 20
    assert len(train.tuples) + len(held.tuples) == 99
    assert sentence == (
        f"Held out for validation: {len(held.tuples)} of 99 triplets; training sees none of their items."
    )


def test_tuples_that_all_share_items_are_held_out_by_row():
    rows = [(0, i) for i in range(1, 11)]
    marks = np.array([i % 2 == 0 for i in range(10)])
    train, held, sentence = hold_out(tuples(rows, marks), share=0.3, seed=2)
    assert (len(train.tuples), len(held.tuples), len(held.similar)) == (7, 3, 3)
    assert held.form == "marked-pairs"
    for part in (train, held):  # marks stay with their rows
        for (_, item), mark in zip(part.tuples, part.similar, strict=True):
            number = int(part.items[item].split()[1])
            assert mark == marks[number - 1]
    assert sentence == (
        "Held out for validation: 3 of 10 pairs; drawn row by row: training may see their items in other rows."
    )

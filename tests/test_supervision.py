"""Supervision: the loss of a batch and its statistics, from the definition."""

import numpy as np
import pytest
import torch

import tercet
from tercet.data import read
from tercet.training.config import BatchOptions
from tercet.training.supervision import make_supervision, whole_loss

OPTIONS = BatchOptions(classes_per_batch=3, samples_per_class=2, rows_per_batch=5)


def records_of(tmp_path, lines):
    (tmp_path / "table.csv").write_text("\n".join(lines) + "\n")
    return read(str(tmp_path / "table.csv"))


def embeddings_of(count):
    return torch.randn(count, 3, generator=torch.Generator().manual_seed(0)).double()


def distance(a, b):
    return float(torch.sqrt(((a - b) ** 2).sum()))


def test_given_triplets(tmp_path):
    rows = [("a", "b", "c"), ("b", "a", "d"), ("c", "d", "a"), ("a", "e", "f"), ("e", "a", "c")]
    records = records_of(tmp_path, ["anchor,positive,negative", *(",".join(row) for row in rows)])
    x = embeddings_of(len(records))
    place = {text: i for i, text in enumerate(records.items)}
    z = [distance(x[place[a]], x[place[p]]) + 0.4 - distance(x[place[a]], x[place[n]]) for a, p, n in rows]
    loss = tercet.TripletLoss(0.4, reduction="mean")
    assert whole_loss(records, loss, x.numpy()) == pytest.approx(sum(max(0, one) for one in z) / 5, rel=1e-12)

    supervision = make_supervision(records, OPTIONS, loss, seed=0)
    batch = supervision.next()
    _, statistics = supervision(x[batch.positions], batch)
    active = sum(one > 0 for one in z)
    assert 0 < active < 5
    figures = statistics()
    assert (figures["n_active"], figures["active_share"]) == (active, active / 5)
    near = [distance(x[place[a]], x[place[p]]) for a, p, _ in rows]
    assert figures["mean_positive"] == pytest.approx(np.mean(near), rel=1e-12)


def test_marked_pairs(tmp_path):
    rows = [("a", "b", 1), ("a", "c", 0), ("b", "d", 0), ("c", "d", 1), ("e", "a", 0)]
    records = records_of(tmp_path, ["left,right,similar", *(f"{a},{b},{mark}" for a, b, mark in rows)])
    x = embeddings_of(len(records)) / 2
    place = {text: i for i, text in enumerate(records.items)}
    d = [distance(x[place[a]], x[place[b]]) for a, b, _ in rows]
    marks = [mark for _, _, mark in rows]
    expected = [far**2 if mark else max(0, 0.9 - far) ** 2 for far, mark in zip(d, marks, strict=True)]
    loss = tercet.TripletLoss(0.9)
    assert whole_loss(records, loss, x.numpy()) == pytest.approx(np.mean(expected), rel=1e-12)
    supervision = make_supervision(records, OPTIONS, loss, seed=0)
    batch = supervision.next()
    figures = supervision(x[batch.positions], batch)[1]()
    assert figures["n_active"] == sum(far > 0 if mark else far < 0.9 for far, mark in zip(d, marks, strict=True))
    assert figures["mean_negative"] == pytest.approx(
        np.mean([far for far, mark in zip(d, marks, strict=True) if not mark])
    )


def test_a_sample_drawn_twice_is_never_its_own_positive(tmp_path):
    """Two classes of two samples in groups of three: the third is one of the two again."""
    data = (np.arange(8.0).reshape(4, 2), np.array([0, 0, 1, 1]))
    options = BatchOptions(classes_per_batch=2, samples_per_class=3)
    loss = tercet.TripletLoss(0.2)
    supervision = make_supervision(read(data), options, loss, seed=0)
    batch = supervision.next()
    assert len(batch.positions) == 6
    supervision(embeddings_of(4)[batch.positions], batch)
    pairs = sum(a != b and a // 2 == b // 2 for a in batch.positions for b in batch.positions)
    assert loss.stats.to_dict()["n_valid"] == pairs * 3


def test_each_item_of_pairs_is_encoded_once(tmp_path):
    records = records_of(tmp_path, ["left,right", "a,b", "b,c", "d,e", "f,g", "h,i"])
    supervision = make_supervision(records, OPTIONS, tercet.TripletLoss(), seed=0)
    batch = supervision.next()
    assert sorted(batch.positions.tolist()) == list(range(9))
    labels = dict(zip(batch.positions.tolist(), batch.targets.tolist(), strict=True))
    assert len(set(labels.values())) == 4


def test_epochs_are_counted_without_moving_on(tmp_path):
    data = (np.zeros((14, 2)), np.array([0] * 5 + [1] * 5 + [2] * 4))
    supervision = make_supervision(read(data), BatchOptions(2, 3), tercet.TripletLoss(), seed=0)
    before = supervision.sampler.state()
    steps = supervision.count_steps(3)
    assert supervision.sampler.state() == before
    for _ in range(steps):
        assert supervision.sampler.epoch < 3
        supervision.next()
    assert (supervision.sampler.epoch, supervision.sampler.cursor) == (3, 0)

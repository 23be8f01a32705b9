"""Geometry and clustering against their definitions, by plain loops."""

import math
from itertools import combinations

import numpy as np
import pytest

from tercet.errors import DataError, InputError
from tercet.evaluation import clustering, evaluate_embeddings, evaluate_tuples, geometry
from tercet.evaluation.clustering import with_clusters


def world(seed=0, n=23, dim=4):
    rng = np.random.default_rng(seed)
    labels = rng.integers(5, size=n)
    return rng.normal(size=(5, dim))[labels] + 0.5 * rng.normal(size=(n, dim)), labels


def test_figures_are_their_definitions():
    rows, labels = world()
    found = geometry.geometry(rows, labels)
    values = np.linalg.svd(rows - rows.mean(0))[1]
    share = values / values.sum()
    assert found.spectrum == pytest.approx(share.tolist())
    assert found.metrics["effective_rank"] == pytest.approx(math.exp(-sum(p * math.log(p) for p in share)))
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    values = np.linalg.svd(unit)[1]
    decay = sum(1 / 4 * math.log(1 / 4 / p) for p in values / values.sum())
    assert found.metrics["spectral_decay"] == pytest.approx(decay)
    pairs = list(combinations(range(len(rows)), 2))
    distance = {pair: np.linalg.norm(unit[pair[0]] - unit[pair[1]]) for pair in pairs}
    same = [pair for pair in pairs if labels[pair[0]] == labels[pair[1]]]
    assert found.metrics["alignment"] == pytest.approx(np.mean([distance[pair] ** 2 for pair in same]))
    uniformity = math.log(np.mean([math.exp(-2 * distance[pair] ** 2) for pair in pairs]))
    assert found.metrics["uniformity"] == pytest.approx(uniformity)
    classes = np.unique(labels)
    intra = np.mean([np.mean([distance[pair] for pair in same if labels[pair[0]] == c]) for c in classes])
    means = [unit[labels == c].mean(0) for c in classes]
    inter = np.mean([np.linalg.norm(a - b) for a, b in combinations(means, 2)])
    assert found.metrics["intra_inter_ratio"] == pytest.approx(intra / inter)
    assert found.missing == {}
    assert found.note is None


def test_samples_stand_for_all(monkeypatch):
    rows, labels = world(n=300)
    whole = geometry.geometry(rows, labels)
    monkeypatch.setattr(geometry, "MOST_PAIRS", 8_000)
    monkeypatch.setattr(geometry, "MOST_PRODUCTS", 250 * 16)
    part = geometry.geometry(rows, labels)
    assert part.note == (
        "Alignment, uniformity and the intra/inter ratio are from 8,000 pairs. The spectrum is of 250 items."
    )
    for name, value in whole.metrics.items():
        assert part.metrics[name] == pytest.approx(value, rel=0.05), name
    assert part.metrics["uniformity"] != whole.metrics["uniformity"]
    assert geometry.geometry(rows, labels) == part


def test_what_geometry_cannot_tell():
    rows, labels = world()
    flat = np.concatenate([rows, np.zeros((23, 1))], axis=1)
    assert geometry.geometry(flat, labels).missing == {
        "spectral_decay": "the embeddings span 4 of 5 dimensions, which makes it infinite"
    }
    zero = geometry.geometry(np.concatenate([rows, np.zeros((1, 4))]), np.append(labels, 1))
    assert zero.metrics["effective_rank"] is not None
    assert zero.missing["alignment"] == "embeddings without a direction, all zero: 1"
    alone = geometry.geometry(rows, np.arange(23))
    assert alone.missing["intra_inter_ratio"] == alone.missing["alignment"] == "no class has two members"
    assert geometry.geometry(rows, np.zeros(23, dtype=int)).missing["intra_inter_ratio"] == "there is a single class"
    one = geometry.geometry(np.ones((5, 3)), np.array([0, 0, 1, 1, 1]))
    assert one.metrics["effective_rank"] == 1
    assert one.missing["intra_inter_ratio"] == "all classes have one mean"
    assert set(geometry.geometry(rows[:1], labels[:1]).missing.values()) == {"needs at least 2 items; there are 1"}


def test_an_evaluation_holds_them_where_it_is_whole():
    rows, labels = world()
    whole, quick = (evaluate_embeddings(rows, labels, intervals=intervals) for intervals in (True, False))
    assert whole.metrics["uniformity"] < 0
    assert len(whole.spectrum) == 4
    assert "uniformity" not in quick.metrics
    assert quick.spectrum == []


def test_clusters():
    labels = np.repeat(np.arange(6), 7)
    rng = np.random.default_rng(0)
    rows = 9 * np.eye(6)[labels] + rng.normal(size=(42, 6))
    found = with_clusters(evaluate_embeddings(rows, labels), rows, labels, "euclidean")
    assert [found.metrics[name] for name in ("nmi", "ami", "ari")] == pytest.approx([1, 1, 1])
    assert found.metrics["n_clusters"] == 6
    stretched = rows * rng.uniform(0.01, 100, size=(42, 1))  # the same directions
    by_cosine = with_clusters(found, stretched, labels, "cosine")
    assert by_cosine.metrics["ari"] == pytest.approx(1)
    assert with_clusters(found, stretched, labels, "euclidean").metrics["ari"] < 0.5
    noise = rng.normal(size=(42, 6))
    by_lot = with_clusters(found, noise, labels, "euclidean")
    assert by_lot.metrics["nmi"] > by_lot.metrics["ami"] + 0.1  # the bias
    assert with_clusters(found, noise, labels, "euclidean") == by_lot
    assert with_clusters(found, noise, labels, "euclidean", seed=5).metrics != by_lot.metrics


def test_many_items_are_clustered_by_batches(monkeypatch):
    monkeypatch.setattr(clustering, "MOST_ITEMS", 41)
    labels = np.repeat(np.arange(6), 7)
    rows = 9 * np.eye(6)[labels]
    found = with_clusters(evaluate_embeddings(rows, labels), rows, labels, "euclidean")
    assert found.notes[-1] == "Clusters are by MiniBatchKMeans, there being more than 41 items."
    with pytest.raises(DataError, match="clustering needs at least two classes; there are 1"):
        with_clusters(found, rows, np.zeros(42, dtype=int), "euclidean")


def test_triplets_with_a_margin():
    embeddings = [[0.0], [1.0], [-1.0], [2.0]]
    triplets = [[0, 1, 3], [0, 3, 1], [0, 1, 2], [1, 0, 3], [3, 1, 0]]  # by 1, -1, 0, 0, 1
    found = evaluate_tuples(embeddings, triplets, margin=0.5)
    assert found.metrics["triplet_accuracy"] == found.metrics["triplet_accuracy_margin"] == 0.4
    assert evaluate_tuples(embeddings, triplets, margin=1).metrics["triplet_accuracy_margin"] == 0
    assert evaluate_tuples(embeddings, triplets, margin=0).metrics["triplet_accuracy_margin"] == 0.4
    assert found.settings["margin"] == 0.5
    low, high = found.intervals["triplet_accuracy_margin"]
    assert 0 < low < 0.4 < high < 1
    assert "triplet_accuracy_margin" not in evaluate_tuples(embeddings, triplets).metrics
    for margin in (-0.1, math.nan):
        with pytest.raises(InputError, match=rf"^margin is {margin}; allowed is a number of at least 0\.$"):
            evaluate_tuples(embeddings, triplets, margin=margin)
    with pytest.raises(InputError, match="margin is for triplets, and these are pairs"):
        evaluate_tuples(embeddings, [[0, 1]], [True], margin=0.1)

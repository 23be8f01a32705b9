"""The bootstrap: its weights against an explicit resample, its width against classes that really vary."""

from dataclasses import replace

import numpy as np
import pytest

from tercet.evaluation import (
    all_pairs,
    evaluate_embeddings,
    given_pairs,
    mean_intervals,
    verification,
    verification_intervals,
)
from tercet.evaluation.intervals import LEVELS


def world(n_classes=12, n_each=5, seed=0, noise=0.8):
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(n_classes), n_each)
    return rng.normal(size=(n_classes, 3))[labels] + noise * rng.normal(size=(len(labels), 3)), labels


def resampled_by_hand(pairs, labels, multiplicity):
    """The pairs of a replicate written out: each copy of a class is a class of its own."""
    rows = []
    for i, (one, two) in enumerate(zip(labels[pairs.left], labels[pairs.right], strict=True)):
        copies = multiplicity[one] if one == two else multiplicity[one] * multiplicity[two]
        rows += [i] * int(copies)
    return pairs.part(np.array(rows))


def test_replicates_equal_resampling_by_hand():
    embeddings, labels = world(5, 3)
    pairs = all_pairs(embeddings, labels)
    pairs = replace(pairs, distance=pairs.distance.round(1))
    assert len(np.unique(pairs.distance)) < len(pairs.distance) / 2  # many ties
    found = verification_intervals(pairs, 1.3, seed=4, replicates=7)
    drawn = np.random.default_rng((4, 2)).multinomial(5, np.full(5, 1 / 5), size=7)
    assert any(len(set(row)) > 2 for row in drawn.tolist())
    by_hand = [verification(resampled_by_hand(pairs, labels, row), 1.3).metrics for row in drawn]
    for name in ("auc", "eer", "tar_at_far_0.1", "far", "frr", "balanced_accuracy"):
        values = [metrics[name] for metrics in by_hand]
        assert all(value is not None for value in values)
        assert found[name] == pytest.approx(tuple(np.percentile(values, LEVELS))), name
        assert found[name][0] < found[name][1]


def test_mean_intervals_equal_resampling_by_hand():
    rng = np.random.default_rng(1)
    classes, values = np.array([10, 10, 30, 30, 30, 20, 40]), rng.normal(size=7)
    found = mean_intervals({"a": values, "b": values**2}, classes, seed=9, replicates=50)
    drawn = np.random.default_rng((9, 2)).multinomial(4, np.full(4, 1 / 4), size=50)
    means = {"a": [], "b": []}
    for row in drawn:
        copies = np.concatenate(
            [np.tile(values[classes == c], times) for c, times in zip((10, 20, 30, 40), row, strict=True)]
        )
        means["a"].append(copies.mean())
        means["b"].append((copies**2).mean())
    for name, replicates in means.items():
        assert found[name] == pytest.approx(tuple(np.percentile(replicates, LEVELS)))


def test_classes_not_items_are_the_unit():
    """Items that only repeat their class add no evidence: ten copies of each leave the interval as it was."""
    rng = np.random.default_rng(0)
    of_class = rng.normal(size=20)
    once = mean_intervals({"x": of_class}, np.arange(20))["x"]
    tenfold = mean_intervals({"x": np.repeat(of_class, 10)}, np.repeat(np.arange(20), 10))["x"]
    assert tenfold == pytest.approx(once)
    as_if_independent = mean_intervals({"x": np.repeat(of_class, 10)}, np.arange(200))["x"]
    assert as_if_independent[1] - as_if_independent[0] < 0.5 * (once[1] - once[0])


def test_coverage_of_the_mean_over_classes():
    """Of 200 worlds the 95 % interval holds the truth in about 95 (30 classes: a little less)."""
    rng = np.random.default_rng(0)
    hits = 0
    for seed in range(200):
        effect = rng.normal(size=30)
        values = (effect[:, None] + 0.3 * rng.normal(size=(30, 4))).reshape(-1)
        low, high = mean_intervals({"x": values}, np.repeat(np.arange(30), 4), seed=seed)["x"]
        hits += low < 0 < high
    assert 0.87 < hits / 200 < 0.99


def test_intervals_are_seeded_and_hold_the_estimate():
    embeddings, labels = world(noise=1.4)
    one, two, other = (evaluate_embeddings(embeddings, labels, threshold=1.5, seed=s) for s in (0, 0, 1))
    assert one.intervals == two.intervals
    assert one.intervals != other.intervals
    assert {"recall_at_1", "r_precision", "map_at_r", "auc", "eer", "accuracy", "far", "frr"} <= set(one.intervals)
    for name, (low, high) in one.intervals.items():
        assert low <= one.metrics[name] <= high, name


def test_large_sets_are_resampled_on_a_part_that_stands_for_all():
    embeddings, labels = world(40, 10, noise=1.2)
    pairs = all_pairs(embeddings, labels)
    whole = verification_intervals(pairs, 1.5)
    part = verification_intervals(pairs, 1.5, most_pairs=3_001)
    estimates = verification(pairs, 1.5).metrics
    for name in ("auc", "eer", "accuracy", "far", "frr"):
        assert part[name] == pytest.approx(whole[name], abs=0.04), name
        assert part[name] != whole[name], name
        assert part[name][0] < estimates[name] < part[name][1], name


def test_fewer_than_three_classes_give_none():
    embeddings, labels = world(2, 9)
    evaluation = evaluate_embeddings(embeddings, labels)
    assert evaluation.intervals == {}
    assert evaluation.notes == ["No intervals: a bootstrap over each class needs at least 3 of them."]
    assert mean_intervals({"x": np.ones(4)}, np.array([1, 1, 2, 2])) == {}


def test_given_pairs_are_drawn_by_row():
    rng = np.random.default_rng(0)
    embeddings, tuples = rng.normal(size=(40, 2)), rng.integers(40, size=(60, 2))
    pairs = given_pairs(embeddings, tuples, rng.integers(2, size=60))
    found = verification_intervals(pairs, seed=2, replicates=20)["auc"]
    drawn = np.random.default_rng((2, 2)).multinomial(60, np.full(60, 1 / 60), size=20)
    by_hand = [verification(pairs.part(np.repeat(np.arange(60), row))).metrics["auc"] for row in drawn]
    assert found == pytest.approx(tuple(np.percentile(by_hand, LEVELS)))


def test_metrics_that_are_none_have_no_interval():
    embeddings, labels = world(5, 3)
    evaluation = evaluate_embeddings(embeddings, labels)
    assert evaluation.metrics["tar_at_far_0.001"] is None
    assert "tar_at_far_0.001" not in evaluation.intervals

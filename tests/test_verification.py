"""Pairs, ROC, EER, TAR at FAR and thresholds against loops over the definition."""

import math
from collections import Counter
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch

from tercet.distances import resolve
from tercet.errors import InputError
from tercet.evaluation import all_pairs, calibrate, evaluate_embeddings, given_pairs, verification
from tercet.evaluation.mistakes import hardest
from tercet.evaluation.verification import curve_metrics


def world(n_items=47, n_classes=6, seed=0, noise=1.0):
    rng = np.random.default_rng(seed)
    labels = rng.integers(n_classes, size=n_items) * 3 + 1
    embeddings = rng.normal(size=(100, 4))[labels] + noise * rng.normal(size=(n_items, 4))
    return embeddings.astype(np.float32), labels


def looped_rates(pairs, threshold):
    """(FAR, FRR) at a threshold, counted pair by pair."""
    accepted = [float(distance) <= threshold for distance in pairs.distance]
    same = [a for a, s in zip(accepted, pairs.same, strict=True) if s]
    different = [a for a, s in zip(accepted, pairs.same, strict=True) if not s]
    return sum(different) / len(different), 1 - sum(same) / len(same)


def looped_auc(pairs):
    """How often a same pair is nearer than a different one; a tie counts half."""
    same, different = pairs.distance[pairs.same], pairs.distance[~pairs.same]
    return np.mean([[(s < d) + 0.5 * (s == d) for d in different] for s in same])


@pytest.mark.parametrize("distance", ["euclidean", "squared-euclidean", "cosine", "manhattan", "minkowski"])
def test_all_pairs_are_all_pairs(distance):
    embeddings, labels = world()
    pairs = all_pairs(embeddings, labels, distance)
    rows = torch.from_numpy(embeddings)
    expected = {}
    for i in range(len(labels)):
        for j in range(i + 1, len(labels)):
            d = float(resolve(distance).pairs(rows[i : i + 1], rows[j : j + 1])[0])
            expected[i, j] = (d, bool(labels[i] == labels[j]))
    found = {
        (int(i), int(j)): (float(d), bool(s))
        for i, j, d, s in zip(pairs.left, pairs.right, pairs.distance, pairs.same, strict=True)
    }
    assert found.keys() == expected.keys()
    assert len(pairs.left) == len(expected)
    for key, (d, s) in expected.items():
        assert found[key] == (pytest.approx(d, rel=1e-5, abs=1e-6), s)
    assert not pairs.sampled
    assert pairs.n_same_total == pairs.same.sum()
    assert pairs.n_different_total == (~pairs.same).sum()
    assert pairs.left.dtype == pairs.right.dtype == np.int64


def test_sample_keeps_the_same_pairs_and_draws_different_ones_evenly():
    embeddings, labels = world(20, 5)
    everything = all_pairs(embeddings, labels)
    n_same = everything.n_same_total
    drawn = Counter()
    for seed in range(300):
        pairs = all_pairs(embeddings, labels, max_pairs=2 * n_same + 1, seed=seed)
        keys = list(zip(pairs.left.tolist(), pairs.right.tolist(), strict=True))
        assert len(set(keys)) == 2 * n_same + 1
        assert pairs.same.sum() == n_same
        assert pairs.sampled
        assert (pairs.n_same_total, pairs.n_different_total) == (n_same, everything.n_different_total)
        assert ((labels[pairs.left] == labels[pairs.right]) == pairs.same).all()
        drawn.update(key for key, same in zip(keys, pairs.same, strict=True) if not same)
    share = (n_same + 1) / everything.n_different_total
    assert len(drawn) == everything.n_different_total
    spread = math.sqrt(300 * share * (1 - share))
    assert max(abs(count - 300 * share) for count in drawn.values()) < 5 * spread


def test_sample_is_seeded_and_takes_part_of_too_many_same_pairs():
    embeddings, labels = np.random.default_rng(0).normal(size=(90, 2)), np.arange(90) // 45
    pairs = all_pairs(embeddings, labels, max_pairs=101)
    assert (pairs.same.sum(), (~pairs.same).sum()) == (51, 50)
    again = all_pairs(embeddings, labels, max_pairs=101)
    assert np.array_equal(pairs.left, again.left)
    assert np.array_equal(pairs.right, again.right)
    other = all_pairs(embeddings, labels, max_pairs=101, seed=1)
    assert not np.array_equal(pairs.right, other.right)
    # where the different pairs are the rare ones, all of these are kept
    lopsided = all_pairs(embeddings, (np.arange(90) == 0).astype(int), max_pairs=1000)
    assert ((~lopsided.same).sum(), lopsided.same.sum()) == (89, 911)


def test_sampled_accuracy_is_that_of_all_pairs():
    embeddings, labels = world(200, 20)
    whole = verification(all_pairs(embeddings, labels), 1.9).metrics
    part = verification(all_pairs(embeddings, labels, max_pairs=6000), 1.9).metrics
    assert part["frr"] == whole["frr"]
    assert part["accuracy"] == pytest.approx(whole["accuracy"], abs=0.02)
    unweighted = 1 - (part["far"] + part["frr"]) / 2
    assert abs(unweighted - whole["accuracy"]) > 0.05  # the sample alone would say something else


def test_metrics_equal_their_definitions():
    pairs = all_pairs(*world())
    found = verification(pairs, 2.5)
    assert found.metrics["auc"] == pytest.approx(looped_auc(pairs))
    far, frr = looped_rates(pairs, 2.5)
    assert 0.05 < far < 0.95
    assert 0.05 < frr < 0.95
    assert (found.metrics["far"], found.metrics["frr"]) == (pytest.approx(far), pytest.approx(frr))
    n_same, n_different = pairs.same.sum(), (~pairs.same).sum()
    right = (1 - frr) * n_same + (1 - far) * n_different
    assert found.metrics["accuracy"] == pytest.approx(right / len(pairs.same))
    assert found.metrics["balanced_accuracy"] == pytest.approx(1 - (far + frr) / 2)
    candidates = [-1.0, *pairs.distance.astype(float)]
    rates = [looped_rates(pairs, threshold) for threshold in candidates]
    for rate in (0.1, 0.01):
        best = max(1 - frr for far, frr in rates if far <= rate)
        assert found.metrics[f"tar_at_far_{rate}"] == pytest.approx(best)
    assert found.roc.far.tolist() == sorted(found.roc.far)
    for threshold, far, tar in list(zip(found.roc.threshold, found.roc.far, found.roc.tar, strict=True))[::97]:
        assert looped_rates(pairs, threshold) == (pytest.approx(far), pytest.approx(1 - tar))


def test_eer_is_where_the_polyline_crosses():
    pairs = all_pairs(*world())
    eer = verification(pairs).metrics["eer"]
    rates = sorted({looped_rates(pairs, threshold) for threshold in [-1.0, *pairs.distance.astype(float)]})
    crossings = []
    for (far_1, frr_1), (far_2, frr_2) in pairwise(rates):
        if (far_1 - frr_1) * (far_2 - frr_2) <= 0 and (far_1, frr_1) != (far_2, frr_2):
            share = (frr_1 - far_1) / ((far_2 - far_1) - (frr_2 - frr_1))
            crossings.append(far_1 + share * (far_2 - far_1))
    assert any(eer == pytest.approx(value) for value in crossings)
    assert 0.05 < eer < 0.5


def test_closed_forms():
    """n same pairs at 1, 2, …, n with the different ones a half later: AUC and EER are known for every n."""
    for n in (1, 2, 5, 13):
        distance = np.concatenate([np.arange(n), np.arange(n) + 0.5])
        pairs = _pairs(distance, np.arange(2 * n) < n)
        metrics = verification(pairs).metrics
        assert metrics["auc"] == pytest.approx((n + 1) / (2 * n))
        ranks_apart = verification(_pairs(np.concatenate([np.arange(n), np.arange(n) + n]), pairs.same)).metrics
        assert (ranks_apart["auc"], ranks_apart["eer"]) == (1.0, 0.0)
        reversed_pairs = _pairs(-np.concatenate([np.arange(n), np.arange(n) + n]) + 2.0 * n, pairs.same)
        assert (verification(reversed_pairs).metrics["auc"], verification(reversed_pairs).metrics["eer"]) == (
            0,
            1,
        )
    ties = verification(_pairs(np.ones(30), np.arange(30) < 11)).metrics
    assert (ties["auc"], ties["eer"]) == (0.5, 0.5)


def _pairs(distance, same):
    """Pairs at these distances: item 0 against each other item."""
    embeddings = np.concatenate([[0.0], distance])[:, None]
    tuples = np.stack([np.zeros(len(distance), dtype=int), np.arange(len(distance)) + 1], axis=1)
    return given_pairs(embeddings, tuples, same)


def test_rank_metrics_ignore_a_monotone_change():
    pairs = all_pairs(*world())
    plain = verification(pairs).metrics
    changed = verification(replace(pairs, distance=np.expm1(pairs.distance.astype(np.float64)))).metrics
    for name in ("auc", "eer", "tar_at_far_0.1", "tar_at_far_0.01"):
        assert changed[name] == pytest.approx(plain[name], abs=1e-12), name
    worse = verification(replace(pairs, distance=-pairs.distance)).metrics
    assert worse["auc"] == pytest.approx(1 - plain["auc"])


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("target", ["eer", 0.2, 0.01])
def test_calibrated_threshold_does_what_was_asked(target, seed):
    pairs = all_pairs(*world(17, 4, seed=seed) if target == "eer" else world(seed=seed))
    threshold = calibrate(pairs, target)
    far, frr = looped_rates(pairs, threshold)
    others = [looped_rates(pairs, value) for value in [-1.0, *pairs.distance.astype(float)]]
    if target == "eer":
        assert abs(far - frr) == pytest.approx(min(abs(f - r) for f, r in others))
        assert threshold == verification(pairs).metrics["eer_threshold"]
    else:
        assert far <= target
        assert frr == pytest.approx(min(r for f, r in others if f <= target))
    nearby = np.min(np.abs(pairs.distance.astype(float) - threshold))
    assert nearby > 0  # midway between two distances, on neither


def test_threshold_of_separable_pairs_is_midway():
    pairs = _pairs(np.array([1.0, 2.0, 5.0, 7.0]), np.array([True, True, False, False]))
    assert calibrate(pairs) == 3.5
    accepts_none = _pairs(np.array([1.0, 2.0, 3.0]), np.array([False, True, True]))
    assert looped_rates(accepts_none, calibrate(accepts_none, 1 / 2 + 0.5 - 1e-9))[0] == 0


def test_eer_threshold_is_at_the_nearer_operating_point():
    """Accepting up to 8 gives FAR 0 and FRR 0.1; up to 10, FAR 0.5 and FRR 0.1: the first differ less."""
    pairs = _pairs(np.array([*range(9), 20, *[10] * 5, *[30] * 5], dtype=float), np.arange(20) < 10)
    assert calibrate(pairs) == 9.0
    assert verification(pairs).metrics["eer"] == pytest.approx(0.1)


def test_a_threshold_on_a_distance_accepts_it():
    pairs = _pairs(np.array([1.0, 2.0]), np.array([True, False]))
    assert verification(pairs, 2.0).metrics["far"] == 1.0
    assert verification(pairs, 1.0).metrics["frr"] == 0.0
    assert verification(pairs, np.nextafter(1.0, 0)).metrics["frr"] == 1.0


def test_far_that_cannot_be_resolved_is_none():
    distance = np.arange(1200.0)
    for n_different, known in ((999, False), (1000, True)):
        found = verification(_pairs(distance[: n_different + 50], np.arange(n_different + 50) < 50))
        assert (found.metrics["tar_at_far_0.001"] is not None) is known
        assert found.metrics["tar_at_far_0.01"] == 1.0
        if not known:
            assert found.missing["tar_at_far_0.001"] == "needs at least 1,000 different pairs; there are 999"


def test_a_far_that_is_met_exactly_counts():
    """Ten different pairs, the nearest of them before the last three same pairs: FAR 0.1 lets it in."""
    distance = np.concatenate([np.arange(5), 10 + np.arange(3), [9], 20 + np.arange(9)])
    pairs = _pairs(distance, np.arange(18) < 8)
    assert verification(pairs).metrics["tar_at_far_0.1"] == 1.0
    assert calibrate(pairs, 0.1) == 16.0
    assert calibrate(pairs, 0.15) == 16.0


def test_one_kind_of_pairs_gives_reasons_and_no_numbers():
    found = verification(_pairs(np.arange(3.0), np.ones(3, dtype=bool)), 1.0)
    assert found.roc is None
    assert set(found.metrics.values()) == {None}
    assert set(found.missing.values()) == {"needs pairs of both kinds; there are 3 same and 0 different"}


def test_triplets_are_two_pairs_each():
    embeddings = np.array([[0.0], [1.0], [3.0], [7.0]])
    pairs = given_pairs(embeddings, torch.tensor([[0, 1, 3], [3, 2, 0]]))
    assert pairs.distance.tolist() == [1.0, 4.0, 7.0, 7.0]
    assert pairs.same.tolist() == [True, True, False, False]
    assert pairs.left_unit.tolist() == pairs.right_unit.tolist() == [0, 1, 0, 1]
    assert pairs.unit == "triplet"


def test_hardest_pairs_are_spread_over_items():
    embeddings, labels = world(60, 4, noise=1.5)
    embeddings[0] = embeddings.mean(axis=0)  # near to everything
    pairs = all_pairs(embeddings, labels)
    found = hardest(pairs, threshold=2.0)
    for kind, same in (("false_matches", False), ("false_non_matches", True)):
        shown = found[kind]
        assert len(shown) == 12
        items = Counter(item for pair in shown for item in (pair["left"], pair["right"]))
        assert max(items.values()) == 2
        distances = [pair["distance"] for pair in shown]
        assert distances == sorted(distances, reverse=same)
        extreme = pairs.distance[pairs.same == same]
        assert distances[0] == (extreme.max() if same else extreme.min())
        for pair in shown:
            assert (labels[pair["left"]] == labels[pair["right"]]) == same
            assert pair["wrong"] == ((pair["distance"] <= 2.0) != same)
    assert hardest(pairs)["false_matches"][0]["wrong"] is None


def test_roc_is_thinned_without_bending_it():
    embeddings, labels = world(400, 20)
    evaluation = evaluate_embeddings(embeddings, labels, intervals=False)
    roc = evaluation.roc
    assert 200 < len(roc["far"]) <= 400
    assert roc["threshold"][0] is None
    assert (roc["far"][0], roc["tar"][0], roc["far"][-1], roc["tar"][-1]) == (0, 0, 1, 1)
    thinned = curve_metrics(np.array(roc["far"]), np.array(roc["tar"]))
    assert thinned["auc"] == pytest.approx(evaluation.metrics["auc"], abs=2e-4)
    assert thinned["tar_at_far_0.001"] == pytest.approx(evaluation.metrics["tar_at_far_0.001"], abs=0.01)
    assert sum(0 < far < 0.002 for far in roc["far"]) > 20  # enough to draw over log FAR


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda pairs: calibrate(pairs, 0.0001),
            "a FAR of 0.0001 needs at least 10,000 different pairs; there are 2.",
        ),
        (
            lambda pairs: calibrate(pairs, "err"),
            "target must be 'eer', 'f1' or a false accept rate between 0 and 1; given 'err'. Did you mean 'eer'?",
        ),
        (
            lambda pairs: calibrate(replace(pairs, same=np.zeros(4, dtype=bool))),
            "a threshold is calibrated on pairs of both kinds; there are 0 same and 4 different.",
        ),
        (lambda pairs: verification(pairs, float("nan")), "threshold must be a finite number; given nan."),
        (
            lambda pairs: all_pairs([[1.0], [2.0]], [1, 2], max_pairs=1),
            "max_pairs must be at least 2; given 1.",
        ),
        (
            lambda pairs: given_pairs([[1.0], [2.0]], [[0, 1], [0, 2]], [1, 0]),
            "tuple 1 is (0, 2), but the embeddings have rows 0 to 1.",
        ),
        (
            lambda pairs: given_pairs([[1.0], [2.0]], [[0.0, 1.0]], [1]),
            "tuples must be whole numbers of shape (T, 2) for pairs or (T, 3) for triplets; "
            "given float64 of shape (1, 2).",
        ),
        (
            lambda pairs: given_pairs([[1.0], [2.0]], [[0, 1]]),
            "pairs need similar: which of them are the same. Where all are, evaluate with labels instead: "
            "the number of the pair is the label of both its items.",
        ),
        (
            lambda pairs: given_pairs([[1.0], [2.0]], [[0, 1]], [2]),
            "similar must be true or false (or 1 and 0) for each of the 1 pairs; given int64 of shape (1,).",
        ),
        (
            lambda pairs: given_pairs([[1.0], [2.0]], [[0, 1, 1]], [1]),
            "similar belongs to pairs; the rows of triplets already say which item is which.",
        ),
    ],
)
def test_messages(call, message):
    pairs = _pairs(np.array([1.0, 2.0, 5.0, 7.0]), np.array([True, True, False, False]))
    with pytest.raises(InputError) as caught:
        call(pairs)
    assert str(caught.value) == message

"""Intervals: what classes contribute against its definition, by leaving them out; and that intervals hold the truth."""

import math
from itertools import combinations

import numpy as np
import pytest

from tercet.errors import InputError
from tercet.evaluation import (
    all_pairs,
    evaluate_embeddings,
    given_pairs,
    interval_over_seeds,
    mean_intervals,
    retrieval,
    verification,
    verification_intervals,
)
from tercet.evaluation.contributions import Contributions
from tercet.evaluation.intervals import interval_of, mean_contributions
from tercet.evaluation.operating import pair_contributions
from tercet.evaluation.rivals import rivals_among, rivals_of, rivals_within

OF_THE_WHOLE_LIST = {"map", "map_market", "mrr"}  # of which rivals beyond the front are not looked at
NAMES = ("recall_at_1", "recall_at_5", "r_precision", "map_at_r")


def world(n_classes=12, n_each=5, seed=0, noise=0.8):
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(n_classes), n_each)
    return rng.normal(size=(n_classes, 3))[labels] + noise * rng.normal(size=(len(labels), 3)), labels


def ragged(seed=3, n_classes=9, noise=1.0):
    """Classes of one to six items, in no order."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.repeat(np.arange(n_classes), rng.integers(1, 7, n_classes)))
    return rng.normal(size=(n_classes, 3))[labels] + noise * rng.normal(size=(len(labels), 3)), labels


def test_a_gain_is_what_a_query_has_without_the_class():
    embeddings, labels = ragged()
    found = retrieval(embeddings, labels)
    rivals = rivals_within(embeddings, labels, found.figures())
    assert rivals.drawn == 1
    codes = {label: code for code, label in enumerate(dict.fromkeys(labels.tolist()))}
    listed = {(int(q), int(r)): i for i, (q, r) in enumerate(zip(rivals.query, rivals.rival, strict=True))}
    gained = 0
    for gone, code in codes.items():
        kept = np.flatnonzero(labels != gone)
        without = retrieval(embeddings[kept], labels[kept])
        place = {int(kept[row]): i for i, row in enumerate(without.query_rows)}
        for query, row in enumerate(found.query_rows):
            if labels[row] == gone:
                continue
            for name in NAMES:
                gain = without.figures()[name][place[int(row)]] - found.figures()[name][query]
                at = listed.get((query, code))
                assert (0 if at is None else rivals.gain[name][at]) == pytest.approx(gain), (name, query, gone)
                gained += gain > 0
    assert gained > 20
    assert np.array_equal(rivals.own, found.query_classes[rivals.query])


@pytest.mark.parametrize("exclude", [None, "group", "group-and-label"])
@pytest.mark.parametrize("apart", [False, True])
def test_a_gain_where_a_gallery_is_searched_or_groups_are_left_out(apart, exclude):
    embeddings, labels = ragged(seed=5)
    groups = np.random.default_rng(1).integers(0, 3, len(labels))
    queries = np.arange(len(labels)) % 3 == 0 if apart else np.ones(len(labels), bool)
    inside = ~queries if apart else queries

    def search(kept):
        others = {"gallery": embeddings[kept], "gallery_labels": labels[kept]} if apart else {}
        of_groups = {} if exclude is None else {"groups": groups[queries if apart else kept], "exclude": exclude}
        if apart and exclude is not None:
            of_groups["gallery_groups"] = groups[kept]
        own = queries if apart else kept
        return retrieval(embeddings[own], labels[own], (1, 3), **others, **of_groups), np.flatnonzero(own)

    found, rows = search(inside)
    rivals = rivals_of(found, embeddings[queries], embeddings[inside] if apart else None)
    edges = {
        (int(rows[found.query_rows[q]]), int(r)): i
        for i, (q, r) in enumerate(zip(rivals.query, rivals.rival, strict=True))
    }
    code_of = dict(zip(labels[inside].tolist(), found.relevance.gallery_classes.tolist(), strict=True))
    gained = 0
    for gone in np.unique(labels):
        without, left = search(inside & (labels != gone))
        after = {int(left[row]): i for i, row in enumerate(without.query_rows)}
        for query, row in enumerate(rows[found.query_rows]):
            if labels[row] == gone or int(row) not in after:
                continue
            for name in found.figures().keys() - OF_THE_WHOLE_LIST:
                gain = without.figures()[name][after[int(row)]] - found.figures()[name][query]
                at = edges.get((int(row), code_of.get(int(gone), -2)))
                assert (0 if at is None else rivals.gain[name][at]) == pytest.approx(gain), (name, row, gone)
                gained += gain > 0
    assert gained > 10


def test_sets_of_labels_have_no_rivals():
    embeddings, _ = world(n_classes=3)
    found = retrieval(embeddings, [["a", "b"] if row % 2 else ["b"] for row in range(len(embeddings))])
    assert rivals_of(found, embeddings) is None


def test_rivals_among_a_gallery():
    queries, gallery = np.array([[0.0], [5.0]]), np.array([[0.2], [0.3], [0.6], [4.0]])
    rivals = rivals_among(
        queries, np.arange(2), np.array([0, 1]), np.array([1, 1]), gallery, np.array([1, 2, 0, 1]),
        ["recall_at_1", "mrr"],
    )  # fmt: skip
    assert list(zip(rivals.query, rivals.own, rivals.rival, strict=True)) == [(0, 0, 1)]
    assert rivals.gain["recall_at_1"].tolist() == [0]  # class 2 is still nearer
    assert rivals.gain["mrr"] == pytest.approx([1 / 2 - 1 / 3])


def test_other_figures_of_rivals():
    embeddings, labels = ragged(noise=1.5)
    rivals = rivals_within(embeddings, labels, ["precision_at_3", "ndcg_at_4", "map", "mrr", "cmc_at_2", "speed"])
    assert set(rivals.gain) == {"precision_at_3", "ndcg_at_4", "map", "mrr", "cmc_at_2"}
    assert all(np.abs(gain).max() > 0 for gain in rivals.gain.values())


def test_drawn_queries_stand_for_all():
    """The variance from a fifth of the queries is right on the average over draws."""
    embeddings, labels = world(30, 6, noise=1.2)
    found = retrieval(embeddings, labels)
    name, values = "map_at_r", found.figures()["map_at_r"]

    def variance(seed, most_products):
        rivals = rivals_within(embeddings, labels, [name], seed=seed, most_products=most_products)
        own = mean_contributions(name, values, found.query_classes, rivals)
        return rivals.drawn, own.variance(30, 0.5), np.square(own.of_units(30)).sum()

    _, whole, _ = variance(0, 10**9)
    parts = [variance(seed, 36 * 180) for seed in range(60)]
    assert all(share == 0.2 for share, _, _ in parts)
    assert np.mean([value for _, value, _ in parts]) == pytest.approx(whole, rel=0.1)
    assert np.mean([raw for _, _, raw in parts]) > 1.3 * whole  # what would be said without taking the drawing off


def test_the_variance_is_the_sum_over_units_less_what_two_share():
    rng = np.random.default_rng(0)
    left, right, value = rng.integers(5, size=40), rng.integers(5, size=40), rng.normal(size=40)
    sums = np.array([sum(v for a, b, v in zip(left, right, value, strict=True) if unit in (a, b)) for unit in range(5)])
    shared = sum(
        sum(v for a, b, v in zip(left, right, value, strict=True) if {a, b} == {one, two}) ** 2
        for one, two in combinations(range(5), 2)
    )
    own = Contributions(left, right, value)
    assert own.variance(5) == pytest.approx(5 * sums.var(ddof=1))
    assert own.variance(5, 0.5) == pytest.approx(5 / 4 * (np.square(sums - sums.mean()).sum() - shared / 2))
    assert Contributions.joined([own, own], [1, -1]).variance(5) == pytest.approx(0)


def test_pairs_contribute_their_derivative():
    """AUC, far and frr by weighing one pair a little more; all contributions add up to nothing."""
    embeddings, labels = ragged()
    pairs = all_pairs(embeddings.round(1), labels)
    pairs = pairs.part(np.argsort(pairs.distance, kind="stable"))
    assert len(np.unique(pairs.distance)) < len(pairs.distance)  # ties
    found = pair_contributions(pairs, 1.3)
    for name in ("auc", "far", "frr", "accuracy", "balanced_accuracy", "eer", "tar_at_far_0.1"):
        assert found[name][0] == pytest.approx(verification(pairs, 1.3).metrics[name]), name
    for name in ("auc", "far", "frr", "balanced_accuracy"):
        for row in range(0, len(pairs.same), 29):
            weights = np.where(np.arange(len(pairs.same)) == row, 1 + 1e-6, 1.0)
            expected = (weighted(pairs, weights)[name] - weighted(pairs, np.ones(len(weights)))[name]) / 1e-6
            assert found[name][1].value[row] == pytest.approx(expected, abs=1e-8), (name, row)
    assert all(abs(own.value[pairs.same].sum()) < 1e-9 for _, own in found.values())


def weighted(pairs, weights):
    from sklearn.metrics import roc_auc_score

    accepted = pairs.distance <= 1.3
    same, different = weights * pairs.same, weights * ~pairs.same
    far, frr = (different * accepted).sum() / different.sum(), (same * ~accepted).sum() / same.sum()
    auc = roc_auc_score(pairs.same, -pairs.distance, sample_weight=weights)
    return {"auc": auc, "far": far, "frr": frr, "balanced_accuracy": 1 - (far + frr) / 2}


def test_the_curve_moves_by_its_slope():
    """With normal distances the derivatives of EER and TAR at FAR are known: r is the ratio of the densities."""
    from scipy.stats import norm

    count = 40_000
    quantiles = norm.ppf((np.arange(count) + 0.5) / count)
    distance = np.concatenate([1 + quantiles, 3 + 0.5 * quantiles])
    order = np.argsort(distance)
    embeddings, tuples = np.append(0.0, distance)[:, None], np.stack([np.zeros(2 * count), order + 1], 1).astype(int)
    pairs = given_pairs(embeddings - 10, tuples, order < count)
    pairs = pairs.part(np.argsort(distance[order]))
    pairs = pairs.part(np.arange(2 * count))
    object.__setattr__(pairs, "distance", distance[order])
    found = pair_contributions(pairs)
    at = 3 + 0.5 * norm.ppf(0.1)
    slope = norm.pdf(at, 1, 1) / norm.pdf(at, 3, 0.5)
    nearest_different = np.flatnonzero(~pairs.same)[0]
    assert found["tar_at_far_0.1"][1].value[nearest_different] * count == pytest.approx(-slope * 0.9, rel=0.05)
    at = 1 + 2 / 1.5  # as many deviates from one mean as from the other
    slope = norm.pdf(at, 1, 1) / norm.pdf(at, 3, 0.5)
    eer = norm.cdf(at, 3, 0.5)
    expected = slope * (1 - eer) / (1 + slope)
    assert found["eer"][1].value[nearest_different] * count == pytest.approx(expected, rel=0.05)


def test_classes_not_items_are_the_unit():
    """Items that only repeat their class add no evidence: ten copies of each leave the interval as it was."""
    rng = np.random.default_rng(0)
    of_class = rng.normal(size=20)
    once = mean_intervals({"x": of_class}, np.arange(20))["x"]
    tenfold = mean_intervals({"x": np.repeat(of_class, 10)}, np.repeat(np.arange(20), 10))["x"]
    assert tenfold == pytest.approx(once)
    as_if_independent = mean_intervals({"x": np.repeat(of_class, 10)}, np.arange(200))["x"]
    assert as_if_independent[1] - as_if_independent[0] < 0.5 * (once[1] - once[0])


def test_the_mean_of_equal_classes_has_students_interval():
    values = np.random.default_rng(1).normal(size=8)
    low, high = mean_intervals({"x": np.repeat(values, 3)}, np.repeat(np.arange(8), 3))["x"]
    assert (low, high) == pytest.approx(interval_over_seeds(values.tolist()))
    assert high - low == pytest.approx(2 * 2.3646 * values.std(ddof=1) / math.sqrt(8), rel=1e-4)


def test_a_rate_has_an_interval_of_rates():
    low, high = interval_of(0.9, 0.0025, 11)
    assert math.log(high / (1 - high)) - math.log(9) == pytest.approx(2.2281 * 0.05 / 0.09, rel=1e-4)
    assert math.log(9) - math.log(low / (1 - low)) == pytest.approx(2.2281 * 0.05 / 0.09, rel=1e-4)
    quantile = 2.2281**2
    assert interval_of(1.0, 0.0, 11) == pytest.approx((11 / (11 + quantile), 1.0), rel=1e-4)
    assert interval_of(0.0, 0.0, 11) == pytest.approx((0.0, quantile / (11 + quantile)), rel=1e-4)


def test_coverage_of_retrieval():
    """Of 120 draws of 25 classes about 95 in 100 intervals hold the truth; without the rivals they are too narrow."""
    figures, ends, alone = [], [], []
    for seed in range(120):
        rng = np.random.default_rng((1, seed))
        labels = np.repeat(np.arange(25), rng.integers(2, 7, 25))
        embeddings = 2 * rng.normal(size=(25, 5))[labels] + rng.normal(size=(len(labels), 5))
        found = retrieval(embeddings, labels, (1,))
        rivals = rivals_within(embeddings, labels, ["map_at_r"])
        figures.append(found.figures()["map_at_r"].mean())
        own = {"map_at_r": found.figures()["map_at_r"]}
        ends.append(mean_intervals(own, found.query_classes, rivals=rivals)["map_at_r"])
        alone.append(mean_intervals(own, found.query_classes)["map_at_r"])
    (low, high), narrow = np.array(ends).T, np.array(alone).T
    assert 0.9 < np.mean((low < np.mean(figures)) & (np.mean(figures) < high)) <= 0.99
    spread = 2 * 2.064 * np.std(figures)  # of Student's interval with 24 degrees of freedom
    assert (narrow[1] - narrow[0]).mean() < 0.9 * spread < 1.1 * (high - low).mean() < 1.4 * spread


def test_intervals_hold_the_estimate_and_do_not_depend_on_the_seed():
    embeddings, labels = world(noise=1.4)
    one, two = (evaluate_embeddings(embeddings, labels, threshold=1.5, seed=s) for s in (0, 1))
    assert one.intervals == two.intervals
    assert {"recall_at_1", "r_precision", "map_at_r", "auc", "eer", "accuracy", "far", "frr"} <= set(one.intervals)
    for name, (low, high) in one.intervals.items():
        assert low <= one.metrics[name] <= high, name
    plain = mean_intervals(retrieval(embeddings, labels).figures(), np.repeat(np.arange(12), 5))
    assert plain["map_at_r"] != pytest.approx(one.intervals["map_at_r"], abs=1e-3)  # which counts the rivals


def test_what_the_classes_are_called_does_not_matter():
    embeddings, labels = ragged()
    one = evaluate_embeddings(embeddings, labels).intervals
    two = evaluate_embeddings(embeddings, np.array([f"class {97 - label}" for label in labels])).intervals
    for name, ends in one.items():
        assert two[name] == pytest.approx(ends), name


def test_large_sets_are_looked_at_in_a_part_that_stands_for_all():
    embeddings, labels = world(40, 10, noise=1.2)
    pairs = all_pairs(embeddings, labels)
    estimates = verification(pairs, 1.5).metrics
    whole = verification_intervals(pairs, 1.5)
    part = verification_intervals(pairs, 1.5, most_pairs=3_001, estimates=estimates)
    for name in ("auc", "eer", "accuracy", "far", "frr"):
        assert part[name] == pytest.approx(whole[name], abs=0.04), name
        assert part[name] != whole[name], name
        assert part[name][0] < estimates[name] < part[name][1], name


def test_few_classes_are_told_of():
    evaluation = evaluate_embeddings(*world(2, 9))
    assert evaluation.intervals == {}
    assert evaluation.notes == ["No intervals: they are over each class and need at least 3 of them."]
    assert mean_intervals({"x": np.ones(4)}, np.array([1, 1, 2, 2])) == {}
    assert evaluate_embeddings(*world(19, 3)).notes == [
        "Intervals are over 19 classes; of fewer than 20, and of rates near 0 or 1, they hold the truth less often "
        "than 95 times in 100."
    ]
    assert evaluate_embeddings(*world(20, 3)).notes == []


def test_given_pairs_are_the_units():
    rng = np.random.default_rng(0)
    embeddings, tuples = rng.normal(size=(40, 2)), rng.integers(40, size=(60, 2))
    pairs = given_pairs(embeddings, tuples, np.arange(60) < 25)
    found = verification_intervals(pairs, 1.0)["frr"]
    rejected = pairs.distance[:25] > 1.0
    frr = rejected.mean()
    variance = 60 / 59 * np.square((rejected - frr) / 25).sum()
    assert found == pytest.approx(interval_of(frr, variance, 60))
    low, high = verification_intervals(pairs)["auc"]
    assert 0 < low < verification(pairs).metrics["auc"] < high < 1


def test_metrics_that_are_none_have_no_interval():
    embeddings, labels = world(5, 3)
    evaluation = evaluate_embeddings(embeddings, labels)
    assert evaluation.metrics["tar_at_far_0.001"] is None
    assert "tar_at_far_0.001" not in evaluation.intervals


def test_everything_right_is_no_certainty():
    labels = np.repeat(np.arange(24), 3)
    evaluation = evaluate_embeddings(np.eye(24)[labels] * 9 + 0.001 * np.arange(72)[:, None], labels)
    assert evaluation.metrics["recall_at_1"] == 1
    low, high = evaluation.intervals["recall_at_1"]
    assert 0.8 < low < 0.9
    assert high == 1


def test_intervals_over_seeds():
    assert interval_over_seeds([0.5]) is None
    low, high = interval_over_seeds([0.1, 0.2, 0.6])
    assert (low + high) / 2 == pytest.approx(0.3)
    assert high - low == pytest.approx(2 * 4.3027 * math.sqrt(0.07) / math.sqrt(3), rel=1e-4)
    for bad in ([], [0.1, math.nan]):
        with pytest.raises(InputError, match=r"^values must be finite numbers, one for each seed; given \["):
            interval_over_seeds(bad)

"""All pairs counted in tiles: equal to scikit-learn on all pairs, and to the curve of all pairs listed."""

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score, roc_curve

import tercet.evaluation.counting as counting
import tercet.evaluation.pairs as pairs_module
from tercet.distances import Euclidean, Mahalanobis, resolve
from tercet.evaluation import all_pairs, calibrate, errors_at, evaluate_embeddings, verification
from tercet.evaluation.counting import Population
from tercet.evaluation.mistakes import hardest

N_ITEMS = 61


@pytest.fixture
def small(monkeypatch):
    """Tiles and buffers so small that 61 items need many of each, ragged at the ends."""
    for name, value in (("TILE_ROWS", 13), ("TILE_COLUMNS", 7), ("BUFFER", 200), ("SPLITTERS", 9)):
        monkeypatch.setattr(counting, name, value)
    monkeypatch.setattr(pairs_module, "MOST_LISTED", 100)
    monkeypatch.setattr(pairs_module, "LISTED_BESIDE_COUNTS", 40)


def world(labels, kind="spread"):
    """Rows on a grid, so that equal distances are equal whatever computes them."""
    rng = np.random.default_rng(0)
    own = rng.integers(-3, 4, size=(100, 3))[np.asarray(labels) % 100]
    rows = own + rng.integers(-2, 3, size=(len(labels), 3))
    if kind == "duplicates":
        rows[::2] = rows[0]
    if kind == "collapsed":
        rows[:] = 1
    return rows.astype(np.float32)


LABELS = {
    "many classes": np.arange(N_ITEMS) % 17,
    "two classes": np.arange(N_ITEMS) % 2,
    "one large class, so that the different pairs are the rarer": np.maximum(np.arange(N_ITEMS) - 57, 0),
    "a single same pair": np.r_[0, 0, np.arange(1, N_ITEMS - 1)],
}


def both(labels, rows, monkeypatch, distance="euclidean"):
    """The pairs counted, and the same pairs listed."""
    counted = all_pairs(rows, labels, distance)
    assert counted.counted is not None
    assert len(counted.distance) == 40
    monkeypatch.setattr(pairs_module, "MOST_LISTED", 10**6)
    listed = all_pairs(rows, labels, distance)
    assert listed.counted is None
    assert not listed.sampled
    return counted, listed


@pytest.mark.parametrize("kind", ["spread", "duplicates", "collapsed"])
@pytest.mark.parametrize("labels", LABELS.values(), ids=LABELS)
def test_counted_equals_listed_and_scikit_learn(small, monkeypatch, labels, kind):
    counted, listed = both(labels, world(labels, kind), monkeypatch)
    expected, found = verification(listed, 3.2), verification(counted, 3.2)
    assert found.missing == expected.missing
    for name, value in expected.metrics.items():
        assert found.metrics[name] == (None if value is None else pytest.approx(value, rel=1e-6, abs=1e-12)), name
    assert found.metrics["auc"] == pytest.approx(roc_auc_score(listed.same, -listed.distance), abs=1e-12)
    far, tar, _ = roc_curve(listed.same, -listed.distance, drop_intermediate=False)
    for point in zip(found.roc.far, found.roc.tar, strict=True):  # every corner is one of scikit-learn's points
        assert np.abs(np.stack([far, tar], axis=1) - point).max(axis=1).min() < 1e-12
    for target in ("eer", "f1", 0.1, 0.05):
        threshold = calibrate(counted, target)
        assert threshold == pytest.approx(calibrate(listed, target), rel=1e-6)
        assert errors_at(counted, threshold) == pytest.approx(errors_at(listed, threshold))


def test_the_curve_accepts_what_its_thresholds_accept(small):
    labels = LABELS["many classes"]
    curve = all_pairs(world(labels), labels).curve
    assert curve.open.any()
    for point in range(1, len(curve.same)):
        accepted = curve.accepted(float(curve.threshold[point]))
        assert accepted == (int(curve.same[point]), int(curve.different[point]))


@pytest.mark.parametrize("distance", ["squared-euclidean", "cosine", "manhattan", "chebyshev", "minkowski(p=3)"])
def test_every_distance_is_counted(small, monkeypatch, distance):
    labels = LABELS["many classes"]
    rows = world(labels)
    rows[5] = 0  # cosine has a value of its own for it
    counted, listed = both(labels, rows, monkeypatch, distance)
    assert verification(counted).metrics["auc"] == pytest.approx(verification(listed).metrics["auc"], abs=2e-3)
    population = counted.counted.population
    every = np.concatenate([population.listed(True), population.listed(False)])
    assert np.sort(every) == pytest.approx(np.sort(listed.distance), rel=2e-6, abs=2e-6)


def test_a_map_is_applied_once(small, monkeypatch):
    labels = LABELS["many classes"]
    metric = Mahalanobis(components=torch.tensor([[2.0, 0.0, 1.0], [0.0, 1.0, 0.0]]))
    counted, listed = both(labels, world(labels), monkeypatch, metric)
    assert verification(counted).metrics["auc"] == pytest.approx(verification(listed).metrics["auc"], abs=1e-9)


def test_a_function_of_rows_is_counted(small, monkeypatch):
    labels = LABELS["many classes"]
    counted, listed = both(labels, world(labels), monkeypatch, lambda x, y: (x - y).abs().sum(1))
    assert verification(counted).metrics["eer"] == pytest.approx(verification(listed).metrics["eer"])


@pytest.mark.parametrize("threads", [1, 3])
def test_neither_threads_nor_order_change_a_figure(small, threads):
    labels = LABELS["many classes"]
    rows = world(labels)
    expected = verification(all_pairs(rows, labels), 3.2).metrics
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        shuffled = np.random.default_rng(1).permutation(N_ITEMS)
        found = verification(all_pairs(rows[shuffled], labels[shuffled]), 3.2).metrics
    finally:
        torch.set_num_threads(before)
    d_prime, its = found.pop("d_prime"), expected.pop("d_prime")
    assert found == expected
    assert d_prime == pytest.approx(its)


def test_the_hardest_of_all_pairs_are_found(small, monkeypatch):
    labels = LABELS["many classes"]
    rng = np.random.default_rng(3)
    rows = rng.normal(size=(N_ITEMS, 3)).astype(np.float32)
    monkeypatch.setattr(counting, "MOST_EXTREME", 60)
    counted, listed = both(labels, rows, monkeypatch)
    extremes = counted.counted.extremes()
    assert len(extremes.same) < len(listed.same) / 4
    found, expected = hardest(extremes, 1.0), hardest(listed, 1.0)
    for kind, shown in found.items():
        assert [(one["left"], one["right"]) for one in shown[:8]] == [
            (one["left"], one["right"]) for one in expected[kind][:8]
        ]


def test_no_pair_is_hardest_where_all_are_equal(small, monkeypatch):
    monkeypatch.setattr(counting, "MOST_TIED", 30)
    labels = LABELS["many classes"]
    pairs = all_pairs(world(labels, "collapsed"), labels)
    assert pairs.counted.extremes() is None
    shown = evaluate_embeddings(world(labels, "collapsed"), labels, intervals=False).mistakes["false_matches"]
    assert len(shown) == 12  # of the sample


def test_what_is_not_counted_is_sampled(small, monkeypatch):
    labels = LABELS["many classes"]
    rows = world(labels)
    assert all_pairs(rows, labels, max_pairs=N_ITEMS * (N_ITEMS - 1) // 2 - 1).counted is None
    monkeypatch.setattr(pairs_module, "MOST_KEPT", 10)
    sampled = all_pairs(rows, labels)
    assert (sampled.counted, sampled.sampled, len(sampled.same)) == (None, True, 100)
    of_one_kind = all_pairs(rows, np.arange(N_ITEMS))
    assert of_one_kind.counted is None
    assert verification(of_one_kind).roc is None


def test_longer_rows_and_slower_distances_are_counted_as_far_as_takes_no_longer():
    short, long = torch.zeros(2, 128), torch.zeros(2, 1280)
    most = [
        pairs_module._most_counted(rows, resolve(name)) for rows in (short, long) for name in ("cosine", "manhattan")
    ]
    assert most == [10**9, 5 * 10**7, 10**8, 5 * 10**6]
    assert pairs_module._most_counted(torch.zeros(2, 10**6), resolve("euclidean")) == 2_000_000  # listed in any case


def test_the_evaluation_says_what_it_counted(small):
    labels = LABELS["many classes"]
    found = evaluate_embeddings(world(labels), labels)
    assert found.metrics["n_pairs"] == N_ITEMS * (N_ITEMS - 1) // 2
    assert any(note.startswith("Verification counts all 1,830 pairs;") for note in found.notes)
    assert found.roc["threshold"][0] is None
    assert found.roc["far"][-1] == found.roc["tar"][-1] == 1


def test_a_population_holds_each_pair_once(small):
    codes = np.sort(LABELS["many classes"])
    rows = torch.arange(N_ITEMS, dtype=torch.float32)[:, None] ** 2
    start = np.searchsorted(codes, codes)
    population = Population(rows, start, np.arange(N_ITEMS), resolve("euclidean"))
    for same in (True, False):
        distance, later, earlier = population.within(same, [(-np.inf, np.inf)])
        expected = {(j, i) for j in range(N_ITEMS) for i in range(j) if (codes[i] == codes[j]) == same}
        assert set(zip(later.tolist(), earlier.tolist(), strict=True)) == expected
        assert len(distance) == len(expected) == population.count(same)
        assert distance == pytest.approx((rows[later, 0] - rows[earlier, 0]).abs().numpy())
    assert isinstance(population.metric, Euclidean)

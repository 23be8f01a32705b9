"""Agreement to 1e-6 with other libraries where definitions agree, on data without ties; and the known disagreements."""

import numpy as np
import pytest

from tercet.evaluation import retrieval
from tercet.neighbors import nearest


def world(n_items=240, n_classes=12, dimensions=16, seed=0):
    rng = np.random.default_rng(seed)
    labels = rng.integers(n_classes, size=n_items)
    rows = rng.normal(size=(n_classes, dimensions))[labels] + 1.5 * rng.normal(size=(n_items, dimensions))
    return rows.astype(np.float32), labels


def squares(rows):
    wide = rows.astype(np.float64)
    return ((wide[:, None] - wide[None]) ** 2).sum(2)


def test_pml():
    pytest.importorskip("faiss", reason="faiss is not installed")
    tester = pytest.importorskip(
        "pytorch_metric_learning.utils.accuracy_calculator", reason="pytorch-metric-learning is not installed"
    )
    rows, labels = world()
    calculator = tester.AccuracyCalculator(
        include=(
            "precision_at_1", "r_precision", "mean_average_precision_at_r", "mean_average_precision",
            "mean_reciprocal_rank",
        ),
        k=len(rows) - 1,
    )  # fmt: skip
    theirs = calculator.get_accuracy(rows, labels, rows, labels, ref_includes_query=True)
    ours = {name: values.mean() for name, values in retrieval(rows, labels, (1,)).figures().items()}
    for name, other in (
        ("precision_at_1", "precision_at_1"),
        ("r_precision", "r_precision"),
        ("map_at_r", "mean_average_precision_at_r"),
        ("map", "mean_average_precision"),
        ("mrr", "mean_reciprocal_rank"),
    ):
        assert ours[name] == pytest.approx(theirs[other], abs=1e-6), name
        assert 0.05 < ours[name] < 0.95  # not a world where everything agrees


def test_pml_merges_labels_that_float32_does():
    pytest.importorskip("faiss", reason="faiss is not installed")
    tester = pytest.importorskip(
        "pytorch_metric_learning.utils.accuracy_calculator", reason="pytorch-metric-learning is not installed"
    )
    rows = np.array([[0.0], [0.1], [5.0], [5.1]], dtype=np.float32)
    labels = np.array([2**24, 2**24 + 1, 2**24, 2**24 + 1])
    found = tester.AccuracyCalculator(include=("precision_at_1",), k=1).get_accuracy(
        rows, labels, rows, labels, ref_includes_query=True
    )
    assert (
        found["precision_at_1"] == 1.0
    )  # wholly wrong; should this fail, the table in docs/evaluation.md is out of date
    assert retrieval(rows, labels, (1,)).recall.mean() == 0.0


def test_scikit_learn():
    from sklearn.metrics import average_precision_score, ndcg_score

    rows, labels = world()
    found, distances = retrieval(rows, labels, (10,)).figures(), squares(rows)
    market = []
    for q in range(len(rows)):
        others = np.arange(len(rows)) != q
        relevant, score = labels[others] == labels[q], -distances[q][others]
        assert found["map"][q] == pytest.approx(average_precision_score(relevant, score), abs=1e-6)
        assert found["ndcg_at_10"][q] == pytest.approx(ndcg_score([relevant], [score], k=10), abs=1e-6)
        market.append(found["map_market"][q] - found["map"][q])
    assert np.ptp(market) > 1e-4  # trapezoids are another figure


def test_ties_are_the_difference_to_scikit_learn():
    """All at one distance: scikit-learn's precision at that one threshold, here the worst order."""
    from sklearn.metrics import average_precision_score

    relevant = np.array([True, True, False, False])
    assert average_precision_score(relevant, np.zeros(4)) == 0.5
    found = retrieval(np.zeros((1, 2)), [1], (1,), gallery=np.zeros((4, 2)), gallery_labels=relevant.astype(int))
    assert found.figures()["map"][0] == pytest.approx((1 / 3 + 2 / 4) / 2)


def test_torchmetrics():
    metrics = pytest.importorskip("torchmetrics.functional.retrieval", reason="torchmetrics is not installed")
    import torch

    rows, labels = world(80)
    found, distances = retrieval(rows, labels, (10,)).figures(), squares(rows)
    for q in range(0, len(rows), 7):
        others = np.arange(len(rows)) != q
        score = torch.from_numpy(1 / (1 + distances[q][others]))  # above 0, which it needs
        relevant = torch.from_numpy(labels[others] == labels[q])
        for name, theirs in (
            ("map", metrics.retrieval_average_precision(score, relevant)),
            ("mrr", metrics.retrieval_reciprocal_rank(score, relevant)),
            ("r_precision", metrics.retrieval_r_precision(score, relevant)),
            ("recall_at_10", metrics.retrieval_hit_rate(score, relevant, top_k=10)),
            ("precision_at_10", metrics.retrieval_precision(score, relevant, top_k=10)),
            ("ndcg_at_10", metrics.retrieval_normalized_dcg(score, relevant, top_k=10)),
        ):
            assert found[name][q] == pytest.approx(float(theirs), abs=1e-6), name


@pytest.mark.parametrize("distance", ["squared-euclidean", "cosine"])
def test_faiss(distance):
    faiss = pytest.importorskip("faiss", reason="faiss is not installed")
    rows, _ = world()
    if distance == "cosine":
        index = faiss.IndexFlatIP(rows.shape[1])
        unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        index.add(unit)
        near, theirs = index.search(unit, 20)
        near = 1 - near
    else:
        index = faiss.IndexFlatL2(rows.shape[1])
        index.add(rows)
        near, theirs = index.search(rows, 20)
    distances, ours = nearest(rows, rows, 20, distance)
    assert np.array_equal(ours.numpy(), theirs)
    np.testing.assert_allclose(distances.numpy(), near, atol=2e-5)

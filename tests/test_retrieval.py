"""Retrieval against loops over the definition, and under changes that must not matter."""

import json
from typing import ClassVar

import numpy as np
import pytest
import torch

from tercet.distances import Euclidean, resolve
from tercet.errors import InputError
from tercet.evaluation import Evaluation, evaluate_embeddings, evaluate_tuples, retrieval


def looped_retrieval(embeddings, labels, ks, distance):
    """Recall@k, R-precision and MAP@R of each query, from the definition."""
    metric, found = resolve(distance), {}
    for q in range(len(embeddings)):
        r = sum(labels[i] == labels[q] for i in range(len(labels))) - 1
        if r == 0:
            continue
        order = sorted(
            (float(metric.pairs(embeddings[q : q + 1], embeddings[i : i + 1])[0].float()), i)
            for i in range(len(embeddings))
            if i != q
        )
        relevant = [labels[i] == labels[q] for _, i in order]
        average = sum(sum(relevant[: i + 1]) / (i + 1) for i in range(r) if relevant[i]) / r
        found[q] = ([any(relevant[:k]) for k in ks], sum(relevant[:r]) / r, average)
    return found


def world(n_items=61, n_classes=9, dimensions=5, seed=0, noise=1.2):
    rng = np.random.default_rng(seed)
    labels = rng.integers(n_classes, size=n_items)
    centres = rng.normal(size=(n_classes, dimensions))
    embeddings = centres[labels] + noise * rng.normal(size=(n_items, dimensions))
    return embeddings.astype(np.float32), labels


@pytest.mark.parametrize("distance", ["euclidean", "cosine", "manhattan"])
def test_equals_loops(distance):
    embeddings, labels = world()
    labels[:2] = [100, 101]  # two classes of one
    found = retrieval(embeddings, labels, (3, 1), distance, query_tile_rows=7)
    expected = looped_retrieval(torch.from_numpy(embeddings), labels, (1, 3), distance)
    assert found.ks == (1, 3)
    assert found.n_dropped == 2
    assert found.query_rows.tolist() == list(expected)
    assert found.recall.tolist() == [[float(hit) for hit in hits] for hits, _, _ in expected.values()]
    np.testing.assert_allclose(found.r_precision, [value for _, value, _ in expected.values()])
    np.testing.assert_allclose(found.average_precision_at_r, [value for *_, value in expected.values()])
    assert 0.1 < found.average_precision_at_r.mean() < 0.9  # not a world where everything agrees


def test_known_ranking():
    """Query 0 sees hit, miss, hit, miss, hit: R = 3, P(1) = 1, P(3) = 2/3."""
    found = retrieval([[0.0], [1.0], [2.0], [3.0], [4.0], [5.0]], [7, 7, 8, 7, 8, 7], (1, 2))
    assert found.average_precision_at_r[0] == pytest.approx((1 + 2 / 3) / 3)
    assert found.r_precision[0] == pytest.approx(2 / 3)


def test_monotone_change_of_distances_changes_nothing():
    embeddings, labels = world()
    plain, squared = (
        retrieval(embeddings, labels),
        retrieval(embeddings, labels, distance="squared-euclidean"),
    )
    scaled = retrieval(embeddings * 8, labels)
    for other in (squared, scaled):
        for name, values in plain.figures().items():
            assert np.array_equal(values, other.figures()[name]), name


def nameless(evaluation):
    """All of an evaluation but what the classes are called."""
    return evaluation.to_json() | {"classes": [row | {"class": None} for row in evaluation.classes]}


def test_order_of_items_and_names_of_classes_do_not_matter():
    embeddings, labels = world()
    order = np.random.default_rng(5).permutation(len(labels))
    plain = evaluate_embeddings(embeddings, labels)
    permuted = evaluate_embeddings(embeddings[order], labels[order])
    for name, value in plain.metrics.items():
        if value is not None:
            assert permuted.metrics[name] == pytest.approx(value, abs=1e-12), name
    renamed = evaluate_embeddings(embeddings, np.array([f"class {label * 7 % 13}" for label in labels]))
    assert nameless(renamed) == nameless(plain)


def test_renaming_classes_does_not_change_a_sample():
    embeddings, labels = world()
    one = evaluate_embeddings(embeddings, labels, max_pairs=500)
    two = evaluate_embeddings(embeddings, -labels, max_pairs=500)
    assert one.metrics["n_pairs"] == 500
    assert nameless(one) == nameless(two)


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int32, np.uint64, np.int64])
def test_labels_of_any_width(dtype):
    embeddings, labels = world()
    assert np.array_equal(
        retrieval(embeddings, labels.astype(dtype)).average_precision_at_r,
        retrieval(torch.from_numpy(embeddings), torch.from_numpy(labels)).average_precision_at_r,
    )


def test_ids_beyond_float32_stay_apart():
    """Pairs of items whose ids differ by one: as float32 they would all be one class, and recall 1."""
    base = 2**24
    embeddings = np.array([[0.0], [0.1], [5.0], [5.1]], dtype=np.float32)
    labels = np.array([base, base + 1, base, base + 1])
    assert retrieval(embeddings, labels, (1,)).recall.tolist() == [[0.0]] * 4
    big = np.array([2**53, 2**53 + 1, 2**53, 2**53 + 1])
    assert retrieval(embeddings, big, (1,)).recall.tolist() == [[0.0]] * 4


def test_order_does_not_matter_where_all_are_tied():
    """All distances are 0, and a tie is wrong: no class is found, whichever comes first."""
    found = retrieval(np.zeros((12, 3)), np.arange(12) // 3, (1,))
    assert found.recall[:, 0].tolist() == [0.0] * 12


@pytest.mark.parametrize(
    ("embeddings", "labels", "dropped"),
    [(np.ones((0, 2)), [], 0), (np.ones((1, 2)), [4], 1), (np.ones((2, 2)), [4, 5], 2)],
)
def test_worlds_without_queries(embeddings, labels, dropped):
    found = retrieval(embeddings, labels)
    assert len(found.query_rows) == 0
    assert found.n_dropped == dropped
    evaluation = evaluate_embeddings(embeddings, labels)
    assert evaluation.metrics["map_at_r"] is None
    assert evaluation.missing["map_at_r"] == "no class has two members"
    assert set(evaluation.missing) == {name for name, value in evaluation.metrics.items() if value is None}
    json.dumps(evaluation.to_json(), allow_nan=False)


def test_k_beyond_the_other_items_is_said():
    found = evaluate_embeddings([[0.0], [1.0], [9.0]], [1, 1, 2], ks=(1, 2, 3))
    assert found.metrics["recall_at_2"] == 1.0
    assert found.metrics["recall_at_3"] is None
    assert found.missing["recall_at_3"] == "there are only 2 other items"
    assert found.notes[0] == "1 item is alone in a class: searched among like all others, but no query."


class Watched(Euclidean):
    """Notes the shapes of its tiles, which no compiled loops make instead."""

    shapes: ClassVar = []

    def prepared(self, x, y):
        return None

    def tile(self, x, y):
        self.shapes.append((len(x), len(y)))
        return super().tile(x, y)


def test_no_tile_grows_with_the_set():
    n_items = 2503
    rng = np.random.default_rng(0)
    retrieval(rng.normal(size=(n_items, 2)), rng.integers(450, size=n_items), (1,), Watched())
    assert sum(rows * columns for rows, columns in Watched.shapes) >= 0.99 * n_items**2
    assert max(rows * columns for rows, columns in Watched.shapes) <= 256 * 2048


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (
            np.array([1.0, 2.0]),
            "labels must be whole numbers or strings; given float64. "
            "Convert ids to an integer type: floats merge large ids.",
        ),
        ([1], "labels must be one per embedding, 2 in all; given shape (1,)."),
    ],
)
def test_label_messages(labels, message):
    with pytest.raises(InputError) as caught:
        retrieval(np.ones((2, 3)), labels)
    assert str(caught.value) == message


def test_other_messages():
    with pytest.raises(InputError, match=r"^ks must be whole numbers of at least 1; given \(1, 0\)\.$"):
        retrieval(np.ones((2, 3)), [1, 1], (1, 0))
    with pytest.raises(InputError, match=r"^embeddings must be finite and below 1e15: 1 of 2 rows"):
        retrieval(np.array([[1.0], [np.nan]]), [1, 1])


def test_evaluation_survives_json():
    embeddings, labels = world()
    evaluation = evaluate_embeddings(embeddings, labels, threshold=1.5, ks=(1, 100))
    text = json.dumps(evaluation.to_json(), allow_nan=False)
    assert Evaluation.from_json(json.loads(text)) == evaluation
    assert evaluation.metrics["n_items"] == 61
    assert evaluation.metrics["n_classes"] == 9
    assert evaluation.metrics["n_pairs"] == 61 * 60 / 2
    for name in ("recall_at_1", "map_at_r", "eer", "accuracy"):
        low, high = evaluation.intervals[name]
        assert low < evaluation.metrics[name] < high, name
    assert sum(evaluation.histogram["same"]) == evaluation.metrics["n_same_pairs"]
    assert sum(evaluation.histogram["different"]) == evaluation.metrics["n_different_pairs"]
    assert evaluation.settings == {
        "distance": "euclidean",
        "ks": [1, 100],
        "max_pairs": None,
        "seed": 0,
    }


def test_triplet_accuracy_counts_ties_as_wrong():
    embeddings = [[0.0], [1.0], [-1.0], [2.0]]
    triplets = [[0, 1, 3], [0, 3, 1], [0, 1, 2], [1, 0, 3], [3, 1, 0]]  # right, wrong, tie, tie, right
    found = evaluate_tuples(embeddings, triplets)
    assert found.metrics["triplet_accuracy"] == 0.4
    assert found.metrics["n_triplets"] == 5
    assert found.metrics["n_items"] == 4
    assert found.metrics["n_same_pairs"] == found.metrics["n_different_pairs"] == 5
    low, high = found.intervals["triplet_accuracy"]
    assert 0 <= low < 0.4 < high <= 1
    assert evaluate_tuples(embeddings, np.empty((0, 3), dtype=int)).missing["triplet_accuracy"] == (
        "there are no triplets"
    )


def test_marked_pairs():
    found = evaluate_tuples([[0.0], [1.0], [4.0], [9.0]], [[0, 1], [1, 2], [0, 3]], [1, 0, 0], threshold=3.0)
    assert found.metrics["auc"] == 1.0
    assert found.metrics["accuracy"] == pytest.approx(2 / 3) or found.metrics["far"] == 0.5
    assert "triplet_accuracy" not in found.metrics

"""Ranks and every figure of retrieval against loops over the definition: galleries, groups, several labels, ties."""

import json
import sys
from itertools import accumulate

import numpy as np
import pytest
import torch

from tercet.distances import Euclidean, resolve
from tercet.errors import InputError
from tercet.evaluation import evaluate_embeddings, retrieval
from tercet.evaluation.breakdown import by_class, by_group
from tercet.neighbors.compared import ByTiles

KS = (1, 3, 10)


def looped(queries, labels, ks, distance, gallery=None, gallery_labels=None, groups=None, gallery_groups=None,
           exclude=None):  # fmt: skip
    """Every figure of each query that has a relevant candidate, one candidate after the other."""
    metric, found = resolve(distance), {}
    alone = gallery is None
    others, other_labels, other_groups = (queries, labels, groups) if alone else (
        gallery, gallery_labels, gallery_groups)  # fmt: skip
    as_sets = [label if isinstance(label, (set, list)) else [label] for label in labels]
    other_sets = [label if isinstance(label, (set, list)) else [label] for label in other_labels]
    for q in range(len(queries)):
        candidates = []
        distances = metric.pairs(queries[q : q + 1].double().expand(len(others), -1), others.double()).tolist()
        for i in range(len(others)):
            same_label = bool(set(as_sets[q]) & set(other_sets[i]))
            same_group = groups is not None and groups[q] is not None and groups[q] == other_groups[i]
            if alone and i == q:
                continue
            if exclude == "group" and same_group:
                continue
            if exclude == "group-and-label" and ((same_group and same_label) or other_labels[i] == -1):
                continue
            candidates.append((distances[i], same_label))  # False sorts first: of equal distances the irrelevant
        relevant = [hit for _, hit in sorted(candidates)]
        if any(relevant) and not (exclude == "group-and-label" and labels[q] == -1):
            found[q] = figures_by_loops(relevant, ks)
    return found


def figures_by_loops(relevant, ks):
    r = sum(relevant)
    precision = [hits / (i + 1) for i, hits in enumerate(accumulate(relevant))]
    figures = {}
    for k in ks:
        figures[f"recall_at_{k}"] = figures[f"cmc_at_{k}"] = float(any(relevant[:k]))
        figures[f"precision_at_{k}"] = sum(relevant[:k]) / k
        gain = sum(1 / np.log2(i + 2) for i in range(min(k, len(relevant))) if relevant[i])
        figures[f"ndcg_at_{k}"] = gain / sum(1 / np.log2(i + 2) for i in range(min(r, k)))
    figures["r_precision"] = sum(relevant[:r]) / r
    figures["map_at_r"] = sum(precision[i] for i in range(r) if relevant[i]) / r
    figures["map"] = sum(precision[i] for i in range(len(relevant)) if relevant[i]) / r
    figures["mrr"] = 1 / (relevant.index(True) + 1)
    old_precision, area, hits = 1.0, 0.0, 0
    for i, hit in enumerate(relevant):  # as Market-1501's code goes down the ranking
        hits += hit
        area += hit / r * (old_precision + hits / (i + 1)) / 2
        old_precision = hits / (i + 1)
    figures["map_market"] = area
    return figures


def check(found, expected):
    assert len(expected) > 3
    assert found.query_rows.tolist() == list(expected)
    for name, values in found.figures().items():
        np.testing.assert_allclose(values, [one[name] for one in expected.values()], rtol=1e-12, err_msg=name)
    assert set(found.figures()) == set(next(iter(expected.values())))


def world(n_items=67, n_classes=9, dimensions=5, seed=0, noise=1.2):
    rng = np.random.default_rng(seed)
    labels = rng.integers(n_classes, size=n_items)
    centres = rng.normal(size=(n_classes, dimensions))
    embeddings = centres[labels] + noise * rng.normal(size=(n_items, dimensions))
    return torch.from_numpy(embeddings.astype(np.float32)), labels.tolist()


def on_a_grid(rows):
    """Coordinates 0, 1 and 2: full of ties and duplicates."""
    return rows.round().clamp(0, 2)


class ByTorch(Euclidean):
    """Euclidean without compiled loops."""

    def prepared(self, x, y):
        return None


@pytest.mark.parametrize("distance", ["euclidean", "squared-euclidean", "cosine", "manhattan", "jaccard", ByTorch()])
@pytest.mark.parametrize("ties", [False, True])
def test_leave_one_out(distance, ties):
    if ties and distance == "cosine":
        pytest.skip("normalised rows of a grid tie in exact arithmetic only")
    embeddings, labels = world()
    embeddings = on_a_grid(embeddings) if ties else embeddings.abs() if distance == "jaccard" else embeddings
    labels[:2] = [100, 101]  # two classes of one
    found = retrieval(embeddings, labels, KS, distance, query_tile_rows=7)
    assert found.n_dropped == 2
    check(found, looped(embeddings, labels, KS, distance))


@pytest.mark.parametrize("exclude", [None, "group", "group-and-label"])
@pytest.mark.parametrize("apart", [False, True])
@pytest.mark.parametrize("distance", ["euclidean", ByTorch()])
def test_groups_and_galleries(exclude, apart, distance):
    embeddings, labels = world(131, 6)
    embeddings = on_a_grid(embeddings)
    rng = np.random.default_rng(3)
    groups = [None if g == 3 else f"camera {g}" for g in rng.integers(4, size=131)]
    labels[7] = labels[50] = labels[90] = -1  # junk, where Market-1501 is followed
    split = 40 if apart else 131
    other = {"gallery": embeddings[split:], "gallery_labels": labels[split:], "gallery_groups": groups[split:]}
    options = {"groups": groups[:split], "exclude": exclude} | (other if apart else {})
    found = retrieval(embeddings[:split], labels[:split], KS, distance, **options)
    check(found, looped(embeddings[:split], labels[:split], KS, distance, **options))


@pytest.mark.parametrize("apart", [False, True])
def test_several_labels(apart):
    embeddings, _ = world(83)
    rng = np.random.default_rng(1)
    labels = [set(rng.choice(12, size=rng.integers(0, 4), replace=False).tolist()) for _ in range(83)]
    labels[5] = set()
    split = 30 if apart else 83
    options = {"gallery": embeddings[split:], "gallery_labels": labels[split:]} if apart else {}
    found = retrieval(embeddings[:split], labels[:split], KS, **options)
    check(found, looped(embeddings[:split], labels[:split], KS, "euclidean", **options))
    hot = np.zeros((83, 12), np.int64)
    for row, own in enumerate(labels):
        hot[row, list(own)] = 1
    if not apart:
        marked = retrieval(embeddings, torch.from_numpy(hot), KS)
        for name, values in found.figures().items():
            assert np.array_equal(values, marked.figures()[name]), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("spread", [1.0, 1e-4])
def test_large_classes_through_the_grid(dtype, spread):
    """Far from the origin, and near each other: what products round, differences decide."""
    embeddings, labels = world(211, 3, noise=2.0, seed=4)
    embeddings = 100 + spread * embeddings.to(dtype)
    embeddings[50:80] = embeddings[:30]  # duplicates, some of another class
    check(retrieval(embeddings, labels, KS), looped(embeddings, labels, KS, "euclidean"))


@pytest.mark.parametrize("distance", ["euclidean", "cosine"])
def test_products_without_compiled_loops(distance, monkeypatch):
    """As on a GPU: the same figures by PyTorch alone, duplicates, zero rows and wide grids included."""
    embeddings, labels = world(150, 4)
    embeddings[40:60] = embeddings[:20]
    embeddings[[3, 70, 90]] = 0
    compiled = retrieval(embeddings, labels, KS, distance).figures()
    module = sys.modules["tercet.evaluation.retrieval"]  # the package calls a function by that name
    monkeypatch.setattr(module, "compared", lambda x, y, metric: ByTiles(x, y, metric, metric.prepared(x, y)))
    monkeypatch.setattr("tercet.neighbors.compared.COLUMNS", 31)
    for name, values in retrieval(embeddings, labels, KS, distance).figures().items():
        assert np.array_equal(values, compiled[name]), name


def test_crowded_levels():
    """One relevant item far away: nearly all levels fall into one cell of the grid."""
    rng = np.random.default_rng(0)
    embeddings = torch.from_numpy(rng.normal(size=(200, 3)).astype(np.float32))
    embeddings[0] = 1e4
    labels = [0] * 100 + [1] * 100
    check(retrieval(embeddings, labels, KS), looped(embeddings, labels, KS, "euclidean"))


def test_tiles_do_not_matter(monkeypatch):
    embeddings, labels = world(211, 4)
    whole = retrieval(embeddings, labels, KS).figures()
    monkeypatch.setattr("tercet.neighbors.products.COLUMNS", (13, 17))
    steps = []
    parts = retrieval(embeddings, labels, KS, query_tile_rows=3, progress=lambda done, total: steps.append(done))
    assert steps[-1] == 211
    assert steps == sorted(steps)
    assert len(steps) == 5  # 71 tiles, 16 at once
    for name, values in whole.items():
        assert np.array_equal(values, parts.figures()[name]), name


def test_a_collapsed_embedding_gets_no_credit():
    found = retrieval(np.zeros((12, 3)), np.arange(12) // 3, (1, 8, 10, 11))
    assert found.recall.tolist() == [[0.0, 0.0, 1.0, 1.0]] * 12  # behind all nine of other classes
    assert found.figures()["mrr"].tolist() == [0.1] * 12


def test_labels_of_both_sides_in_any_type():
    queries, gallery = np.array([[0.0], [9.0]]), np.array([[0.0], [9.0], [0.1]])
    big = 2**63 + 1  # beyond int64
    for own, others in (
        (np.array([big, 5], np.uint64), np.array([5, 5, -7], np.int64)),
        (np.array(["a", "b"]), ["b", "b", "c"]),
        (np.array([2**24, 2**24 + 1]), np.array([2**24 + 1, 2**24 + 1, 2**24 + 2])),
    ):
        found = retrieval(queries, own, (1,), gallery=gallery, gallery_labels=others)
        assert found.query_rows.tolist() == [1]
        assert found.recall.tolist() == [[1.0]]


def test_breakdown():
    embeddings = [[0.0], [1.0], [1.5], [10.0], [20.0]]
    found = retrieval(embeddings, ["a", "b", "a", "b", "c"], (1,), groups=["x", None, "x", "y", "y"])
    assert by_class(found) == [
        {"class": "a", "items": 2, "queries": 2, "recall_at_1": 0.0, "map_at_r": 0.0},
        {"class": "b", "items": 2, "queries": 2, "recall_at_1": 0.0, "map_at_r": 0.0},
        {"class": "c", "items": 1, "queries": 0, "recall_at_1": None, "map_at_r": None},
    ]
    assert [(row["group"], row["items"], row["queries"]) for row in by_group(found)] == [("x", 2, 2), ("y", 2, 1)]
    evaluation = evaluate_embeddings(embeddings, ["a", "b", "a", "b", "c"], intervals=False)
    assert [row["class"] for row in evaluation.classes] == ["a", "b", "c"]
    assert evaluation.groups == []


def test_evaluation_with_a_gallery_verifies_query_against_gallery():
    embeddings, labels = world(90, 5)
    found = evaluate_embeddings(embeddings[:30], labels[:30], gallery=embeddings[30:], gallery_labels=labels[30:])
    same = sum(a == b for a in labels[:30] for b in labels[30:])
    assert (found.metrics["n_pairs"], found.metrics["n_same_pairs"]) == (30 * 60, same)
    assert (found.metrics["n_items"], found.metrics["n_gallery_items"]) == (30, 60)
    assert all(one["left"] < 30 <= one["right"] < 90 for one in found.mistakes["false_matches"])
    for one in found.mistakes["false_matches"]:
        apart = float((embeddings[one["left"]] - embeddings[one["right"]]).norm())
        assert one["distance"] == pytest.approx(apart, rel=1e-5)
        assert labels[one["left"]] != labels[one["right"]]
    sampled = evaluate_embeddings(
        embeddings[:30], labels[:30], gallery=embeddings[30:], gallery_labels=labels[30:], max_pairs=100
    )
    assert sampled.metrics["n_pairs"] == 100
    assert 0 < sampled.metrics["n_same_pairs"] <= 50
    assert "Verification is on 100 of 1,800 pairs" in sampled.notes[0]
    json.dumps(sampled.to_json(), allow_nan=False)


@pytest.mark.parametrize("max_pairs", [10_000, 300, 40])
def test_pairs_of_items_with_several_labels(max_pairs):
    embeddings, _ = world(50)
    rng = np.random.default_rng(2)
    labels = [sorted(rng.choice(9, size=rng.integers(1, 4), replace=False).tolist()) for _ in range(50)]
    found = evaluate_embeddings(embeddings, labels, max_pairs=max_pairs, intervals=False)
    same = sum(bool(set(labels[i]) & set(labels[j])) for i in range(50) for j in range(i))
    assert found.metrics["n_pairs"] == min(max_pairs, 50 * 49 // 2)
    assert found.metrics["n_same_pairs"] == min(same, max(max_pairs // 2, max_pairs - (1225 - same)))
    for kind in ("false_matches", "false_non_matches"):
        for one in found.mistakes[kind]:
            share = bool(set(labels[one["left"]]) & set(labels[one["right"]]))
            assert share == (kind == "false_non_matches")


def test_notes_say_what_is_left_out():
    embeddings, labels = world(20, 2)
    found = evaluate_embeddings(
        embeddings, [-1, 7, *labels[2:]], groups=["a"] * 20, exclude="group-and-label", intervals=False
    )
    assert found.metrics["map_at_r"] is None
    assert found.missing["map_at_r"] == "nothing is relevant to any query"
    assert found.notes[0] == "20 items are no queries: nothing is relevant to them but what shares the group, too."
    assert found.notes[1] == "1 items labelled -1 are junk, as in Market-1501: left out of the search."


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"exclude": "groups"}, "exclude is 'groups'; allowed are 'group', 'group-and-label'. Did you mean 'group'?"),
        ({"exclude": "group"}, "exclude='group' leaves out by groups, and there are none; give groups."),
        ({"gallery": np.ones((3, 3))}, "a gallery needs gallery_labels, which say what of it is relevant to a query."),
        ({"gallery_labels": [1]}, "gallery_labels belongs to a gallery; give gallery too, or leave it out."),
        ({"groups": ["a"]}, "groups must be one per item, 2 in all; given 1."),
        ({"groups": [0.5, 1]}, "groups must be whole numbers, strings or None; given 0.5."),
        (
            {"gallery": np.ones((1, 3)), "gallery_labels": [1], "groups": [1, 2], "exclude": "group"},
            "groups is given and gallery_groups is not; queries and gallery both need their groups.",
        ),
        (
            {"gallery": np.ones((1, 3)), "gallery_labels": ["a"]},
            "labels are strings on one side and whole numbers on the other; both must be of one kind.",
        ),
        (
            {"gallery": np.ones((1, 2)), "gallery_labels": [1]},
            "queries have 3 dimensions and references 2; both must come from the same model.",
        ),
        ({"gallery": np.ones((1, 3)), "gallery_labels": [1, 2]}, "gallery_labels must be one per embedding, 1 in all; "
                                                                  "given shape (2,)."),
    ],
)  # fmt: skip
def test_messages(options, message):
    with pytest.raises(InputError) as caught:
        retrieval(np.ones((2, 3)), [1, 1], (1,), **options)
    assert str(caught.value) == message


class TestApproximate:
    """Needs faiss."""

    @pytest.fixture(autouse=True)
    def _faiss(self):
        pytest.importorskip("faiss", reason="faiss is not installed")

    @pytest.mark.parametrize("distance", ["euclidean", "cosine"])
    def test_few_cells_are_exact(self, distance):
        embeddings, labels = world(300, 20)  # so few that all cells are looked into
        exact = retrieval(embeddings, labels, KS, distance)
        found = retrieval(embeddings, labels, KS, distance, approximate=True)
        assert found.search_recall == 1.0
        assert set(exact.figures()) - set(found.figures()) == {"r_precision", "map_at_r", "map", "mrr", "map_market"}
        for name, values in found.figures().items():
            np.testing.assert_allclose(values, exact.figures()[name], err_msg=name)

    def test_groups_are_left_out(self):
        embeddings, labels = world(200, 10)
        groups = (np.arange(200) % 7).tolist()
        exact, found = (
            retrieval(embeddings, labels, KS, groups=groups, exclude="group", approximate=way) for way in (False, True)
        )
        for name, values in found.figures().items():
            np.testing.assert_allclose(values, exact.figures()[name], err_msg=name)

    def test_the_evaluation_says_so(self):
        embeddings, labels = world(900, 150)
        found = evaluate_embeddings(embeddings, labels, approximate=True, intervals=False)
        assert 0.5 < found.metrics["search_recall"] <= 1
        assert found.metrics["map_at_r"] is None
        assert found.missing["map_at_r"].startswith("an approximate search finds the k nearest")
        assert any(note.startswith("The search was approximate: it finds ") for note in found.notes)
        assert set(found.missing) == {name for name, value in found.metrics.items() if value is None}

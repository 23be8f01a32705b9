"""What the report shows of an evaluation: who is nearest to whom, which labels may be wrong, and the map."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file

from tercet.data.records import Records
from tercet.data.sides import SIDES, SidedItems
from tercet.distances import resolve
from tercet.training.assessment import map as maps
from tercet.training.assessment import neighbours
from tercet.training.assessment.assessment import Asked, assess
from tercet.training.assessment.map import make_map, principal_plane
from tercet.training.assessment.neighbours import Neighbours, mistaken_queries, suspects
from tercet.training.assessment.shown import show, thumbnail
from tercet.training.folder.metrics import remove_assessment, write_assessment

EUCLIDEAN = resolve("euclidean")


def texts(labels, name="{}"):
    classes = tuple(f"class {code}" for code in range(max(labels) + 1)) if len(labels) else ()
    items = [f"text number {i}" for i in range(len(labels))]
    return Records(
        kind="text", items=items, names=[name.format(i) for i in range(len(labels))],
        labels=np.array(labels, dtype=np.int64), classes=classes, tuples=None, similar=None, columns=(), skipped=(),
        source="drawn", description="",
    )  # fmt: skip


def clouds(count=23, classes=5, dim=3, seed=0, noise=0.8):
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % classes
    return (rng.normal(size=(classes, dim))[labels] + noise * rng.normal(size=(count, dim))).astype(np.float32), labels


def by_loops(vectors, k, distance=None):
    far = np.linalg.norm(vectors[:, None].astype(np.float64) - vectors[None], axis=2)
    found = []
    for row in range(len(vectors)):
        others = sorted((far[row, other], other) for other in range(len(vectors)) if other != row)
        found.append([other for _, other in others[:k]])
    return found


def test_neighbours_are_those_of_plain_loops():
    vectors, labels = clouds()
    found = Neighbours.of(vectors, texts(labels), EUCLIDEAN)
    assert sorted(found.queries.tolist()) == list(range(23))
    expected = by_loops(vectors, 10)
    for row, near, right in zip(found.queries, found.indices, found.are_right(), strict=True):
        assert near.tolist() == expected[row]
        assert right.tolist() == [labels[other] == labels[row] for other in expected[row]]


def test_of_two_sides_neighbours_are_on_the_other():
    vectors, _ = clouds(11)
    items = SidedItems(("text", "text"), ([f"text {i}" for i in range(4)], [f"text {i}" for i in range(4, 11)]))
    pairs = np.array([[0, 4], [1, 5], [2, 6], [3, 7], [0, 8]])
    records = Records(
        kind=SIDES, items=items, names=[str(i) for i in range(11)], labels=None, classes=(), tuples=pairs, similar=None,
        columns=("query", "document"), skipped=(), source="drawn", description="",
    )  # fmt: skip
    found = Neighbours.of(vectors, records, EUCLIDEAN)
    far = np.linalg.norm(vectors[:, None] - vectors[None], axis=2)
    for row, near in zip(found.queries.tolist(), found.indices.tolist(), strict=True):
        others = [i for i in range(11) if (i >= 4) != (row >= 4)]
        assert [place for place in near if place >= 0] == sorted(others, key=lambda i: far[row, i])[:10]
    drawn = make_map(vectors, records, EUCLIDEAN, found).content
    assert [item["class"] for item in drawn["items"]] == ["query"] * 4 + ["document"] * 7
    assert suspects(found, records) == {}


def test_mistaken_queries_are_the_most_wrong_of_plain_loops():
    vectors, labels = clouds(60, 12, noise=1.5)
    labels[labels < 4] = 0  # a class that many of the worst are of
    labels[-1] = 12  # alone: it has no right neighbour, and is no query
    found = Neighbours.of(vectors, texts(labels), EUCLIDEAN)
    listed = mistaken_queries(found)
    expected = []
    for row, near in enumerate(by_loops(vectors, 5)):
        right = [labels[other] == labels[row] for other in near]
        if not right[0] and (labels == labels[row]).sum() > 1:
            expected.append((-(5 - sum(right)), np.linalg.norm(vectors[row] - vectors[near[0]]), row, near, right))
    expected.sort(key=lambda one: one[:3])
    kept, seen = [], []
    for one in expected:
        seen.append(labels[one[2]])
        if seen.count(labels[one[2]]) <= 2:
            kept.append(one)
    assert len(listed) == 12 < len(expected)
    assert [row for _, _, row, _, _ in kept[:12]] != [row for _, _, row, _, _ in expected[:12]]
    assert [one["query"] for one in listed] == [row for _, _, row, _, _ in kept[:12]]
    for one, (_, _, _, near, right) in zip(listed, kept, strict=False):
        assert [place["item"] for place in one["neighbours"]] == near
        assert [place["right"] for place in one["neighbours"]] == right


def test_a_flipped_label_is_suspected_and_a_copy_under_another_is_told():
    rng = np.random.default_rng(3)
    labels = np.arange(40) // 10
    vectors = (10 * rng.normal(size=(4, 6))[labels] + 0.1 * rng.normal(size=(40, 6))).astype(np.float32)
    labels[7] = 3
    vectors[25] = vectors[11]
    records = texts(labels)
    found = suspects(Neighbours.of(vectors, records, EUCLIDEAN), records)
    assert found["asked"] == 40
    by_item = {one["item"]: one["other_label"] for one in found["label_errors"]}
    assert by_item[7] == "class 0"
    assert by_item[25] == "class 1"
    assert set(by_item) == {7, 25}
    assert [(one["item"], one["other"]) for one in found["near_duplicates"]] == [(11, 25)]


def test_of_many_items_a_sample_is_asked_and_accused(monkeypatch):
    monkeypatch.setattr(neighbours, "MOST_QUERIES", 12)
    vectors, labels = clouds(60)
    records = texts(labels)
    found = Neighbours.of(vectors, records, EUCLIDEAN)
    assert len(found.queries) == 12 == len(set(found.queries.tolist()))
    expected = by_loops(vectors, 10)
    assert [row.tolist() for row in found.indices] == [expected[row] for row in found.queries]
    told = suspects(found, records)
    assert told["asked"] == 12
    assert {one["item"] for one in told["label_errors"]} <= set(found.queries.tolist())


@pytest.mark.parametrize("labels", [[0], [0, 0, 0], [0, 1], [0, 1, 2]])
def test_little_worlds_have_a_map_and_no_mistakes(labels):
    vectors = np.zeros((len(labels), 2), dtype=np.float32)
    records = texts(labels)
    found = Neighbours.of(vectors, records, EUCLIDEAN)
    content = make_map(vectors, records, EUCLIDEAN, found).content
    assert content["points"] == content["of"] == len(labels)
    assert content["x"] == [0.0] * len(labels)
    assert [len(near) for near in content["neighbours"]] == [len(labels) - 1] * len(labels)
    assert mistaken_queries(found) == []
    json.dumps([content, suspects(found, records)], allow_nan=False)


def test_the_plane_is_that_of_most_variance():
    vectors, _ = clouds(31, dim=5, seed=4)
    points = np.array([3, 0, 30])
    plane, shares = principal_plane(vectors, points)
    centred = vectors.astype(np.float64) - vectors.mean(axis=0)
    left, values, _ = np.linalg.svd(centred, full_matrices=False)
    for axis in range(2):
        expected = left[:, axis] * values[axis]
        assert np.allclose(np.abs(plane[:, axis]), np.abs(expected[points]), atol=1e-6)
    assert shares == pytest.approx((values**2 / (values**2).sum())[:2].tolist())
    assert principal_plane(vectors[:, :1], points)[1] == [1.0, 0.0]


def test_of_many_items_the_map_is_a_sample_whose_neighbours_may_lie_outside(monkeypatch):
    monkeypatch.setattr(maps, "MOST_POINTS", 9)
    vectors, labels = clouds(40)
    drawn = make_map(vectors, texts(labels), EUCLIDEAN, Neighbours.of(vectors, texts(labels), EUCLIDEAN))
    content, expected = drawn.content, by_loops(vectors, 5)
    rows = [int(item["name"]) for item in content["items"]]
    assert (content["of"], content["points"], len(content["x"]), drawn.vectors.shape) == (40, 9, 9, (9, 3))
    assert len(rows) > 9
    assert np.array_equal(drawn.vectors, vectors[rows[:9]])
    for point in range(9):
        assert [rows[near] for near in content["neighbours"][point]] == expected[rows[point]]
        near = expected[rows[point]]
        assert content["right"][point] == [int(labels[other] == labels[rows[point]]) for other in near]
        far = [np.linalg.norm(vectors[rows[point]] - vectors[other]) for other in near]
        assert content["distances"][point] == pytest.approx(far, rel=1e-3)


def test_there_is_room_for_so_many_texts_and_no_more(monkeypatch):
    vectors, labels = clouds(40)
    records = texts(labels, "a name of item {}")
    found = Neighbours.of(vectors, records, EUCLIDEAN)
    monkeypatch.setattr(maps, "ITEM_BYTES", 1200)
    items = make_map(vectors, records, EUCLIDEAN, found).content["items"]
    assert sum(len(text.encode()) for item in items for text in item.values()) <= 1200 + 160
    told = ["text" in item for item in items]
    assert 0 < sum(told) < 40
    assert told == sorted(told, reverse=True)


def test_an_assessment_keeps_its_map_and_takes_it_away_with_it(tmp_path):
    vectors, labels = clouds(40)
    records = texts(labels)
    found = assess(vectors, records, EUCLIDEAN, Asked(threshold=1.0))
    write_assessment(tmp_path, "test", found, records, 0)
    write_assessment(tmp_path, "again", found, records, 0)
    for ending in ("json", "safetensors"):
        first, second = (tmp_path / "maps" / f"{name}.{ending}" for name in ("test", "again"))
        assert first.read_bytes() == second.read_bytes()
    assert np.array_equal(load_file(tmp_path / "maps/test.safetensors")["vectors"], vectors)
    kept = json.loads((tmp_path / "evaluations/test.json").read_text())
    assert kept["source"] == "drawn"
    shown = {str(one["query"]) for one in kept["mistaken"]} | {
        str(near["item"]) for one in kept["mistaken"] for near in one["neighbours"]
    }
    assert shown
    assert shown <= set(kept["items"])
    remove_assessment(tmp_path, "test")
    assert sorted(path.name for path in (tmp_path / "maps").iterdir()) == ["again.json", "again.safetensors"]


def test_what_is_shown_of_an_item():
    records = texts([0, 1], "x" * 500)
    assert show(records, 1) == {"name": "x" * 199 + "…", "class": "class 1", "text": "text number 1"}
    assert thumbnail(np.zeros((300, 200, 3), dtype=np.uint8), 40).startswith("data:image/jpeg;base64,")

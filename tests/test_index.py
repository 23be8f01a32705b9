"""The index: the nearest items by the run's own distance, kept whole or not at all."""

import numpy as np
import pytest

from tercet.errors import InputError, RunError
from tercet.index import Index


def make_index(count=37, dimensions=5, distance="euclidean", labels=True):
    vectors = np.random.default_rng(0).normal(size=(count, dimensions)).astype(np.float32)
    names = [f"item {number}" for number in range(count)]
    return Index(vectors, names, [f"c{i % 3}" for i in range(count)] if labels else None, "runs/a", "f" * 32, distance)


def plain_distance(name, a, b):
    if name == "cosine":
        return 1 - a @ b / np.linalg.norm(a) / np.linalg.norm(b)
    return {"euclidean": np.sqrt(((a - b) ** 2).sum()), "manhattan": np.abs(a - b).sum(),
            "minkowski(p=4)": (np.abs(a - b) ** 4).sum() ** 0.25}[name]  # fmt: skip


@pytest.mark.parametrize("distance", ["euclidean", "cosine", "manhattan", "minkowski(p=4)"])
def test_search_is_the_definition(distance):
    index = make_index(distance=distance)
    queries = np.random.default_rng(1).normal(size=(4, 5)).astype(np.float32)
    for query, found in zip(queries, index.search(queries, 6), strict=True):
        expected = sorted((plain_distance(distance, query, row), i) for i, row in enumerate(index.vectors))[:6]
        assert [one.position for one in found] == [i for _, i in expected]
        assert [one.distance for one in found] == pytest.approx([far for far, _ in expected], rel=1e-5)
        assert [one.label for one in found] == [f"c{i % 3}" for _, i in expected]
        assert [one.name for one in found] == [f"item {i}" for _, i in expected]


def test_k_beyond_the_items_gives_all_of_them():
    assert len(make_index(count=3).search(np.zeros((1, 5), dtype=np.float32), 10)[0]) == 3


@pytest.mark.parametrize("labels", [True, False])
def test_what_is_saved_is_opened_again(tmp_path, labels):
    index = make_index(labels=labels, distance="minkowski(p=4)")
    index.save(tmp_path / "a.index")
    again = Index.open(tmp_path / "a.index")
    assert np.array_equal(again.vectors, index.vectors)
    assert (again.names, again.labels) == (index.names, index.labels)
    assert (again.run, again.weights, again.distance) == (index.run, index.weights, index.distance)


def test_an_approximate_index_is_saved_too(tmp_path):
    pytest.importorskip("faiss")
    index = make_index(count=500).approximated()
    assert index.recall > 0.5
    index.save(tmp_path / "a.index")
    again = Index.open(tmp_path / "a.index")
    query = index.vectors[123:124]
    assert again.search(query, 1)[0][0].position == 123
    assert again.recall == index.recall


def test_refusals(tmp_path):
    index = make_index()
    with pytest.raises(InputError, match=r"k is 0; it must be 1 or more\."):
        index.search(index.vectors[:1], 0)
    with pytest.raises(InputError, match=r"queries have shape \(1, 4\); this index holds vectors of 5\."):
        index.search(index.vectors[:1, :4], 1)
    index.save(tmp_path / "a.index")
    with pytest.raises(RunError, match="exists already"):
        index.save(tmp_path / "a.index")
    with pytest.raises(RunError, match=r"is not an index: index\.json is missing"):
        Index.open(tmp_path)
    with pytest.raises(RunError, match="their distances mean nothing to each other"):
        index.check_weights("0" * 32)
    index.check_weights("f" * 32)
    with pytest.raises(InputError, match="manhattan"):
        make_index(distance="manhattan").approximated()

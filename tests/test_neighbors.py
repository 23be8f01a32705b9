"""Exact neighbours against sorted loops, whatever the tiles; approximate ones against exact ones."""

import numpy as np
import pytest
import torch

from tercet.distances import Euclidean, resolve
from tercet.errors import InputError
from tercet.neighbors import ApproximateNeighbors, nearest
from tercet.neighbors.exact import _distances, _indices, _keys

DISTANCES = ["euclidean", "squared-euclidean", "cosine", "manhattan", "minkowski"]


def sorted_neighbors(queries, references, k, distance, own_rows=None):
    """The definition: measure each pair, sort by (distance, index)."""
    metric, rows = resolve(distance), []
    for q, query in enumerate(queries):
        measured = []
        for r, reference in enumerate(references):
            if own_rows is None or own_rows[q] != r:
                measured.append((float(metric.pairs(query[None], reference[None])[0].float()), r))
        rows.append(sorted(measured)[:k])
    return [[d for d, _ in row] for row in rows], [[r for _, r in row] for row in rows]


def world(n_queries, n_references, dimensions=7, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return (
        torch.randn(n_queries, dimensions, generator=generator),
        torch.randn(n_references, dimensions, generator=generator) + 0.3,
    )


@pytest.mark.parametrize("distance", DISTANCES)
def test_nearest_equals_sorting_all_pairs(distance):
    queries, references = world(11, 37)
    distances, indices = nearest(queries, references, 5, distance, query_tile_rows=4, reference_tile_rows=13)
    expected_distances, expected_indices = sorted_neighbors(queries, references, 5, distance)
    assert indices.tolist() == expected_indices
    torch.testing.assert_close(distances, torch.tensor(expected_distances))
    assert distances.dtype == torch.float32
    assert indices.dtype == torch.int64


@pytest.mark.parametrize("tiles", [(1, 1), (5, 3), (256, 2048)])
def test_result_does_not_depend_on_tiles(tiles):
    queries, references = world(23, 101)
    references[60:80] = references[:20]  # ties
    distances, indices = nearest(queries, references, 17, query_tile_rows=7, reference_tile_rows=41)
    other_distances, other_indices = nearest(
        queries, references, 17, query_tile_rows=tiles[0], reference_tile_rows=tiles[1]
    )
    assert torch.equal(indices, other_indices)
    assert torch.equal(distances, other_distances)


def test_ties_go_to_the_lowest_index():
    references = torch.tensor([[2.0], [1.0], [1.0], [-1.0], [1.0]])
    distances, indices = nearest(torch.zeros(1, 1), references, 4, reference_tile_rows=2)
    assert indices.tolist() == [[1, 2, 3, 4]]
    assert distances.tolist() == [[1.0, 1.0, 1.0, 1.0]]


def test_near_pairs_far_from_the_origin_keep_their_order():
    generator = torch.Generator().manual_seed(3)
    centre = 300 * torch.randn(1, 16, generator=generator)
    references = torch.cat([centre + 1e-3 * torch.randn(40, 16, generator=generator), -centre.expand(5, 16)])
    _, indices = nearest(references, references, 6, exclude_self=True)
    assert indices.tolist() == sorted_neighbors(references, references, 6, "euclidean", range(45))[1]


class CoarseTiles(Euclidean):
    """A distance whose tile is off by as much as a matrix product may be, only more visibly."""

    def tile(self, x, y):
        return super().tile(x, y).round(decimals=1)


def test_rounding_of_the_tiles_does_not_decide():
    references = torch.tensor([[9.0], [1.03], [1.04], [1.02], [1.01]])
    distances, indices = nearest(torch.zeros(1, 1), references, 2, CoarseTiles(), reference_tile_rows=3)
    assert indices.tolist() == [[4, 3]]
    torch.testing.assert_close(distances, torch.tensor([[1.01, 1.02]]))


def test_exclude_self_leaves_out_the_row_and_not_its_duplicates():
    rows = torch.tensor([[0.0], [0.0], [5.0]])
    assert nearest(rows, rows, 1, exclude_self=True)[1].tolist() == [[1], [0], [0]]
    references = world(1, 29)[1]
    chosen = torch.tensor([28, 3, 3, 17])
    found = nearest(references[chosen], references, 28, exclude_self=True, query_rows=chosen, reference_tile_rows=10)[1]
    assert found.tolist() == sorted_neighbors(references[chosen], references, 28, "euclidean", chosen)[1]


def test_keys_order_as_distances_then_indices():
    values = torch.tensor([[3.5, -1e-7, 0.0, -0.0, 1e-40, float("inf"), -2.0]])
    keys = _keys(values, torch.arange(7))
    assert _indices(keys.sort().values).tolist() == [[6, 1, 2, 3, 4, 0, 5]]
    assert torch.equal(_distances(keys), values)  # torch.equal takes -0 and 0 for one value


def test_dtypes_and_kinds_of_input_agree():
    queries, references = world(5, 19)
    queries, references = queries.round(decimals=1), references.round(decimals=1)
    expected = nearest(queries.double(), references.double(), 3)
    from_numpy = nearest(queries.numpy(), references.double().numpy(), 3)
    assert torch.equal(expected[1], from_numpy[1])
    assert expected[0].dtype == torch.float32
    half = nearest(queries.bfloat16(), references.bfloat16(), 3)
    exact_half = nearest(queries.bfloat16().float(), references.bfloat16().float(), 3)
    assert torch.equal(half[0], exact_half[0])


def test_no_queries_give_no_rows():
    distances, indices = nearest(torch.empty(0, 3), torch.ones(2, 3), 2)
    assert distances.shape == indices.shape == (0, 2)
    assert indices.dtype == torch.int64


def test_rows_outside_the_distances_domain_are_refused():
    rows = torch.eye(4)
    with pytest.raises(InputError, match="references"):
        nearest(rows, -rows, 1, "jaccard")
    with pytest.raises(InputError, match="queries"):
        nearest(-rows, rows, 1, "jaccard")


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((torch.ones(2, 3), torch.ones(4, 3), 5), {}, "k is 5, but there are only 4 references."),
        (
            (torch.ones(4, 3), torch.ones(4, 3), 4),
            {"exclude_self": True},
            "k is 4, but there are only 3 references besides the query itself.",
        ),
        ((torch.ones(2, 3), torch.ones(4, 3), 0), {}, "k must be a whole number of at least 1; given 0."),
        (
            (torch.ones(2, 3), torch.ones(4, 2), 1),
            {},
            "queries have 3 dimensions and references 2; both must come from the same model.",
        ),
        (
            (torch.ones(3), torch.ones(4, 3), 1),
            {},
            "queries must have shape (rows, dimensions); given (3,).",
        ),
        (
            (torch.tensor([[1.0], [float("nan")], [float("inf")]]), torch.ones(4, 1), 1),
            {},
            "queries must be finite and below 1e15: 2 of 3 rows are not, the first is row 1.",
        ),
        (
            (torch.ones(2, 3), torch.ones(4, 3), 1),
            {"exclude_self": True},
            "exclude_self with 2 queries and 4 references needs query_rows: which row of the references each query is.",
        ),
        (
            (torch.ones(2, 3), torch.ones(4, 3), 1),
            {"exclude_self": True, "query_rows": [0, 4]},
            "query_rows must lie from 0 to 3, the rows of the references.",
        ),
        (
            (torch.ones(2, 3), torch.ones(4, 3), 1),
            {"query_rows": [0, 1]},
            "query_rows says which row each query is; it has a meaning only with exclude_self=True.",
        ),
    ],
)
def test_messages(arguments, options, message):
    with pytest.raises(InputError) as caught:
        nearest(*arguments, **options)
    assert str(caught.value) == message


class TestApproximate:
    """Needs faiss."""

    @pytest.fixture(autouse=True)
    def _faiss(self):
        pytest.importorskip("faiss", reason="faiss is not installed")

    @pytest.mark.parametrize("distance", ["euclidean", "squared-euclidean", "cosine"])
    def test_all_probes_are_exact(self, distance):
        vectors = world(1, 997)[1]
        index = ApproximateNeighbors.build(vectors, distance)
        assert index.n_cells > 1
        distances, indices = index.search(vectors[:50], 7, probes=index.n_cells)
        exact_distances, exact_indices = nearest(vectors[:50], vectors, 7, distance)
        assert torch.equal(indices, exact_indices)
        torch.testing.assert_close(distances, exact_distances, rtol=1e-4, atol=2e-6)
        assert index.recall_against_exact(vectors, 7, probes=index.n_cells) == 1.0

    def test_recall_counts_what_was_found(self):
        vectors = world(1, 1999, dimensions=24)[1]
        index = ApproximateNeighbors.build(vectors)
        few, many = (index.recall_against_exact(vectors, 10, probes=p) for p in (1, index.n_cells // 2))
        assert 0.1 < few < many < 1
        exact = nearest(vectors, vectors, 10)[1]
        found = index.search(vectors, 10, probes=1)[1]
        shares = [len(set(a) & set(b)) / 10 for a, b in zip(exact.tolist(), found.tolist(), strict=True)]
        assert index.recall_against_exact(vectors, 10, probes=1, n_queries=5000) == pytest.approx(np.mean(shares))

    def test_every_row_is_full_even_where_the_cells_hold_too_few(self):
        vectors = world(1, 499)[1]
        index = ApproximateNeighbors.build(vectors)
        distances, indices = index.search(vectors[:9], 499, probes=1)
        assert sorted(indices[0].tolist()) == list(range(499))
        assert torch.isfinite(distances).all()

    def test_equal_vectors_and_seed_give_equal_bytes_and_back(self):
        vectors = world(1, 499)[1]
        array = ApproximateNeighbors.build(vectors, "cosine", seed=3).to_array()
        assert np.array_equal(array, ApproximateNeighbors.build(vectors, "cosine", seed=3).to_array())
        assert not np.array_equal(array, ApproximateNeighbors.build(vectors, "cosine", seed=4).to_array())
        again = ApproximateNeighbors.from_array(array, "cosine")
        first = ApproximateNeighbors.build(vectors, "cosine", seed=3)
        for one, two in zip(again.search(vectors, 5), first.search(vectors, 5), strict=True):
            assert torch.equal(one, two)

    def test_zero_row_is_at_cosine_distance_one(self):
        index = ApproximateNeighbors.build([[1.0, 0.0], [0.0, 0.0], [-1.0, 0.0]], "cosine")
        distances, indices = index.search([[2.0, 0.0]], 3)
        assert indices.tolist() == [[0, 1, 2]]
        assert distances.tolist() == [[0.0, 1.0, 2.0]]

    def test_messages(self):
        vectors = world(1, 30)[1]
        with pytest.raises(InputError) as caught:
            ApproximateNeighbors.build(vectors, "euclidian")
        assert str(caught.value) == (
            "distance of an approximate search is 'euclidian'; allowed are 'euclidean', 'squared-euclidean', "
            "'cosine'. Did you mean 'euclidean'?"
        )
        index = ApproximateNeighbors.build(vectors)
        with pytest.raises(InputError, match=r"^k is 31; allowed is 1 to 30, the number of vectors\.$"):
            index.search(vectors, 31)
        with pytest.raises(InputError, match=r"^queries have 2 dimensions and the index 7\.$"):
            index.search(vectors[:, :2], 3)
        with pytest.raises(InputError, match=r"^probes is 2; allowed is 1 to 1, the number of cells\.$"):
            index.search(vectors, 3, probes=2)
        with pytest.raises(InputError, match="needs at least one vector"):
            ApproximateNeighbors.build(vectors[:0])
        with pytest.raises(InputError, match="the index holds 30 vectors and 29 were given"):
            index.recall_against_exact(vectors[:29])

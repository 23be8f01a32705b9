"""The table of distances: each keeps the contract and equals a plain loop; what is no distance is refused."""

import math
import warnings

import pytest
import torch

from tercet import distances
from tercet.distances import DISTANCES, Cosine, Euclidean, Minkowski, RowDistance, SquaredEuclidean, resolve
from tercet.errors import InputError
from tercet.testing import DistanceContract, assert_close, random_rows


def norm(v):
    return math.sqrt(sum(a * a for a in v))


# From the definitions, by loops over plain numbers.
BY_LOOPS = {
    "euclidean": lambda x, y: norm([a - b for a, b in zip(x, y, strict=True)]),
    "squared-euclidean": lambda x, y: sum((a - b) ** 2 for a, b in zip(x, y, strict=True)),
    "cosine": lambda x, y: 1 - sum(a * b for a, b in zip(x, y, strict=True)) / (norm(x) * norm(y)),
    "manhattan": lambda x, y: sum(abs(a - b) for a, b in zip(x, y, strict=True)),
    "minkowski": lambda x, y: sum(abs(a - b) ** 3 for a, b in zip(x, y, strict=True)) ** (1 / 3),
}


class TestTable(DistanceContract):
    @pytest.fixture(params=[*DISTANCES, "minkowski(p=1.5)", "minkowski(p=1)", "minkowski(p=7)"])
    def distance(self, request):
        return resolve(request.param)


def torch_euclidean(x, y):
    return torch.nn.functional.pairwise_distance(x, y, eps=0.0)


class TestFunctionOfRows(DistanceContract):
    @pytest.fixture
    def distance(self):
        return resolve(torch_euclidean)

    def test_name_resolves_to_an_equal_distance(self, distance):
        assert distance.name == "torch_euclidean"
        assert resolve(torch_euclidean) == distance


@pytest.mark.parametrize("name", DISTANCES)
def test_it_equals_the_loop(name):
    x, y = random_rows(7, 5, 0), random_rows(11, 5, 1)
    expected = torch.tensor([[BY_LOOPS[name](a, b) for b in y.tolist()] for a in x.tolist()], dtype=torch.float64)
    assert_close(resolve(name).tile(x, y), expected)


def test_cosine_of_a_zero_row_is_one_without_gradient():
    x = torch.tensor([[0.0, 0.0], [3.0, 4.0]]).double()
    assert Cosine().tile(x, x)[0].tolist() == [1, 1]
    assert Cosine().pairs(x, x.flip(0)).tolist() == [1, 1]
    dx, dy = Cosine().tile_gradient(x, x, Cosine().tile(x, x), torch.ones(2, 2).double())
    assert not dx.any()
    assert not dy.any()


def test_cosine_does_not_see_length():
    x, y = random_rows(7, 5, 0), random_rows(7, 5, 1)
    scale = torch.linspace(0.01, 1000, 7).double()[:, None]
    assert_close(Cosine().tile(x * scale, y), Cosine().tile(x, y))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_distances_on_a_dyadic_grid_are_exact(dtype):
    """So that equal distances are equal, whatever the centre and the size of the tile."""
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randint(-24, 9, (rows, 37), generator=generator).to(dtype) / 8 for rows in (31, 29))
    expected = (x[:, None] - y).square().sum(2)
    assert torch.equal(SquaredEuclidean().tile(x, y), expected)
    assert torch.equal(Euclidean().tile(x, y), expected.sqrt())


def test_a_far_centre_costs_no_digits():
    x, y = random_rows(29, 13, 0), random_rows(23, 13, 1)
    shifted_x, shifted_y = ((rows + 1000).float() for rows in (x, y))
    expected = Euclidean().tile(shifted_x.double(), shifted_y.double())
    assert_close(Euclidean().tile(shifted_x, shifted_y).double(), expected, 1e-6)


@pytest.mark.parametrize("gap", [1e-4, 1e-6])
def test_gradient_of_near_duplicates_in_float32(gap):
    """diag(V1)X - VX alone would be off by 2 % at a gap of 1e-4, even with exact distances."""
    x = torch.nn.functional.normalize(random_rows(64, 128, 0))
    x[1] = x[0] + gap * torch.nn.functional.normalize(random_rows(1, 128, 1))[0]
    x = x.float()
    weights = random_rows(64, 64, 2).float()
    right = Euclidean().tile_gradient(
        x.double(), x.double(), Euclidean().tile(x.double(), x.double()), weights.double()
    )
    found = Euclidean().tile_gradient(x, x, Euclidean().tile(x, x), weights.clone())
    assert_close(found[0].double(), right[0], 1e-5)
    assert_close(found[1].double(), right[1], 1e-5)


def test_small_differences_do_not_vanish_in_high_powers():
    x = torch.zeros(1, 3)
    y = torch.tensor([[1e-5, 0.0, 0.0]])
    assert Minkowski(10).pairs(x, y).item() == pytest.approx(1e-5)
    assert Minkowski(10).tile(x, y).item() == pytest.approx(1e-5)


def test_sphere_ranges():
    ranges = {name: resolve(name).sphere_range(4) for name in DISTANCES}
    expected = {
        "euclidean": 2.0,
        "squared-euclidean": 4.0,
        "cosine": 2.0,
        "manhattan": 4.0,
        "minkowski": 2.0,
    }
    assert ranges == expected
    assert Minkowski(1.5).sphere_range(4) == pytest.approx(2 * 4 ** (1 / 1.5 - 1 / 2))
    assert {name: resolve(name).largest for name in DISTANCES}["cosine"] == 2


def test_lists_are_gathered_in_chunks(monkeypatch):
    x, y = random_rows(29, 5, 0), random_rows(23, 5, 1)
    i, j = torch.arange(29), torch.arange(29) % 23
    whole = Minkowski().listed(x, y, i, j)
    seen = []
    monkeypatch.setattr(distances.base, "CHUNK_BYTES", 7 * 5 * 8)
    monkeypatch.setattr(
        Minkowski,
        "pairs",
        lambda self, a, b, pairs=Minkowski.pairs: (seen.append(len(a)), pairs(self, a, b))[1],
    )
    assert torch.equal(Minkowski().listed(x, y, i, j), whole)
    assert seen == [7, 7, 7, 7, 1]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("euclidian", "distance is 'euclidian'; allowed are .* Did you mean 'euclidean'?"),
        ("dot", "distance is 'dot'; allowed are 'euclidean', 'squared-euclidean', 'cosine', 'manhattan'"),
        (Minkowski, "allowed are .* a distance object such as Minkowski"),
        (3, "distance is 3; allowed are"),
        (torch.nn.Bilinear(2, 2, 1), "the distance Bilinear has parameters to train"),
    ],
)
def test_what_is_no_distance_is_refused(given, message):
    with pytest.raises(InputError, match=message):
        resolve(given)


@pytest.mark.parametrize("p", [0.5, 0, -1, math.inf, math.nan, "3"])
def test_p_below_one_is_refused(p):
    with pytest.raises(InputError, match=r"p of the Minkowski distance is .*; allowed is a finite number"):
        Minkowski(p)


def test_a_function_of_the_wrong_shape_is_refused():
    with pytest.raises(InputError, match=r"gave of shape \(3, 3\) for two tensors of shape \(3, 2\)"):
        RowDistance(torch.cdist).pairs(torch.zeros(3, 2), torch.ones(3, 2))


def test_a_function_with_an_epsilon_has_no_gradient_at_coincident_points():
    distance = resolve(torch.nn.PairwiseDistance())
    x = random_rows(3, 2, 0)
    dx, dy = distance.pairs_gradient(x, x.clone(), distance.pairs(x, x), torch.ones(3).double())
    assert not dx.any()
    assert not dy.any()


def test_frozen_and_hashable():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len({Minkowski(3), Minkowski(3.0), Minkowski(2), Euclidean(), Euclidean()}) == 3

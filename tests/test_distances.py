"""The table of distances: each keeps the contract and equals a plain loop; what is no distance is refused."""

import copy
import math
import pickle
import warnings

import numpy as np
import pytest
import scipy.spatial.distance
import torch

from tercet import distances
from tercet.distances import (
    DISTANCES,
    Chebyshev,
    Cosine,
    Distance,
    Euclidean,
    Jaccard,
    Mahalanobis,
    Minkowski,
    RowDistance,
    SquaredEuclidean,
    resolve,
)
from tercet.distances.mahalanobis import LinearMap
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
    "chebyshev": lambda x, y: max(abs(a - b) for a, b in zip(x, y, strict=True)),
    "jaccard": lambda x, y: 1 - sum(map(min, x, y)) / sum(map(max, x, y)),
}


class TestTable(DistanceContract):
    @pytest.fixture(params=[*DISTANCES, "minkowski(p=1.5)", "minkowski(p=1)", "minkowski(p=7)"])
    def distance(self, request):
        return resolve(request.param)


class TestJaccardOfNegativeFeatures(DistanceContract):
    """A loss refuses them; a kernel that is handed them nevertheless must not give NaN."""

    @pytest.fixture
    def distance(self):
        return Jaccard()

    def rows(self, distance, count, dim, seed, dtype=torch.float64):
        return random_rows(count, dim, seed, dtype)

    def test_rows_pass_the_check(self, distance):
        with pytest.raises(InputError, match="negative"):
            distance.check_rows(self.rows(distance, 13, 5, 0))


def some_matrix(dim, rank, seed=0):
    """Positive semidefinite, of that rank, its eigenvalues unequal."""
    components = random_rows(rank, dim, seed)
    return components.T @ components


class TestMahalanobis(DistanceContract):
    @pytest.fixture(
        params=["matrix", "singular matrix", "components", "float32 components", "more components", "learned"]
    )
    def distance(self, request):
        return {
            "matrix": lambda: Mahalanobis(some_matrix(5, 5)),
            "singular matrix": lambda: Mahalanobis(matrix=some_matrix(5, 3)),
            "components": lambda: Mahalanobis(components=random_rows(3, 5, 0)),
            "float32 components": lambda: Mahalanobis(components=random_rows(5, 5, 0).float()),
            "more components": lambda: Mahalanobis(components=random_rows(7, 5, 0)),
            "learned": lambda: Mahalanobis(learned=True, components=random_rows(4, 5, 0)),
        }[request.param]()

    def test_name_resolves_to_an_equal_distance(self, distance):
        assert resolve(distance) is distance
        with pytest.raises(InputError, match="needs a map, which its name alone does not give"):
            resolve(distance.name)


class TestMahalanobisOfManyFeatures(DistanceContract):
    """More than the contract's five, for rounding and memory: 67 features, mapped to 3."""

    @pytest.fixture
    def distance(self):
        return Mahalanobis(components=random_rows(3, 67, 0) / 8)

    def test_name_resolves_to_an_equal_distance(self, distance):
        assert resolve(distance) is distance


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
    if resolve(name).non_negative:
        x, y = x.abs(), y.abs()
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
        "chebyshev": 2.0,
        "jaccard": 1.0,
    }
    assert ranges == expected
    assert Minkowski(1.5).sphere_range(4) == pytest.approx(2 * 4 ** (1 / 1.5 - 1 / 2))
    assert {name: resolve(name).largest for name in DISTANCES} == dict.fromkeys(DISTANCES, math.inf) | {
        "cosine": 2.0,
        "jaccard": 1.0,
    }


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
        ("mahalonobis", "Did you mean 'mahalanobis'?"),
        ("jacard", "Did you mean 'jaccard'?"),
        (
            "mahalanobis",
            r"the distance 'mahalanobis' needs a map, which its name alone does not give; give an object: "
            r"Mahalanobis\(matrix=M\), Mahalanobis\(components=L\), or Mahalanobis\(learned=True, dim=D\)\.$",
        ),
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


def test_an_infinite_p_has_another_name():
    with pytest.raises(InputError, match=r"of at least 1 \(for the limit of infinity use Chebyshev\(\)\)\.$"):
        Minkowski(math.inf)


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


def test_what_is_not_a_number_is_at_no_distance():
    x, y = random_rows(3, 2, 0).abs(), random_rows(3, 2, 1).abs()
    x[1, 0], x[2, 1] = math.nan, math.inf
    for distance in [*map(resolve, DISTANCES), Mahalanobis(learned=True, dim=2)]:
        assert distance.pairs(x, y).isfinite().tolist() == [True, False, False], distance.name


# --- Chebyshev ----------------------------------------------------------------------------------------------


def test_of_equal_maxima_the_first_gets_the_gradient():
    x = torch.tensor([[1.0, 3.0, -2.0, 3.0], [0.0, 0.0, 0.0, 2.0]]).double()
    y = torch.tensor([[0.0, 0.0, 1.0, 0.0], [1.0, 0.5, -1.0, 1.0]]).double()
    d, weights = Chebyshev().pairs(x, y), torch.tensor([2.0, 5.0]).double()
    assert d.tolist() == [3, 1]
    expected = torch.tensor([[0.0, 2.0, 0.0, 0.0], [-5.0, 0.0, 0.0, 0.0]]).double()
    dx, dy = Chebyshev().pairs_gradient(x, y, d, weights)
    assert torch.equal(dx, expected)
    assert torch.equal(dy, -expected)


# --- Jaccard ------------------------------------------------------------------------------------------------


def test_jaccard_of_binary_rows_is_that_of_sets():
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randint(0, 2, (2, 31, 7), generator=generator).double()
    x[3], y[3], x[4], y[5] = 0, 0, 0, 0
    expected = [scipy.spatial.distance.jaccard(a.bool().numpy(), b.bool().numpy()) for a, b in zip(x, y, strict=True)]
    assert 0 in expected
    assert 1 in expected
    assert len(set(expected)) > 5
    assert_close(Jaccard().pairs(x, y), torch.tensor(expected, dtype=torch.float64))
    assert_close(Jaccard().tile(x, y).diagonal(), torch.tensor(expected, dtype=torch.float64))


def test_jaccard_of_zero_rows():
    x = torch.tensor([[0.0, 0.0], [3.0, 4.0]]).double()
    assert Jaccard().tile(x, x).tolist() == [[0, 1], [1, 0]]
    for rows in (x, x.clone().requires_grad_()):
        assert Jaccard().pairs(rows, rows.flip(0)).tolist() == [1, 1]


def test_jaccard_gradient_is_the_one_stated():
    """Sums of min and max are 3 and 8; the last two coordinates are equal, and exert no force."""
    x = torch.tensor([[4.0, 0.0, 2.0, 0.0]]).double()
    y = torch.tensor([[1.0, 2.0, 2.0, 0.0]]).double()
    d = Jaccard().pairs(x, y)
    assert d.item() == 1 - 3 / 8
    dx, dy = Jaccard().pairs_gradient(x, y, d, torch.ones(1).double())
    assert_close(dx, torch.tensor([[3 / 64, -1 / 8, 0, 0]]).double())
    assert_close(dy, torch.tensor([[-1 / 8, 3 / 64, 0, 0]]).double())


def test_jaccard_keeps_the_digits_of_near_rows():
    x = random_rows(7, 13, 0).abs()
    y = x * (1 + 1e-5 * random_rows(7, 13, 1))
    x, y = x.float(), y.float()
    right = Jaccard().pairs(x.double(), y.double())
    assert (right < 1e-4).all()
    assert ((Jaccard().pairs(x, y) - right).abs() <= 1e-5 * right).all()
    assert ((Jaccard().tile(x, y).diagonal() - right).abs() <= 1e-5 * right).all()


def test_negative_features_are_refused():
    x = random_rows(3, 2, 0).abs()
    x[0, 1] = 0
    Jaccard().check_rows(x)
    Jaccard().check_rows(x[:0])
    x[1, 0], x[2, 1] = -0.25, -1
    resolve("manhattan").check_rows(x)
    with pytest.raises(InputError) as caught:
        Jaccard().check_rows(x, "reference")
    assert str(caught.value) == (
        "reference holds 2 negative features, the first -0.25 in row 1, column 0; the jaccard distance compares "
        "features of 0 or more. End the encoder with a ReLU or softplus, or choose another distance."
    )


# --- Mahalanobis --------------------------------------------------------------------------------------------


def test_mahalanobis_equals_scipy_and_the_loop():
    x, y, matrix = random_rows(7, 5, 0), random_rows(7, 5, 1), some_matrix(5, 5, 3)
    by_scipy, by_loop = [], []
    for a, b in zip(x.tolist(), y.tolist(), strict=True):
        by_scipy.append(scipy.spatial.distance.mahalanobis(a, b, matrix.numpy()))
        z = [p - q for p, q in zip(a, b, strict=True)]
        by_loop.append(math.sqrt(sum(z[i] * float(matrix[i, j]) * z[j] for i in range(5) for j in range(5))))
    for given in (matrix, matrix.numpy(), matrix.tolist()):
        tolerance = 1e-6 if isinstance(given, list) else 1e-10  # lists become float32, torch's default
        assert_close(Mahalanobis(given).pairs(x, y), torch.tensor(by_scipy, dtype=torch.float64), tolerance)
    assert_close(Mahalanobis(matrix).tile(x, y).diagonal(), torch.tensor(by_loop, dtype=torch.float64))


def test_rounding_of_rows_that_the_map_shortens_much():
    """Rows near the line that L maps to nothing: what is lost depends on |x|, not on |L x|."""
    along = random_rows(61, 1, 0) * torch.tensor([1.0, -1.0]).double()
    x, y = (along[rows] + random_rows(30, 2, 1)[:29] / 1e4 for rows in (slice(0, 29), slice(32, 61)))
    x, y = x.float(), y.float()
    distance = Mahalanobis(components=torch.tensor([[0.7, 0.7], [0.1, 0.1]]))
    i, j = torch.cartesian_prod(torch.arange(29), torch.arange(29)).unbind(1)
    error = (distance.tile(x, y) - distance.pairs(x[i], y[j]).view(29, 29)).abs()
    assert (error > Euclidean().rounding(distance.mapped(x), distance.mapped(y))).any(), "vacuous: Euclidean's would do"
    assert (error <= distance.rounding(x, y)).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_rounding_does_not_make_a_matrix_unsymmetric(dtype):
    inverse = np.linalg.inv(np.cov(random_rows(50, 5, 0).numpy().T).astype(dtype))
    inverse[1, 3] *= 1 + 8 * np.finfo(dtype).eps
    assert inverse[1, 3] != inverse[3, 1], "vacuous: no rounding"
    assert_close(Mahalanobis(inverse).matrix, torch.from_numpy(inverse), 20 * float(np.finfo(dtype).eps))


def test_whole_numbers_become_floating():
    assert_close(Mahalanobis(np.array([[4, 0], [0, 1]])).matrix, torch.tensor([[4.0, 0.0], [0.0, 1.0]]), 1e-6)
    assert torch.equal(Mahalanobis(components=[[1, 0, 2]]).components, torch.tensor([[1.0, 0.0, 2.0]]))


def test_a_singular_matrix_is_factorised_to_its_rank():
    for dtype, tolerance in ((torch.float64, 1e-10), (torch.float32, 1e-5)):
        matrix = some_matrix(7, 3, 1).to(dtype)
        distance = Mahalanobis(matrix)
        assert distance.components.shape == (3, 7)
        assert distance.matrix.dtype == dtype
        assert_close(distance.matrix, matrix, tolerance)


class Registering(torch.nn.Module):
    """As a loss does it."""

    def __init__(self, distance):
        super().__init__()
        self.distance, self.map = distance, distance.module


def test_a_module_that_registers_the_map_holds_its_parameters():
    learned, given = (
        Registering(Mahalanobis(learned=True, dim=3)),
        Registering(Mahalanobis(components=torch.eye(3)[:2])),
    )
    assert [name for name, _ in learned.named_parameters()] == ["map.components"]
    assert torch.equal(learned.map.components, torch.eye(3))
    assert not list(given.parameters())
    assert list(given.state_dict()) == ["map.components"]
    again = copy.deepcopy(learned)
    for loss in (learned, again, pickle.loads(pickle.dumps(learned))):
        assert loss.distance.module is loss.map  # whatever moves, loads or trains the one does so to the other
    learned.load_state_dict({"map.components": 2 * torch.eye(3)})
    assert_close(
        learned.distance.pairs(torch.zeros(1, 3), torch.ones(1, 3)).detach(), torch.tensor([12.0]).sqrt(), 1e-6
    )
    assert learned.distance.sphere_range(3) == pytest.approx(4)
    assert torch.equal(again.distance.components, torch.eye(3))
    assert given.double().distance.components.dtype == torch.float64
    assert Euclidean().module is None


def test_gradient_for_the_map():
    """Of pairs, and by way of mapped rows and the distance after it, as a loss forms it."""
    x, y = random_rows(7, 5, 0), random_rows(11, 5, 1)
    x[3] = y[4]
    start = random_rows(3, 5, 2)

    def pairs(rows, components):
        distance = Mahalanobis(components=start)
        distance.linear.components = components
        return distance.pairs(rows, y[:7])

    assert torch.autograd.gradcheck(pairs, (x.clone().requires_grad_(), start.clone().requires_grad_()))
    distance = Mahalanobis(components=start, learned=True)
    weights = random_rows(7, 11, 3)
    i, j = torch.cartesian_prod(torch.arange(7), torch.arange(11)).unbind(1)
    expected = torch.autograd.grad((distance.pairs(x[i], y[j]) * weights.flatten()).sum(), distance.linear.components)
    mapped_x, mapped_y = distance.mapped(x), distance.mapped(y)
    rows = mapped_x.detach(), mapped_y.detach()
    after = distance.after_map
    gradients = after.tile_gradient(*rows, after.tile(*rows), weights)
    found = torch.autograd.grad((mapped_x, mapped_y), distance.linear.components, gradients)
    assert expected[0].any()
    assert_close(found[0], expected[0])


def test_training_finds_the_feature_that_counts():
    """Classes differ in feature 0 alone; the others are noise of the same size."""
    generator = torch.Generator().manual_seed(0)
    distance = Mahalanobis(learned=True, dim=4)
    sgd = torch.optim.SGD(distance.module.parameters(), lr=0.1)
    labels = torch.arange(32) % 2
    for _ in range(60):
        x = torch.randn(32, 4, generator=generator)
        x[:, 0] = labels + 0.1 * x[:, 0]
        anchor, positive, negative = x[2:], x[:-2], x[1:-1]
        cost = torch.relu(distance.pairs(anchor, positive) - distance.pairs(anchor, negative) + 1).mean()
        sgd.zero_grad()
        cost.backward()
        sgd.step()
    weight = distance.matrix.diagonal()
    assert weight[0] > 10 * weight[1:].max()


def test_a_given_map_follows_no_gradient_and_no_later_change():
    given = random_rows(3, 5, 0)
    for distance in (Mahalanobis(components=given), Mahalanobis(components=given, learned=True)):
        kept = distance.components.clone()
        given *= 2
        assert torch.equal(distance.components, kept)
    learned = Mahalanobis(learned=True, dim=5)
    x = random_rows(7, 5, 1)
    d = learned.tile(x, x)
    listed = learned.listed(x, x, torch.arange(7), torch.arange(7))
    for tensor in (
        d,
        listed,
        *learned.tile_gradient(x, x, d, torch.ones_like(d)),
        learned.rounding(x, x),
        learned.matrix,
    ):
        assert not tensor.requires_grad


SYMMETRIC = [[2.0, 1.0], [1.0, 2.0]]


@pytest.mark.parametrize(
    ("given", "faults"),
    [
        (
            {},
            "the Mahalanobis distance needs its map; give Mahalanobis(matrix=M), Mahalanobis(components=L), or "
            "Mahalanobis(learned=True, dim=D).",
        ),
        ({"learned": True}, "dim is None; a map learned from the identity needs the number of features, at least 1."),
        (
            {"learned": True, "dim": 0},
            "dim is 0; a map learned from the identity needs the number of features, at least 1.",
        ),
        (
            {"matrix": [[1.0, 2.0], [2.0, 1.0]], "learned": 1, "dim": 2},
            "learned is 1; allowed are True and False.\n"
            "dim is 2, which the matrix or components given say already; leave it out.\n"
            "matrix is not positive semidefinite: its smallest eigenvalue is -1.",
        ),
        (
            {"matrix": SYMMETRIC, "components": SYMMETRIC},
            "matrix and components are both given; give one of them, since M = L' L.",
        ),
        ({"matrix": [[1.0, 2.0], [0.5, 1.0]]}, "matrix is not symmetric: M and M' differ by up to 1.5."),
        (
            {"matrix": torch.ones(2, 3)},
            "matrix has shape (2, 3) and dtype torch.float32; allowed are real numbers of shape (D, D).",
        ),
        (
            {"components": torch.ones(3)},
            "components has shape (3,) and dtype torch.float32; allowed are real numbers of shape (k, D).",
        ),
        (
            {"components": torch.ones(0, 3)},
            "components has shape (0, 3) and dtype torch.float32; allowed are real numbers of shape (k, D).",
        ),
        (
            {"components": torch.ones(1, 3, dtype=torch.complex64)},
            "components has shape (1, 3) and dtype torch.complex64; allowed are real numbers of shape (k, D).",
        ),
        ({"components": "identity"}, "components is 'identity'; allowed are numbers of shape (k, D)."),
        ({"components": [[1.0, math.nan]]}, "components holds numbers that are not finite."),
        ({"matrix": torch.zeros(2, 2)}, "matrix holds nothing but zeros, so that every distance would be 0."),
        (
            {"components": torch.nn.Linear(2, 2).weight},
            "components requires a gradient, and it is a copy that is kept; give components.detach(), with "
            "learned=True to train the copy.",
        ),
    ],
)
def test_maps_that_are_refused(given, faults):
    with pytest.raises(InputError) as caught:
        Mahalanobis(**given)
    assert str(caught.value) == faults


def test_rows_that_a_map_does_not_fit_are_refused():
    distance = Mahalanobis(SYMMETRIC)
    distance.check_rows(torch.zeros(7, 2))
    with pytest.raises(InputError) as caught:
        distance.check_rows(torch.zeros(7, 3), "embeddings")
    assert str(caught.value) == "embeddings has shape (7, 3); the mahalanobis distance given is one of 2 features."
    with pytest.raises(InputError) as caught:
        distance.check_rows(torch.zeros(7, 2, device="meta"), "embeddings")
    assert str(caught.value) == (
        "embeddings is on meta and the map of the mahalanobis distance on cpu; move the loss to the device of the "
        "embeddings: loss.to('meta')."
    )


def test_a_map_is_compared_by_identity():
    one, other = Mahalanobis(SYMMETRIC), Mahalanobis(SYMMETRIC)
    assert one == copy.copy(one)
    assert len({one, other, copy.copy(one)}) == 2
    assert repr(Mahalanobis(learned=True, dim=3)) == "Mahalanobis(linear=LinearMap(3 -> 3, learned))"
    assert repr(LinearMap(torch.ones(2, 3), False)) == "LinearMap(3 -> 2, given)"


# --- prepared rows ------------------------------------------------------------------------------------------


def test_which_distances_are_prepared():
    x = random_rows(3, 5, 0)
    assert {name for name in DISTANCES if resolve(name).prepared(x, x)} == {"euclidean", "squared-euclidean", "cosine"}
    assert Mahalanobis(learned=True, dim=5).prepared(x, x) is None
    assert Distance().prepared(x, x) is None


def test_prepared_rows_are_centred_as_tiles_are():
    x, y = random_rows(29, 5, 0) + 100, random_rows(23, 5, 1) + 100
    expected = distances.euclidean.centred(x, y)
    for distance, factor, root in ((Euclidean(), 1.0, True), (SquaredEuclidean(), 1.0, False)):
        ready = distance.prepared(x, y)
        assert (ready.factor, ready.root) == (factor, root)
        assert torch.equal(ready.rows_x, expected[0])
        assert torch.equal(ready.rows_y, expected[1])
        assert ready.direct_x.data_ptr() == x.data_ptr(), "a copy that need not be"
    ready = Cosine().prepared(x, y)
    assert (ready.factor, ready.root) == (0.5, False)
    expected = distances.euclidean.centred(*(torch.nn.functional.normalize(rows) for rows in (x, y)))
    assert_close(ready.rows_x, expected[0])
    assert ready.rows_x.square().sum(1).max() < 0.01, "vacuous: the centre does not shorten these rows"


@pytest.mark.parametrize("side", [0, 1])
def test_a_zero_row_is_prepared_at_cosine_one_and_forbids_a_centre(side):
    given = [random_rows(7, 5, 0) + 100, random_rows(11, 5, 1) + 100]
    given[side][3] = 0
    ready = Cosine().prepared(*given)
    rows, norms, extra = ((ready.rows_x, ready.norms_x, ready.extra_x), (ready.rows_y, ready.norms_y, ready.extra_y))[
        side
    ]
    assert not rows[3].any()
    assert norms[3] == 1
    assert extra.tolist() == [float(row == 3) for row in range(len(extra))]
    assert torch.equal(ready.rows_x, ready.direct_x)
    assert torch.equal(ready.rows_y, ready.direct_y)
    gradients = ready.backward_x(torch.ones(7, 5).double()), ready.backward_y(torch.ones(11, 5).double())
    assert [row for row, part in enumerate(gradients[side]) if not part.any()] == [3]
    assert gradients[1 - side].any(1).all()


def test_prepared_rows_keep_the_digits_of_products_far_from_the_origin():
    x = (random_rows(64, 13, 0) + 1000).float()
    ready = Euclidean().prepared(x, x)
    right = Euclidean().pairs(x[1:].double(), x[:-1].double()).square()
    found = ready.norms_x[1:] + ready.norms_x[:-1] - 2 * (ready.rows_x[1:] * ready.rows_x[:-1]).sum(1)
    assert ((found - right).abs() <= 1e-5 * right).all()


def test_prepared_rows_keep_the_digits_of_near_rows_near_the_origin():
    """By direct_x: rows_x, with the centre taken off, are rounded."""
    x = random_rows(64, 13, 0) / 4 + 1
    x[0] = 1e-3 * random_rows(1, 13, 1)[0]
    x[1] = x[0] + 1e-6 * random_rows(1, 13, 2)[0]
    x = x.float()
    ready = Euclidean().prepared(x, x)
    right = Euclidean().pairs(x[:1].double(), x[1:2].double())
    assert (Euclidean().pairs(ready.direct_x[:1], ready.direct_x[1:2]) - right).abs() <= 1e-6 * right
    assert (Euclidean().pairs(ready.rows_x[:1], ready.rows_x[1:2]) - right).abs() > 1e-3 * right, "vacuous"

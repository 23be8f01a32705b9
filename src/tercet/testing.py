"""Contracts: test classes that a new distance, rule, kernel or loss inherits.

Subclass a contract in a test module and supply what its tests ask for as fixtures, here for a distance of
one's own:

    class TestMine(DistanceContract):
        @pytest.fixture
        def distance(self):
            return Mine()

What is entered in a table of Tercet's (a distance, a penalty, a mining rule) is tested by being entered:
Tercet's own test modules take the fixtures' parameters from the tables. Comparisons assert.
"""
# ruff: noqa: D102  the name of a test says what it asserts

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from tercet.distances import DISTANCES, Distance, resolve
from tercet.kernels import FALLBACKS, MININGS, PENALTIES, REDUCTIONS, Plan, Result, Rule, reduce_triplets

EXACT = 1e-10  # relative, in float64


def assert_close(actual: Tensor, expected: Tensor, tolerance: float = EXACT, what: str = "value") -> None:
    """Assert that no difference exceeds `tolerance` times the largest expected number (at least 1)."""
    assert actual.shape == expected.shape, f"{what}: shape {tuple(actual.shape)}, not {tuple(expected.shape)}"
    if not expected.numel():
        return
    assert actual.isfinite().all(), f"{what} is not finite: {actual}"
    scale = max(1.0, float(expected.abs().max()))
    error = float((actual.double() - expected.double()).abs().max())
    assert error <= tolerance * scale, f"{what}: off by {error:.3g} where {tolerance * scale:.3g} is allowed"


def random_rows(rows: int, dim: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """Normally distributed rows, off centre and of unequal spread, so that no symmetry hides a fault."""
    generator = torch.Generator().manual_seed(seed)
    spread = torch.linspace(0.5, 2.0, dim, dtype=torch.float64)
    return (torch.randn(rows, dim, generator=generator, dtype=torch.float64) * spread + 0.3).to(dtype)


# --- distances ----------------------------------------------------------------------------------------------


class DistanceContract:
    """What every distance must keep. Fixture: `distance`. Largest row count 29, so a second or less."""

    def test_pairs_equal_the_definition(self, distance: Distance) -> None:
        x, y = random_rows(13, 5, 0), random_rows(13, 5, 1)
        expected = torch.stack([distance.definition(a, b) for a, b in zip(x, y, strict=True)])
        assert expected.min() > 0, "vacuous: all distances are zero"
        assert_close(distance.pairs(x, y), expected)

    def test_it_is_symmetric_and_zero_between_equal_rows(self, distance: Distance) -> None:
        x, y = random_rows(13, 5, 0), random_rows(13, 5, 1)
        assert_close(distance.pairs(x, y), distance.pairs(y, x))
        assert_close(distance.pairs(x, x.clone()), torch.zeros(13), what="distance of equal rows")

    def test_tile_equals_pairs(self, distance: Distance) -> None:
        x, y = self._rows_with_duplicates()
        i, j = torch.cartesian_prod(torch.arange(len(x)), torch.arange(len(y))).unbind(1)
        expected = distance.pairs(x[i], y[j]).view(len(x), len(y))
        assert_close(distance.tile(x, y), expected)
        assert_close(distance.listed(x, y, i, j).view(len(x), len(y)), expected)
        assert distance.tile(x[:0], y).shape == (0, len(y))
        assert distance.tile(x, y[:0]).shape == (len(x), 0)

    def test_rounding_bounds_the_tile(self, distance: Distance) -> None:
        for dtype in (torch.float32, torch.float64):
            for centre in (0.0, 100.0):
                x, y = (random_rows(29, 67, seed, dtype) + centre for seed in (0, 1))
                y[3], y[4] = x[5], x[5] + 1e-4
                i, j = torch.cartesian_prod(torch.arange(29), torch.arange(29)).unbind(1)
                error = (distance.tile(x, y) - distance.pairs(x[i], y[j]).view(29, 29)).abs()
                bound = distance.rounding(x, y)
                assert bound.shape == (29, 1)
                assert (error <= bound).all(), f"{dtype}: off by {float(error.max()):.3g}"

    def test_tile_gradient_equals_autograd_of_pairs(self, distance: Distance) -> None:
        x, y = self._rows_with_duplicates()
        weights = random_rows(len(x), len(y), 7)
        weights[2, 3] = 0.0
        d = distance.tile(x, y)
        dx, dy = distance.tile_gradient(x, y, d, weights.clone())
        i, j = (d > 1e-12).nonzero(as_tuple=True)
        of_x, of_y = x.clone().requires_grad_(), y.clone().requires_grad_()
        (distance.pairs(of_x[i], of_y[j]) * weights[i, j]).sum().backward()
        assert of_x.grad is not None
        assert of_y.grad is not None
        assert_close(dx, of_x.grad, what="gradient of x")
        assert_close(dy, of_y.grad, what="gradient of y")

    def test_pairs_gradient_passes_gradcheck(self, distance: Distance) -> None:
        x, y = random_rows(7, 5, 0).requires_grad_(), random_rows(7, 5, 1).requires_grad_()
        assert torch.autograd.gradcheck(distance.pairs, (x, y))
        weights = random_rows(7, 1, 2)[:, 0]
        expected = torch.autograd.grad(distance.pairs(x, y), (x, y), weights)
        d = distance.pairs(x, y).detach()
        for found, right in zip(distance.pairs_gradient(x.detach(), y.detach(), d, weights), expected, strict=True):
            assert right.abs().max() > 0, "vacuous: no gradient"
            assert_close(found, right)

    def test_gradient_is_zero_at_coincident_points(self, distance: Distance) -> None:
        x = random_rows(7, 5, 0)
        x[2] = 0
        for found in distance.pairs_gradient(x, x.clone(), distance.pairs(x, x), torch.ones(7).double()):
            assert_close(found, torch.zeros(7, 5), what="gradient at coincident points")
        d = distance.tile(x, x)
        dx, dy = distance.tile_gradient(x, x, d, torch.eye(7, dtype=torch.float64))
        assert_close(dx, torch.zeros(7, 5), what="tile gradient at coincident points")
        assert_close(dy, torch.zeros(7, 5), what="tile gradient at coincident points")

    def test_float32_is_not_worse_than_direct_differences(self, distance: Distance) -> None:
        """On near duplicates too, where |x|² + |y|² - 2xy loses its digits."""
        x, y = (torch.nn.functional.normalize(random_rows(29, 67, seed)) for seed in (0, 1))
        for row, gap in enumerate((1e-2, 1e-3, 1e-4, 1e-6)):
            y[row] = x[row] + gap * random_rows(1, 67, 9)[0]
        x, y = x.float(), y.float()
        i, j = torch.cartesian_prod(torch.arange(29), torch.arange(29)).unbind(1)
        right = distance.pairs(x.double()[i], y.double()[j]).view(29, 29)
        allowed = (distance.pairs(x[i], y[j]).view(29, 29) - right).abs() + 2e-5 * right.clamp(max=1)
        error = (distance.tile(x, y) - right).abs()
        assert (error <= allowed).all(), f"off by {float((error - allowed).max()):.3g} more than allowed"

    def test_sphere_range_bounds_unit_vectors(self, distance: Distance) -> None:
        for dim in (1, 2, 7):
            x = torch.nn.functional.normalize(random_rows(29, dim, 0) - 0.3)
            corners = torch.cat([x, torch.ones(1, dim).double() / dim**0.5, torch.eye(dim).double()])
            corners = torch.cat([corners, -corners])
            assert distance.tile(corners, corners).max() <= distance.sphere_range(dim) * (1 + 1e-12)

    def test_name_resolves_to_an_equal_distance(self, distance: Distance) -> None:
        assert resolve(distance) is distance
        assert resolve(distance.name) == distance

    @staticmethod
    def _rows_with_duplicates() -> tuple[Tensor, Tensor]:
        """Rows of which some coincide, some nearly, and some are zero."""
        x, y = random_rows(29, 5, 0), random_rows(23, 5, 1)
        y[3], y[4], y[5] = x[2], x[2], x[7] + 1e-9
        x[9] = x[2]
        x[11] = 0
        y[11] = 0
        return x, y


# --- kernels ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Problem:
    """What a rule is applied to; `reference` None means the embeddings themselves."""

    embeddings: Tensor
    labels: Tensor
    reference: Tensor | None = None
    reference_labels: Tensor | None = None
    ids: Tensor | None = None
    reference_ids: Tensor | None = None

    def reduce(self, rule: Rule, implementation: str = "auto", plan: Plan | None = None) -> Result:
        """The rule on this problem."""
        return reduce_triplets(
            self.embeddings,
            self.reference,
            self.labels,
            self.reference_labels,
            rule,
            ids=self.ids,
            reference_ids=self.reference_ids,
            implementation=implementation,
            plan=plan,
        )


def _labels(rows: int, classes: int, seed: int) -> Tensor:
    return torch.randint(0, classes, (rows,), generator=torch.Generator().manual_seed(seed))


def ragged() -> Problem:
    """Classes of unequal size, some of one; duplicates within a class, across classes, and in threes."""
    x = random_rows(23, 5, 3)
    labels = torch.tensor([3, 1, 3, 0, 1, 9, 3, 3, 1, 0, 3, 7, 1, 3, 0, 0, 3, 1, 5, 5, 3, 1, 3])
    x[8] = x[2]  # other class
    x[10] = x[6]  # same class
    x[14] = x[2]
    x[18] = x[19]
    return Problem(x, labels)


def dyadic() -> Problem:
    """Rows on a coarse grid, where every distance but cosine's is (the root of) an exact one: many ties."""
    generator = torch.Generator().manual_seed(5)
    return Problem(torch.randint(-2, 3, (19, 3), generator=generator).double() / 2, _labels(19, 4, 6))


def bank() -> Problem:
    """Anchors against other rows."""
    return Problem(random_rows(11, 5, 1), _labels(11, 4, 2), random_rows(17, 5, 3), _labels(17, 5, 4))


def bank_with_ids() -> Problem:
    """A reference that holds the batch, and one item of it twice and under another label."""
    x, labels = random_rows(11, 5, 1), _labels(11, 4, 2)
    return Problem(
        x,
        labels,
        torch.cat([random_rows(7, 5, 3), x]),
        torch.cat([_labels(7, 5, 4), labels]),
        torch.arange(11),
        torch.cat([torch.tensor([3, 3, 50, 51, 52, 53, 2]), torch.arange(11)]),
    )


def repeated_ids() -> Problem:
    """A batch that holds an item twice, once under another label."""
    return Problem(random_rows(13, 5, 1), _labels(13, 3, 2), ids=torch.arange(13) // 2)


PROBLEMS: dict[str, Callable[[], Problem]] = {
    "ragged": ragged,
    "dyadic": dyadic,
    "bank": bank,
    "bank-with-ids": bank_with_ids,
    "repeated-ids": repeated_ids,
    "singletons": lambda: Problem(random_rows(5, 3, 0), torch.arange(5)),
    "one-class": lambda: Problem(random_rows(5, 3, 0), torch.zeros(5, dtype=torch.int64)),
    "all-equal": lambda: Problem(torch.ones(7, 3).double(), _labels(7, 2, 1)),
    "no-rows": lambda: Problem(random_rows(0, 3, 0), _labels(0, 2, 0)),
    "one-row": lambda: Problem(random_rows(1, 3, 0), _labels(1, 2, 0)),
    "two-rows": lambda: Problem(random_rows(2, 3, 0), torch.tensor([4, 4])),
    "empty-bank": lambda: Problem(random_rows(3, 2, 0), _labels(3, 2, 0), random_rows(0, 2, 0), _labels(0, 2, 0)),
}


def every_rule(distances: Iterable[Distance] | None = None, margins: Iterable[float] = (0.7,)) -> list[Rule]:
    """Every mining, penalty, reduction and fallback, with each distance (default: those of the table)."""
    if distances is None:
        distances = [make() for make in DISTANCES.values()]
    rules = [
        Rule(distance, mining, margin, penalty, reduction, fallback, 0.3 if penalty == "logsumexp" else 1.0)
        for distance, mining, margin, penalty, reduction, fallback in itertools.product(
            distances, MININGS, margins, PENALTIES, REDUCTIONS, FALLBACKS
        )
    ]
    return [rule for rule in rules if not rule.faults()]


def rule_name(rule: Rule) -> str:
    """A short name for test ids."""
    words = (rule.distance.name, rule.mining, f"{rule.margin:g}", rule.penalty, rule.reduction, rule.fallback)
    return "/".join(words)


def assert_same_result(actual: Result, expected: Result, tolerance: float = EXACT) -> None:
    """Assert that value, gradients and figures agree, the counts exactly."""
    assert_close(actual.value, expected.value, tolerance)
    for name in ("gradient_anchors", "gradient_references"):
        found, right = getattr(actual, name), getattr(expected, name)
        assert (found is None) == (right is None), f"{name}: only one of the two is None"
        if found is not None:
            assert_close(found, right, tolerance, name)
    found, right = actual.stats.to_dict(), expected.stats.to_dict()
    for name, number in right.items():
        if isinstance(number, int):
            assert found[name] == number, f"{name}: {found[name]}, not {number}"
        else:
            assert abs(found[name] - number) <= tolerance * max(1.0, number), name


class KernelContract:
    """What every implementation must keep. Fixtures: `rule`, `problem`; class attribute: `implementation`."""

    implementation = "torch"

    def test_it_equals_the_loops(self, rule: Rule, problem: Problem) -> None:
        expected = problem.reduce(rule, "reference")
        actual = problem.reduce(rule, self.implementation)
        assert actual.plan.implementation == self.implementation
        assert_same_result(actual, expected)

    def test_tiles_do_not_matter(self, rule: Rule, problem: Problem) -> None:
        expected = problem.reduce(rule, self.implementation)
        for rows, columns in ((3, 7), (7, 5)):
            assert_same_result(problem.reduce(rule, plan=Plan(self.implementation, rows, columns)), expected)


class LossContract:
    """What every loss(embeddings, labels) must keep. Fixture: `loss`."""

    def test_gradcheck(self, loss: Callable[[Tensor, Tensor], Tensor]) -> None:
        labels = torch.tensor([0, 1, 0, 2, 1, 0, 1])
        x = (random_rows(7, 3, 4) / 3).requires_grad_()
        assert torch.autograd.gradcheck(lambda rows: loss(rows, labels), (x,))
        (gradient,) = torch.autograd.grad(loss(x, labels), x)
        assert gradient.abs().max() > 0, "vacuous: no gradient"

    def test_order_and_names_of_labels_do_not_matter(self, loss: Callable[[Tensor, Tensor], Tensor]) -> None:
        labels, x = _labels(23, 5, 0), random_rows(23, 5, 1).requires_grad_()
        value = loss(x, labels)
        (gradient,) = torch.autograd.grad(value, x)
        order = torch.randperm(23, generator=torch.Generator().manual_seed(1))
        renamed = (labels * -7 + 2**40)[order]
        again = loss(x[order], renamed)
        (same,) = torch.autograd.grad(again, x)
        assert_close(again.detach(), value.detach())
        assert_close(same, gradient)

    def test_no_triplet_gives_zero_with_a_graph(self, loss: Callable[[Tensor, Tensor], Tensor]) -> None:
        x = random_rows(5, 3, 0).requires_grad_()
        value = loss(x, torch.arange(5))
        value.backward()
        assert value.item() == 0
        assert x.grad is not None
        assert not x.grad.any()

    def test_what_is_not_finite_gives_nan(self, loss: Callable[[Tensor, Tensor], Tensor]) -> None:
        for bad in (torch.nan, torch.inf):
            x = random_rows(6, 3, 0)
            x[4, 1] = bad
            assert loss(x, torch.tensor([0, 0, 1, 1, 2, 2])).isnan()

    def test_half_precision_is_computed_in_float32(self, loss: Callable[[Tensor, Tensor], Tensor]) -> None:
        labels = _labels(23, 5, 0)
        for dtype in (torch.bfloat16, torch.float16):
            x = random_rows(23, 5, 1, dtype).requires_grad_()
            value = loss(x, labels)
            assert value.dtype == torch.float32
            assert_close(value.detach(), loss(x.detach().float(), labels), 0.0)
            (gradient,) = torch.autograd.grad(value, x)
            assert gradient.dtype == dtype

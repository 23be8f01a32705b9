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
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from tercet.distances import DISTANCES, Distance, Euclidean, resolve
from tercet.distances.base import CHUNK_BYTES
from tercet.kernels import (
    FALLBACKS,
    MININGS,
    PAIR_PENALTIES,
    PENALTIES,
    REDUCTIONS,
    Plan,
    Result,
    Rule,
    reduce_triplets,
)

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
    """What every distance must keep. Fixture: `distance`. Few rows, so a second or less."""

    def rows(self, distance: Distance, count: int, dim: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
        """Random rows of the distance's domain; of another number of features where it allows one only."""
        found = random_rows(count, distance.dim or dim, seed, dtype)
        return found.abs() if distance.non_negative else found

    def test_rows_pass_the_check(self, distance: Distance) -> None:
        distance.check_rows(self.rows(distance, 13, 5, 0))

    def test_pairs_equal_the_definition(self, distance: Distance) -> None:
        x, y = self.rows(distance, 13, 5, 0), self.rows(distance, 13, 5, 1)
        expected = torch.stack([distance.definition(a, b) for a, b in zip(x, y, strict=True)]).detach()
        assert expected.min() > 0, "vacuous: all distances are zero"
        assert_close(distance.pairs(x, y).detach(), expected)

    def test_it_is_symmetric_and_zero_between_equal_rows(self, distance: Distance) -> None:
        x, y = self.rows(distance, 13, 5, 0), self.rows(distance, 13, 5, 1)
        assert_close(distance.pairs(x, y).detach(), distance.pairs(y, x).detach())
        assert_close(distance.pairs(x, x.clone()).detach(), torch.zeros(13), what="distance of equal rows")

    def test_it_is_the_distance_after_the_map(self, distance: Distance) -> None:
        x, y = self.rows(distance, 13, 5, 0), self.rows(distance, 13, 5, 1)
        assert distance.after_map.module is None
        after = distance.after_map.pairs(distance.mapped(x), distance.mapped(y))
        assert_close(after.detach(), distance.pairs(x, y).detach())

    def test_tile_equals_pairs(self, distance: Distance) -> None:
        x, y = self._rows_with_duplicates(distance)
        i, j = torch.cartesian_prod(torch.arange(len(x)), torch.arange(len(y))).unbind(1)
        expected = distance.pairs(x[i], y[j]).detach().view(len(x), len(y))
        assert_close(distance.tile(x, y), expected)
        assert_close(distance.listed(x, y, i, j).view(len(x), len(y)), expected)
        assert distance.tile(x[:0], y).shape == (0, len(y))
        assert distance.tile(x, y[:0]).shape == (len(x), 0)

    def test_rounding_bounds_the_tile(self, distance: Distance) -> None:
        for dtype in (torch.float32, torch.float64):
            for centre in (0.0, 100.0):
                x, y = (self.rows(distance, 29, 67, seed, dtype) + centre for seed in (0, 1))
                y[3], y[4] = x[5], x[5] + 1e-4
                i, j = torch.cartesian_prod(torch.arange(29), torch.arange(29)).unbind(1)
                error = (distance.tile(x, y) - distance.pairs(x[i], y[j]).view(29, 29)).abs()
                bound = distance.rounding(x, y)
                assert bound.shape == (29, 1)
                assert (error <= bound).all(), f"{dtype}: off by {float(error.max()):.3g}"

    def test_tile_gradient_equals_autograd_of_pairs(self, distance: Distance) -> None:
        x, y = self._rows_with_duplicates(distance)
        weights = random_rows(len(x), len(y), 7)
        weights[2, 3] = 0.0
        d = distance.tile(x, y)
        dx, dy = distance.tile_gradient(x, y, d, weights.clone())
        of_x, of_y = self._autograd_of_pairs(distance, x, y, weights)
        assert_close(dx, of_x, what="gradient of x")
        assert_close(dy, of_y, what="gradient of y")

    def test_pairs_gradient_passes_gradcheck(self, distance: Distance) -> None:
        x, y = (self.rows(distance, 7, 5, seed).requires_grad_() for seed in (0, 1))
        assert torch.autograd.gradcheck(distance.pairs, (x, y))
        weights = random_rows(7, 1, 2)[:, 0]
        expected = torch.autograd.grad(distance.pairs(x, y), (x, y), weights)
        d = distance.pairs(x, y).detach()
        for found, right in zip(distance.pairs_gradient(x.detach(), y.detach(), d, weights), expected, strict=True):
            assert right.abs().max() > 0, "vacuous: no gradient"
            assert_close(found, right)

    def test_gradient_is_that_of_the_definition_where_features_tie(self, distance: Distance) -> None:
        """On rows of few values, at the corners of |x - y|, max and min; wherever it is formed it is the same."""
        dim = distance.dim or 5
        grid = torch.randint(-2, 3, (2, 23, dim), generator=torch.Generator().manual_seed(3)).double() / 2
        x, y = grid.abs() if distance.non_negative else grid
        assert (x == y).any(), "vacuous: no ties"
        d = distance.pairs(x, y).detach()
        apart = d > 0  # elsewhere it is zero, see below
        weights = random_rows(23, 1, 2)[:, 0] * apart
        of_x, of_y = x.clone().requires_grad_(), y.clone().requires_grad_()
        for n in apart.nonzero()[:, 0]:
            (weights[n] * distance.definition(of_x[n], of_y[n])).backward()
        assert of_x.grad is not None
        assert of_y.grad is not None
        a, b = x.clone().requires_grad_(), y.clone().requires_grad_()
        of_pairs = torch.autograd.grad(distance.pairs(a, b), (a, b), weights)
        for found, by_autograd, right in zip(
            distance.pairs_gradient(x, y, d, weights), of_pairs, (of_x.grad, of_y.grad), strict=True
        ):
            assert_close(by_autograd[apart], right[apart], what="autograd of pairs")
            assert_close(found, right, what="gradient of pairs")

    def test_gradient_is_zero_at_coincident_points(self, distance: Distance) -> None:
        x = self.rows(distance, 7, 5, 0)
        x[2] = 0
        nothing = torch.zeros_like(x)
        for found in distance.pairs_gradient(x, x.clone(), distance.pairs(x, x).detach(), torch.ones(7).double()):
            assert_close(found, nothing, what="gradient at coincident points")
        d = distance.tile(x, x)
        dx, dy = distance.tile_gradient(x, x, d, torch.eye(7, dtype=torch.float64))
        assert_close(dx, nothing, what="tile gradient at coincident points")
        assert_close(dy, nothing, what="tile gradient at coincident points")

    def test_float32_is_not_worse_than_direct_differences(self, distance: Distance) -> None:
        """On near duplicates too, where |x|² + |y|² - 2xy loses its digits."""
        x, y = (torch.nn.functional.normalize(self.rows(distance, 29, 67, seed)) for seed in (0, 1))
        for row, gap in enumerate((1e-2, 1e-3, 1e-4, 1e-6)):
            y[row] = x[row] + gap * self.rows(distance, 1, 67, 9)[0]
        x, y = x.float(), y.float()
        i, j = torch.cartesian_prod(torch.arange(29), torch.arange(29)).unbind(1)
        right = distance.pairs(x.double()[i], y.double()[j]).view(29, 29)
        allowed = (distance.pairs(x[i], y[j]).view(29, 29) - right).abs() + 2e-5 * right.clamp(max=1)
        error = (distance.tile(x, y) - right).abs()
        assert (error <= allowed).all(), f"off by {float((error - allowed).max()):.3g} more than allowed"

    def test_memory_is_bounded_by_the_tile(self, distance: Distance) -> None:
        """No tensor of a tile's rows, columns and features together."""
        dim = distance.dim or 61
        size = math.isqrt(3 * CHUNK_BYTES // (8 * dim))
        x, y = self.rows(distance, size, dim, 0), self.rows(distance, size, dim, 1)
        two_places = 10.0 * (torch.arange(size) % 2)[:, None]
        allowed = max(CHUNK_BYTES, 2 * 8 * size**2)  # a chunk, or the tile as a list of two indices
        assert 2 * allowed < 8 * size**2 * dim, "vacuous: the tile itself is as large"
        for given in ((x, y), (x / 1e4 + two_places, y / 1e4 + two_places)):  # half of the second are near
            with LargestTensor() as seen:
                d = distance.tile(*given)
                distance.tile_gradient(*given, d, torch.ones_like(d))
            assert 0 < seen.n_bytes <= allowed, f"{seen.n_bytes} bytes at once where {allowed} are allowed"

    def test_sphere_range_bounds_unit_vectors(self, distance: Distance) -> None:
        for dim in (1, 2, 7):
            x = torch.nn.functional.normalize(self.rows(distance, 29, dim, 0) - (0 if distance.non_negative else 0.3))
            dim = x.shape[1]
            corners = torch.cat([x, torch.ones(1, dim).double() / dim**0.5, torch.eye(dim).double()])
            corners = corners if distance.non_negative else torch.cat([corners, -corners])
            largest = distance.tile(corners, corners).max()
            assert largest <= min(distance.sphere_range(dim), distance.largest) * (1 + 1e-12)

    def test_name_resolves_to_an_equal_distance(self, distance: Distance) -> None:
        assert resolve(distance) is distance
        assert resolve(distance.name) == distance

    def test_prepared_rows_give_the_distances(self, distance: Distance) -> None:
        """By products and by differences, for rows against others and against themselves; or they are None."""
        for x, y in self._rows_to_prepare(distance):
            ready = distance.prepared(x, y)
            if ready is None:
                return
            i, j = torch.cartesian_prod(torch.arange(len(x)), torch.arange(len(y))).unbind(1)
            expected = distance.pairs(x[i], y[j]).view(len(x), len(y))
            by_products = ready.norms_x[:, None] + ready.norms_y - 2 * ready.rows_x @ ready.rows_y.T
            assert_close(by_products, expected.square() if ready.root else expected / ready.factor)
            gaps = ready.direct_x[:, None] - ready.direct_y
            squared = gaps.square().sum(2) + ready.extra_x[:, None] + ready.extra_y
            assert_close(squared.sqrt() if ready.root else ready.factor * squared, expected)
            for of_x, of_y in ((ready.rows_x, ready.rows_y), (ready.direct_x, ready.direct_y)):
                assert (of_x is of_y) == (x is y)
                assert of_x.is_contiguous()
                assert of_y.is_contiguous()

    def test_prepared_rows_give_the_gradient(self, distance: Distance) -> None:
        """That of autograd, zero rows and coincident ones included; or they are None."""
        for x, y in self._rows_to_prepare(distance):
            ready = distance.prepared(x, y)
            if ready is None:
                return
            weights = random_rows(len(x), len(y), 7)
            d = distance.tile(x, y)
            pull = weights / torch.where(d > 0, d, torch.inf) if ready.root else 2 * ready.factor * weights
            forces = pull[:, :, None] * (ready.direct_x[:, None] - ready.direct_y)  # (A, M, D)
            found = ready.backward_x(forces.sum(1)), ready.backward_y(-forces.sum(0))
            for of_side, right in zip(found, self._autograd_of_pairs(distance, x, y, weights), strict=True):
                assert right.any() or not len(x), "vacuous: no gradient"
                assert_close(of_side, right)

    @staticmethod
    def _autograd_of_pairs(distance: Distance, x: Tensor, y: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        """Gradient of the weighted sum of all distances that are not zero."""
        i, j = (distance.tile(x, y) > 1e-12).nonzero(as_tuple=True)
        of_x, of_y = x.clone().requires_grad_(), y.clone().requires_grad_()
        (distance.pairs(of_x[i], of_y[j]) * weights[i, j]).sum().backward()
        assert of_x.grad is not None
        assert of_y.grad is not None
        return of_x.grad, of_y.grad

    def _rows_with_duplicates(self, distance: Distance) -> tuple[Tensor, Tensor]:
        """Rows of which some coincide, some nearly, and some are zero."""
        x, y = self.rows(distance, 29, 5, 0), self.rows(distance, 23, 5, 1)
        y[3], y[4], y[5] = x[2], x[2], x[7] + 1e-9
        x[9] = x[2]
        x[11] = 0
        y[11] = 0
        return x, y

    def _rows_to_prepare(self, distance: Distance) -> list[tuple[Tensor, Tensor]]:
        """With zero rows, without any, with some on one side, of one tensor, not contiguous, and none at all."""
        x, y = self._rows_with_duplicates(distance)
        some_x, some_y = x[:11], y[12:]
        strided = self.rows(distance, 13, 5, 4)[::2]
        return [(x, y), (some_x, some_y), (some_x, y), (x, x), (some_x, some_x), (strided, strided), (x[:0], y)]


class LargestTensor(TorchDispatchMode):
    """The size in bytes of the largest tensor that an operation makes meanwhile; views count what they view."""

    n_bytes = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = function(*args, **(kwargs or {}))
        for tensor in made if isinstance(made, (tuple, list)) else [made]:
            if isinstance(tensor, Tensor):
                self.n_bytes = max(self.n_bytes, tensor.untyped_storage().nbytes())
        return made


# --- kernels ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Problem:
    """What a rule is applied to, as `reduce_triplets` takes it; `reference` None means the embeddings themselves."""

    embeddings: Tensor
    labels: Tensor
    reference: Tensor | None = None
    reference_labels: Tensor | None = None
    ids: Tensor | None = None
    reference_ids: Tensor | None = None
    groups: Tensor | None = None
    reference_groups: Tensor | None = None
    relation: Callable[[Tensor, Tensor], Tensor] | None = None
    margins: Tensor | None = None
    weights: Tensor | None = None

    def reduce(self, rule: Rule, implementation: str = "auto", plan: Plan | None = None, **more: Any) -> Result:
        """The rule on this problem."""
        return reduce_triplets(
            self.embeddings,
            self.reference,
            self.labels,
            self.reference_labels,
            rule,
            ids=self.ids,
            reference_ids=self.reference_ids,
            groups=self.groups,
            reference_groups=self.reference_groups,
            relation=self.relation,
            margins=self.margins,
            weights=self.weights,
            implementation=implementation,
            plan=plan,
            **more,
        )


def _labels(rows: int, classes: int, seed: int) -> Tensor:
    return torch.randint(0, classes, (rows,), generator=torch.Generator().manual_seed(seed))


def _numbers(rows: int, seed: int) -> Tensor:
    """Uniform numbers between 0 and 1."""
    return torch.rand(rows, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def ragged() -> Problem:
    """Classes of unequal size, some of one; duplicates within a class, across classes, and in threes."""
    x = random_rows(23, 5, 3)
    labels = torch.tensor([3, 1, 3, 0, 1, 9, 3, 3, 1, 0, 3, 7, 1, 3, 0, 0, 3, 1, 5, 5, 3, 1, 3])
    x[8] = x[2]  # other class
    x[10] = x[6]  # same class
    x[14] = x[2]
    x[18] = x[19]
    return Problem(x, labels)


def sphere() -> Problem:
    """Unit vectors, between which negatives are drawn by their distance; two coincide."""
    x = torch.nn.functional.normalize(random_rows(19, 7, 2))
    x[11] = x[4]
    return Problem(x, _labels(19, 5, 3))


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


def bank_with_groups() -> Problem:
    """Ids and groups at once, which exclude some pairs both and some apart; margins and weights as well."""
    return replace(
        bank_with_ids(),
        groups=_labels(11, 3, 7) + 2**40,
        reference_groups=_labels(18, 4, 8) + 2**40,
        margins=_numbers(11, 5),
        weights=_numbers(11, 6).sub_(0.3).clamp_(min=0),
    )


def repeated_ids() -> Problem:
    """A batch that holds an item twice, once under another label."""
    return Problem(random_rows(13, 5, 1), _labels(13, 3, 2), ids=torch.arange(13) // 2)


def weighted() -> Problem:
    """A margin and a weight for each anchor; some weigh nothing."""
    weights = _numbers(23, 6)
    weights[::5] = 0
    return replace(ragged(), margins=2 * _numbers(23, 5), weights=weights)


def several_labels() -> Problem:
    """Two or three labels an item, or none; labels beyond what float32 tells apart."""
    labels = torch.stack([_labels(17, 5, seed) for seed in (1, 2, 3)], dim=1) + 2**24
    labels[::3, 1] = -1
    labels[::4, 2] = -1
    labels[6] = -1
    labels[13] = -1
    return Problem(random_rows(17, 5, 4), labels, groups=_labels(17, 6, 5))


def several_labels_bank() -> Problem:
    """The same against a reference whose items have more labels."""
    own = several_labels()
    return Problem(own.embeddings[:9], own.labels[:9, :2], random_rows(13, 5, 6), own.labels[:13].flip(1))


def by_age(own: Tensor, other: Tensor) -> Tensor:
    """An asymmetric relation of pairs of numbers: the first must be near, and an older one has no say."""
    gap = own[:, None] - other
    return torch.where(gap[:, :, 1] < -0.4, 0, 0.3 - gap[:, :, 0].abs())


def related() -> Problem:
    """A relation in three values, among the rows themselves."""
    ages = torch.stack([_numbers(19, 1), _numbers(19, 2)], dim=1)
    return Problem(random_rows(19, 5, 2), ages, relation=by_age, weights=_numbers(19, 3), margins=_numbers(19, 4))


def related_bank() -> Problem:
    """A relation of two values against other rows, with ids and groups on top."""
    return Problem(
        random_rows(11, 5, 1),
        _labels(11, 12, 2),
        random_rows(17, 5, 3),
        _labels(17, 12, 4),
        ids=torch.arange(11),
        reference_ids=torch.arange(4, 21),
        groups=_labels(11, 4, 5),
        reference_groups=_labels(17, 4, 6),
        relation=lambda own, other: (own[:, None] - 2 * other) % 3 == 0,
    )


PROBLEMS: dict[str, Callable[[], Problem]] = {
    "ragged": ragged,
    "sphere": sphere,
    "dyadic": dyadic,
    "bank": bank,
    "bank-with-ids": bank_with_ids,
    "bank-with-groups": bank_with_groups,
    "repeated-ids": repeated_ids,
    "weighted": weighted,
    "several-labels": several_labels,
    "several-labels-bank": several_labels_bank,
    "related": related,
    "related-bank": related_bank,
    "singletons": lambda: Problem(random_rows(5, 3, 0), torch.arange(5)),
    "one-class": lambda: Problem(random_rows(5, 3, 0), torch.zeros(5, dtype=torch.int64)),
    "one-group": lambda: replace(ragged(), groups=torch.zeros(23, dtype=torch.int64)),
    "all-equal": lambda: Problem(torch.ones(7, 3).double(), _labels(7, 2, 1)),
    "no-weight": lambda: replace(bank(), weights=torch.zeros(11).double()),
    "nobody-related": lambda: replace(bank(), relation=lambda own, other: torch.zeros(len(own), len(other))),
    "no-rows": lambda: Problem(random_rows(0, 3, 0), _labels(0, 2, 0)),
    "one-row": lambda: Problem(random_rows(1, 3, 0), _labels(1, 2, 0)),
    "two-rows": lambda: Problem(random_rows(2, 3, 0), torch.tensor([4, 4])),
    "empty-bank": lambda: Problem(random_rows(3, 2, 0), _labels(3, 2, 0), random_rows(0, 2, 0), _labels(0, 2, 0)),
    "no-rows-related": lambda: replace(related(), embeddings=random_rows(0, 3, 0), labels=torch.zeros(0, 2).double(),
                                       margins=None, weights=None),
    "empty-bank-related": lambda: Problem(random_rows(3, 2, 0), torch.zeros(3, 2), random_rows(0, 2, 0),
                                          torch.zeros(0, 2), relation=by_age),
}  # fmt: skip


@dataclass(frozen=True)
class Rough(Euclidean):
    """A tile as wrong as its rounding allows: errors between -0.01 and 0.01, repeating every three columns."""

    def tile(self, x: Tensor, y: Tensor) -> Tensor:
        error = (torch.arange(len(x))[:, None] + torch.arange(len(y))) % 3 - 1
        return (super().tile(x, y) + 0.01 * error).clamp(min=0)

    def rounding(self, x: Tensor, y: Tensor) -> Tensor:
        return x.new_full((len(x), 1), 0.01)


def _rule(distance: Distance, mining: str, margin: float, penalty: str, reduction: str, fallback: str) -> Rule:
    """A rule with settings unlike the defaults."""
    return Rule(
        distance,
        mining,
        margin,
        penalty,
        reduction,
        fallback,
        temperature={"logsumexp": 0.3, "lifted": 0.6, "supcon": 0.4}.get(penalty, 1.0),
        positive_margin=0.3 if penalty == "contrastive" else 0.0,
        seed=11 if mining == "distance-weighted" else 0,
    )


def every_rule(
    distances: Iterable[Distance] | None = None,
    margins: Iterable[float] = (0.7,),
    penalties: Iterable[str] = tuple(PENALTIES),
) -> list[Rule]:
    """Every mining, penalty, reduction and fallback, with each distance (default: those of the table)."""
    penalties = tuple(penalties)
    if distances is None:
        distances = [make() for make in DISTANCES.values()]
    rules = [
        _rule(*words) for words in itertools.product(distances, MININGS, margins, penalties, REDUCTIONS, FALLBACKS)
    ]
    return [rule for rule in rules if not rule.faults(penalties)]


def telling_rules(
    distances: Iterable[Distance] | None = None,
    margins: Iterable[float] = (0.7,),
    penalties: Iterable[str] = tuple(PENALTIES),
) -> list[Rule]:
    """Few rules that visit all code: each mining and fallback, each penalty over `all`; reductions in turn.

    They are made with each distance; by default with those of the table.
    """
    if distances is None:
        distances = [make() for make in DISTANCES.values()]
    words = [("all", penalty, "skip") for penalty in penalties] + [
        (mining, penalty, fallback)
        for fallback, (mining, penalty) in itertools.product(
            FALLBACKS, zip(MININGS[1:], itertools.cycle(("hinge", "logsumexp")), strict=False)
        )
    ]
    reductions = itertools.cycle(REDUCTIONS)
    rules = [
        _rule(distance, mining, margin, penalty, next(reductions), fallback)
        for distance, margin, (mining, penalty, fallback) in itertools.product(distances, margins, words)
    ]
    return [rule for rule in rules if not rule.faults((*PENALTIES, *PAIR_PENALTIES))]


def rule_name(rule: Rule) -> str:
    """A short name for test ids."""
    words = (rule.distance.name, rule.mining, f"{rule.margin:g}", rule.penalty, rule.reduction, rule.fallback)
    return "/".join(words)


def assert_same_result(actual: Result, expected: Result, tolerance: float = EXACT) -> None:
    """Assert that value, gradients and figures agree, the counts exactly."""
    assert_close(actual.value, expected.value, tolerance)
    assert_close(actual.per_anchor, expected.per_anchor, tolerance, "per_anchor")
    for name in ("gradient_anchors", "gradient_references", "gradient_margins", "gradient_temperature"):
        found, right = getattr(actual, name), getattr(expected, name)
        assert (found is None) == (right is None), f"{name}: only one of the two is None"
        if found is not None:
            assert_close(found, right, tolerance, name)
    found, right = actual.stats.to_dict(), expected.stats.to_dict()
    assert list(found) == list(right)
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
        for rows, columns in ((5, 11), (11, 7)):
            assert_same_result(problem.reduce(rule, plan=Plan(self.implementation, rows, columns)), expected)


class LossContract:
    """What every loss(embeddings, labels) must keep. Fixture: `loss`.

    Class attribute: `without_terms`, labels of batches that leave the loss nothing to add up. A loss that is
    not made of triplets has fewer such batches.
    """

    without_terms: tuple[list[int], ...] = ([0, 1, 2, 3, 4], [0, 0, 0, 0, 0], [0], [])

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

    def test_without_terms_it_is_zero_with_a_graph(self, loss: Callable[[Tensor, Tensor], Tensor]) -> None:
        for labels in self.without_terms:
            x = random_rows(len(labels), 3, 0).requires_grad_()
            value = loss(x, torch.tensor(labels, dtype=torch.int64))
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

"""Distances that go elementwise: powers of differences, shares of features, and a user's function of rows."""
# ruff: noqa: D102  the methods of a distance are described once, in the base class

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from tercet.distances.base import Distance
from tercet.distances.euclidean import centred, product_error
from tercet.errors import InputError


@dataclass(frozen=True)
class Manhattan(Distance):
    """Sum over coordinates of |x - y|."""

    name = "manhattan"

    def sphere_range(self, dim: int) -> float:
        return 2.0 * math.sqrt(dim)

    def definition(self, x: Tensor, y: Tensor) -> Tensor:
        return (x - y).abs().sum()

    def pairs(self, x: Tensor, y: Tensor) -> Tensor:
        return (x - y).abs().sum(1)

    def pairs_gradient(self, x: Tensor, y: Tensor, d: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        force = (x - y).sign_() * weights[:, None]
        return force, -force

    def tile(self, x: Tensor, y: Tensor) -> Tensor:
        return torch.cdist(x, y, p=1.0)

    def rounding(self, x: Tensor, y: Tensor) -> Tensor:
        x, y = centred(x, y)  # d is at most the sum of both lengths
        return (x.abs().sum(1, keepdim=True) + y.abs().sum(1).amax()) * product_error(x)


@dataclass(frozen=True)
class Minkowski(Distance):
    """(sum over coordinates of |x - y|^p)^(1/p), for a finite p >= 1. As a name: "minkowski(p=3)"."""

    p: float = 3.0

    def __post_init__(self) -> None:
        if not (isinstance(self.p, (int, float)) and 1 <= self.p < math.inf):
            raise InputError(
                f"p of the Minkowski distance is {self.p!r}; allowed is a finite number of at least 1"
                f"{' (for the limit of infinity use Chebyshev())' if self.p == math.inf else ''}."
            )
        object.__setattr__(self, "p", float(self.p))

    @property
    def name(self) -> str:
        return f"minkowski(p={self.p:g})"

    def sphere_range(self, dim: int) -> float:
        return 2.0 if self.p >= 2 else 2.0 * dim ** (1 / self.p - 0.5)

    def definition(self, x: Tensor, y: Tensor) -> Tensor:
        return ((x - y).abs() ** self.p).sum() ** (1 / self.p)

    def pairs(self, x: Tensor, y: Tensor) -> Tensor:
        difference = (x - y).abs()
        # Without the scale, 1e-5 to the 10th vanishes in float32. It cancels, so that no gradient need pass
        # it.
        scale = difference.detach().amax(1, keepdim=True)
        scale = torch.where(scale > 0, scale, 1)
        total = ((difference / scale) ** self.p).sum(1)
        return torch.where(total > 0, scale[:, 0] * torch.where(total > 0, total, 1) ** (1 / self.p), total)

    def pairs_gradient(self, x: Tensor, y: Tensor, d: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        difference = x - y
        share = difference.abs() / torch.where(d > 0, d, 1)[:, None]
        force = difference.sign_() * share ** (self.p - 1) * weights[:, None]
        return force, -force


@dataclass(frozen=True)
class Chebyshev(Distance):
    """Largest over coordinates of |x - y|; of several that are largest, the first gets the whole gradient."""

    name = "chebyshev"

    def sphere_range(self, dim: int) -> float:
        return 2.0

    def definition(self, x: Tensor, y: Tensor) -> Tensor:
        return (x - y).abs().max(0).values

    def pairs(self, x: Tensor, y: Tensor) -> Tensor:
        difference = (x - y).abs()
        return difference.gather(1, difference.detach().argmax(1, keepdim=True))[:, 0]  # amax would share it out

    def pairs_gradient(self, x: Tensor, y: Tensor, d: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        difference = x - y
        largest = difference.abs().argmax(1, keepdim=True)
        pull = difference.gather(1, largest).sign_() * weights[:, None]
        force = torch.zeros_like(x).scatter_(1, largest, pull)
        return force, -force

    def tile(self, x: Tensor, y: Tensor) -> Tensor:
        return torch.cdist(x, y, p=math.inf)  # equal to `pairs`: neither adds anything up


def _split(row: Tensor) -> Tensor:
    """The positive and the negative part of a row (D,) as 2 D features; a zero is positive, for its gradient."""
    return torch.cat([torch.where(row >= 0, row, 0), torch.where(row < 0, -row, 0)])


def _mass(x: Tensor) -> Tensor:
    """Sum of |x| of each row, (N,); at a zero its derivative is that of a positive feature."""
    return torch.where(x < 0, -x, x).sum(1)


@dataclass(frozen=True)
class Jaccard(Distance):
    """1 - sum min(x, y) / sum max(x, y) of features of 0 or more, in [0, 1]: Ruzicka's, or weighted Jaccard.

    On rows of zeros and ones it is the Jaccard distance of the sets of ones. Two zero rows are at distance 0.
    With A = sum |x - y|, min is (x + y - |x - y|) / 2 and max (x + y + |x - y|) / 2, so that

        d = 2 A / (sum x + sum y + A)

    which loses no digits between near rows. Its gradient for x[c], with both sums over all coordinates, is

        sum min / (sum max)²  where x[c] > y[c]        -1 / sum max  where x[c] < y[c]        0  where x[c] = y[c]

    the last by choice, and one of the subgradients there: in a coordinate in which they are equal, two rows exert
    no force. At x[c] = 0 it is the derivative for an increase.

    A loss refuses negative features (`check_rows`). The functions here take a negative part for a feature of
    its own, |x| instead of x in the second formula, which is a distance in [0, 1] too.
    """

    name = "jaccard"
    largest = 1.0
    non_negative = True

    def sphere_range(self, dim: int) -> float:
        return 1.0

    def definition(self, x: Tensor, y: Tensor) -> Tensor:
        equal = x == y
        x, y = _split(torch.where(equal, x.detach(), x)), _split(torch.where(equal, y.detach(), y))
        union = torch.maximum(x, y).sum()
        return 1 - torch.minimum(x, y).sum() / union if union > 0 else union

    def pairs(self, x: Tensor, y: Tensor) -> Tensor:
        equal = x == y
        x, y = torch.where(equal, x.detach(), x), torch.where(equal, y.detach(), y)
        apart = (x - y).abs().sum(1)
        return self._ratio(apart, _mass(x) + _mass(y))

    @staticmethod
    def _ratio(apart: Tensor, mass: Tensor) -> Tensor:
        total = mass + apart
        return 2 * apart / torch.where(total == 0, 1, total)

    def pairs_gradient(self, x: Tensor, y: Tensor, d: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        mass = x.abs().sum(1) + y.abs().sum(1)
        total = 2 * torch.where(mass > 0, mass, 1) / (2 - d)  # mass + A, since d is 2 A / (mass + A)
        apart = (x - y).sign_()  # the derivative of A, and zero where the features are equal
        growing = apart.abs() * (-d * weights / total)[:, None]
        apart *= ((2 - d) * weights / total)[:, None]
        return torch.where(x < 0, -growing, growing).add_(apart), torch.where(y < 0, -growing, growing).sub_(apart)

    def tile(self, x: Tensor, y: Tensor) -> Tensor:
        return self._ratio(torch.cdist(x, y, p=1.0), _mass(x)[:, None] + _mass(y))

    def rounding(self, x: Tensor, y: Tensor) -> Tensor:
        # Sums of non-negative terms are off by a small share of themselves, their ratio of at most 1 by two.
        return x.new_full((len(x), 1), 2 * product_error(x))


@dataclass(frozen=True)
class RowDistance(Distance):
    """A user's symmetric function of rows, (N, D), (N, D) -> (N,), differentiated by autograd."""

    function: Callable[[Tensor, Tensor], Tensor]

    @property
    def name(self) -> str:
        return str(getattr(self.function, "__name__", self.function))

    def sphere_range(self, dim: int) -> float:
        return math.inf  # unknown

    def definition(self, x: Tensor, y: Tensor) -> Tensor:
        return self.pairs(x[None], y[None])[0]

    def pairs(self, x: Tensor, y: Tensor) -> Tensor:
        d = self.function(x, y)
        if not isinstance(d, Tensor) or d.shape != (len(x),):
            given = f"of shape {tuple(d.shape)}" if isinstance(d, Tensor) else f"a {type(d).__name__}"
            raise InputError(
                f"the distance {self.name} gave {given} for two tensors of shape {tuple(x.shape)}; "
                f"it must compare rows: (N, D), (N, D) -> (N,)."
            )
        return d.to(x.dtype)

    def _coincident(self, x: Tensor, y: Tensor, d: Tensor) -> Tensor:
        return (d == 0) | (x == y).all(1)  # torch's own pairwise_distance is not 0 there, but 1e-6

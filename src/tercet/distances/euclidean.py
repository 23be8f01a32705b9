"""The Euclidean family: matrix products, and differences where these lose their digits.

A squared distance is |x|² + |y|² - 2xy on centred rows; the gradient of a weighted sum of distances, with
weights V of the differences, is diag(V1)X - VY. Where x and y are near, both are small differences of large
numbers. The near pairs are therefore left out of both and done one by one.
"""
# ruff: noqa: D102  the methods of a distance are described once, in the base class

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from tercet.distances.base import Distance, blocks, rows_per_chunk
from tercet.distances.prepared import Prepared

Differences = Callable[[Tensor, Tensor], Tensor]  # row numbers i and j (N,) -> x[i] - y[j] (N, D), a new tensor


def _near_ratio(x: Tensor) -> float:
    """Below this share of |x|² + |y|², a squared distance has lost too many digits: 2 % in float32."""
    return float(torch.finfo(x.dtype).eps ** 0.25)


def product_error(x: Tensor) -> float:
    """How far a squared distance by matrix products may be off, as a share of |x|² + |y|².

    Rounding errors of an inner product of D terms grow like sqrt(D) but with negligible probability
    (Higham and Mary 2019, "A new approach to probabilistic rounding error analysis", theorem 3.1).
    """
    return float(torch.finfo(x.dtype).eps) * 2 * math.sqrt(x.shape[1] + 1)


def centred(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Both less a common centre, which shortens them and so saves digits.

    The centre is rounded to multiples of a power of two near the spread: subtracting it is then exact, and
    data on a coarse binary grid stay on it, so that equal distances stay equal.
    """
    if not len(x) or not len(y):
        return x, y
    centre = _common_centre(x, y)
    return x - centre, y - centre


def _common_centre(x: Tensor, y: Tensor) -> Tensor:
    """Of shape (D,); neither side may be empty."""
    mean = x.mean(0) if y is x else (x.mean(0) + y.mean(0)) / 2
    spread = (x - mean).abs().max()
    if y is not x:
        spread = torch.maximum(spread, (y - mean).abs().max())
    mantissa, _ = torch.frexp(spread)
    unit = torch.where(spread > 0, spread / mantissa / 2, 1)  # the power of two in (spread/2, spread]
    return (mean / unit).round() * unit


def _squared_norms(x: Tensor, y: Tensor) -> Tensor:
    """|x|² + |y|², of shape (A, M)."""
    return x.square().sum(1, keepdim=True) + y.square().sum(1)


def _squared_pairs(x: Tensor, y: Tensor) -> Tensor:
    return (x - y).square().sum(1)


def _differences(x: Tensor, y: Tensor) -> Differences:
    return lambda i, j: x.index_select(0, i).sub_(y.index_select(0, j))


def squared_tile(x: Tensor, y: Tensor, differences: Differences | None = None) -> Tensor:
    """Squared Euclidean distances of shape (A, M); those of near rows from their differences."""
    differences = differences or _differences(x, y)
    centred_x, centred_y = centred(x, y)
    norms = _squared_norms(centred_x, centred_y)
    squared = torch.addmm(norms, centred_x, centred_y.T, alpha=-2)
    i, j = (squared <= _near_ratio(x) * norms).nonzero(as_tuple=True)
    for part in blocks(len(i), rows_per_chunk(x)):
        squared[i[part], j[part]] = differences(i[part], j[part]).square_().sum(1)
    return squared


def spring_gradient(
    x: Tensor, y: Tensor, squared: Tensor, pull: Tensor, differences: Differences | None = None
) -> tuple[Tensor, Tensor]:
    """dx[a] = sum over m of pull[a, m] (x[a] - y[m]), and dy the opposite; pull is used up."""
    differences = differences or _differences(x, y)
    centred_x, centred_y = centred(x, y)
    near = (squared <= _near_ratio(x) * _squared_norms(centred_x, centred_y)) & (pull != 0)
    i, j = near.nonzero(as_tuple=True)
    pull_near = pull[i, j]
    pull.masked_fill_(near, 0)
    dx = pull.sum(1, keepdim=True) * centred_x - pull @ centred_y
    dy = pull.sum(0)[:, None] * centred_y - pull.T @ centred_x
    for part in blocks(len(i), rows_per_chunk(x)):
        force = differences(i[part], j[part]).mul_(pull_near[part, None])
        dx.index_add_(0, i[part], force)
        dy.index_add_(0, j[part], force, alpha=-1)
    return dx, dy


def _prepared(x: Tensor, y: Tensor, root: bool) -> Prepared:
    """Rows for the Euclidean distance, or its square."""
    direct_x = x.detach().contiguous()
    direct_y = direct_x if y is x else y.detach().contiguous()
    rows_x, rows_y = _centred_once(direct_x, direct_y)
    return Prepared(
        rows_x=rows_x,
        rows_y=rows_y,
        direct_x=direct_x,
        direct_y=direct_y,
        norms_x=rows_x.square().sum(1),
        norms_y=rows_y.square().sum(1),
        extra_x=rows_x.new_zeros(len(rows_x)),
        extra_y=rows_y.new_zeros(len(rows_y)),
        root=root,
        factor=1.0,
    )


def _centred_once(x: Tensor, y: Tensor, condition: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """`centred`, and one tensor where x and y are one; by nothing unless the condition (0-d) holds."""
    if not len(x) or not len(y):
        return x, y
    centre = _common_centre(x, y)
    if condition is not None:
        centre = torch.where(condition, centre, 0)  # asked here, it would wait for a GPU
    rows_x = x - centre
    return rows_x, rows_x if y is x else y - centre


@dataclass(frozen=True)
class SquaredEuclidean(Distance):
    """|x - y|²."""

    name = "squared-euclidean"

    def sphere_range(self, dim: int) -> float:
        return 4.0

    def definition(self, x: Tensor, y: Tensor) -> Tensor:
        return ((x - y) ** 2).sum()

    def pairs(self, x: Tensor, y: Tensor) -> Tensor:
        return _squared_pairs(x, y)

    def pairs_gradient(self, x: Tensor, y: Tensor, d: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        force = (x - y) * (2 * weights)[:, None]
        return force, -force

    def tile(self, x: Tensor, y: Tensor) -> Tensor:
        return squared_tile(x, y)

    def tile_gradient(self, x: Tensor, y: Tensor, d: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        return spring_gradient(x, y, d, 2 * weights)

    def rounding(self, x: Tensor, y: Tensor) -> Tensor:
        x, y = centred(x, y)
        return (x.square().sum(1, keepdim=True) + y.square().sum(1).amax()) * product_error(x)

    def prepared(self, x: Tensor, y: Tensor) -> Prepared:
        return _prepared(x, y, root=False)


@dataclass(frozen=True)
class Euclidean(Distance):
    """|x - y|, the unsquared distance that Hermans et al. (2017) recommend for triplets."""

    name = "euclidean"

    def sphere_range(self, dim: int) -> float:
        return 2.0

    def definition(self, x: Tensor, y: Tensor) -> Tensor:
        return ((x - y) ** 2).sum().sqrt()

    def pairs(self, x: Tensor, y: Tensor) -> Tensor:
        return torch.linalg.vector_norm(x - y, dim=1)

    def pairs_gradient(self, x: Tensor, y: Tensor, d: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        force = (x - y) * torch.where(d > 0, weights / d, 0)[:, None]
        return force, -force

    def tile(self, x: Tensor, y: Tensor) -> Tensor:
        return squared_tile(x, y).sqrt_()

    def tile_gradient(self, x: Tensor, y: Tensor, d: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        return spring_gradient(x, y, d * d, torch.where(d > 0, weights / d, 0))

    def rounding(self, x: Tensor, y: Tensor) -> Tensor:
        # An error of e in d² is one of e / 2d in d, and no d by products is below sqrt(ratio (|x|² + |y|²)).
        error, ratio = product_error(x), _near_ratio(x)
        x, y = centred(x, y)
        norms = x.square().sum(1, keepdim=True) + y.square().sum(1).amax()
        return norms.sqrt() * (error / math.sqrt(ratio))

    def prepared(self, x: Tensor, y: Tensor) -> Prepared:
        return _prepared(x, y, root=True)


def _unit_rows(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Rows of length one (zero rows stay), their lengths of shape (N, 1), and which are not zero, (N, 1)."""
    squared = x.square().sum(1, keepdim=True)
    alive = squared != 0  # so that what is not a number stays so
    length = torch.where(alive, squared, 1).sqrt()  # autograd through sqrt(0) would give NaN
    return x / length, length, alive


@dataclass(frozen=True)
class Cosine(Distance):
    """1 - cos(x, y) = |x/|x| - y/|y||² / 2, in [0, 2]; 1, with gradient zero, where a row is zero."""

    name = "cosine"
    largest = 2.0

    def sphere_range(self, dim: int) -> float:
        return 2.0

    def definition(self, x: Tensor, y: Tensor) -> Tensor:
        if not x.any() or not y.any():
            return x.new_ones(()) + 0 * (x.sum() + y.sum())
        return 1 - (x * y).sum() / ((x * x).sum().sqrt() * (y * y).sum().sqrt())

    def pairs(self, x: Tensor, y: Tensor) -> Tensor:
        (unit_x, _, alive_x), (unit_y, _, alive_y) = _unit_rows(x), _unit_rows(y)
        return torch.where((alive_x & alive_y)[:, 0], _squared_pairs(unit_x, unit_y) / 2, 1)

    def tile(self, x: Tensor, y: Tensor) -> Tensor:
        (unit_x, _, alive_x), (unit_y, _, alive_y) = _unit_rows(x), _unit_rows(y)
        return squared_tile(unit_x, unit_y).div_(2).masked_fill_(~(alive_x & alive_y.T), 1)

    def tile_gradient(self, x: Tensor, y: Tensor, d: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        (unit_x, length_x, alive_x), (unit_y, length_y, alive_y) = _unit_rows(x), _unit_rows(y)
        weights = weights.masked_fill(~(alive_x & alive_y.T), 0)
        dx, dy = spring_gradient(unit_x, unit_y, 2 * d, weights)
        dx -= (dx * unit_x).sum(1, keepdim=True) * unit_x  # only what turns a row counts, not what lengthens it
        dy -= (dy * unit_y).sum(1, keepdim=True) * unit_y
        return dx / length_x, dy / length_y

    def rounding(self, x: Tensor, y: Tensor) -> Tensor:
        (unit_x, _, _), (unit_y, _, _) = _unit_rows(x), _unit_rows(y)
        return SquaredEuclidean().rounding(unit_x, unit_y) / 2

    def prepared(self, x: Tensor, y: Tensor) -> Prepared:
        units_x = _unit_rows(x.detach().contiguous())
        units_y = units_x if y is x else _unit_rows(y.detach().contiguous())
        (direct_x, length_x, alive_x), (direct_y, length_y, alive_y) = units_x, units_y
        # Off their place by a centre, zero rows would be at another distance.
        rows_x, rows_y = _centred_once(direct_x, direct_y, alive_x.all() & alive_y.all())
        extra_x, extra_y = ((~alive[:, 0]).to(x.dtype) for alive in (alive_x, alive_y))
        return Prepared(
            rows_x=rows_x,
            rows_y=rows_y,
            direct_x=direct_x,
            direct_y=direct_y,
            norms_x=rows_x.square().sum(1) + extra_x,
            norms_y=rows_y.square().sum(1) + extra_y,
            extra_x=extra_x,
            extra_y=extra_y,
            root=False,
            factor=0.5,
            length_x=length_x,
            length_y=length_y,
        )

"""Distances that go elementwise: sums of powers of differences, and a user's function of rows."""
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
            raise InputError(f"p of the Minkowski distance is {self.p!r}; allowed is a finite number of at least 1.")
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

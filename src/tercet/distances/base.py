"""What every distance offers, and how all of it follows from the distances of listed pairs of rows."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from tercet.distances.prepared import Prepared
from tercet.errors import InputError

CHUNK_BYTES = 1 << 20  # rows gathered at a time; more than the cache makes it three times slower


def blocks(length: int, size: int) -> Iterator[slice]:
    """Slices of at most `size` that cover range(length) in order."""
    for start in range(0, length, size):
        yield slice(start, min(start + size, length))


def rows_per_chunk(rows: Tensor, times: int = 1) -> int:
    """How many rows like these, taken `times` over, make a chunk."""
    return max(1, CHUNK_BYTES // max(1, rows.shape[1] * rows.element_size() * times))


def _negative_features(x: Tensor, name: str, distance: str) -> str:
    rows, columns = (x < 0).nonzero(as_tuple=True)
    return (
        f"{name} holds {len(rows)} negative features, the first {float(x[rows[0], columns[0]]):g} in row "
        f"{int(rows[0])}, column {int(columns[0])}; the {distance} distance compares features of 0 or more. "
        f"End the encoder with a ReLU or softplus, or choose another distance."
    )


@dataclass(frozen=True)
class Distance:
    """Base of the distances: from `pairs` alone it derives all the rest, elementwise and in bounded memory.

    A new distance implements `definition`, `pairs` and `sphere_range`; where it knows something faster, also
    `pairs_gradient`, `tile`, `tile_gradient`, `rounding` and `prepared`. `tercet.testing.DistanceContract`
    checks it.

    One that begins with a map of the rows also offers `mapped`, `after_map` and `module`. A loss registers the
    module, maps its rows, and compares them by the distance after the map:

        distance(x, y) = distance.after_map(distance.mapped(x), distance.mapped(y))

    so that the gradient for the map's parameters goes through `mapped`, by autograd.
    """

    @property
    def name(self) -> str:
        """The word that `resolve` turns back into this distance."""
        raise NotImplementedError

    @property
    def largest(self) -> float:
        """The largest value it can take between any two rows."""
        return math.inf

    @property
    def dim(self) -> int | None:
        """The only number of features that rows may have; None if any will do."""
        return None

    @property
    def non_negative(self) -> bool:
        """Whether features must be 0 or more."""
        return False

    @property
    def module(self) -> torch.nn.Module | None:
        """What holds the map's parameters and buffers, for a loss to register; None if there are none."""
        return None

    @property
    def after_map(self) -> Distance:
        """The distance between mapped rows."""
        return self

    def mapped(self, x: Tensor) -> Tensor:
        """The rows that `after_map` compares; differentiable, for rows and parameters."""
        return x

    def check_rows(self, x: Tensor, name: str = "rows") -> None:
        """Raise InputError unless rows of shape (N, D) lie in the distance's domain; `name` is what to call them.

        It costs nothing, except where features must be non-negative: one look at all of them, which on a GPU
        waits for them.
        """
        if self.dim is not None and x.shape[1] != self.dim:
            raise InputError(
                f"{name} has shape {tuple(x.shape)}; the {self.name} distance given is one of {self.dim} features."
            )
        if self.non_negative and bool((x < 0).any()):
            raise InputError(_negative_features(x, name, self.name))

    def prepared(self, x: Tensor, y: Tensor) -> Prepared | None:
        """Rows made ready once for all tiles; None if the distance does not follow from matrix products."""
        return None

    def sphere_range(self, dim: int) -> float:
        """The largest value between unit vectors of `dim` dimensions."""
        raise NotImplementedError

    def definition(self, x: Tensor, y: Tensor) -> Tensor:
        """The textbook formula for two rows of shape (D,), 0-d: for tests and for the reference kernel."""
        raise NotImplementedError

    def pairs(self, x: Tensor, y: Tensor) -> Tensor:
        """Distances of shape (N,) between rows x[n] and y[n], by direct differences; differentiable."""
        raise NotImplementedError

    def pairs_gradient(self, x: Tensor, y: Tensor, d: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        """Gradient of sum(weights * pairs(x, y)) for x and y, both of shape (N, D); d is pairs(x, y)."""
        with torch.enable_grad():
            x, y = x.detach().requires_grad_(), y.detach().requires_grad_()
            value = self.pairs(x, y)
        if not value.requires_grad:
            return torch.zeros_like(x), torch.zeros_like(y)
        found = torch.autograd.grad(value, (x, y), weights.to(value.dtype), allow_unused=True)
        dx, dy = (torch.zeros_like(x) if part is None else part for part in found)
        fixed = self._coincident(x, y, d)[:, None]
        return dx.masked_fill(fixed, 0), dy.masked_fill(fixed, 0)

    def _coincident(self, x: Tensor, y: Tensor, d: Tensor) -> Tensor:
        return d == 0

    def tile(self, x: Tensor, y: Tensor) -> Tensor:
        """Distances of shape (A, M) between every row of x and every row of y."""
        parts = [
            self.pairs(x[rows].repeat_interleave(len(y), 0), y.repeat(rows.stop - rows.start, 1))
            for rows in blocks(len(x), rows_per_chunk(y, max(1, len(y))))
        ]
        return torch.cat(parts).view(len(x), len(y)) if parts else x.new_zeros(0, len(y))

    def tile_gradient(self, x: Tensor, y: Tensor, d: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        """Gradient of sum(weights * tile(x, y)): (A, D) and (M, D). Pairs of weight zero cost nothing."""
        dx, dy = torch.zeros_like(x), torch.zeros_like(y)
        i, j = weights.nonzero(as_tuple=True)
        self.add_listed_gradient(x, y, i, j, d[i, j], weights[i, j], dx, dy)
        return dx, dy

    def rounding(self, x: Tensor, y: Tensor) -> Tensor:
        """A bound on |tile - pairs| for each row of x, of shape (A, 1)."""
        return x.new_zeros(len(x), 1)  # the tile is made of pairs

    @torch.no_grad()
    def listed(self, x: Tensor, y: Tensor, i: Tensor, j: Tensor) -> Tensor:
        """Distances of shape (N,) between rows x[i[n]] and y[j[n]], by direct differences, in chunks; no graph."""
        d = x.new_empty(len(i))
        for part in blocks(len(i), rows_per_chunk(x)):
            d[part] = self.pairs(x.index_select(0, i[part]), y.index_select(0, j[part]))
        return d

    def add_listed_gradient(
        self, x: Tensor, y: Tensor, i: Tensor, j: Tensor, d: Tensor, weights: Tensor, dx: Tensor, dy: Tensor
    ) -> None:
        """Add the gradient of sum(weights * listed(x, y, i, j)) to dx and dy, in chunks; d is that list."""
        for part in blocks(len(i), rows_per_chunk(x)):
            rows, columns = i[part], j[part]
            of_x, of_y = self.pairs_gradient(
                x.index_select(0, rows), y.index_select(0, columns), d[part], weights[part]
            )
            dx.index_add_(0, rows, of_x)
            dy.index_add_(0, columns, of_y)

"""What every distance offers, and how all of it follows from the distances of listed pairs of rows."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

CHUNK_BYTES = 1 << 20  # rows gathered at a time; more than the cache makes it three times slower


def blocks(length: int, size: int) -> Iterator[slice]:
    """Slices of at most `size` that cover range(length) in order."""
    for start in range(0, length, size):
        yield slice(start, min(start + size, length))


def rows_per_chunk(rows: Tensor, times: int = 1) -> int:
    """How many rows like these, taken `times` over, make a chunk."""
    return max(1, CHUNK_BYTES // max(1, rows.shape[1] * rows.element_size() * times))


@dataclass(frozen=True)
class Distance:
    """Base of the distances: from `pairs` alone it derives all the rest, elementwise and in bounded memory.

    A new distance implements `definition`, `pairs` and `sphere_range`; where it knows something faster, also
    `pairs_gradient`, `tile`, `tile_gradient` and `rounding`. `tercet.testing.DistanceContract` checks it.
    """

    @property
    def name(self) -> str:
        """The word that `resolve` turns back into this distance."""
        raise NotImplementedError

    @property
    def largest(self) -> float:
        """The largest value it can take between any two rows."""
        return math.inf

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

    def listed(self, x: Tensor, y: Tensor, i: Tensor, j: Tensor) -> Tensor:
        """Distances of shape (N,) between rows x[i[n]] and y[j[n]], by direct differences, in chunks."""
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

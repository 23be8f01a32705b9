"""Queries and references made ready to be compared, and how many references are within a distance of a query.

Distances are compared in some q that grows with them: the squared distance where they follow from matrix products,
else the distance. Tiles round; what their rounding could decide is measured again, always the same way.

Shapes: Q queries, M references, D dimensions, A queries at a time, C columns of a tile, L levels of a query at most.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from tercet.distances import Distance, Prepared, RowDistance, blocks
from tercet.distances.base import rows_per_chunk
from tercet.distances.euclidean import product_error
from tercet.neighbors.lists import Array, Lists

COLUMNS = 2048


class Compared(Protocol):
    """Both sides made ready."""

    def measure(self, queries: Array, references: Array) -> Array:
        """Q of each pair, float64 (E,), by differences."""
        ...

    def count_within(self, queries: Array, levels: Lists, left_out: Lists) -> Array:
        """How many references are within each level: #{m : q(a, m) <= level}, int64 in the order of the levels.

        Args:
            queries: rows of the queries, (A,).
            levels: for each of these its levels, float64, ascending, as `measure` gives them.
            left_out: for each the references that are not counted, ascending.
        """
        ...

    def each(self, job: Callable[[slice], None], tiles: list[slice]) -> None:
        """job(tile) for each of some tiles, at once where that is faster."""
        ...


def compared(queries: Tensor, references: Tensor, metric: Distance) -> Compared:
    """Both sides, of shapes (Q, D) and (M, D), of one dtype and device, made ready once for all tiles."""
    ready = metric.prepared(queries, references)
    if ready is not None and queries.device.type == "cpu":
        from tercet.neighbors.products import ByProducts

        return ByProducts.of(ready)
    return ByTiles(queries, references, metric, ready)


@dataclass(frozen=True)
class ByTiles:
    """Any distance on any device, by PyTorch alone."""

    x: Tensor
    y: Tensor
    metric: Distance
    ready: Prepared | None

    def measure(self, queries: Array, references: Array) -> Array:
        """Q of each pair, float64 (E,), by differences."""
        i, j = (torch.from_numpy(rows).to(self.x.device) for rows in (queries, references))
        return self._measure(i, j).cpu().numpy()

    def count_within(self, queries: Array, levels: Lists, left_out: Lists) -> Array:
        """How many references are within each level, see `Compared.count_within`."""
        if not len(levels.entries):
            return np.zeros(0, np.int64)
        device, width = self.x.device, int(levels.lengths.max())
        rows = torch.from_numpy(queries).to(device)
        places = torch.from_numpy(np.arange(len(levels.entries)) - levels.first[levels.owner]).to(device)
        owner = torch.from_numpy(levels.owner).to(device)
        padded = torch.full((len(queries), width), torch.inf, dtype=torch.float64, device=device)
        padded[owner, places] = torch.from_numpy(levels.entries).to(device)
        count = torch.zeros((len(queries), width + 1), dtype=torch.int64, device=device)
        out_order = np.argsort(left_out.entries, kind="stable")
        out_row = torch.from_numpy(left_out.owner[out_order]).to(device)
        out_column = left_out.entries[out_order]
        for part in blocks(len(self.y), COLUMNS):
            here = slice(*np.searchsorted(out_column, (part.start, part.stop)))
            columns = torch.from_numpy(out_column[here] - part.start).to(device)
            count += self._buckets(rows, part, padded, (out_row[here], columns))
        return count.cumsum(1)[owner, places].cpu().numpy()

    def each(self, job: Callable[[slice], None], tiles: list[slice]) -> None:
        """job(tile) for each, one after the other: PyTorch's functions share the work among threads themselves."""
        for tile in tiles:
            job(tile)

    def _buckets(self, rows: Tensor, part: slice, levels: Tensor, left_out: tuple[Tensor, Tensor]) -> Tensor:
        """How many of a tile have each level as the first that is not below them, (A, L + 1)."""
        q, slack = self._tile(rows, part)
        q[left_out] = torch.inf
        slack[left_out] = 0
        low, high = torch.searchsorted(levels, q - slack), torch.searchsorted(levels, q + slack, right=True)
        a, c = (low != high).logical_and_(q < torch.inf).nonzero(as_tuple=True)
        low[a, c] = torch.searchsorted(levels[a], self._measure(rows[a], c + part.start)[:, None])[:, 0]
        count = low.new_zeros(len(levels), levels.shape[1] + 1)
        return count.scatter_add_(1, low, torch.ones_like(low))

    def _tile(self, rows: Tensor, part: slice) -> tuple[Tensor, Tensor]:
        """Q of a tile, float64 (A, C), and how far it may be off."""
        if self.ready is not None:
            ready = self.ready
            norms = ready.norms_x[rows, None] + ready.norms_y[part]
            q = torch.addmm(norms, ready.rows_x[rows], ready.rows_y[part].T, alpha=-2).double()
            return q, norms.double().mul_(product_error(self.x)).add_(q.abs(), alpha=self._relative)
        x, y = self.x[rows], self.y[part]
        with torch.no_grad():
            q, slack = self.metric.tile(x, y).double(), self.metric.rounding(x, y).double()
        return q, slack + q.abs() * (self._relative + product_error(self.x))

    @property
    def _relative(self) -> float:
        return 4 * float(torch.finfo(self.x.dtype).eps)

    def _measure(self, i: Tensor, j: Tensor) -> Tensor:
        q = torch.empty(len(i), dtype=torch.float64, device=self.x.device)
        for part in blocks(len(i), rows_per_chunk(self.x)):
            q[part] = self._measure_chunk(i[part], j[part])
        return q

    @torch.no_grad()
    def _measure_chunk(self, i: Tensor, j: Tensor) -> Tensor:
        if self.ready is None:
            x, y = self.x[i], self.y[j]
            if isinstance(self.metric, RowDistance):  # a function of the user's may take no other dtype
                return self.metric.pairs(x, y).double()
            return self.metric.pairs(x.double(), y.double())
        gaps = self.ready.direct_x[i].double() - self.ready.direct_y[j].double()
        return gaps.square_().sum(1).masked_fill_(self.ready.extra_x[i] + self.ready.extra_y[j] > 0, 2.0)

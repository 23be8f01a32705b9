"""Queries and references on the CPU whose distances follow from matrix products: compiled loops between the products.

Shapes: Q queries, M references, D dimensions, A queries at a time, C columns of a tile, E entries of lists.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

import tercet.compilation  # noqa: F401  says so when the loops are compiled
from tercet.distances import Prepared, blocks
from tercet.distances.euclidean import product_error
from tercet.kernels.compiled.crew import current_crew
from tercet.neighbors import loops
from tercet.neighbors.lists import Lists
from tercet.neighbors.loops import Array, Side

ENTRIES = 1 << 18  # of a tile: a megabyte, which stays in the cache
COLUMNS = (1024, 16384)  # of a tile, at least and at most; the more, the longer a row's grid stays in the cache, too


@dataclass(frozen=True)
class ByProducts:
    """Both sides made ready once.

    Attributes:
        rows_x, rows_y: the rows of the products, (Q, D) and (M, D).
        x, y: both sides for the loops.
        slack: how far the q of a query's tiles may be off, (Q,), beyond the `relative` share of itself.
        relative: see slack.
        root: whether the distance is the root of q.
        factor: of q, where it is not.
    """

    rows_x: Tensor
    rows_y: Tensor
    x: Side
    y: Side
    slack: Array
    relative: float
    root: bool
    factor: float

    @classmethod
    def of(cls, ready: Prepared) -> ByProducts:
        """Both sides as the loops take them."""
        largest = ready.norms_y.max() if len(ready.norms_y) else 0.0
        slack = (ready.norms_x + largest).double() * product_error(ready.rows_x)
        x = Side(ready.direct_x.numpy(), ready.norms_x.numpy(), ready.extra_x.numpy())
        y = Side(ready.direct_y.numpy(), ready.norms_y.numpy(), ready.extra_y.numpy())
        relative = 4 * float(torch.finfo(ready.rows_x.dtype).eps)
        return cls(ready.rows_x, ready.rows_y, x, y, slack.numpy(), relative, ready.root, ready.factor)

    def measure(self, queries: Array, references: Array) -> Array:
        """Q of each pair, float64 (E,), by differences."""
        q = np.empty(len(queries))
        loops.measure_list(self.x, queries, self.y, references, q)
        return q

    def count_within(self, queries: Array, levels: Lists, left_out: Lists) -> Array:
        """How many references are within each level, see `Compared.count_within`."""
        first, values = levels
        count, cursor = np.zeros(len(values), np.int64), left_out.first[:-1].copy()
        length, columns = len(queries), _columns(len(queries))
        grids = loops.Grids(
            table=np.empty(loops.CELLS_PER_LEVEL * len(values) + length, np.int32),
            walls=np.empty(len(values) + 3 * length, self.x.rows.dtype),
            bins=np.zeros(len(values) + 2 * length, np.int64),
            grid=np.empty((length, 2)),
            cell=np.empty(columns, np.int32),
            place=np.empty(columns, np.int32),
            wall=np.empty(columns, self.x.rows.dtype),
            floor=np.empty(columns, self.x.rows.dtype),
        )
        loops.lay_grids(queries, first, values, self.slack, self.relative, grids)
        rows, buffer = self.rows_x[torch.from_numpy(queries)], self._buffer(length, columns)
        for part in blocks(len(self.rows_y), columns):
            products = self._products(rows, part, buffer)
            loops.count_tile(
                products, queries, self.x, self.y, part.start, first, values, self.slack, self.relative,
                left_out.first, left_out.entries, cursor, grids, count,
            )  # fmt: skip
        loops.add_up(first, grids.bins, count)
        return count

    def nearest(self, rows: slice, k: int, own: Array) -> tuple[Array, Array]:
        """The k nearest of some queries: distances float32 (A, k) and indices int64 (A, k), nearest first.

        Args:
            rows: which queries.
            k: at most the number of references, without the query's own.
            own: the reference that is left out of each query's, (A,), or -1.
        """
        length = rows.stop - rows.start
        values, indices = np.empty((length, k)), np.empty((length, k), np.int64)
        filled, bound, columns = np.zeros(length, np.int64), np.full(length, np.inf), _columns(length)
        buffer = self._buffer(length, columns)
        for part in blocks(len(self.rows_y), columns):
            products = self._products(self.rows_x[rows], part, buffer)
            loops.keep_nearest(
                products, rows.start, self.x, self.y, part.start, own, self.slack, self.relative, self.root,
                self.factor, values, indices, filled, bound,
            )  # fmt: skip
        order = np.lexsort((indices, values))
        return np.take_along_axis(values, order, 1).astype(np.float32), np.take_along_axis(indices, order, 1)

    def each(self, job: Callable[[slice], None], tiles: list[slice]) -> None:
        """job(tile) for each, which PyTorch's threads share."""
        crew = current_crew()
        crew.lead(lambda: crew.run(lambda _, tile: job(tile), tiles))

    def _buffer(self, rows: int, columns: int) -> Tensor:
        return torch.empty(rows * min(columns, max(1, len(self.rows_y))), dtype=self.rows_x.dtype)

    def _products(self, rows: Tensor, part: slice, buffer: Tensor) -> Array:
        tile = buffer[: len(rows) * (part.stop - part.start)].view(len(rows), part.stop - part.start)
        return torch.mm(rows, self.rows_y[part].T, out=tile).numpy()


def _columns(rows: int) -> int:
    return min(max(ENTRIES // max(1, rows), COLUMNS[0]), COLUMNS[1])

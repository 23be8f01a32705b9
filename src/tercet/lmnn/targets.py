"""Target neighbours: the k nearest rows of the same class.

Shapes: N rows, D dimensions, k neighbours, R rows of a tile, C rows of a class.
"""

from __future__ import annotations

import numpy as np

from tercet.lmnn.loops import Array
from tercet.lmnn.workers import Workers

TILE_ROWS = 256
SPARE = 8  # chosen beyond k, for a product's rounding may put near ties in the wrong order


def target_neighbours(rows: Array, classes: Array, k: int, workers: Workers) -> Array:
    """For each row the k nearest others of its class, nearest first; among equally far ones the lowest index.

    Time O(sum of C² D), memory O(N k + tile).

    Args:
        rows: of shape (N, D), centred.
        classes: of shape (N,), ascending; each class has more than k rows.
        k: how many.
        workers: threads.

    Returns:
        indices of shape (N, k), int64.
    """
    starts = np.unique(classes, return_index=True)[1]
    tiles = [
        (start, stop, slice(first, min(first + TILE_ROWS, stop)))
        for start, stop in zip(starts, [*starts[1:], len(rows)], strict=True)
        for first in range(start, stop, TILE_ROWS)
    ]
    found = workers.each(lambda tile: tile[0] + _nearest(rows[tile[0] : tile[1]], _shifted(tile[2], tile[0]), k), tiles)
    return np.concatenate(found)


def _shifted(part: slice, by: int) -> slice:
    return slice(part.start - by, part.stop - by)


def _nearest(rows: Array, part: slice, k: int) -> Array:
    """Of the rows (C, D) of one class, the k nearest to those of a part, themselves left out: indices (R, k)."""
    distances = -2.0 * (rows[part] @ rows.T) + np.einsum("cd,cd->c", rows, rows)
    own = np.arange(part.start, part.stop)
    distances[np.arange(len(own)), own] = np.inf
    n_chosen = min(k + SPARE, len(rows) - 1)
    chosen = np.sort(np.argpartition(distances, n_chosen - 1, axis=1)[:, :n_chosen], axis=1)
    exact = ((rows[part][:, None] - rows[chosen]) ** 2).sum(axis=2)
    order = np.argsort(exact, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(chosen, order, axis=1)

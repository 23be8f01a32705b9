"""The compiled loops of LMNN: which pairs may be impostors, and what those that are cost.

Shapes: N rows, d their dimensions in the learned space, k target neighbours, R rows of a tile, C its columns, P pairs.
All distances are squared Euclidean ones in the learned space, `rows` of shape (N, d), float64, ordered by class.
"""
# ruff: noqa: E741, C901  l is the impostor, as in the papers; a loop that branches outside is one loop after all

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit

from tercet import compilation  # noqa: F401  listens from here on

Array = np.ndarray[Any, Any]


def fast(function: Callable[..., Any]) -> Any:
    """Compiled on the first call and kept if that can be; sums may be put in another order, to fill a register."""
    options: dict[str, Any] = {"nogil": True, "error_model": "numpy", "fastmath": {"reassoc", "contract", "nsz"}}
    try:
        return njit(cache=True, **options)(function)
    except RuntimeError:  # neither the package's folder nor the user's cache can be written to
        return njit(cache=False, **options)(function)


@fast
def squared(x: Array, y: Array) -> float:
    """|x - y|², by differences, which keep the digits of near pairs."""
    total = 0.0
    for c in range(x.shape[0]):
        step = x[c] - y[c]
        total += step * step
    return total


@fast
def target_distances(rows: Array, targets: Array, first: int, found: Array) -> None:
    """found[i, j] = |row i - its j-th target|², (R, k), for the R rows from `first`."""
    for i in range(found.shape[0]):
        for j in range(targets.shape[1]):
            found[i, j] = squared(rows[first + i], rows[targets[first + i, j]])


@fast
def mark(products: Array, own: Array, a: Array, b: Array, c: Array, d: Array, marks: Array) -> None:
    """Mark the columns that pass either test with 1, others with 0; without a branch, so that it fills a register."""
    own_0, own_1, own_2, own_3 = own[0], own[1], own[2], own[3]
    for l in range(products.shape[0]):
        first = a[l] - products[l] - own_1 * c[l] < own_0
        second = b[l] - products[l] - own_3 * d[l] < own_2
        marks[l] = np.uint8(first) | np.uint8(second)


@fast
def near_pairs(products: Array, own: Array, other: Array, start: Array, stop: Array, column: int, marks: Array,
               words: Array, place: Array, neighbour: Array) -> int:  # fmt: skip
    """The pairs of a tile that pass either of two tests, which say that they may be near; returns how many.

    With `products` p (R, C) of row i and column l, and `own` (R, 4) and `other` (4, C) of each end:
    other_0 - p - own_1 other_2 < own_0, or other_1 - p - own_3 other_3 < own_2. Columns from start_i to stop_i, counted
    from the first of all, are of the row's own class. The pairs go to place (row of the tile) and neighbour (row), row
    by row, ascending. `marks` is room for a byte a column, and `words` the same bytes as words of eight, most of which
    are 0 at once.
    """
    count = 0
    width = products.shape[1]
    marks[width:] = 0
    for i in range(products.shape[0]):
        first, last = max(start[i] - column, 0), min(stop[i] - column, width)
        if first == 0 and last == width:
            continue
        mark(products[i], own[i], other[0], other[1], other[2], other[3], marks)
        if first < last:
            marks[first:last] = 0
        for word in range((width + 7) // 8):
            if words[word] != 0:
                for l in range(8 * word, min(8 * word + 8, width)):
                    if marks[l] != 0:
                        place[count] = i
                        neighbour[count] = column + l
                        count += 1
    return count


@fast
def keep_near(rows: Array, radius: Array, slack: Array, first: int, place: Array, neighbour: Array) -> int:
    """Move the pairs that are as near as that in all dimensions to the front; returns how many they are."""
    count = 0
    for at in range(place.shape[0]):
        i, l = first + place[at], neighbour[at]
        reach = max(radius[i], radius[l]) + slack[i] + slack[l]
        if squared(rows[i], rows[l]) < reach * reach:
            place[count] = place[at]
            neighbour[count] = l
            count += 1
    return count


@fast
def push(rows: Array, levels: Array, radius: Array, weights: Array, is_squared: bool, first: int, starts: Array,
         neighbours: Array, gradient: Array, pulls: Array, losses: Array) -> int:  # fmt: skip
    """What the impostors among some rows' neighbours cost; returns the number of active triplets of these rows.

    Row i's neighbours are neighbours[starts[i]:starts[i + 1]]; rows count from `first`. A pair is seen from both ends:
    `levels` (N, k) are the targets' distances + 1, `radius` (N,) the largest of them, `weights` (N,) of each row's
    triplets. Written: `losses` (R,) of the rows' triplets; `pulls` (R, k) their derivatives by the targets' distances;
    and to `gradient` (R, d) is added half of that by the rows, through the impostors of both ends.
    """
    active = 0
    for i in range(starts.shape[0] - 1):
        row = rows[first + i]
        own = weights[first + i]
        loss = 0.0
        for at in range(starts[i], starts[i + 1]):
            l = neighbours[at]
            distance = squared(row, rows[l])
            if distance >= radius[first + i] and distance >= radius[l]:
                continue
            force = 0.0
            for j in range(levels.shape[1]):
                excess = levels[first + i, j] - distance
                if excess > 0:
                    slope = 2.0 * excess if is_squared else 1.0
                    loss += excess * excess if is_squared else excess
                    pulls[i, j] += slope * own
                    force += slope * own
                    active += 1
                excess = levels[l, j] - distance
                if excess > 0:
                    force += (2.0 * excess if is_squared else 1.0) * weights[l]
            for c in range(row.shape[0]):
                gradient[i, c] -= force * (row[c] - rows[l, c])
        losses[i] = loss * own
    return active


@fast
def pull(rows: Array, targets: Array, forces: Array, gradient: Array) -> None:
    """Add to the gradient (N, d) half of the derivative of the sum of forces (A, k) times the targets' distances."""
    for i in range(targets.shape[0]):
        for j in range(targets.shape[1]):
            t = targets[i, j]
            for c in range(rows.shape[1]):
                step = forces[i, j] * (rows[i, c] - rows[t, c])
                gradient[i, c] += step
                gradient[t, c] -= step


@fast
def class_energies(distances: Array, classes: Array, levels: Array, radius: Array, mu: float, is_squared: bool,
                   nearest: Array, found: Array) -> None:  # fmt: skip
    """found[r, c], (R, C): what row r would add to the objective as a member of class c.

    distances (R, N) to the training rows, whose classes are (N,), levels (N, k) and radius (N,). `nearest` (C, k) is
    room for the distances to the nearest rows of each class.
    """
    k = levels.shape[1]
    for r in range(distances.shape[0]):
        nearest[:] = np.inf
        for l in range(distances.shape[1]):
            c, distance = classes[l], distances[r, l]
            j = k - 1
            if distance >= nearest[c, j]:
                continue
            while j > 0 and nearest[c, j - 1] > distance:
                nearest[c, j] = nearest[c, j - 1]
                j -= 1
            nearest[c, j] = distance
        farthest = nearest[:, k - 1].max() + 1.0
        as_impostor = np.zeros(nearest.shape[0])
        for l in range(distances.shape[1]):
            own, distance = classes[l], distances[r, l]
            if distance < radius[l]:
                for j in range(k):
                    excess = max(levels[l, j] - distance, 0.0)
                    as_impostor[own] += excess * excess if is_squared else excess
            if distance < farthest:
                for c in range(nearest.shape[0]):
                    if c != own:
                        for j in range(k):
                            excess = max(nearest[c, j] + 1.0 - distance, 0.0)
                            found[r, c] += mu * (excess * excess if is_squared else excess)
        everywhere = as_impostor.sum()
        for c in range(nearest.shape[0]):
            found[r, c] += (1.0 - mu) * nearest[c].sum() + mu * (everywhere - as_impostor[c])

"""The compiled loops: distances of two rows and of a tile, what a tile adds to an anchor's state, and gradients.

One file, because numba keeps what it has compiled until the file of a function changes, whatever that function calls.

Distances. `between` is the one definition. It adds in float64 and always the same way, so that equal rows have equal
distances wherever they are compared; positives, near pairs and whatever a tile's rounding leaves open come from it.
Comparisons are made in q: the squared distance where the distance is a root, else the distance itself, for there a
product's rounding has one bound for all the pairs of a row.

Looks. A function `look_...` sees a tile d (R, C) of distances from anchors i0, i0 + 1, ... to references j0, j0 + 1,
...; where a reference is no negative of the anchor, the distance is infinite. Levels are an anchor's thresholds: those
of anchor i are levels[first[i]:first[i + 1]].
"""
# ruff: noqa: C901  a loop that branches outside is one loop after all

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numba import njit, types
from numba.extending import overload


def _compiled(fastmath: bool | set[str]) -> Callable[[Callable[..., Any]], Any]:
    """A decorator: compiled on the first call, runs without the interpreter's lock, and is kept if that can be."""
    options: dict[str, Any] = {"nogil": True, "error_model": "numpy", "fastmath": fastmath}

    def decorate(function: Callable[..., Any]) -> Any:
        try:
            return njit(cache=True, **options)(function)
        except RuntimeError:  # neither the package's folder nor the user's cache can be written to
            return njit(cache=False, **options)(function)

    return decorate


# Sums may be put in another order (so that they fill a vector register) and products fused. NaN and infinity keep their
# meaning: an infinite distance says that a pair is not a negative, NaN that it has overflowed.
fast = _compiled({"reassoc", "contract", "nsz", "arcp"})
# "Not fast" has to be said: a function is otherwise compiled as the first one that calls it.
strict = _compiled(False)
# A loop of its own whose sum fills a register: always the same way, wherever the function is called.
summed = _compiled({"reassoc"})

PRODUCT, MANHATTAN, CHEBYSHEV, MINKOWSKI, JACCARD = range(5)

Array = np.ndarray[Any, Any]


class Metric(NamedTuple):
    """Which distance.

    Attributes:
        kind: one of the numbers above.
        root: of PRODUCT: whether the distance is the root of the squared one.
        factor: of PRODUCT without root: of the squared distance.
        p: of MINKOWSKI.
        near: of PRODUCT: a squared distance below this share of both norms has lost too many digits.
        relative: how far a compared q may be off, as a share of itself, beyond the rows' slack.
    """

    kind: int
    root: bool
    factor: float
    p: float
    near: float
    relative: float


class Rows(NamedTuple):
    """One side of the comparison, and per row what a squared distance by products needs.

    Attributes:
        rows: of shape (N, D), contiguous: those whose differences count, see `Prepared.direct_x`.
        norms: of shape (N,): squared, of the rows of the products, with `extra`.
        extra: of shape (N,): what a row adds to its squared distances beyond the differences.
        slack: of shape (N,): how far the q of this row's tiles may be off.
        order: int64 (N,): the row's number as the user counts, which decides ties.
    """

    rows: Array
    norms: Array
    extra: Array
    slack: Array
    order: Array


def bits(row: Array) -> Array:
    """The row's numbers as integers, whose order is that of the numbers if none is negative.

    A minimum of integers fills a vector register, one of numbers that might not be numbers does not.
    """
    return row.view(np.int32 if row.dtype == np.float32 else np.int64)


@overload(bits)
def _bits(row):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202  numba compares the signatures
    kind = np.int32 if row.dtype == types.float32 else np.int64
    return lambda row: row.view(kind)


@summed
def squared_gap(a: Array, b: Array) -> float:
    """|a - b|²."""
    total = 0.0
    for k in range(a.shape[0]):
        gap = np.float64(a[k] - b[k])
        total += gap * gap
    return total


@strict
def between_rows(a: Array, b: Array, extra: float, metric: Metric) -> float:
    """`between`, for PRODUCT."""
    if extra > 0:
        return 1.0  # a zero row under cosine
    squared = squared_gap(a, b)
    return math.sqrt(squared) if metric.root else metric.factor * squared


@strict
def between(metric: Metric, x: Rows, i: int, y: Rows, j: int) -> float:
    """The distance of rows x[i] and y[j], in float64."""
    a, b = x.rows[i], y.rows[j]
    total = 0.0
    other = 0.0
    if metric.kind == PRODUCT:
        return between_rows(a, b, x.extra[i] + y.extra[j], metric)
    if metric.kind == MANHATTAN:
        for k in range(a.shape[0]):
            total += abs(np.float64(a[k] - b[k]))
        return total
    if metric.kind == CHEBYSHEV:
        for k in range(a.shape[0]):
            total = max(total, abs(np.float64(a[k] - b[k])))
        return total
    if metric.kind == JACCARD:
        for k in range(a.shape[0]):
            total += abs(np.float64(a[k] - b[k]))
            other += abs(np.float64(a[k])) + abs(np.float64(b[k]))
        return 2 * total / (other + total) if other > 0 else 0.0
    for k in range(a.shape[0]):
        other = max(other, abs(np.float64(a[k] - b[k])))
    if other == 0:
        return 0.0
    for k in range(a.shape[0]):
        total += (abs(np.float64(a[k] - b[k])) / other) ** metric.p
    return other * total ** (1 / metric.p)


@fast
def fill_tile(d: Array, x: Rows, i0: int, y: Rows, j0: int, metric: Metric) -> None:
    """Distances of any kind but PRODUCT, of shape (R, C)."""
    for i in range(d.shape[0]):
        a = x.rows[i0 + i]
        for j in range(d.shape[1]):
            b = y.rows[j0 + j]
            total = d.dtype.type(0)
            other = d.dtype.type(0)
            if metric.kind == MANHATTAN:
                for k in range(a.shape[0]):
                    total += abs(a[k] - b[k])
            elif metric.kind == CHEBYSHEV:
                for k in range(a.shape[0]):
                    total = max(total, abs(a[k] - b[k]))
            elif metric.kind == JACCARD:
                for k in range(a.shape[0]):
                    total += abs(a[k] - b[k])
                    other += abs(a[k]) + abs(b[k])
                total = 2 * total / (other + total) if other > 0 else d.dtype.type(0)
            else:
                total = between(metric, x, i0 + i, y, j0 + j)
            d[i, j] = total


@fast
def mask_equal(d: Array, of_rows: Array, i0: int, of_columns: Array, j0: int, value: float) -> None:
    """Put a value where the codes of row and column are equal."""
    for i in range(d.shape[0]):
        row, code = d[i], of_rows[i0 + i]
        for j in range(d.shape[1]):
            row[j] = value if of_columns[j0 + j] == code else row[j]


@fast
def mask_class(d: Array, of_rows: Array, i0: int, of_columns: Array, j0: int, value: float) -> None:
    """`mask_equal` for codes that ascend on both sides."""
    start = 0
    for i in range(d.shape[0]):
        code = of_rows[i0 + i]
        while start < d.shape[1] and of_columns[j0 + start] < code:
            start += 1
        j = start
        while j < d.shape[1] and of_columns[j0 + j] == code:
            d[i, j] = value
            j += 1


@fast
def mask_where(d: Array, keep: Array, value: float) -> None:
    """Put a value where `keep` of shape (R, C) is false."""
    for i in range(d.shape[0]):
        for j in range(d.shape[1]):
            d[i, j] = d[i, j] if keep[i, j] else value


@fast
def sum_of_finite(d: Array) -> float:
    """The sum of all that is not inf; NaN if anything is."""
    total = 0.0
    for i in range(d.shape[0]):
        of_row = d.dtype.type(0)
        for j in range(d.shape[1]):
            of_row += d.dtype.type(0) if d[i, j] == np.inf else d[i, j]  # NaN goes on
        total += of_row
    return total


@fast
def row_to_distances(row: Array, norm: float, norms: Array, metric: Metric) -> tuple[float, bool]:
    """Inner products of a row of this squared norm become distances in place; -inf becomes inf.

    Returns the sum of the finite ones, and whether any `is_near`.
    """
    zero, one, near = row.dtype.type(0), row.dtype.type(1), row.dtype.type(metric.near)
    factor, infinite = row.dtype.type(metric.factor), row.dtype.type(np.inf)
    total, close = zero, zero
    for j in range(row.shape[0]):
        both = norm + norms[j]
        squared = both - (row[j] + row[j])
        close += one if squared <= near * both else zero
        value = math.sqrt(squared) if metric.root else factor * squared
        row[j] = value
        total += zero if value == infinite else value  # NaN goes on
    return total, close > zero


@fast
def renew_near(row: Array, x: Rows, i: int, y: Rows, j0: int, metric: Metric) -> float:
    """Put the distances of the rows' differences where one `is_near`; returns the sum of the finite ones."""
    total = row.dtype.type(0)
    for j in range(row.shape[0]):
        if is_near(row[j], x.norms[i] + y.norms[j0 + j], metric):
            row[j] = between(metric, x, i, y, j0 + j)
        total += row.dtype.type(0) if row[j] == np.inf else row[j]
    return total


@fast
def is_near(d: float, norms: float, metric: Metric) -> bool:
    """Whether a distance by products, of rows of these norms together, has lost too many digits (NaN has)."""
    return not ((d * d if metric.root else d / metric.factor) > metric.near * norms)


@fast
def to_distances(d: Array, x: Rows, i0: int, y: Rows, j0: int, metric: Metric) -> float:
    """`row_to_distances` of a tile, near ones as they should be; returns the sum."""
    total, norms = 0.0, y.norms[j0 : j0 + d.shape[1]]
    for i in range(d.shape[0]):
        of_row, close = row_to_distances(d[i], x.norms[i0 + i], norms, metric)
        total += renew_near(d[i], x, i0 + i, y, j0, metric) if close else of_row
    return total


@fast
def transpose(d: Array, turned: Array) -> None:
    """turned[j, i] = d[i, j], eight rows at a time, which is what a cache line allows."""
    rows, columns = d.shape
    for i in range(0, rows - 7, 8):
        for j in range(columns):
            for k in range(8):
                turned[j, i + k] = d[i + k, j]
    for i in range(rows - rows % 8, rows):
        for j in range(columns):
            turned[j, i] = d[i, j]


@fast
def add_transpose(weights: Array, turned: Array) -> None:
    """Add turned[j, i] to weights[i, j]."""
    rows, columns = weights.shape
    for i0 in range(0, rows, 16):
        for j0 in range(0, columns, 16):
            for i in range(i0, min(i0 + 16, rows)):
                for j in range(j0, min(j0 + 16, columns)):
                    weights[i, j] += turned[j, i]


@fast
def add_own_transpose(weights: Array) -> None:
    """Add to a square, in place, what is on the other side of its diagonal."""
    size = weights.shape[0]
    for i0 in range(0, size, 16):
        for j0 in range(0, i0 + 1, 16):
            for i in range(i0, min(i0 + 16, size)):
                for j in range(j0, min(j0 + 16, i + 1)):
                    both = weights[i, j] + weights[j, i]
                    weights[i, j] = both
                    weights[j, i] = both


@fast
def pull_pair(metric: Metric, x: Rows, i: int, y: Rows, j: int, d: float, weight: float, dx: Array, dy: Array) -> None:
    """Add the gradient of weight * d(x[i], y[j]) to dx[i] and dy[j]; coincident rows have none."""
    if d == 0:
        return
    a, b, da, db = x.rows[i], y.rows[j], dx[i], dy[j]
    kind = dx.dtype.type
    if metric.kind == PRODUCT:
        force = kind(weight / d if metric.root else 2 * metric.factor * weight)
        for k in range(a.shape[0]):
            step = force * (a[k] - b[k])
            da[k] += step
            db[k] -= step
    elif metric.kind == MANHATTAN:
        force = kind(weight)
        for k in range(a.shape[0]):
            step = force if a[k] > b[k] else (-force if a[k] < b[k] else kind(0))
            da[k] += step
            db[k] -= step
    elif metric.kind == CHEBYSHEV:
        largest = 0
        for k in range(1, a.shape[0]):
            if abs(a[k] - b[k]) > abs(a[largest] - b[largest]):
                largest = k
        step = kind(weight if a[largest] > b[largest] else -weight)
        da[largest] += step
        db[largest] -= step
    elif metric.kind == JACCARD:
        union = kind(0)
        for k in range(a.shape[0]):
            union += max(a[k], b[k])
        nearer, farther = (
            kind(-weight / union),
            kind(weight * (1 - d) / union),
        )  # intersection / union² is (1 - d) / union
        for k in range(a.shape[0]):
            da[k] += farther if a[k] > b[k] else (nearer if a[k] < b[k] else kind(0))
            db[k] += nearer if a[k] > b[k] else (farther if a[k] < b[k] else kind(0))
    else:
        for k in range(a.shape[0]):
            share = (abs(a[k] - b[k]) / d) ** (metric.p - 1) * weight
            step = kind(share if a[k] > b[k] else (-share if a[k] < b[k] else 0))
            da[k] += step
            db[k] -= step


@fast
def pull_tile(
    d: Array, weights: Array, x: Rows, i0: int, y: Rows, j0: int, metric: Metric, dx: Array, dy: Array
) -> None:
    """Add the gradient of sum(weights * d), pair by pair; pairs of weight zero cost nothing."""
    for i in range(d.shape[0]):
        for j in range(d.shape[1]):
            if weights[i, j] != 0:
                pull_pair(metric, x, i0 + i, y, j0 + j, d[i, j], weights[i, j], dx, dy)


@fast
def row_to_pulls(row: Array, weight: Array, root: bool, slope: float, of_columns: Array) -> float:
    """Distances of row i, and their weights, become the weights of the differences x[i] - y[j], in place of row.

    They are added to of_columns, and their sum is returned.
    """
    total = row.dtype.type(0)
    for j in range(row.shape[0]):
        pull = weight[j] / row[j] if root else slope * weight[j]
        row[j] = pull
        total += pull
        of_columns[j] += pull
    return total


@fast
def pull_near(
    row: Array, weight: Array, x: Rows, i: int, y: Rows, j0: int, metric: Metric, dx: Array, dy: Array
) -> None:
    """Add the gradient of near pairs, whose differences the matrix products would lose, and take their weights off."""
    for j in range(row.shape[0]):
        if is_near(row[j], x.norms[i] + y.norms[j0 + j], metric):
            if weight[j] != 0:
                pull_pair(metric, x, i, y, j0 + j, row[j], weight[j], dx, dy)
            weight[j] = 0
            row[j] = 1  # nothing reads it any more, and zero would divide


@fast
def any_near(row: Array, norm: float, norms: Array, metric: Metric) -> bool:
    """Whether any distance of the row `is_near`."""
    zero, one, near = row.dtype.type(0), row.dtype.type(1), row.dtype.type(metric.near)
    whole = row.dtype.type(1 / metric.factor)
    close = zero
    for j in range(row.shape[0]):
        squared = row[j] * row[j] if metric.root else row[j] * whole
        close += zero if squared > near * (norm + norms[j]) else one
    return close > zero


@fast
def to_pulls(
    d: Array, weights: Array, x: Rows, i0: int, y: Rows, j0: int, metric: Metric,
    dx: Array, dy: Array, pull_x: Array, pull_y: Array,
) -> None:  # fmt: skip
    """`row_to_pulls` of a tile, near pairs by themselves; pull_x and pull_y get the sums of rows and columns."""
    of_columns, norms, slope = np.zeros(d.shape[1], d.dtype), y.norms[j0 : j0 + d.shape[1]], 2 * metric.factor
    for i in range(d.shape[0]):
        if any_near(d[i], x.norms[i0 + i], norms, metric):
            pull_near(d[i], weights[i], x, i0 + i, y, j0, metric, dx, dy)
        pull_x[i0 + i] += row_to_pulls(d[i], weights[i], metric.root, d.dtype.type(slope), of_columns)
    for j in range(d.shape[1]):
        pull_y[j0 + j] += of_columns[j]


@fast
def list_distances(
    metric: Metric, x: Rows, y: Rows, first: Array, other: Array, reverse: Array, d: Array, start: int, stop: int
) -> None:
    """d[e] = distance of row i and other[e], for e from first[i] on, for rows i from start to stop."""
    rows_x, rows_y, extra_x, extra_y = x.rows, y.rows, x.extra, y.extra
    for i in range(start, stop):
        a, extra = rows_x[i], extra_x[i]
        for e in range(first[i], first[i + 1]):
            j = other[e]
            if len(reverse) > 0 and reverse[e] < e:
                d[e] = d[reverse[e]]
            elif metric.kind == PRODUCT:
                d[e] = between_rows(a, rows_y[j], extra + extra_y[j], metric)
            else:
                d[e] = between(metric, x, i, y, j)


@fast
def pull_list(
    metric: Metric, x: Rows, y: Rows, first: Array, other: Array, reverse: Array, d: Array, weights: Array,
    dx: Array, dy: Array, start: int, stop: int,
) -> None:  # fmt: skip
    """Add the gradient of sum over e of weights[e] * d[e], see `list_distances`."""
    if len(reverse) > 0 and metric.kind == PRODUCT:
        for i in range(start, stop):
            gather_pulls(metric, x.rows, i, first, other, reverse, d, weights, dx[i])
        return
    for i in range(start, stop):
        for e in range(first[i], first[i + 1]):
            if weights[e] != 0:
                pull_pair(metric, x, i, y, other[e], d[e], weights[e], dx, dy)


@fast
def gather_pulls(
    metric: Metric, rows: Array, i: int, first: Array, other: Array, reverse: Array, d: Array, weights: Array, da: Array
) -> None:
    """What all of row i's pairs, seen from either side, add to its gradient."""
    a, lo, hi = rows[i], first[i], first[i + 1]
    force = np.empty(hi - lo, rows.dtype)
    for e in range(lo, hi):
        weight = weights[e] + weights[reverse[e]]
        if d[e] > 0:
            force[e - lo] = weight / d[e] if metric.root else 2 * metric.factor * weight
        else:
            force[e - lo] = 0
    total = np.zeros_like(a)
    whole = lo + (hi - lo) // 4 * 4
    for e in range(lo, whole, 4):  # four pairs in a visit of `total`
        f0, f1, f2, f3 = force[e - lo], force[e - lo + 1], force[e - lo + 2], force[e - lo + 3]
        b0, b1, b2, b3 = rows[other[e]], rows[other[e + 1]], rows[other[e + 2]], rows[other[e + 3]]
        for k in range(a.shape[0]):
            total[k] += f0 * (a[k] - b0[k]) + f1 * (a[k] - b1[k]) + f2 * (a[k] - b2[k]) + f3 * (a[k] - b3[k])
    for e in range(whole, hi):
        f0, b0 = force[e - lo], rows[other[e]]
        for k in range(a.shape[0]):
            total[k] += f0 * (a[k] - b0[k])
    for k in range(a.shape[0]):
        da[k] += total[k]


@fast
def class_to_pulls(
    metric: Metric, x: Rows, y: Rows, first: Array, other: Array, d: Array, weights: Array, i0: int, j0: int,
    dx: Array, dy: Array, pulls: Array,
) -> None:  # fmt: skip
    """Weights of the differences x[i0 + i] - y[j0 + j] in pulls, of listed pairs of one class; zeros elsewhere.

    Near pairs, whose differences the matrix products would lose, are done at once, as in a tile.
    """
    pulls[:] = 0
    for i in range(pulls.shape[0]):
        for e in range(first[i0 + i], first[i0 + i + 1]):
            j = other[e]
            if weights[e] == 0:
                continue
            if is_near(d[e], x.norms[i0 + i] + y.norms[j], metric):
                pull_pair(metric, x, i0 + i, y, j, d[e], weights[e], dx, dy)
            else:
                pulls[i, j - j0] = weights[e] / d[e] if metric.root else 2 * metric.factor * weights[e]


@fast
def pull_pairs(
    metric: Metric, x: Rows, y: Rows, i: Array, j: Array, d: Array, weights: Array, dx: Array, dy: Array
) -> None:
    """Add the gradient of sum over e of weights[e] * d(x[i[e]], y[j[e]])."""
    for e in range(len(i)):
        if weights[e] != 0:
            pull_pair(metric, x, i[e], y, j[e], d[e], weights[e], dx, dy)


DIRECT = 24  # up to so many levels, comparing with each is faster than bisection
FEW = 32  # entries of a row among which one is looked for by itself
BOTH = 8  # up to so many, the columns' levels are compared with at the same time, without turning the tile


@fast
def q_of(d: float, root: bool) -> float:
    """What a distance is compared by, see the module."""
    return d * d if root else d


@fast
def any_within(row: Array, level: float, slack: float, root: bool) -> bool:
    """Whether any entry's q is so near to the level's."""
    zero, one = row.dtype.type(0), row.dtype.type(1)
    doubtful = zero
    for j in range(row.shape[0]):
        q = row[j] * row[j] if root else row[j]
        doubtful += one if abs(q - level) <= slack else zero
    return doubtful > zero


@fast
def settle(row: Array, i: int, x: Rows, y: Rows, j0: int, metric: Metric, level: float, slack: float) -> None:
    """Exact distances where q is so near to a level's."""
    for start in range(0, row.shape[0], FEW):  # a few at a time: they are rare
        part = row[start : start + FEW]
        if any_within(part, level, slack, metric.root):
            for j in range(part.shape[0]):
                if abs(q_of(part[j], metric.root) - level) <= slack:
                    part[j] = between(metric, x, i, y, j0 + start + j)


@fast
def first_beyond(levels: Array, start: int, stop: int, d: float, or_equal: bool) -> int:
    """The first of the levels from start to stop that is above d, or not below it; stop if there is none."""
    while start < stop:
        middle = (start + stop) // 2
        level = levels[middle]
        if level < d or (or_equal and level == d):
            start = middle + 1
        else:
            stop = middle
    return start


ROUNDING = 0.01  # of a cell: more than the rounding of a place in the grid
CELLS = 4  # for each level: so many that few distances are in a cell with one


class Grid(NamedTuple):
    """For each anchor of more than DIRECT levels a grid of cells, most of which hold two levels at most.

    A distance in such a cell has only these to be compared with. The first and the last go on without end.

    Attributes:
        first: of shape (A + 1,): the cells of anchor a are table[first[a]:first[a + 1]].
        origin: float64 (A,): where the second cell begins.
        per_unit: float64 (A,): cells in a unit of distance.
        reach: float64 (A,): how far from a level a distance by products may lie and yet be on its other side.
        table: int32: the number of levels before a cell, in which, or within reach of which, the next two may lie; if
            more do, -1 less the number before the first of these cells in a row.
        ends: int32, like the levels: at that number, the number before the first cell behind these.
    """

    first: Array
    origin: Array
    per_unit: Array
    reach: Array
    table: Array
    ends: Array


@fast
def lay_grids(first: Array, levels: Array, x: Rows, metric: Metric, grid: Grid, start: int, stop: int) -> None:
    """The grids of the anchors from start to stop."""
    for a in range(start, stop):
        own = levels[first[a] : first[a + 1]]
        if len(own) > DIRECT:
            reach = reach_of_all(own, x.slack[a], metric)
            table, ends = grid.table[grid.first[a] : grid.first[a + 1]], grid.ends[first[a] : first[a + 1]]
            grid.origin[a], grid.per_unit[a] = lay_grid(own, reach, table, ends)
            grid.reach[a] = reach


@fast
def lay_grid(levels: Array, reach: float, table: Array, ends: Array) -> tuple[float, float]:
    """Fill in table and ends; returns the origin and the cells in a unit."""
    length, last = levels.shape[0], len(table) - 1
    origin = levels[0] - 2 * reach
    width = np.float64(levels[length - 1]) + 2 * reach - origin
    per_unit = (last - 2) / width if width > 0 else 0.0  # the last level is before the last cell
    begin, number = 0, 0  # the first cell that is not laid yet, and the levels before it
    while number < length:
        stop, low = number, int((levels[number] - reach - origin) * per_unit + 1 - ROUNDING)
        high = low
        while stop < length and int((levels[stop] - reach - origin) * per_unit + 1 - ROUNDING) <= high:
            high = int((levels[stop] + reach - origin) * per_unit + 1 + ROUNDING)
            stop += 1
        high = min(high, last - 1)
        several = stop - number > 2
        for c in range(begin, low if several else high + 1):
            table[c] = number
        if several:
            for c in range(max(low, begin), high + 1):
                table[c] = -1 - number
        ends[number] = stop
        begin, number = high + 1, stop
    for c in range(begin, last + 1):
        table[c] = length
    return origin, per_unit


@fast
def put_cells(row: Array, origin: float, per_unit: float, last: int, cell: Array) -> None:
    """The cell of each distance, see `lay_grid`."""
    zero, top, shift = row.dtype.type(0), row.dtype.type(last), row.dtype.type(1)
    for j in range(row.shape[0]):
        place = (row[j] - origin) * per_unit + shift
        place = place if place < top else top  # what is not a number goes there, too
        cell[j] = np.int32(place if place > zero else zero)


@fast
def place_in_grid(
    row: Array, cell: Array, table: Array, ends: Array, levels: Array, reach: float, or_equal: bool, at: Array,
    walls: Array,
) -> int:  # fmt: skip
    """at[j] = number of levels below row[j], or equal to it; returns for how many it may be another.

    These are the first in `cell`, which is used up. The levels are two at least; walls, of shape (2, at least as many
    as the row), is written to.
    """
    last, none, zero, one = np.int32(len(levels) - 1), np.int32(-1), np.int32(0), np.int32(1)
    gather(table, cell, at)
    next_wall, second_wall = walls[0, : row.shape[0]], walls[1, : row.shape[0]]
    gather_clipped(levels, at, next_wall)
    gather_clipped(levels[1:], at, second_wall)
    for j in range(row.shape[0]):
        d, e = row[j], at[j]
        beyond = next_wall[j] <= d if or_equal else next_wall[j] < d
        beyond_both = second_wall[j] <= d if or_equal else second_wall[j] < d
        step = (one if beyond and e <= last else zero) + (one if beyond_both and e < last else zero)
        nearest = min(abs(d - next_wall[j]), abs(d - second_wall[j]))
        at[j] = e + step if nearest > reach and e >= zero else none
    found = 0
    for j in range(row.shape[0]):
        if at[j] == none:
            d, e = row[j], table[cell[j]]
            start = -1 - e if e < 0 else 0
            e = first_beyond(levels, start, ends[start] if e < 0 else last + 1, d, or_equal)
            at[j] = e
            if (e > 0 and d - levels[e - 1] <= reach) or (e <= last and levels[e] - d <= reach):
                cell[found] = j
                found += 1
    return found


@fast
def gather(table: Array, at: Array, found: Array) -> None:
    """found[k] = table[at[k]]; a loop of its own, since what is done with it then fills vector registers."""
    for k in range(at.shape[0]):
        found[k] = table[at[k]]


@fast
def gather_clipped(table: Array, at: Array, found: Array) -> None:
    """found[k] = table[at[k]], or the table's first or last entry where that is beyond."""
    zero, last = np.int32(0), np.int32(table.shape[0] - 1)
    for k in range(at.shape[0]):
        place = at[k] if at[k] < last else last
        found[k] = table[place if place > zero else zero]


@fast
def settle_places(
    row: Array, doubtful: Array, i: int, x: Rows, y: Rows, j0: int, metric: Metric, levels: Array, or_equal: bool,
    at: Array,
) -> None:  # fmt: skip
    """Exact distances for those in doubt, and their places."""
    a, extra, rows_y, extra_y = x.rows[i], x.extra[i], y.rows, y.extra
    for j in doubtful:
        if metric.kind == PRODUCT:
            row[j] = between_rows(a, rows_y[j0 + j], extra + extra_y[j0 + j], metric)
        else:
            row[j] = between(metric, x, i, y, j0 + j)
        at[j] = first_beyond(levels, 0, len(levels), row[j], or_equal)


@fast
def weigh_buckets(
    row: Array, at: Array, largest: float, above: Array, levels: int, factor: float, degree: int, weight: Array
) -> float:
    """Put in weight the slopes of the sum over levels t of max(0, t - d)^degree; returns part of that sum.

    The rest of it is in `finish_below`.
    """
    total, full = 0.0, np.int32(levels)
    if degree == 1:
        scale = row.dtype.type(factor)
        for j in range(row.shape[0]):
            number = row.dtype.type(full - at[j])
            weight[j] = -scale * number
            total += (largest - row[j]) * number if full > at[j] else row.dtype.type(0)
    elif degree == 2:
        for j in range(row.shape[0]):
            if at[j] < full:
                gap, number = np.float64(largest) - row[j], full - at[j]
                weight[j] = -2 * factor * (number * gap - above[at[j]])
                total += gap * gap * number
    return total


@fast
def most_levels(first: Array, i0: int, rows: int) -> int:
    """The largest number of levels that any of the anchors i0, i0 + 1, ... has."""
    most = 0
    for i in range(i0, i0 + rows):
        most = max(most, first[i + 1] - first[i])
    return most


@fast
def reach_of_all(levels: Array, slack: float, metric: Metric) -> float:
    """The largest `reach_of` any of the levels, which ascend."""
    q = slack + metric.relative * max(q_of(levels[0], metric.root), q_of(levels[-1], metric.root))
    if not metric.root:
        return q
    return min(q / levels[0], math.sqrt(q)) if levels[0] > 0 else math.sqrt(q)


@fast
def add_excess(row: Array, at: Array, largest: float, levels: int, excess: Array) -> None:
    """By how much the distances of each bucket lie below the largest level."""
    for j in range(row.shape[0]):
        if at[j] < levels:
            excess[at[j]] += np.float64(largest) - row[j]


@fast
def look_below(
    d: Array, weights: Array, x: Rows, i0: int, y: Rows, j0: int, metric: Metric,
    first: Array, levels: Array, grid: Grid, above: Array, scale: Array, degree: int,
    value: Array, count: Array, excess: Array,
) -> None:  # fmt: skip
    """For each level t the number of d < t, and what max(0, t - d)^degree adds to the anchor's value.

    For degree 2, excess gets the sums of t - d over d < t. The weights of the tile become the slopes of the value by
    d, times scale: -(number of t above d), or -2 (sum of t - d over these).

    With more than DIRECT levels, which are then in ascending order, count and excess hold sums of a bucket between two
    levels, about the anchor's largest level, until `finish_below`; above[e] is the sum of (largest level - t) from
    level e on.
    """
    zero, one = d.dtype.type(0), d.dtype.type(1)
    columns = d.shape[1]
    at, cell, walls = np.empty(columns, np.int32), np.empty(columns, np.int32), np.empty((2, columns), d.dtype)
    of_count = np.zeros(most_levels(first, i0, d.shape[0]) + 1, np.int32)
    for i in range(d.shape[0]):
        a = i0 + i
        row, weight, factor = d[i], weights[i], scale[a]
        for j in range(columns):
            weight[j] = zero
        lo, hi = first[a], first[a + 1]
        if hi - lo > DIRECT:
            own, ends, table = levels[lo:hi], grid.ends[lo:hi], grid.table[grid.first[a] : grid.first[a + 1]]
            put_cells(row, d.dtype.type(grid.origin[a]), d.dtype.type(grid.per_unit[a]), len(table) - 1, cell)
            number = place_in_grid(row, cell, table, ends, own, d.dtype.type(grid.reach[a]), True, at, walls)
            if number:
                settle_places(row, cell[:number], a, x, y, j0, metric, own, True, at)
            for j in range(columns):
                of_count[at[j]] += 1
            for e in range(hi - lo):
                count[lo + e] += of_count[e]
                of_count[e] = 0
            if degree == 2:
                add_excess(row, at, own[hi - lo - 1], hi - lo, excess[lo:hi])
            value[a] += weigh_buckets(row, at, own[hi - lo - 1], above[lo + a :], hi - lo, factor, degree, weight)
            continue
        for e in range(lo, hi):
            level = q_of(levels[e], metric.root)
            slack = d.dtype.type(x.slack[a] + metric.relative * level)
            if any_within(row, level, slack, metric.root):
                settle(row, a, x, y, j0, metric, level, slack)
        for e in range(lo, hi):
            level = levels[e]
            number_below, linear, quadratic = zero, zero, zero
            if degree == 0:
                for j in range(columns):
                    number_below += one if row[j] < level else zero
            elif degree == 1:
                for j in range(columns):
                    gap = level - row[j]
                    inside = one if gap > 0 else zero
                    weight[j] -= inside
                    number_below += inside
                    linear += gap if gap > 0 else zero
                value[a] += linear
            else:
                for j in range(columns):
                    gap = level - row[j]
                    inside = gap if gap > 0 else zero
                    weight[j] -= 2 * inside
                    number_below += one if gap > 0 else zero
                    linear += inside
                    quadratic += inside * inside
                value[a] += quadratic
                excess[e] += linear
            count[e] += number_below
        if factor != 1:
            for j in range(columns):
                weight[j] *= factor


@fast
def rank_levels(
    first: Array, ordered: Array, given: Array, grid: Grid, rank: Array, start: int, stop: int
) -> None:  # fmt: skip
    """Where each given level is among its anchor's in ascending order; among equal ones, the first."""
    most = most_levels(first, start, stop - start)
    at, cell, walls = np.empty(most, np.int32), np.empty(most, np.int32), np.empty((2, most), given.dtype)
    for a in range(start, stop):
        lo, hi = first[a], first[a + 1]
        own, levels = given[lo:hi], ordered[lo:hi]
        if hi - lo <= DIRECT:
            for k in range(hi - lo):
                at[k] = first_beyond(levels, 0, hi - lo, own[k], False)
        else:
            table, kind = grid.table[grid.first[a] : grid.first[a + 1]], given.dtype
            put_cells(own, kind.type(grid.origin[a]), kind.type(grid.per_unit[a]), len(table) - 1, cell[: hi - lo])
            number = hi - lo
            place_in_grid(
                own, cell[:number], table, grid.ends[lo:hi], levels, kind.type(-1), False, at[:number], walls
            )  # fmt: skip
        for k in range(hi - lo):
            rank[lo + k] = lo + at[k]


@fast
def columns_of(first: Array, levels: Array, i0: int, rows: int, j0: int, columns: int) -> Array:
    """Levels of the anchors j0, j0 + 1, ... side by side, padded with -inf.

    The shape is (most, columns), with as many levels as any of these anchors has, or any of i0, i0 + 1, ...
    """
    most = 0
    for i in range(rows):
        most = max(most, first[i0 + i + 1] - first[i0 + i])
    for j in range(columns):
        most = max(most, first[j0 + j + 1] - first[j0 + j])
    found = np.full((most, columns), -np.inf, levels.dtype)
    for j in range(columns):
        for k in range(first[j0 + j + 1] - first[j0 + j]):
            found[k, j] = levels[first[j0 + j] + k]
    return found


@fast
def reach_of(level: float, slack: float, metric: Metric) -> float:
    """How far from a level a distance by products may lie and yet be on its other side; -inf has none.

    With q off by s, a distance that is in truth the level t is off by no more than s / t, and than the root of s.
    """
    q = slack + metric.relative * q_of(level, metric.root)
    wide = math.sqrt(q) if metric.root else q
    narrow = q / abs(level) if metric.root else q
    return (narrow if narrow < wide else wide) if level > -np.inf else 0.0


@fast
def settle_both(
    row: Array, i: int, x: Rows, j0: int, metric: Metric, level: float, reach: float, down: Array, reach_down: Array
) -> None:
    """Exact distances where one may lie on the other side of a level, that of row i or of its column."""
    for start in range(0, row.shape[0], FEW):
        part, of_part, reach_of_part = (
            row[start : start + FEW],
            down[start : start + FEW],
            reach_down[start : start + FEW],
        )
        if any_in_doubt(part, level, reach, of_part, reach_of_part):
            for j in range(part.shape[0]):
                if abs(part[j] - level) <= reach or abs(part[j] - of_part[j]) <= reach_of_part[j]:
                    part[j] = between(metric, x, i, x, j0 + start + j)


@fast
def any_in_doubt(row: Array, level: float, reach: float, down: Array, reach_down: Array) -> bool:
    """Whether any entry is so near to the level, or to its own in `down`."""
    zero, one = row.dtype.type(0), row.dtype.type(1)
    doubtful = zero
    for j in range(row.shape[0]):
        doubtful += one if (abs(row[j] - level) <= reach) | (abs(row[j] - down[j]) <= reach_down[j]) else zero
    return doubtful > zero


@fast
def below_both(
    d: Array, x: Rows, i0: int, j0: int, metric: Metric, first: Array, levels: Array, scale: Array, degree: int,
    value: Array, count: Array, excess: Array, pull: bool, dx: Array, pull_x: Array,
) -> float:  # fmt: skip
    """All that `look_below` and its neighbours do, for products of rows among themselves with few levels, row by row.

    Inner products become weights of differences in place. Anchors i0, ... are the tile's rows, anchors j0, ... its
    columns; where these are the same, what is above the diagonal is seen from both sides, and what is below becomes its
    mirror image. Returns the sum of distances, each pair's once.
    """
    zero, one, two = d.dtype.type(0), d.dtype.type(1), d.dtype.type(2)
    rows, columns = d.shape
    norms, slack, slope = x.norms, x.slack, d.dtype.type(2 * metric.factor)
    across = columns_of(first, levels, i0, rows, j0, columns)
    most = across.shape[0]
    reach_across = np.empty_like(across)
    for k in range(most):
        for j in range(columns):
            reach_across[k, j] = reach_of(across[k, j], slack[j0 + j], metric)
    counts, excesses = np.zeros_like(across), np.zeros_like(across)
    values, pulls = np.zeros(columns, d.dtype), np.zeros(columns, d.dtype)
    weights, own, reach = np.empty(columns, d.dtype), np.empty(most, d.dtype), np.empty(most, d.dtype)
    total = 0.0
    for i in range(rows):
        a, start = i0 + i, i + 1 if i0 == j0 else 0
        row, weight, factor, factors = d[i, start:], weights[start:], scale[a], scale[j0 + start : j0 + columns]
        lo, hi = first[a], first[a + 1]
        for k in range(most):
            own[k] = levels[lo + k] if lo + k < hi else -np.inf
            reach[k] = reach_of(own[k], slack[a], metric)
        of_row, close = row_to_distances(row, norms[a], norms[j0 + start : j0 + columns], metric)
        total += renew_near(row, x, a, x, j0 + start, metric) if close else of_row
        for k in range(most):
            down, reach_down = across[k, start:], reach_across[k, start:]
            if any_in_doubt(row, own[k], reach[k], down, reach_down):
                settle_both(row, a, x, j0 + start, metric, own[k], reach[k], down, reach_down)
        for j in range(weight.shape[0]):
            weight[j] = zero
        for k in range(most):
            level, down, count_down = own[k], across[k, start:], counts[k, start:]
            excess_down, value_down = excesses[k, start:], values[start:]
            number, linear, quadratic = zero, zero, zero
            if degree == 1:
                for j in range(weight.shape[0]):
                    gap, gap_down = level - row[j], down[j] - row[j]
                    inside, inside_down = one if gap > zero else zero, one if gap_down > zero else zero
                    number += inside
                    linear += gap if gap > zero else zero
                    count_down[j] += inside_down
                    value_down[j] += gap_down if gap_down > zero else zero
                    weight[j] -= inside * factor + inside_down * factors[j]
                value[a] += linear
            else:
                for j in range(weight.shape[0]):
                    gap, gap_down = level - row[j], down[j] - row[j]
                    number += one if gap > zero else zero
                    count_down[j] += one if gap_down > zero else zero
                    gap, gap_down = gap if gap > zero else zero, gap_down if gap_down > zero else zero
                    linear += gap
                    quadratic += gap * gap
                    excess_down[j] += gap_down
                    value_down[j] += gap_down * gap_down
                    weight[j] -= two * (gap * factor + gap_down * factors[j])
                value[a] += quadratic
            if lo + k < hi:
                count[lo + k] += number
                if degree == 2:
                    excess[lo + k] += linear
        if pull:
            if close:
                pull_near(row, weight, x, a, x, j0 + start, metric, dx, dx)
            pull_x[a] += row_to_pulls(row, weight, metric.root, slope, pulls[start:])
    for j in range(columns):
        value[j0 + j] += values[j]
        for k in range(first[j0 + j + 1] - first[j0 + j]):
            count[first[j0 + j] + k] += counts[k, j]
            if degree == 2:
                excess[first[j0 + j] + k] += excesses[k, j]
    if pull:
        for j in range(columns):
            pull_x[j0 + j] += pulls[j]
        if i0 == j0:
            mirror(d)
    return total


@fast
def mirror(square: Array) -> None:
    """Put what is above the diagonal below it, too, and zeros on it."""
    size = square.shape[0]
    for i0 in range(0, size, 16):
        for j0 in range(0, i0 + 1, 16):
            for i in range(i0, min(i0 + 16, size)):
                for j in range(j0, min(j0 + 16, i)):
                    square[i, j] = square[j, i]
    for i in range(size):
        square[i, i] = 0


@fast
def finish_below(first: Array, levels: Array, degree: int, value: Array, count: Array, excess: Array) -> None:
    """Turn sums of buckets into sums below each level."""
    for a in range(first.shape[0] - 1):
        lo, hi = first[a], first[a + 1]
        if hi - lo <= DIRECT:
            continue
        largest = np.float64(levels[hi - 1])
        number, linear = 0.0, 0.0
        for e in range(lo, hi):
            number += count[e]
            gap = largest - levels[e]
            count[e] = number
            if degree == 1:  # the sum of t - d = (largest - d) - gap, of which `look_below` adds the first
                value[a] -= number * gap
            elif degree == 2:  # the sum of (t - d)² = (largest - d)² - 2 gap (t - d) - gap², likewise
                linear += excess[e]
                excess[e] = linear - number * gap
                value[a] -= 2 * gap * excess[e] + number * gap * gap


@fast
def sums_above(first: Array, levels: Array) -> Array:
    """For each level, the sum of (largest level - t) over it and the anchor's levels t above it; then a zero.

    So those of anchor a begin at first[a] + a.
    """
    above = np.zeros(levels.shape[0] + first.shape[0])
    for a in range(first.shape[0] - 1):
        total = 0.0
        for e in range(first[a + 1] - 1, first[a] - 1, -1):
            total += np.float64(levels[first[a + 1] - 1]) - levels[e]
            above[e + a] = total
    return above


@fast
def look_exponents(d: Array, weights: Array, i0: int, nearest: Array, total: Array, tau: float) -> None:
    """Follow each anchor's nearest negative, keep total in its scale, and put (nearest - d) / tau in weights."""
    inverse = d.dtype.type(1 / tau)
    for i in range(d.shape[0]):
        row, weight = d[i], weights[i]
        smallest, a = smallest_beyond(row, -1.0), i0 + i
        if smallest < nearest[a]:
            total[a] *= math.exp((smallest - nearest[a]) / tau) if nearest[a] < np.inf else 0.0
            nearest[a] = smallest
        put_exponents(row, weight, d.dtype.type(nearest[a]), inverse)


@fast
def put_exponents(row: Array, weight: Array, nearest: float, inverse: float) -> None:
    """(nearest - d) / tau for each d of a row, where `inverse` is 1 / tau; -inf where nothing is near."""
    if nearest == np.inf:
        for j in range(row.shape[0]):
            weight[j] = -np.inf
    else:
        for j in range(row.shape[0]):
            weight[j] = (nearest - row[j]) * inverse


@fast
def look_exponents_again(d: Array, weights: Array, i0: int, nearest: Array, tau: float) -> None:
    """(nearest - d) / tau, once the nearest is known."""
    inverse = d.dtype.type(1 / tau)
    for i in range(d.shape[0]):
        put_exponents(d[i], weights[i], d.dtype.type(nearest[i0 + i]), inverse)


@fast
def add_rows(weights: Array, i0: int, total: Array) -> None:
    """Add the sum of each row to its anchor's total."""
    for i in range(weights.shape[0]):
        of_row = weights.dtype.type(0)
        for j in range(weights.shape[1]):
            of_row += weights[i, j]
        total[i0 + i] += of_row


@fast
def scale_rows(d: Array, weights: Array, i0: int, nearest: Array, scale: Array, moment: Array) -> None:
    """weights[i] *= scale[i]; moment[i] += sum of weights * (d - nearest[i]) over the finite d."""
    zero = d.dtype.type(0)
    for i in range(d.shape[0]):
        row, weight, factor = d[i], weights[i], d.dtype.type(scale[i0 + i])
        from_nearest = d.dtype.type(nearest[i0 + i])
        of_row = zero
        for j in range(d.shape[1]):
            weight[j] *= factor
            of_row += weight[j] * (row[j] - from_nearest) if row[j] < np.inf else zero
        moment[i0 + i] += of_row


@fast
def is_before(d: float, rank: int, best: float, best_rank: int) -> bool:
    """Ties go to the row that the user counts first."""
    return d < best or (d == best and rank < best_rank)


@fast
def look_nearest(
    d: Array, x: Rows, i0: int, y: Rows, j0: int, metric: Metric, best: Array, index: Array, sign: int
) -> None:
    """The nearest (sign 1) or farthest (sign -1) negative of each anchor so far; index is a row of y."""
    for i in range(d.shape[0]):
        a, row = i0 + i, d[i]
        extreme = sign * (smallest_beyond(row, -1.0) if sign > 0 else largest_finite(row))
        if not extreme < np.inf:
            continue
        q = q_of(extreme, metric.root) * (sign if metric.root else 1)
        bound = q
        if index[a] >= 0:
            bound = min(q, q_of(best[a], metric.root) * sign)
        bound += 2 * (x.slack[a] + metric.relative * abs(bound))
        if q > bound:
            continue
        for j in range(d.shape[1]):
            if row[j] < np.inf and q_of(row[j], metric.root) * sign <= bound:
                exact = between(metric, x, a, y, j0 + j)
                row[j] = exact
                rank = y.order[j0 + j]
                if index[a] < 0 or is_before(sign * exact, rank, sign * best[a], y.order[index[a]]):
                    best[a], index[a] = exact, j0 + j


@fast
def look_beyond(
    d: Array, x: Rows, i0: int, y: Rows, j0: int, metric: Metric, first: Array, levels: Array, grid: Grid,
    best: Array, index: Array,
) -> None:  # fmt: skip
    """For each level t the nearest negative with d > t so far; with more than DIRECT levels, between t and the next."""
    columns = d.shape[1]
    at, cell, walls = np.empty(columns, np.int32), np.empty(columns, np.int32), np.empty((2, columns), d.dtype)
    for i in range(d.shape[0]):
        a, row = i0 + i, d[i]
        lo, hi = first[a], first[a + 1]
        if hi - lo > DIRECT:
            own, ends, table = levels[lo:hi], grid.ends[lo:hi], grid.table[grid.first[a] : grid.first[a + 1]]
            put_cells(row, d.dtype.type(grid.origin[a]), d.dtype.type(grid.per_unit[a]), len(table) - 1, cell)
            number = place_in_grid(row, cell, table, ends, own, d.dtype.type(grid.reach[a]), False, at, walls)
            if number:
                settle_places(row, cell[:number], a, x, y, j0, metric, own, False, at)
            for j in range(columns):
                if at[j] > 0 and row[j] < np.inf:
                    keep_nearer(row, j, a, x, y, j0, metric, best, index, lo + at[j] - 1)
            continue
        for e in range(lo, hi):
            level = levels[e]
            # What may lie beyond the level, whatever the rounding, is looked at only if it may be the nearest so far.
            slack = x.slack[a] + metric.relative * q_of(level, metric.root)
            low = row.dtype.type(math.sqrt(max(level * level - slack, 0.0)) if metric.root else level - slack)
            if not may_be_nearer(smallest_beyond(row, low), best[e], x.slack[a], metric):
                continue
            settle(row, a, x, y, j0, metric, q_of(level, metric.root), row.dtype.type(slack))
            smallest = smallest_beyond(row, level)
            if not may_be_nearer(smallest, best[e], x.slack[a], metric):
                continue
            q = q_of(smallest, metric.root)
            bound = q + 2 * (x.slack[a] + metric.relative * q)
            for j in range(columns):
                if row[j] > level and q_of(row[j], metric.root) <= bound:
                    keep_nearer(row, j, a, x, y, j0, metric, best, index, e)


@fast
def smallest_beyond(row: Array, level: float) -> float:
    """The smallest entry above the level; inf if there is none."""
    ends = np.empty(2, row.dtype)
    ends[0], ends[1] = level, np.inf
    found, (bound, smallest) = bits(row), bits(ends)
    infinite = smallest
    for j in range(row.shape[0]):
        smallest = min(smallest, found[j] if found[j] > bound else infinite)
    bits(ends)[1] = smallest
    return ends[1]


@fast
def largest_finite(row: Array) -> float:
    """The largest entry that is not inf; -inf if there is none."""
    ends = np.empty(2, row.dtype)
    ends[0], ends[1] = -np.inf, np.inf
    found, (largest, infinite) = bits(row), bits(ends)
    nothing = largest
    for j in range(row.shape[0]):
        largest = max(largest, found[j] if found[j] < infinite else nothing)
    bits(ends)[0] = largest
    return ends[0]


@fast
def may_be_nearer(d: float, best: float, slack: float, metric: Metric) -> bool:
    """Whether a distance off by the rounding may be below the best one."""
    q = q_of(d, metric.root)
    return d < np.inf and q <= q_of(best, metric.root) + 2 * (slack + metric.relative * q)


@fast
def keep_nearer(
    row: Array, j: int, a: int, x: Rows, y: Rows, j0: int, metric: Metric, best: Array, index: Array, e: int
) -> None:
    """Take row[j] for the best of level e if it is: nearer, or as near and earlier."""
    q = q_of(row[j], metric.root)
    if index[e] >= 0 and q > q_of(best[e], metric.root) + 2 * (x.slack[a] + metric.relative * q):
        return
    exact = between(metric, x, a, y, j0 + j)
    row[j] = exact
    if index[e] < 0 or is_before(exact, y.order[j0 + j], best[e], y.order[index[e]]):
        best[e], index[e] = exact, j0 + j


@fast
def finish_beyond(first: Array, order: Array, best: Array, index: Array) -> None:
    """Turn the nearest between two levels into the nearest beyond each."""
    for a in range(first.shape[0] - 1):
        lo, hi = first[a], first[a + 1]
        if hi - lo <= DIRECT:
            continue
        for e in range(hi - 2, lo - 1, -1):
            if index[e + 1] >= 0 and (
                index[e] < 0 or is_before(best[e + 1], order[index[e + 1]], best[e], order[index[e]])
            ):
                best[e], index[e] = best[e + 1], index[e + 1]

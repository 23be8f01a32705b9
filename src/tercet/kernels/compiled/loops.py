"""The compiled loops: distances of two rows and of a tile, what a tile adds to an anchor's state, and gradients.

One file, because numba keeps what it has compiled until the file of a function changes, whatever that function calls.

Distances. `between` is the one definition. It adds in order and in float64, so that equal rows have equal distances
wherever they are compared; positives, near pairs and whatever a tile's rounding leaves open are taken from it.
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
from numba import njit


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


@strict
def between(metric: Metric, x: Rows, i: int, y: Rows, j: int) -> float:
    """The distance of rows x[i] and y[j], in float64."""
    a, b = x.rows[i], y.rows[j]
    total = 0.0
    other = 0.0
    if metric.kind == PRODUCT:
        if x.extra[i] + y.extra[j] > 0:
            return 1.0  # a zero row under cosine
        for k in range(a.shape[0]):
            gap = np.float64(a[k] - b[k])
            total += gap * gap
        return math.sqrt(total) if metric.root else metric.factor * total
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
def row_to_distances(row: Array, x: Rows, i: int, y: Rows, j0: int, metric: Metric) -> float:
    """Inner products of row i become distances in place; -inf becomes inf. Returns the sum of the finite ones."""
    zero, one, near = row.dtype.type(0), row.dtype.type(1), row.dtype.type(metric.near)
    factor = row.dtype.type(metric.factor)
    norm, norms = x.norms[i], y.norms[j0 : j0 + row.shape[0]]
    close = zero
    for j in range(row.shape[0]):
        both = norm + norms[j]
        squared = both - 2 * row[j]
        close += one if squared <= near * both else zero
        row[j] = squared
    if close > 0:  # of these the products have lost the digits
        for j in range(row.shape[0]):
            if row[j] <= near * (norm + norms[j]):
                exact = between(metric, x, i, y, j0 + j)
                row[j] = exact * exact if metric.root else exact / metric.factor
    total = zero
    for j in range(row.shape[0]):
        value = math.sqrt(row[j]) if metric.root else factor * row[j]
        row[j] = value
        total += zero if value == np.inf else value  # NaN goes on
    return total


@fast
def to_distances(d: Array, x: Rows, i0: int, y: Rows, j0: int, metric: Metric) -> float:
    """`row_to_distances` of a tile."""
    total = 0.0
    for i in range(d.shape[0]):
        total += row_to_distances(d[i], x, i0 + i, y, j0, metric)
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
def row_to_pulls(
    row: Array, weight: Array, x: Rows, i: int, y: Rows, j0: int, metric: Metric,
    dx: Array, dy: Array, pull_x: Array, pull_y: Array,
) -> None:  # fmt: skip
    """Distances of row i, and their weights, become the weights of the differences x[i] - y[j], in place of row.

    Their sums are added to pull_x and pull_y. Near pairs, whose differences the matrix products would lose, are done
    at once and get the weight zero.
    """
    zero, one, near = row.dtype.type(0), row.dtype.type(1), row.dtype.type(metric.near)
    whole, slope = row.dtype.type(1 / metric.factor), row.dtype.type(2 * metric.factor)
    norm, norms, of_columns = x.norms[i], y.norms[j0 : j0 + row.shape[0]], pull_y[j0 : j0 + row.shape[0]]
    close = zero
    for j in range(row.shape[0]):
        squared = row[j] * row[j] if metric.root else row[j] * whole
        close += one if squared <= near * (norm + norms[j]) else zero
    if close > 0:
        for j in range(row.shape[0]):
            squared = row[j] * row[j] if metric.root else row[j] * whole
            if squared <= near * (norm + norms[j]):
                if weight[j] != 0:
                    pull_pair(metric, x, i, y, j0 + j, row[j], weight[j], dx, dy)
                weight[j] = zero
                row[j] = one  # nothing reads it any more, and zero would divide
    total = zero
    for j in range(row.shape[0]):
        pull = weight[j] / row[j] if metric.root else slope * weight[j]
        row[j] = pull
        total += pull
        of_columns[j] += pull
    pull_x[i] += total


@fast
def to_pulls(
    d: Array, weights: Array, x: Rows, i0: int, y: Rows, j0: int, metric: Metric,
    dx: Array, dy: Array, pull_x: Array, pull_y: Array,
) -> None:  # fmt: skip
    """`row_to_pulls` of a tile."""
    for i in range(d.shape[0]):
        row_to_pulls(d[i], weights[i], x, i0 + i, y, j0, metric, dx, dy, pull_x, pull_y)


@fast
def list_distances(
    metric: Metric, x: Rows, y: Rows, first: Array, other: Array, reverse: Array, d: Array, start: int, stop: int
) -> None:
    """d[e] = distance of row i and other[e], for e from first[i] on, for rows i from start to stop."""
    for i in range(start, stop):
        for e in range(first[i], first[i + 1]):
            if len(reverse) == 0 or reverse[e] >= e:
                d[e] = between(metric, x, i, y, other[e])
            else:
                d[e] = d[reverse[e]]


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
    a = rows[i]
    total = np.zeros_like(a)
    for e in range(first[i], first[i + 1]):
        weight = weights[e] + weights[reverse[e]]
        if d[e] > 0:
            force = a.dtype.type(weight / d[e] if metric.root else 2 * metric.factor * weight)
            b = rows[other[e]]
            for k in range(a.shape[0]):
                total[k] += force * (a[k] - b[k])
    for k in range(a.shape[0]):
        da[k] += total[k]


@fast
def pull_pairs(
    metric: Metric, x: Rows, y: Rows, i: Array, j: Array, d: Array, weights: Array, dx: Array, dy: Array
) -> None:
    """Add the gradient of sum over e of weights[e] * d(x[i[e]], y[j[e]])."""
    for e in range(len(i)):
        if weights[e] != 0:
            pull_pair(metric, x, i[e], y, j[e], d[e], weights[e], dx, dy)


DIRECT = 24  # up to so many levels, comparing with each is faster than bisection
BOTH = 8  # up to so many, the columns' levels are compared with at the same time, without turning the tile


@fast
def q_of(d: float, root: bool) -> float:
    """What a distance is compared by, see the module."""
    return d * d if root else d


@fast
def settle(row: Array, i: int, x: Rows, y: Rows, j0: int, metric: Metric, low: float, high: float) -> None:
    """Exact distances where q lies in [low, high]."""
    for j in range(row.shape[0]):
        q = q_of(row[j], metric.root)
        if low <= q <= high:
            row[j] = between(metric, x, i, y, j0 + j)


@fast
def settle_levels(row: Array, i: int, x: Rows, y: Rows, j0: int, metric: Metric, levels: Array) -> None:
    """Exact distances where the tile's rounding leaves open on which side of a level they lie."""
    zero, one = row.dtype.type(0), row.dtype.type(1)
    for e in range(levels.shape[0]):
        level = q_of(levels[e], metric.root)
        slack = row.dtype.type(x.slack[i] + metric.relative * level)
        doubtful = zero
        for j in range(row.shape[0]):
            doubtful += one if abs(q_of(row[j], metric.root) - level) <= slack else zero
        if doubtful > 0:
            settle(row, i, x, y, j0, metric, level - slack, level + slack)


@fast
def padded(levels: Array) -> Array:
    """-inf, the levels, and inf up to a power of two, so that bisection needs no bounds."""
    size = 1
    while size <= levels.shape[0]:
        size *= 2
    found = np.full(size + 1, np.inf, levels.dtype)
    found[0] = -np.inf
    for k in range(levels.shape[0]):
        found[k + 1] = levels[k]
    return found


@fast
def gather(table: Array, at: Array, found: Array) -> None:
    """found[k] = table[at[k]]; a loop of its own, since what is done with it then fills vector registers."""
    for k in range(at.shape[0]):
        found[k] = table[at[k]]


@fast
def place(values: Array, walls: Array, or_equal: bool, at: Array) -> None:
    """at[k] = number of levels below values[k], or equal to it; walls are `padded`. All values go a step at a time."""
    wall = np.empty_like(values)
    for k in range(values.shape[0]):
        at[k] = 0
    step = (walls.shape[0] - 1) // 2
    while step > 0:
        gather(walls[step:], at, wall)
        width = np.int32(step)
        if or_equal:
            for k in range(values.shape[0]):
                at[k] += width if wall[k] <= values[k] else np.int32(0)
        else:
            for k in range(values.shape[0]):
                at[k] += width if wall[k] < values[k] else np.int32(0)
        step //= 2


@fast
def place_settled(
    row: Array, chosen: Array, values: Array, i: int, x: Rows, y: Rows, j0: int, metric: Metric,
    walls: Array, largest: float, or_equal: bool, at: Array,
) -> None:  # fmt: skip
    """`place` of values = row[chosen], with exact distances, in row and values, where a level is too close."""
    place(values, walls, or_equal, at)
    zero, one = row.dtype.type(0), row.dtype.type(1)
    slack = row.dtype.type(x.slack[i] + metric.relative * q_of(largest, metric.root))
    below, above = np.empty_like(values), np.empty_like(values)
    gather(walls, at, below)
    gather(walls[1:], at, above)
    doubtful = zero
    for k in range(values.shape[0]):  # of -inf, which is no level, q is inf or -inf: no doubt
        q = q_of(values[k], metric.root)
        gap = min(abs(q - q_of(below[k], metric.root)), abs(q_of(above[k], metric.root) - q))
        below[k] = gap
        doubtful += one if gap <= slack else zero
    if doubtful == 0:
        return
    for k in range(values.shape[0]):
        if below[k] <= slack:
            values[k] = between(metric, x, i, y, j0 + chosen[k])
            row[chosen[k]] = values[k]
            place(values[k : k + 1], walls, or_equal, at[k : k + 1])


@fast
def add_to_buckets(values: Array, at: Array, largest: float, count: Array, excess: Array) -> None:
    """How many values lie in each bucket, and by how much below the largest level."""
    for k in range(values.shape[0]):
        e = at[k]
        count[e] += 1
        excess[e] += np.float64(largest) - values[k]


@fast
def weigh_buckets(
    values: Array, at: Array, largest: float, above: Array, levels: int, factor: float, degree: int
) -> float:
    """Values become the slopes of the sum over levels t of max(0, t - value)^degree; returns part of the sum."""
    total = 0.0
    if degree == 1:
        for k in range(values.shape[0]):
            values[k] = factor * (at[k] - levels)
    elif degree == 2:
        shift = np.empty(values.shape[0])
        gather(above, at, shift)
        for k in range(values.shape[0]):
            gap = np.float64(largest) - values[k]
            number = levels - at[k]
            values[k] = -2 * factor * (number * gap - shift[k])
            total += gap * gap * number
    return total


@fast
def choose_below(row: Array, bound: float, chosen: Array, values: Array) -> int:
    """Where row < bound, and what is there; returns how many."""
    found = 0
    for j in range(row.shape[0]):
        chosen[found] = j
        values[found] = row[j]
        found += 1 if row[j] < bound else 0
    return found


@fast
def look_below(
    d: Array, weights: Array, x: Rows, i0: int, y: Rows, j0: int, metric: Metric,
    first: Array, levels: Array, above: Array, scale: Array, degree: int,
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
    at, chosen, values = np.empty(columns, np.int32), np.empty(columns, np.int32), np.empty(columns, d.dtype)
    for i in range(d.shape[0]):
        a = i0 + i
        row, weight, factor = d[i], weights[i], scale[a]
        for j in range(columns):
            weight[j] = zero
        lo, hi = first[a], first[a + 1]
        if hi - lo > DIRECT:
            largest = levels[hi - 1]
            bound = largest + math.sqrt(x.slack[a]) + metric.relative * largest
            number = choose_below(row, bound, chosen, values)
            few, places = values[:number], at[:number]
            place_settled(row, chosen, few, a, x, y, j0, metric, padded(levels[lo:hi]), largest, True, places)
            of_count, of_excess = np.zeros(hi - lo + 1, d.dtype), np.zeros(hi - lo + 1)
            add_to_buckets(few, places, largest, of_count, of_excess)
            for e in range(hi - lo):
                count[lo + e] += of_count[e]
                excess[lo + e] += of_excess[e]
            value[a] += weigh_buckets(few, places, largest, above[lo + a :], hi - lo, factor, degree)
            for k in range(number):
                weight[chosen[k]] = few[k]
            continue
        settle_levels(row, a, x, y, j0, metric, levels[lo:hi])
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
def sort_levels(first: Array, levels: Array, start: int, stop: int) -> None:
    """Put the levels of the anchors from start to stop in ascending order."""
    for a in range(start, stop):
        levels[first[a] : first[a + 1]] = np.sort(levels[first[a] : first[a + 1]])


@fast
def rank_levels(first: Array, ordered: Array, given: Array, rank: Array, start: int, stop: int) -> None:
    """Where each given level is among its anchor's in ascending order; among equal ones, the first."""
    for a in range(start, stop):
        lo, hi = first[a], first[a + 1]
        at = np.empty(hi - lo, np.int32)
        place(given[lo:hi], padded(ordered[lo:hi]), False, at)
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
def settle_both(
    row: Array, i: int, x: Rows, j0: int, metric: Metric, levels: Array, across: Array, slack_across: Array
) -> None:
    """`settle_levels` for the levels of row i and those of the columns at once; both are padded with -inf."""
    zero, one = row.dtype.type(0), row.dtype.type(1)
    for k in range(across.shape[0]):
        along = q_of(levels[k], metric.root)
        slack_along = row.dtype.type(x.slack[i] + metric.relative * along) if levels[k] > -np.inf else zero
        down, slack_down = across[k], slack_across[k]
        doubtful = zero
        for j in range(row.shape[0]):
            q = q_of(row[j], metric.root)
            near_row = abs(q - along) <= slack_along
            near_column = abs(q - q_of(down[j], metric.root)) <= slack_down[j]
            doubtful += one if (near_row or near_column) else zero
        if doubtful > 0:
            for j in range(row.shape[0]):
                q = q_of(row[j], metric.root)
                if abs(q - along) <= slack_along or abs(q - q_of(down[j], metric.root)) <= slack_down[j]:
                    row[j] = between(metric, x, i, x, j0 + j)


@fast
def below_both(
    d: Array, x: Rows, i0: int, j0: int, metric: Metric, first: Array, levels: Array, scale: Array, degree: int,
    value: Array, count: Array, excess: Array, pull: bool, dx: Array, pull_x: Array,
) -> float:  # fmt: skip
    """All that `look_below` and its neighbours do, for products of rows among themselves with few levels, row by row.

    Inner products become weights of differences in place. Anchors i0, ... are the tile's rows, anchors j0, ... its
    columns. Returns the sum of distances.
    """
    zero, one = d.dtype.type(0), d.dtype.type(1)
    columns = d.shape[1]
    across = columns_of(first, levels, i0, d.shape[0], j0, columns)
    slack = np.zeros_like(across)
    for k in range(across.shape[0]):
        for j in range(columns):
            if across[k, j] > -np.inf:
                slack[k, j] = x.slack[j0 + j] + metric.relative * q_of(across[k, j], metric.root)
    counts, excesses, values = np.zeros_like(across), np.zeros_like(across), np.zeros(columns, d.dtype)
    weight, own = np.empty(columns, d.dtype), np.empty(across.shape[0], d.dtype)
    factors = scale[j0 : j0 + columns]
    total = 0.0
    for i in range(d.shape[0]):
        row, a = d[i], i0 + i
        lo, hi, factor = first[a], first[a + 1], scale[a]
        for k in range(across.shape[0]):
            own[k] = levels[lo + k] if lo + k < hi else -np.inf
        total += row_to_distances(row, x, a, x, j0, metric)
        settle_both(row, a, x, j0, metric, own, across, slack)
        for j in range(columns):
            weight[j] = zero
        for k in range(across.shape[0]):
            level, down, count_down, excess_down = own[k], across[k], counts[k], excesses[k]
            number, linear, quadratic = zero, zero, zero
            if degree == 1:
                for j in range(columns):
                    gap, gap_down = level - row[j], down[j] - row[j]
                    inside, inside_down = one if gap > 0 else zero, one if gap_down > 0 else zero
                    number += inside
                    linear += gap if gap > 0 else zero
                    count_down[j] += inside_down
                    values[j] += gap_down if gap_down > 0 else zero
                    weight[j] -= inside * factor + inside_down * factors[j]
                value[a] += linear
            else:
                for j in range(columns):
                    gap, gap_down = level - row[j], down[j] - row[j]
                    number += one if gap > 0 else zero
                    count_down[j] += one if gap_down > 0 else zero
                    gap, gap_down = max(gap, zero), max(gap_down, zero)
                    linear += gap
                    quadratic += gap * gap
                    excess_down[j] += gap_down
                    values[j] += gap_down * gap_down
                    weight[j] -= 2 * (gap * factor + gap_down * factors[j])
                value[a] += quadratic
            if lo + k < hi:
                count[lo + k] += number
                excess[lo + k] += linear
        if pull:
            row_to_pulls(row, weight, x, a, x, j0, metric, dx, dx, pull_x, pull_x)
    for j in range(columns):
        value[j0 + j] += values[j]
        for k in range(first[j0 + j + 1] - first[j0 + j]):
            count[first[j0 + j] + k] += counts[k, j]
            excess[first[j0 + j] + k] += excesses[k, j]
    return total


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
            linear += excess[e]
            gap = largest - levels[e]
            count[e] = number
            excess[e] = linear - number * gap  # the sum of t - d over the number of d below t
            if degree == 1:
                value[a] += excess[e]
            else:  # the sum of (t - d)² = (largest - d)² - 2 gap (t - d) - gap², of which `look_below` adds the first
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
        smallest = d.dtype.type(np.inf)
        for j in range(d.shape[1]):
            smallest = min(smallest, row[j])
        a = i0 + i
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
        extreme = row.dtype.type(np.inf)
        for j in range(d.shape[1]):
            value = sign * row[j]
            extreme = min(extreme, value if row[j] < np.inf else np.inf)
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
    d: Array, x: Rows, i0: int, y: Rows, j0: int, metric: Metric, first: Array, levels: Array, best: Array, index: Array
) -> None:
    """For each level t the nearest negative with d > t so far; with more than DIRECT levels, between t and the next."""
    columns = d.shape[1]
    at, chosen, values = np.empty(columns, np.int32), np.empty(columns, np.int32), np.empty(columns, d.dtype)
    for i in range(d.shape[0]):
        a, row = i0 + i, d[i]
        lo, hi = first[a], first[a + 1]
        if hi - lo > DIRECT:
            number = choose_below(row, np.inf, chosen, values)
            walls = padded(levels[lo:hi])
            place_settled(row, chosen, values[:number], a, x, y, j0, metric, walls, levels[hi - 1], False, at[:number])
            for k in range(number):
                if at[k] > 0:
                    keep_nearer(row, chosen[k], a, x, y, j0, metric, best, index, lo + at[k] - 1)
            continue
        for e in range(lo, hi):
            level = levels[e]
            # What may lie beyond the level, whatever the rounding, is looked at only if it may be the nearest so far.
            slack = x.slack[a] + metric.relative * q_of(level, metric.root)
            low = row.dtype.type(math.sqrt(max(level * level - slack, 0.0)) if metric.root else level - slack)
            if not may_be_nearer(smallest_beyond(row, low), best[e], x.slack[a], metric):
                continue
            settle_levels(row, a, x, y, j0, metric, levels[e : e + 1])
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
    smallest = row.dtype.type(np.inf)
    for j in range(row.shape[0]):
        smallest = min(smallest, row[j] if row[j] > level else np.inf)
    return smallest


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

"""The compiled loops of search: what a tile of matrix products tells of counts and of the nearest.

One file, because numba keeps what it has compiled until the file of a function changes, whatever that function calls.

Distances are compared in q, the squared one. A tile p (R, C) of inner products of centred rows gives
q = |x|² + |y|² - 2 p, off by no more than a slack; wherever that could decide, `measure` takes the differences in
float64, always the same way, so that equal rows have equal distances wherever they are compared.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from tercet.kernels.compiled.loops import Array, fast, strict

DIRECT = 24  # up to so many levels, comparing with each fills vector registers and is faster than a grid
CELLS_PER_LEVEL = 4
FLOAT32_EPS = 1.2e-7


class Side(NamedTuple):
    """Queries or references.

    Attributes:
        rows: of shape (N, D), contiguous: those whose differences count, see `Prepared.direct_x`.
        norms: of shape (N,), of the rows of the products.
        extra: of shape (N,): above 0 for a zero row under cosine.
    """

    rows: Array
    norms: Array
    extra: Array


@fast
def squared_gap(x: Array, i: int, y: Array, j: int) -> float:
    """|x[i] - y[j]|², in float64."""
    total = 0.0
    for k in range(x.shape[1]):
        gap = np.float64(x[i, k]) - np.float64(y[j, k])
        total += gap * gap
    return total


@strict
def measure(x: Array, extra_x: float, i: int, y: Array, extra_y: Array, j: int) -> float:
    """Q of rows x[i] and y[j], by differences."""
    if extra_x + extra_y[j] > 0:
        return 2.0  # a zero row under cosine, whose distance 1 is half of q
    return squared_gap(x, i, y, j)


@strict
def measure_list(x: Side, i: Array, y: Side, j: Array, q: Array) -> None:
    """q[n] of rows x[i[n]] and y[j[n]]."""
    rows_x, extra_x, rows_y, extra_y = x.rows, x.extra, y.rows, y.extra
    for n in range(len(i)):
        q[n] = measure(rows_x, extra_x[i[n]], i[n], rows_y, extra_y, j[n])


@fast
def to_squares(row: Array, norm: float, norms: Array) -> None:
    """Turn inner products into q."""
    for j in range(row.shape[0]):
        row[j] = norm + norms[j] - 2 * row[j]


@fast
def count_below(row: Array, level: float) -> float:
    """How many are below a level."""
    one, none = row.dtype.type(1), row.dtype.type(0)  # numbers of the row's width fill a register, counters do not
    total = none
    for j in range(row.shape[0]):
        total += one if row[j] < level else none
    return total


@fast
def count_up_to(row: Array, level: float) -> float:
    """How many are at most a level."""
    one, none = row.dtype.type(1), row.dtype.type(0)
    total = none
    for j in range(row.shape[0]):
        total += one if row[j] <= level else none
    return total


@fast
def put_cells(row: Array, origin: float, per_unit: float, last: int, cell: Array) -> None:
    """The cell of each q in a grid of cells 0 to last; what lies outside is in the first or the last."""
    none, end = row.dtype.type(0), row.dtype.type(last)
    for j in range(row.shape[0]):
        cell[j] = np.int32(min(max((row[j] - origin) * per_unit, none), end))


@fast
def gather(table: Array, at: Array, shift: int, found: Array) -> None:
    """found[j] = table[at[j] + shift]; a loop of its own, for then the others fill vector registers."""
    for j in range(at.shape[0]):
        found[j] = table[np.uint32(at[j] + shift)]


@fast
def step_beyond(row: Array, wall: Array, place: Array) -> None:
    """One place further where the q is above a wall."""
    one, none = np.int32(1), np.int32(0)
    for j in range(row.shape[0]):
        place[j] = np.int32(place[j] + (one if wall[j] < row[j] else none))


@fast
def mark_doubtful(
    row: Array, above: Array, below: Array, slack: float, relative: float, place: Array, doubtful: int
) -> None:
    """Give a place of its own to a q that rounding may have put on the wrong side of a wall, or that lies above it."""
    mark = np.int32(doubtful)
    for j in range(row.shape[0]):
        gap = min(above[j] - row[j], row[j] - below[j])
        place[j] = mark if gap <= slack + relative * abs(row[j]) else place[j]


@strict
def first_at_least(levels: Array, start: int, stop: int, q: float) -> int:
    """The first of ascending levels[start:stop] that is not below q; stop if all are."""
    while start < stop:
        middle = (start + stop) // 2
        if levels[middle] < q:
            start = middle + 1
        else:
            stop = middle
    return start


@strict
def count_each(
    row: Array,
    x: Array,
    extra_x: float,
    i: int,
    y: Array,
    extra_y: Array,
    j0: int,
    levels: Array,
    slack: float,
    relative: float,
    count: Array,
) -> None:
    """Add to count[e] how many of a row are within levels[e], one level after the other."""
    kind = row.dtype.type
    for e in range(len(levels)):
        reach = slack + relative * levels[e]
        low, high = kind(levels[e] - reach), kind(levels[e] + reach)
        surely = np.int64(count_below(row, low))
        count[e] += surely
        if np.int64(count_up_to(row, high)) == surely:
            continue
        for j in range(row.shape[0]):
            if low <= row[j] <= high and measure(x, extra_x, i, y, extra_y, j0 + j) <= levels[e]:
                count[e] += 1


@strict
def count_by_grid(
    row: Array, x: Array, extra_x: float, i: int, y: Array, extra_y: Array, j0: int, levels: Array, slack: float,
    relative: float, table: Array, walls: Array, grid: Array, cell: Array, place: Array, wall: Array, floor: Array,
    bins: Array,
) -> None:  # fmt: skip
    """Add to bins[e] how many of a row have levels[e] as the first level that is not below them; see `lay_grid`."""
    kind, n_levels = row.dtype.type, len(levels)
    put_cells(row, kind(grid[0]), kind(grid[1]), len(table) - 1, cell)
    gather(table, cell, 0, place)
    for _ in range(2):  # few cells hold more than two levels
        gather(walls, place, 1, wall)
        step_beyond(row, wall, place)
    gather(walls, place, 1, wall)
    gather(walls, place, 0, floor)
    mark_doubtful(row, wall, floor, kind(slack), kind(relative), place, n_levels + 1)
    for j in range(row.shape[0]):
        bins[np.uint32(place[j])] += 1
    if not bins[n_levels + 1]:
        return
    bins[n_levels + 1] = 0
    for j in range(row.shape[0]):
        if place[j] == n_levels + 1:
            q = np.float64(row[j])
            e, reach = first_at_least(levels, 0, n_levels, q), slack + relative * abs(q)
            if (e < n_levels and levels[e] - q <= reach) or (e > 0 and q - levels[e - 1] <= reach):
                e = first_at_least(levels, 0, n_levels, measure(x, extra_x, i, y, extra_y, j0 + j))
            bins[e] += 1


@strict
def lay_grid(levels: Array, reach: float, table: Array, walls: Array, grid: Array, cell: Array) -> None:
    """A grid of equal cells over ascending levels, as `count_by_grid` takes it.

    Args:
        levels: of shape (L,).
        reach: how far the largest may be off.
        table: to fill: the first level in each cell, or beyond it.
        walls: to fill, (L + 3,): the levels between minus infinity and infinity, as wide as a tile's numbers. Cells of
            q and of walls are reckoned alike, so that no rounding puts a q into a later cell than a wall above it.
        grid: to fill, origin and cells to a unit.
        cell: used up, (L,).
    """
    kind, last = walls.dtype.type, len(table) - 1
    walls[0], walls[-2:] = -np.inf, np.inf
    walls[1:-2] = levels
    width = levels[-1] - levels[0] + 2 * reach
    grid[0], grid[1] = levels[0] - reach, (last / width if width > 0 else 1.0)
    put_cells(walls[1:-2], kind(grid[0]), kind(grid[1]), last, cell)
    e = 0
    for c in range(last + 1):
        table[c] = e
        while e < len(levels) and cell[e] == c:
            e += 1


class Grids(NamedTuple):
    """The grids of several rows, end to end, and the counts that are taken by them.

    Attributes:
        table: row r's begins at CELLS_PER_LEVEL * first[r] + r.
        walls: row r's begins at first[r] + 3 r.
        bins: row r's begins at first[r] + 2 r.
        grid: of shape (R, 2), see `lay_grid`.
        cell, place, wall, floor: for the numbers of a row of a tile.
    """

    table: Array
    walls: Array
    bins: Array
    grid: Array
    cell: Array
    place: Array
    wall: Array
    floor: Array


@strict
def count_tile(
    p: Array, i0: Array, x: Side, y: Side, j0: int, first: Array, levels: Array, slack: Array, relative: float,
    out_first: Array, out: Array, cursor: Array, grids: Grids, count: Array,
) -> None:  # fmt: skip
    """Add what a tile holds to the counts of its rows; it is used up.

    Row r is query i0[r]. Of up to DIRECT levels, count[e] is how many are within levels[e]; of more, see `add_up`.
    out[out_first[r]:out_first[r + 1]], ascending, are not counted; cursor[r] is how far in these the tiles before came.
    """
    columns, beyond = p.shape[1], np.finfo(p.dtype).max / 4
    norms = y.norms[j0 : j0 + columns]
    rows_x, rows_y, extra_y = x.rows, y.rows, y.extra  # taken apart once: in the loops that costs more than a distance
    cell, place, wall, floor = (
        grids.cell[:columns], grids.place[:columns], grids.wall[:columns], grids.floor[:columns],
    )  # fmt: skip
    for r in range(p.shape[0]):
        row, i = p[r], i0[r]
        to_squares(row, x.norms[i], norms)
        while cursor[r] < out_first[r + 1] and out[cursor[r]] < j0 + columns:
            row[out[cursor[r]] - j0] = beyond
            cursor[r] += 1
        lo, hi = first[r], first[r + 1]
        if hi - lo <= DIRECT:
            count_each(row, rows_x, x.extra[i], i, rows_y, extra_y, j0, levels[lo:hi], slack[i], relative, count[lo:hi])
        else:
            count_by_grid(
                row, rows_x, x.extra[i], i, rows_y, extra_y, j0, levels[lo:hi], slack[i], relative,
                grids.table[CELLS_PER_LEVEL * lo + r : CELLS_PER_LEVEL * hi + r + 1],
                grids.walls[lo + 3 * r : hi + 3 * r + 3], grids.grid[r], cell, place, wall, floor,
                grids.bins[lo + 2 * r : hi + 2 * r + 2],
            )  # fmt: skip


@strict
def lay_grids(i0: Array, first: Array, levels: Array, slack: Array, relative: float, grids: Grids) -> None:
    """The grid of each row of more than DIRECT levels."""
    for r in range(len(first) - 1):
        lo, hi = first[r], first[r + 1]
        if hi - lo > DIRECT:
            table = grids.table[CELLS_PER_LEVEL * lo + r : CELLS_PER_LEVEL * hi + r + 1]
            walls = grids.walls[lo + 3 * r : hi + 3 * r + 3]
            reach = slack[i0[r]] + relative * levels[hi - 1]
            lay_grid(levels[lo:hi], reach, table, walls, grids.grid[r], np.empty(hi - lo, np.int32))


@strict
def add_up(first: Array, bins: Array, count: Array) -> None:
    """Turn how many have each level as the first that is not below them into how many are within each."""
    for r in range(len(first) - 1):
        lo, hi = first[r], first[r + 1]
        if hi - lo > DIRECT:
            total = 0
            for e in range(lo, hi):
                total += bins[e + 2 * r]
                count[e] = total


@strict
def is_after(value: float, index: int, other: float, other_index: int) -> bool:
    """Whether it comes later in the order by distance, then index."""
    return value > other or (value == other and index > other_index)


@strict
def sift_down(values: Array, indices: Array, size: int) -> None:
    """Let the first of a heap sink to its place; the last in order is on top."""
    parent = 0
    while True:
        child = 2 * parent + 1
        if child >= size:
            return
        if child + 1 < size and is_after(values[child + 1], indices[child + 1], values[child], indices[child]):
            child += 1
        if not is_after(values[child], indices[child], values[parent], indices[parent]):
            return
        values[parent], values[child] = values[child], values[parent]
        indices[parent], indices[child] = indices[child], indices[parent]
        parent = child


@strict
def sift_up(values: Array, indices: Array, child: int) -> None:
    """Let the last of a heap rise to its place."""
    while child > 0:
        parent = (child - 1) // 2
        if not is_after(values[child], indices[child], values[parent], indices[parent]):
            return
        values[parent], values[child] = values[child], values[parent]
        indices[parent], indices[child] = indices[child], indices[parent]
        child = parent


@strict
def distance_of(q: float, root: bool, factor: float) -> float:
    """The distance, rounded to float32."""
    return np.float64(np.float32(np.sqrt(q) if root else factor * q))


@strict
def keep_nearest(
    p: Array, i0: int, x: Side, y: Side, j0: int, own: Array, slack: Array, relative: float, root: bool, factor: float,
    values: Array, indices: Array, filled: Array, bound: Array,
) -> None:  # fmt: skip
    """Put those of a tile that are among the k nearest so far into the heaps of its rows; the tile is used up.

    Rows of values and indices (R, k) are heaps by (distance, index); filled (R,) says how many are in. bound (R,) is a
    q beyond which none can be among the k. own (R,) is a row that is left out, or -1.
    """
    k = values.shape[1]
    norms = y.norms[j0 : j0 + p.shape[1]]
    rows_x, rows_y, extra_y = x.rows, y.rows, y.extra
    for r in range(p.shape[0]):
        row, i = p[r], i0 + r
        to_squares(row, x.norms[i], norms)
        if count_up_to(row, row.dtype.type(bound[r])) == 0:
            continue
        extra_x, heap, places = x.extra[i], values[r], indices[r]
        for j in range(row.shape[0]):
            if row[j] > bound[r] or j0 + j == own[r]:
                continue
            value = distance_of(measure(rows_x, extra_x, i, rows_y, extra_y, j0 + j), root, factor)
            if filled[r] < k:
                heap[filled[r]], places[filled[r]] = value, j0 + j
                sift_up(heap, places, filled[r])
                filled[r] += 1
            elif is_after(heap[0], places[0], value, j0 + j):
                heap[0], places[0] = value, j0 + j
                sift_down(heap, places, k)
            if filled[r] == k:
                worst = heap[0] * heap[0] if root else heap[0] / factor
                bound[r] = worst + slack[i] + (relative + 4 * FLOAT32_EPS) * worst

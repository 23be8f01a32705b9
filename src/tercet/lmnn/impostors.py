"""Which pairs of rows may be impostors of each other: found exactly, block by block, and kept while that is certain.

Shapes: N rows, d dimensions of the learned space, R rows of a block, P pairs.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from tercet.lmnn.loops import Array, keep_near, near_pairs
from tercet.lmnn.workers import Workers

BLOCK_ROWS = 256
TILE_COLUMNS = 1024  # a multiple of 8; a tile of products is 1 MB in float32 and stays in the cache
LARGEST_SINGLE = 1e30  # squared norms up to here cannot overflow in float32
TAIL = 0.2  # of the mean squared radius: how much of the distances a search may leave to their second look
HORIZON = 4.0  # evaluations that a search is to last
WIDEST = 0.15  # of the mean radius: with more slack than this, a list is longer than it is worth


@dataclass(frozen=True)
class Neighbours:
    """The rows near each row of a block: those of row i are rows[starts[i]:starts[i + 1]], in ascending order."""

    starts: Array
    rows: Array


class Screen:
    """All rows at one moment, and how far from each of them others are looked for.

    The search compares few numbers a row: its coordinates on the leading axes, and the length of the rest. Distances
    of these are never more than the true ones, nor are they once what rounding may add is taken off; so nothing is
    lost, and what is near in these is looked at again in all dimensions, by differences.
    """

    def __init__(self, rows: Array, radius: Array, slack: Array, class_start: Array, class_stop: Array) -> None:
        self.rows, self.radius, self.slack = rows, radius, slack
        self.class_start, self.class_stop = class_start, class_stop

    @cached_property
    def _short(self) -> tuple[Array, Array, Array]:
        """The short rows, and what each end of a pair brings to the tests, in the type of the products.

        With n the squared norms less what may be wrong, a pair is near where n_i + n_l - 2 p is below
        (r_i + s_i + s_l)² or (r_l + s_l + s_i)²: half of it, with what depends on one end alone taken together.
        """
        short = _leading(self.rows, TAIL * float((self.radius**2).mean()))
        norms = np.einsum("nd,nd->n", short, short)
        dtype = np.float32 if norms.max() < LARGEST_SINGLE else np.float64
        # Twice the product is wrong by no more than (d + 2) units in the last place of 2 |x| |y| <= |x|² + |y|².
        unit = float(np.finfo(dtype).eps)
        norms *= 1 - (short.shape[1] + 16) * unit
        slack = self.slack * (1 + 8 * unit)
        reach = self.radius * (1 + 8 * unit) + slack
        own = np.stack([(reach**2 - norms) / 2, reach, (slack**2 - norms) / 2, slack], axis=1)
        other = np.stack([(norms - slack**2) / 2, (norms - reach**2) / 2, slack, reach])
        return short.astype(dtype), own.astype(dtype), other.astype(dtype)

    def neighbours(self, block: slice) -> Neighbours:
        """For each row i of a block, the rows l of other classes nearer than the larger radius and both slacks."""
        return _by_row(*self._pairs(block, 0), block.stop - block.start)

    def neighbours_of_all(self, blocks: list[slice], workers: Workers, most: int) -> list[Neighbours] | None:
        """The same for all blocks by half of the comparisons, for a pair is near from both ends or from neither.

        None where there are more pairs than `most`, as soon as that is seen; memory O(pairs).
        """
        count = 0

        def search(block: slice) -> tuple[Array, Array] | None:
            nonlocal count
            if count > most:
                return None
            found = self._pairs(block, block.start)
            count += 2 * len(found[0])  # about: pairs within the block are found from both ends
            return found

        halves = [half for half in workers.each(search, blocks) if half is not None]
        if len(halves) < len(blocks) or sum(len(places) for places, _ in halves) > most // 2:
            return None
        turned = workers.each(lambda at: _turned(*halves[at], blocks, at), range(len(blocks)))

        def gather(at: int) -> Neighbours:
            parts = [*(turned[before][at - before - 1] for before in range(at)), halves[at]]
            places, found = (np.concatenate(ends) for ends in zip(*parts, strict=True))
            return _by_row(places, found, blocks[at].stop - blocks[at].start)

        return workers.each(gather, range(len(blocks)))

    def _pairs(self, block: slice, first: int) -> tuple[Array, Array]:
        """Pairs of a place in the block and a row from `first` on, tile by tile, in each of them place by place."""
        rows, own, other = self._short
        size = block.stop - block.start
        place, neighbour = np.empty((2, size * TILE_COLUMNS), np.int32)
        marks = np.empty(TILE_COLUMNS, np.uint8)
        start, stop = self.class_start[block], self.class_stop[block]
        places, found = [np.empty(0, np.int32)], [np.empty(0, np.int32)]
        for column in range(first, len(rows), TILE_COLUMNS):
            tile = slice(column, min(column + TILE_COLUMNS, len(rows)))
            if start.max() <= tile.start and tile.stop <= stop.min():
                continue
            count = near_pairs(
                rows[block] @ rows[tile].T, own[block], other[:, tile], start, stop, column, marks,
                marks.view(np.uint64), place, neighbour,
            )  # fmt: skip
            if rows.shape[1] < self.rows.shape[1]:
                count = keep_near(self.rows, self.radius, self.slack, block.start, place[:count], neighbour[:count])
            places.append(place[:count].copy())
            found.append(neighbour[:count].copy())
        return np.concatenate(places), np.concatenate(found)


def _leading(rows: Array, tail: float) -> Array:
    """The rows' coordinates on the axes of largest variance and the length of the rest, of mean square below tail / 2.

    Both ends of a pair have such a rest, and the difference of two lengths is no more than that of the rests. Where
    that would save little, the rows as they are.
    """
    values, axes = np.linalg.eigh(rows.T @ rows / len(rows))
    left_out = np.searchsorted(np.cumsum(np.maximum(values, 0.0)), tail / 2)
    if left_out < rows.shape[1] // 4 + 2:
        return rows
    turned = rows @ axes
    rest = np.sqrt((turned[:, :left_out] ** 2).sum(axis=1, keepdims=True))
    return np.hstack([turned[:, left_out:], rest])


def _turned(places: Array, found: Array, blocks: list[slice], at: int) -> list[tuple[Array, Array]]:
    """The pairs of a block with rows of later blocks as these see them: for each of them, its places and the rows."""
    order = np.argsort(found, kind="stable")
    places, found = places[order] + np.int32(blocks[at].start), found[order]
    ends = np.searchsorted(found, [block.start for block in blocks[at + 1 :]] + [blocks[-1].stop])
    return [
        (found[start:stop] - np.int32(block.start), places[start:stop])
        for block, start, stop in zip(blocks[at + 1 :], ends[:-1], ends[1:], strict=True)
    ]


def _by_row(places: Array, found: Array, size: int) -> Neighbours:
    starts = np.zeros(size + 1, np.int64)
    np.cumsum(np.bincount(places, minlength=size), out=starts[1:])
    return Neighbours(starts, found[np.argsort(places, kind="stable")])


class Impostors:
    """Candidates for impostors, block by block, of rows that move: never one too few.

    A search takes the pairs nearer than the larger of both radii and both rows' slacks. Afterwards row i moves by m_i,
    and its radius grows by g_i (0 where it shrinks). By the triangle inequality no pair that was left out has become
    an impostor as long as m_i + g_i is no more than the slack of row i, for every i. Once it is more, the next use
    searches anew, with slacks of a few times what the rows lately moved. A candidate too many changes nothing: what is
    farther than the radius costs nothing.

    A search visits half of all pairs if what it finds fits into the memory; else it visits all, block by block, and a
    block whose list is longer than its share of the memory is searched whenever it is used. Time O(N² p) for a search,
    p <= d + 1 the axes that matter, and O(N d) to know that none is needed; memory O(N d + tile).
    """

    def __init__(self, classes: Array, pairs_per_row: int, workers: Workers | None = None) -> None:
        """Take the class of every row, in ascending order, and how many candidates a row may keep on average."""
        self.workers = workers or Workers(None)
        self.class_start = np.searchsorted(classes, classes, "left")
        self.class_stop = np.searchsorted(classes, classes, "right")
        self.pairs_per_row = pairs_per_row
        self.blocks = [slice(i, min(i + BLOCK_ROWS, len(classes))) for i in range(0, len(classes), BLOCK_ROWS)]
        self.searches = 0
        self._uses = 0
        self._held: dict[int, Neighbours] = {}
        self._may_hold = False
        self._before: Screen | None = None

    def move(self, rows: Array, radius: Array) -> None:
        """Take the rows (N, d) and their radii (N,), as distances, and forget what is no longer certain."""
        self._uses += 1
        strain = None if self._before is None else self._strain(self._before, rows, radius)
        none = np.zeros(len(rows))
        if self._held and self._before is not None and strain is not None and (strain <= self._before.slack).all():
            self._may_hold = False
            self._now = Screen(rows, radius, none, self.class_start, self.class_stop)
            return
        slack = 0.02 * radius if strain is None else HORIZON * np.maximum(strain, 0.5 * strain.mean()) / self._uses
        self._may_hold = self.pairs_per_row > 0 and slack.mean() <= WIDEST * radius.mean()
        self._now = Screen(rows, radius, slack if self._may_hold else none, self.class_start, self.class_stop)
        self._before = self._now
        self._held = self._found_by_half() if self.pairs_per_row else {}
        self._uses = 0
        self.searches += 1

    def _found_by_half(self) -> dict[int, Neighbours]:
        """The candidates of all blocks; empty where there are too many to keep."""
        found = self._now.neighbours_of_all(self.blocks, self.workers, self.pairs_per_row * self.blocks[-1].stop)
        return {} if found is None else {block.start: near for block, near in zip(self.blocks, found, strict=True)}

    def of_block(self, block: slice) -> Neighbours:
        """The candidates of the rows of a block; different blocks may be asked for by several threads at once."""
        held = self._held.get(block.start)
        if held is not None:
            return held
        found = self._now.neighbours(block)
        if self._may_hold and len(found.rows) <= self.pairs_per_row * (block.stop - block.start):
            self._held[block.start] = found
        return found

    @staticmethod
    def _strain(before: Screen, rows: Array, radius: Array) -> Array:
        """How far every row may have come nearer to an impostor, m + g, and a little more for rounding."""
        moved = np.sqrt(((rows - before.rows) ** 2).sum(axis=1))
        return (moved + np.maximum(radius - before.radius, 0.0)) * (1 + 1e-9) + 1e-12 * before.radius

"""Verification over all pairs without listing them: the rarer kind is kept, the other streamed past it and counted.

Let v be the sorted distances of the rarer kind (and of a sample of the other, so that few fall between two of them).
For each v the number of distances of the other kind below it, and at most it, are counted: sort a buffer full of
distances, look up v in it, add the places up. These are the corners of the ROC of all pairs; between two of them a
single kind varies, and the ROC runs along an axis. Ties are those of equal float32 distances.

Shapes: N rows, D dimensions, U values v, R rows of a tile.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch

from tercet.distances import Distance, blocks
from tercet.evaluation.curve import Curve
from tercet.evaluation.loops import Array, fill, moments
from tercet.kernels.compiled.crew import current_crew, leading_crew

SPLITTERS = 1 << 16
BUFFER = 1 << 23
TILE_ROWS, TILE_COLUMNS = 4096, 128  # the columns of a tile stay in the cache while its rows pass by
MOST_EXTREME = 5_000
MOST_TIED = 1_000_000


class Tile(NamedTuple):
    """Rows top to bottom and, of those before each, rows left to right, of one kind."""

    top: int
    bottom: int
    left: int
    right: int
    same: bool


@dataclass
class Moments:
    """Count, mean and sum of squared deviations, added up over parts (Chan, Golub and LeVeque 1979)."""

    count: int = 0
    mean: float = 0.0
    squares: float = 0.0

    @classmethod
    def of(cls, values: np.ndarray) -> Moments:
        """Of one part."""
        if not len(values):
            return cls()
        return cls(len(values), *moments(values))

    def joined(self, other: Moments) -> Moments:
        """Of both parts."""
        count = self.count + other.count
        if not self.count or not other.count:
            return self if self.count else other
        gap = other.mean - self.mean
        mean = self.mean + gap * other.count / count
        return Moments(count, mean, self.squares + other.squares + gap * gap * self.count * other.count / count)

    @property
    def variance(self) -> float:
        """Mean squared deviation."""
        return self.squares / max(self.count, 1)


@dataclass(frozen=True, eq=False)
class Extremes:
    """The nearest different and the farthest same pairs: (E,) distances, whether same, and rows as they were given."""

    distance: np.ndarray
    same: np.ndarray
    left: np.ndarray
    right: np.ndarray


@dataclass(frozen=True, eq=False)
class Counted:
    """What was counted over all pairs, and the way to list some of them.

    Attributes:
        curve: all operating points.
        moments: of the same and of the different distances.
        population: the pairs.
    """

    curve: Curve
    moments: tuple[Moments, Moments]
    population: Population

    def extremes(self) -> Extremes | None:
        """The hardest pairs of each kind, some thousand; None where so many are equal that none are hardest."""
        curve = self.curve
        if not curve.n_same or not curve.n_different:
            return None
        near = max(curve.first(curve.different, MOST_EXTREME + 1) - 1, curve.first(curve.different, 1))
        all_but_few = max(curve.n_same - MOST_EXTREME, 0)
        far = min(curve.first(curve.same, all_but_few), curve.first(curve.same, curve.n_same) - 1)
        if max(int(curve.different[near]), curve.n_same - int(curve.same[far])) > MOST_TIED:
            return None
        near_end, far_end = float(curve.threshold[near]), float(curve.threshold[far])
        parts = []
        for kind, ends in ((False, (-np.inf, near_end)), (True, (far_end, np.inf))):
            found = self.population.within(kind, [ends])
            parts.append((found[0], np.full(len(found[0]), kind), *found[1:]))
        distance, same, later, earlier = map(np.concatenate, zip(*parts, strict=True))
        one, two = self.population.order[later], self.population.order[earlier]
        left, right = np.minimum(one, two), np.maximum(one, two)
        order = np.lexsort((right, left))  # as the user numbers rows, which decides ties
        return Extremes(distance[order], same[order], left[order], right[order])


@dataclass(frozen=True, eq=False)
class Population:
    """All pairs of N rows that were sorted by class: of row j with rows before it, the same ones from start[j] on.

    Attributes:
        rows: float32 or float64, (N, D).
        start: int64 (N,).
        order: which of the rows given each of these is, int64 (N,).
        metric: the distance.
    """

    rows: torch.Tensor
    start: np.ndarray
    order: np.ndarray
    metric: Distance
    _fill: Callable[[Tile, np.ndarray, np.ndarray, np.ndarray], None] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        mapped = self.metric.mapped(self.rows).detach().cpu().contiguous()
        metric = self.metric.after_map
        made_ready = metric.prepared(mapped, mapped)
        if made_ready is None:
            object.__setattr__(self, "_fill", _fill_from_tiles(mapped, metric))
            return
        rows, extra = made_ready.direct_x.numpy(), made_ready.extra_x.numpy()
        root, factor = made_ready.root, made_ready.factor

        def compiled(tile: Tile, first: np.ndarray, count: np.ndarray, out: np.ndarray) -> None:
            fill(rows, extra, tile.top, first, count, root, factor, out)

        object.__setattr__(self, "_fill", compiled)

    def count(self, same: bool) -> int:
        """How many pairs of a kind there are."""
        before = np.arange(len(self.start)) - self.start if same else self.start
        return int(before.sum())

    def spans(self, tile: Tile) -> tuple[np.ndarray, np.ndarray]:
        """For each row of a tile the first row that it is compared with, and how many from there on, (R,) each."""
        rows = np.arange(tile.top, tile.bottom)
        start = self.start[tile.top : tile.bottom]
        first = np.maximum(tile.left, start) if tile.same else np.full(len(rows), tile.left)
        end = np.minimum(tile.right, rows if tile.same else start)
        return first, np.maximum(end - first, 0)

    def tiles(self, same: bool) -> Iterator[tuple[Tile, int]]:
        """Tiles that hold every pair of a kind once, with how many pairs each has; those with none are left out."""
        n_rows = len(self.start)
        for rows in blocks(n_rows, TILE_ROWS):
            lowest = int(self.start[rows.start]) // TILE_COLUMNS * TILE_COLUMNS if same else 0
            for left in range(lowest, rows.stop, TILE_COLUMNS):
                tile = Tile(rows.start, rows.stop, left, min(left + TILE_COLUMNS, n_rows), same)
                pairs = int(self.spans(tile)[1].sum())
                if pairs:
                    yield tile, pairs

    def distances(self, tile: Tile, out: np.ndarray) -> None:
        """Put the distances of a tile's pairs, row by row, into `out`."""
        self._fill(tile, *self.spans(tile), out)

    def listed(self, same: bool) -> np.ndarray:
        """The distances of one kind, float32, sorted."""
        out = np.empty(self.count(same), dtype=np.float32)
        tiles, ends = zip(*_with_ends(self.tiles(same)), strict=True) if len(out) else ((), ())
        _deal(lambda at: self.distances(tiles[at], out[ends[at].start : ends[at].stop]), range(len(tiles)))
        out.sort()
        return out

    def within(self, same: bool, intervals: list[tuple[float, float]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The pairs of a kind whose distance lies in one of the intervals (low, high]: distance, later and earlier row.

        One look at all pairs of the kind; in the order of the tiles, whatever the number of threads.
        """
        tiles = list(self.tiles(same))
        found: list[tuple[np.ndarray, np.ndarray, np.ndarray] | None] = [None] * len(tiles)

        def look(at: int) -> None:
            tile, pairs = tiles[at]
            distance = np.empty(pairs, dtype=np.float32)
            self.distances(tile, distance)
            chosen = np.zeros(pairs, dtype=bool)
            for low, high in intervals:
                chosen |= (distance > low) & (distance <= high)
            places = np.flatnonzero(chosen)
            first, count = self.spans(tile)
            ends = np.cumsum(count)
            row = np.searchsorted(ends, places, side="right")
            found[at] = (distance[places], tile.top + row, first[row] + places - (ends[row] - count[row]))

        _deal(look, range(len(tiles)))
        parts = [part for part in found if part is not None]
        none = (np.empty(0, dtype=np.float32), np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64))
        distance, later, earlier = map(np.concatenate, zip(none, *parts, strict=True))
        return distance, later, earlier


def counted(population: Population, splitters: np.ndarray) -> Counted:
    """All operating points of all pairs. Time O(N² D + P log P), memory O(ND + U).

    Args:
        population: at most 2³² - 1 pairs, some of either kind.
        splitters: any distances; a sample of those of the commoner kind, so that few lie between two of them.
    """
    rare = population.count(True) <= population.count(False)
    kept = population.listed(rare)
    values = np.unique(np.concatenate([kept, splitters.astype(np.float32)]))
    size = 2 * len(values) + 2
    threshold = np.empty(size, dtype=np.float32)
    threshold[0], threshold[1:-1:2], threshold[2:-1:2] = -np.inf, np.nextafter(values, np.float32(-np.inf)), values
    counts = {kind: np.zeros(size, dtype=np.uint32) for kind in (True, False)}
    _add_places(counts[rare], values, [kept])
    counts[rare][-1] = len(kept)
    spread = {rare: Moments.of(kept), (not rare): Moments()}
    largest = kept[-1] if len(kept) else np.float32(-np.inf)
    del kept
    for pieces, parts in _streamed(population, not rare):
        _add_places(counts[not rare], values, pieces)
        for part in parts:
            spread[not rare] = spread[not rare].joined(part)
        largest = max(largest, *(piece[-1] for piece in pieces))
    counts[not rare][-1] = population.count(not rare)
    threshold[-1] = largest
    del values
    points = _without_idle(threshold, counts[True], counts[False])

    def between(intervals: list[tuple[float, float]]) -> list[np.ndarray]:
        found = np.sort(population.within(not rare, intervals)[0])
        return [found[(found > low) & (found <= high)] for low, high in intervals]

    return Counted(Curve(*points, between=between), (spread[True], spread[False]), population)


def _streamed(population: Population, same: bool) -> Iterator[tuple[list[np.ndarray], list[Moments]]]:
    """All distances of a kind, a buffer full at a time, as sorted pieces that the next buffer overwrites."""
    buffer = np.empty(BUFFER, dtype=np.float32)
    tiles = list(population.tiles(same))
    workers = torch.get_num_threads()
    for group in _groups(tiles, BUFFER):
        shares = [share for share in _shares(group, workers) if share]
        ends = np.cumsum([0, *(sum(pairs for _, pairs in share) for share in shares)])
        pieces = [buffer[start:stop] for start, stop in itertools.pairwise(ends)]

        found = [Moments() for _ in pieces]

        def measure(at: int, shares: list = shares, pieces: list = pieces, found: list = found) -> None:
            for tile, part in _with_ends(shares[at]):
                population.distances(tile, pieces[at][part])
            pieces[at].sort()
            found[at] = Moments.of(pieces[at])

        _deal(measure, range(len(pieces)))
        yield pieces, found


def _add_places(counts: np.ndarray, values: np.ndarray, pieces: list[np.ndarray]) -> None:
    """Add to the points of each value how many of the pieces' distances are below it, and at most it."""

    def look(part: slice) -> None:
        for piece in pieces:
            below, upto = (counts[offset + 2 * part.start : offset + 2 * part.stop : 2] for offset in (1, 2))
            below += np.searchsorted(piece, values[part], side="left").astype(np.uint32)
            upto += np.searchsorted(piece, values[part], side="right").astype(np.uint32)

    _deal(look, list(blocks(len(values), 1 << 16)))


def _without_idle(threshold: Array, same: Array, different: Array) -> tuple[Array, Array, Array, Array]:
    """The points that accept more than the one before, moved to the front of the same memory; and which are open.

    A step is open unless it ends at a listed value. The points are none, then below and at each value, then all.
    """
    is_open = np.zeros(len(same), dtype=bool)
    is_open[1::2] = True
    keep = np.ones(len(same), dtype=bool)
    keep[1:] = same[1:] != same[:-1]
    keep[1:] |= different[1:] != different[:-1]
    arrays = (threshold, same, different, is_open)
    at = 0
    for part in blocks(len(keep), 1 << 20):
        size = int(keep[part].sum())
        for array in arrays:
            array[at : at + size] = array[part][keep[part]]
        at += size
    return threshold[:at], same[:at], different[:at], is_open[:at]


def _groups(tiles: list[tuple[Tile, int]], most: int) -> Iterator[list[tuple[Tile, int]]]:
    """The tiles in order, as many at a time as have at most that many pairs."""
    group: list[tuple[Tile, int]] = []
    held = 0
    for tile, pairs in tiles:
        if group and held + pairs > most:
            yield group
            group, held = [], 0
        group.append((tile, pairs))
        held += pairs
    if group:
        yield group


def _shares(group: list[tuple[Tile, int]], workers: int) -> list[list[tuple[Tile, int]]]:
    """The tiles of a group in order, dealt into runs of about as many pairs each."""
    ends = np.cumsum([pairs for _, pairs in group])
    owner = (ends - 1) * workers // ends[-1]
    return [[one for one, own in zip(group, owner, strict=True) if own == worker] for worker in range(workers)]


def _with_ends(tiles: Iterable[tuple[Tile, int]]) -> Iterator[tuple[Tile, slice]]:
    """Each tile with its place in an array of all their pairs."""
    at = 0
    for tile, pairs in tiles:
        yield tile, slice(at, at + pairs)
        at += pairs


def _deal(job: Callable[..., None], items: Iterable) -> None:
    """Call job(item) for every item, in PyTorch's threads."""
    crew = current_crew()
    crew.lead(lambda: leading_crew().run(lambda _, item: job(item), list(items)))


def _fill_from_tiles(
    rows: torch.Tensor, metric: Distance
) -> Callable[[Tile, np.ndarray, np.ndarray, np.ndarray], None]:
    """Of a distance that has no compiled loop: its own tile, of which the pairs that count are taken."""

    def fill(tile: Tile, first: np.ndarray, count: np.ndarray, out: np.ndarray) -> None:
        columns = np.arange(tile.left, tile.right)
        at = 0
        for part in blocks(tile.bottom - tile.top, 256):
            with torch.no_grad():
                own = rows[tile.top + part.start : tile.top + part.stop]
                found = metric.tile(own, rows[tile.left : tile.right])
            low, high = first[part, None], (first + count)[part, None]
            chosen = found.numpy()[(columns >= low) & (columns < high)]
            out[at : at + len(chosen)] = chosen
            at += len(chosen)

    return fill

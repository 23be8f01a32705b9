"""A strip of a batch as the compiled loops take it: its positives as lists, their distances, and threads' shares."""

from __future__ import annotations

from functools import cached_property, partial
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tercet.collectives import Ranks
from tercet.kernels.compiled.crew import Crew
from tercet.kernels.compiled.loops import (
    Array,
    add_own_transpose,
    class_to_pulls,
    list_distances,
    mask_class,
    mask_equal,
    mask_where,
    pull_list,
    pull_pairs,
    strict,
)
from tercet.kernels.compiled.pulls import Pulls
from tercet.kernels.compiled.sides import Sides

DENSE = 64  # positives of an anchor, from which their gradient is faster by products than pair by pair
WORTH_SHARING = 8192  # positives, of which a thread takes some 30 ns each


class Problem:
    """The anchors of a strip, their positives, and all references.

    Attributes:
        sides: anchors and references.
        first, other: the positives of anchor a are the rows other[first[a]:first[a + 1]] of y; int64 and int32.
        reverse: where two-sided, the place in these lists of each pair seen from its other end; else empty.
        d: their distances, float64.
    """

    def __init__(self, sides: Sides, crew: Crew) -> None:
        self.sides, self.crew = sides, crew
        self.by_class = sides.batch.is_by_class
        self.metric, self.x, self.y, self.two_sided = sides.metric, sides.x, sides.y, sides.two_sided
        self._list_positives()

    def _list_positives(self) -> None:
        sides, length = self.sides, len(self.x.rows)
        self.reverse = np.zeros(0, np.int32)
        if self.by_class:
            excluded_x = np.stack([of_x for of_x, _ in sides.exclusions] or [sides.codes_x[:0]])
            excluded_y = np.stack([of_y for _, of_y in sides.exclusions] or [sides.codes_y[:0]])
            self.first, self.other = positives_by_class(
                sides.codes_x, sides.codes_y, excluded_x, excluded_y, len(sides.exclusions)
            )
            if self.two_sided:
                self.reverse = reverse_of(self.first, self.other)
        else:
            index, real = sides.pairing.positives(slice(0, length)) if length else (torch.zeros(0, 1).long(),) * 2
            self.first = np.concatenate([[0], real.sum(1).cumsum(0).numpy()]).astype(np.int64)
            self.other = index[real.bool()].numpy().astype(np.int32)
        self.d = np.empty(len(self.other))
        self.each_anchor(lambda start, stop: list_distances(
            self.metric, self.x, self.y, self.first, self.other, self.reverse, self.d, start, stop
        ))  # fmt: skip

    @cached_property
    def owner(self) -> Array:
        """Of each positive, its anchor."""
        return self.spread(np.arange(len(self.first) - 1))

    def spread(self, of_anchors: Array) -> Array:
        """Of each positive, what its anchor has."""
        return np.repeat(of_anchors, np.diff(self.first))

    def all_one_class(self, i0: int, i1: int, j0: int, j1: int) -> bool:
        """Whether a tile has no negatives, its rows and columns being of one class."""
        if not self.by_class:
            return False
        x, y = self.sides.codes_x, self.sides.codes_y
        return bool(x[i0] == x[i1 - 1] == y[j0] == y[j1 - 1])

    def mask(self, d: Array, i0: int, i1: int, j0: int, j1: int, value: float) -> None:
        """Put a value where a tile's pairs are no negatives."""
        if not self.by_class:
            keep = self.sides.pairing.negatives(slice(i0, i1), slice(j0, j1))
            mask_where(d, keep.numpy(), value)
            return
        x, y = self.sides.codes_x, self.sides.codes_y
        if x[i0] <= y[j1 - 1] and y[j0] <= x[i1 - 1]:  # sorted: only then may a class be in both
            mask_class(d, x, i0, y, j0, value)
        for of_x, of_y in () if self.sides.only_rows_exclude else self.sides.exclusions:
            mask_equal(d, of_x, i0, of_y, j0, value)

    def per_anchor(self, given: Tensor | None, otherwise: float) -> Array:
        """A number for each anchor, in the order of the rows and of their dtype."""
        if given is None:
            return np.full(len(self.x.rows), otherwise, self.x.rows.dtype)
        own = given.detach()[self.sides.strip] if self.sides.order_x is None else given.detach()[self.sides.order_x]
        return own.to(self.sides.rows_x.dtype).contiguous().numpy()

    def each_anchor(self, job: Any, rows: slice | None = None) -> None:
        """job(start, stop) on shares of these anchors, at once; a class is in one share, which alone writes to it."""
        begin, end = (0, len(self.first) - 1) if rows is None else (rows.start, rows.stop)
        shares = [(begin, end)]
        pairs = self.first[begin], self.first[end]
        if self.by_class and pairs[1] - pairs[0] > WORTH_SHARING and self.crew.size > 1:
            cuts = np.searchsorted(self.first, np.linspace(*pairs, 4 * self.crew.size + 1)[1:-1])
            codes = self.sides.codes_x
            cuts = np.searchsorted(codes, codes[np.minimum(cuts, end - 1)])  # where a class begins
            bounds = np.unique(np.concatenate([[begin], np.maximum(cuts, begin), [end]]))
            shares = list(zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True))
        self.crew.run(lambda _, share: job(*share), shares)

    def count_negatives(self) -> Array:
        """The number of negatives of each anchor."""
        sides = self.sides
        if self.by_class and (sides.only_rows_exclude or not sides.exclusions):
            starts = np.searchsorted(sides.codes_y, sides.codes_x)
            stops = np.searchsorted(sides.codes_y, sides.codes_x, side="right")
            return len(sides.codes_y) - (stops - starts)
        if self.by_class:
            return sides.batch.pairing.counts[1][sides.order_x].numpy()
        return sides.pairing.counts[1].numpy()

    def pull_triplets(self, triplets: tuple[Array, Array, Array, Array, Array], scale: Array, pulls: Pulls) -> None:
        """Add the gradient of listed triplets: anchors, places of positives, negatives, their distances, slopes."""
        anchor, chosen, negative, d_negative, slope = triplets
        places = self.other[chosen].astype(np.int64)
        weights, dx, dy = slope * scale[anchor], pulls.dx.numpy(), pulls.dy.numpy()
        pull_pairs(self.metric, self.x, self.y, anchor, places, self.d[chosen], weights, dx, dy)
        pull_pairs(self.metric, self.x, self.y, anchor, negative, d_negative, -weights, dx, dy)

    def pull_positives(self, weights: Array, pulls: Pulls, ranks: Ranks) -> None:
        """Add the gradient of sum(weights * d): this rank's share of it."""
        length = len(self.first) - 1
        if self.by_class and self.sides.prepared is not None and ranks.size == 1 and len(self.d) > DENSE * length:
            self.crew.run(partial(self._pull_class, weights, pulls), self._classes())
            return
        dx, dy = pulls.dx.numpy(), pulls.dy.numpy()
        self.each_anchor(lambda start, stop: pull_list(
            self.metric, self.x, self.y, self.first, self.other, self.reverse, self.d, weights, dx, dy, start, stop
        ), ranks.share(length))  # fmt: skip

    def _classes(self) -> list[tuple[slice, slice]]:
        """The anchors of each class that has some, and its references."""
        codes_x, codes_y = self.sides.codes_x, self.sides.codes_y
        codes, starts = np.unique(codes_x, return_index=True)
        bounds = pairwise([*starts.tolist(), len(codes_x)])
        ends = zip(np.searchsorted(codes_y, codes), np.searchsorted(codes_y, codes, side="right"), strict=True)
        return [(slice(*anchors), slice(*map(int, own))) for anchors, own in zip(bounds, ends, strict=True)]

    def _pull_class(self, weights: Array, pulls: Pulls, worker: int, rows: tuple[slice, slice]) -> None:
        """Of a class with many positives: by products, as in a tile."""
        anchors, own = rows
        tensor = torch.empty(anchors.stop - anchors.start, own.stop - own.start, dtype=pulls.dx.dtype)
        class_to_pulls(
            self.metric, self.x, self.y, self.first, self.other, self.d, weights, anchors.start, own.start,
            pulls.dx.numpy(), pulls.dy.numpy(), tensor.numpy(),
        )  # fmt: skip
        if self.two_sided:
            add_own_transpose(tensor.numpy())
        else:
            pulls.of_y[own] += tensor.sum(0, dtype=torch.float64).numpy()
            pulls.dy[own].addmm_(tensor.T, self.sides.rows_x[anchors], alpha=-1)
        pulls.of_x[anchors] += tensor.sum(1, dtype=torch.float64).numpy()
        pulls.dx[anchors].addmm_(tensor, self.sides.rows_y[own], alpha=-1)


@strict
def positives_by_class(
    codes_x: Array, codes_y: Array, excluded_x: Array, excluded_y: Array, exclusions: int
) -> tuple[Array, Array]:
    """Rows of equal code, both sides being sorted by code, less those that are equal in an exclusion."""
    length = len(codes_x)
    first = np.zeros(length + 1, np.int64)
    start, stop = np.zeros(length, np.int64), np.zeros(length, np.int64)
    total = 0
    for a in range(length):
        if a > 0 and codes_x[a] == codes_x[a - 1]:
            start[a], stop[a] = start[a - 1], stop[a - 1]
        else:
            start[a] = np.searchsorted(codes_y, codes_x[a])
            stop[a] = np.searchsorted(codes_y, codes_x[a], side="right")
        total += stop[a] - start[a]
    other = np.empty(total, np.int32)
    e = 0
    for a in range(length):
        for j in range(start[a], stop[a]):
            keep = True
            for k in range(exclusions):
                keep = keep and excluded_x[k, a] != excluded_y[k, j]
            if keep:
                other[e] = j
                e += 1
        first[a + 1] = e
    return first, other[:e]


@strict
def reverse_of(first: Array, other: Array) -> Array:
    """Where each pair (a, p) is listed as (p, a), in a symmetric relation whose lists are ascending."""
    cursor = first[:-1].copy()
    reverse = np.empty(len(other), np.int32)
    for a in range(len(first) - 1):
        for e in range(first[a], first[a + 1]):
            reverse[e] = cursor[other[e]]
            cursor[other[e]] += 1
    return reverse

"""A batch as the compiled loops take it: rows ready for products and sorted by class, positives as lists."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tercet.distances import Chebyshev, Distance, Jaccard, Manhattan, Minkowski
from tercet.distances.euclidean import product_error
from tercet.kernels.compiled.crew import Crew
from tercet.kernels.compiled.loops import (
    CHEBYSHEV,
    JACCARD,
    MANHATTAN,
    MINKOWSKI,
    PRODUCT,
    Array,
    Metric,
    Rows,
    list_distances,
    mask_class,
    mask_equal,
    mask_where,
    pull_list,
    pull_pairs,
    strict,
)
from tercet.kernels.pairing import Batch

WORTH_SHARING = 8192  # positives, of which a thread takes some 30 ns each
ELEMENTWISE: dict[type[Distance], int] = {
    Manhattan: MANHATTAN,
    Chebyshev: CHEBYSHEV,
    Minkowski: MINKOWSKI,
    Jaccard: JACCARD,
}


class Problem:
    """Anchors x among references y, which are the same rows if the batch is alone.

    Attributes:
        rows_x, rows_y: the rows of the products, sorted by class where items have one.
        x, y: the rows of the differences, for the loops.
        metric: the distance.
        two_sided: whether a tile (i, j) serves the anchors j as well: rows among themselves, by class.
        first, other: the positives of anchor a are the rows other[first[a]:first[a + 1]] of y.
        reverse: where two-sided, the place in these lists of each pair seen from its other end; else empty.
        d: their distances, float64.
    """

    def __init__(self, batch: Batch, distance: Distance, crew: Crew) -> None:
        self.batch, self.crew = batch, crew
        self.order_x = self.order_y = None
        if batch.is_by_class:
            self.order_x = batch.labels.sort(stable=True)[1]
            self.order_y = self.order_x if batch.is_alone else batch.reference_labels.sort(stable=True)[1]
        self.two_sided = batch.is_alone and batch.is_by_class
        self._prepare(distance)
        self._list_positives()

    def _prepare(self, distance: Distance) -> None:
        anchors, alone = _sorted(self.batch.anchors, self.order_x), self.batch.is_alone
        references = anchors if alone else _sorted(self.batch.references, self.order_y)
        error = product_error(anchors)
        eps = float(torch.finfo(anchors.dtype).eps)
        self.prepared = ready = distance.prepared(anchors, references)
        if ready is not None:
            self.rows_x, self.rows_y = ready.rows_x, ready.rows_y
            self.metric = Metric(PRODUCT, ready.root, ready.factor, 0.0, eps**0.25, 4 * eps)
            scale = error * (1.0 if ready.root else ready.factor)
            slack_x = (ready.norms_x + _largest(ready.norms_y)) * scale
            slack_y = (ready.norms_y + _largest(ready.norms_x)) * scale
            self.x = _rows(ready.direct_x, ready.norms_x, ready.extra_x, slack_x, self.order_x)
            self.y = self.x if alone else _rows(ready.direct_y, ready.norms_y, ready.extra_y, slack_y, self.order_y)
            return
        self.rows_x, self.rows_y = anchors, references
        kind = ELEMENTWISE[type(distance)]
        p = distance.p if isinstance(distance, Minkowski) else 0.0
        self.metric = Metric(kind, False, 1.0, p, 0.0, error)
        nothing_x, nothing_y = anchors.new_zeros(len(anchors)), references.new_zeros(len(references))
        slack = error if kind == JACCARD else 0.0
        self.x = _rows(anchors, nothing_x, nothing_x, nothing_x + slack, self.order_x)
        self.y = self.x if alone else _rows(references, nothing_y, nothing_y, nothing_y + slack, self.order_y)

    def _list_positives(self) -> None:
        batch, length = self.batch, len(self.rows_x)
        self.reverse = np.zeros(0, np.int64)
        if batch.is_by_class:
            self.codes_x = _codes(batch.labels, self.order_x)
            self.codes_y = self.codes_x if batch.is_alone else _codes(batch.reference_labels, self.order_y)
            self.exclusions = [
                (_codes(of_x, self.order_x), _codes(of_y, self.order_y)) for of_x, of_y in batch.exclusions
            ]
            excluded_x = np.stack([of_x for of_x, _ in self.exclusions] or [self.codes_x[:0]])
            excluded_y = np.stack([of_y for _, of_y in self.exclusions] or [self.codes_y[:0]])
            self.first, self.other = positives_by_class(
                self.codes_x, self.codes_y, excluded_x, excluded_y, len(self.exclusions)
            )
            if self.two_sided:
                self.reverse = reverse_of(self.first, self.other)
        else:
            index, real = batch.pairing.positives(slice(0, length)) if length else (torch.zeros(0, 1).long(),) * 2
            self.first = np.concatenate([[0], real.sum(1).cumsum(0).numpy()]).astype(np.int64)
            self.other = index[real.bool()].numpy()
        self.d = np.empty(len(self.other))
        self.each_anchor(lambda start, stop: list_distances(
            self.metric, self.x, self.y, self.first, self.other, self.reverse, self.d, start, stop
        ))  # fmt: skip

    @cached_property
    def overflows(self) -> bool:
        """Whether a distance may be infinite in truth, where the loops take that for a pair that does not count."""
        sides = (self.x, self.y)
        if self.prepared is not None:
            return not all(np.isfinite(2 * side.norms).all() for side in sides)
        reach = sum(float(np.abs(side.rows).max(initial=0.0)) for side in sides) * max(1, self.x.rows.shape[1])
        return reach > float(np.finfo(self.x.rows.dtype).max)

    @cached_property
    def owner(self) -> Array:
        """Of each positive, its anchor."""
        return np.repeat(np.arange(len(self.first) - 1), np.diff(self.first))

    @cached_property
    def only_rows_exclude(self) -> bool:
        """Whether what is excluded is each row itself and no more, which its class excludes already."""
        return self.two_sided and len(self.exclusions) == 1 and np.array_equal(self.exclusions[0][0], self.x.order)

    def all_one_class(self, i0: int, i1: int, j0: int, j1: int) -> bool:
        """Whether a tile has no negatives, its rows and columns being of one class."""
        if not self.batch.is_by_class:
            return False
        x, y = self.codes_x, self.codes_y
        return bool(x[i0] == x[i1 - 1] == y[j0] == y[j1 - 1])

    def mask(self, d: Array, i0: int, i1: int, j0: int, j1: int, value: float) -> None:
        """Put a value where a tile's pairs are no negatives."""
        if not self.batch.is_by_class:
            keep = self.batch.pairing.negatives(slice(i0, i1), slice(j0, j1))
            mask_where(d, keep.numpy(), value)
            return
        x, y = self.codes_x, self.codes_y
        if x[i0] <= y[j1 - 1] and y[j0] <= x[i1 - 1]:  # sorted: only then may a class be in both
            mask_class(d, x, i0, y, j0, value)
        for of_x, of_y in () if self.only_rows_exclude else self.exclusions:
            mask_equal(d, of_x, i0, of_y, j0, value)

    def per_anchor(self, given: Tensor | None, otherwise: float) -> Array:
        """A number for each anchor, in the order of the rows and of their dtype."""
        if given is None:
            return np.full(len(self.rows_x), otherwise, self.x.rows.dtype)
        return _sorted(given.detach(), self.order_x).to(self.rows_x.dtype).numpy()

    def each_anchor(self, job: Any, rows: slice | None = None) -> None:
        """job(start, stop) on shares of these anchors, at once; a class is in one share, which alone writes to it."""
        begin, end = (0, len(self.first) - 1) if rows is None else (rows.start, rows.stop)
        shares = [(begin, end)]
        pairs = self.first[begin], self.first[end]
        if self.batch.is_by_class and pairs[1] - pairs[0] > WORTH_SHARING and self.crew.size > 1:
            cuts = np.searchsorted(self.first, np.linspace(*pairs, 4 * self.crew.size + 1)[1:-1])
            cuts = np.searchsorted(self.codes_x, self.codes_x[np.minimum(cuts, end - 1)])  # where a class begins
            bounds = np.unique(np.concatenate([[begin], np.maximum(cuts, begin), [end]]))
            shares = list(zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True))
        self.crew.run(lambda _, share: job(*share), shares)

    def count_negatives(self) -> Array:
        """The number of negatives of each anchor."""
        if self.batch.is_by_class and (self.only_rows_exclude or not self.exclusions):
            starts = np.searchsorted(self.codes_y, self.codes_x)
            stops = np.searchsorted(self.codes_y, self.codes_x, side="right")
            return len(self.codes_y) - (stops - starts)
        return _sorted(self.batch.pairing.counts[1], self.order_x).numpy()

    def pull_triplets(
        self, triplets: tuple[Array, Array, Array, Array, Array], scale: Array, dx: Array, dy: Array
    ) -> None:
        """Add the gradient of listed triplets: anchors, places of positives, negatives, their distances, slopes."""
        anchor, chosen, negative, d_negative, slope = triplets
        weights = slope * scale[anchor]
        pull_pairs(self.metric, self.x, self.y, anchor, self.other[chosen], self.d[chosen], weights, dx, dy)
        pull_pairs(self.metric, self.x, self.y, anchor, negative, d_negative, -weights, dx, dy)

    def pull_positives(self, weights: Array, dx: Array, dy: Array, rows: slice) -> None:
        """Add the gradient of sum(weights * d): what comes of these anchors, or falls to these rows."""
        self.each_anchor(lambda start, stop: pull_list(
            self.metric, self.x, self.y, self.first, self.other, self.reverse, self.d, weights, dx, dy, start, stop
        ), rows)  # fmt: skip


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
    other = np.empty(total, np.int64)
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
    reverse = np.empty(len(other), np.int64)
    for a in range(len(first) - 1):
        for e in range(first[a], first[a + 1]):
            reverse[e] = cursor[other[e]]
            cursor[other[e]] += 1
    return reverse


def _sorted(rows: Tensor, order: Tensor | None) -> Tensor:
    return rows.contiguous() if order is None else rows.index_select(0, order)


def _codes(codes: Tensor, order: Tensor | None) -> Array:
    found: Array = _sorted(codes, order).numpy()
    return found


def _largest(norms: Tensor) -> Tensor | float:
    return norms.max() if len(norms) else 0.0


def _rows(rows: Tensor, norms: Tensor, extra: Tensor, slack: Tensor, order: Tensor | None) -> Rows:
    rank = torch.arange(len(rows)) if order is None else order
    return Rows(rows.numpy(), norms.numpy(), extra.numpy(), slack.numpy(), rank.numpy())

"""The nearest of every item: exact, or through faiss, and grown until enough of what is found is eligible.

Shapes: N items, D dimensions, A anchors, k neighbours found, W neighbours kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch

from tercet.distances import Distance
from tercet.errors import MissingDependency, require
from tercet.neighbors import ApproximateNeighbors, nearest
from tercet.neighbors.approximate import DISTANCES

EXACT_ITEMS = 50_000  # up to here "auto" looks at every pair
LARGE_CLASS = 32  # beyond, an anchor's class is left out of the search, rather than searched past
CHUNK_ENTRIES = 1 << 22  # neighbours held at a time before the eligible of them are chosen
GROWTH = 4

Eligible = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
"""eligible(anchors (A, 1), neighbours (A, k), distances (A, k)) -> bool (A, k)."""
Progress = Callable[[int, int], None]


@dataclass(frozen=True, eq=False)
class Near:
    """For each of some anchors its nearest others, nearest first: float32 and int64 of shape (A, W).

    Where there are fewer than W, the rest are at distance infinity and have index -1.
    """

    distances: np.ndarray
    indices: np.ndarray


@dataclass(frozen=True, eq=False)
class Search:
    """Search among N rows. Distances are always by differences; approximate search decides only who is looked at."""

    rows: torch.Tensor
    metric: Distance
    index: ApproximateNeighbors | None
    recall: float | None
    """The share of the 10 nearest that approximate search finds, measured on a sample; None where it is exact."""
    note: str
    """Why the search is not what the number of items alone would have made it; or empty."""

    @classmethod
    def over(cls, rows: torch.Tensor, metric: Distance, wish: str) -> Search:
        """Exact or approximate search, as wished for; "auto" is exact up to 50,000 items and where faiss cannot serve.

        Raises:
            InputError: approximate search of a distance that faiss cannot search.
            MissingDependency: approximate search without faiss.
        """
        note = ""
        if wish == "auto":
            wish, note = _chosen(len(rows), metric)
        if wish == "exact":
            return cls(rows, metric, None, None, note)
        index = ApproximateNeighbors.build(rows, metric)
        recall = index.recall_against_exact(rows, min(10, len(rows)))
        return cls(rows, metric, index, recall, note)

    def described(self) -> str:
        """What was searched, and how, in words."""
        over = f"search over {len(self.rows):,} items"
        if self.index is None:
            return f"exact {over}{self.note}"
        return f"approximate {over} through faiss, which finds {self.recall:.1%} of the 10 nearest (measured)"

    def measure(self, rows: np.ndarray, others: np.ndarray) -> np.ndarray:
        """Distances float32 of pairs of items; the shapes broadcast."""
        shape, device = np.broadcast_shapes(rows.shape, others.shape), self.rows.device
        left, right = (torch.from_numpy(np.broadcast_to(part, shape).flatten()).to(device) for part in (rows, others))
        return self.metric.listed(self.rows, self.rows, left, right).float().cpu().numpy().reshape(shape)

    def nearest(self, anchors: np.ndarray, k: int, pool: np.ndarray | None = None) -> Near:
        """The k nearest of each anchor but itself: among all items, or among those of a sorted pool without it."""
        if self.index is not None:
            return self._approximate(anchors, k)
        queries = self.rows[torch.from_numpy(anchors).to(self.rows.device)]
        if pool is None:
            found, where = nearest(queries, self.rows, k, self.metric, exclude_self=True, query_rows=anchors)
            return Near(found.cpu().numpy(), where.cpu().numpy())
        found, where = nearest(queries, self.rows[torch.from_numpy(pool).to(self.rows.device)], k, self.metric)
        return Near(found.cpu().numpy(), pool[where.cpu().numpy()])

    def _approximate(self, anchors: np.ndarray, k: int) -> Near:
        assert self.index is not None
        found = self.index.search(self.rows[torch.from_numpy(anchors)], k + 1)[1].numpy()
        is_self = found == anchors[:, None]
        is_self[~is_self.any(axis=1), -1] = True  # pushed out by copies of it: then the last is one too many
        others = found[~is_self].reshape(len(anchors), k)
        distances = self.measure(anchors[:, None], others)
        order = np.lexsort((others, distances), axis=1)
        return Near(np.take_along_axis(distances, order, 1), np.take_along_axis(others, order, 1))


def eligible_of(near: Near, mask: np.ndarray, width: int) -> Near:
    """The first `width` of each row that the mask lets through."""
    order = np.argsort(~mask, axis=1, kind="stable")[:, :width]
    kept = np.take_along_axis(mask, order, 1)
    distances = np.where(kept, np.take_along_axis(near.distances, order, 1), np.float32(np.inf))
    indices = np.where(kept, np.take_along_axis(near.indices, order, 1), -1)
    lacking = ((0, 0), (0, width - order.shape[1]))
    return Near(np.pad(distances, lacking, constant_values=np.inf), np.pad(indices, lacking, constant_values=-1))


def first_pass(search: Search, k: int, progress: Progress | None = None) -> Near:
    """The k nearest of every item, whoever they are. Time O(N²D) for exact search, memory O(Nk)."""
    n_items = len(search.rows)
    parts = []
    for chunk in _chunks(np.arange(n_items), k):
        parts.append(search.nearest(chunk, k))
        if progress is not None:
            progress(int(chunk[-1]) + 1, n_items)
    return Near(np.concatenate([part.distances for part in parts]), np.concatenate([part.indices for part in parts]))


def nearest_eligible(
    search: Search, first: Near, eligible: Eligible, anchors: np.ndarray, width: int, labels: np.ndarray | None = None
) -> Near:
    """The nearest `width` eligible items of each anchor; fewer only where there are no more.

    They are taken from the first pass where it holds enough; the anchors left over are searched again, farther and
    farther. With `labels`, only items of other labels are eligible, and the class of an anchor that is large is left
    out of that search: its copy of the other rows costs less than 1/32 of what the search does.

    Args:
        search: over all items.
        first: of `first_pass`.
        eligible: who may be a neighbour of whom.
        anchors: int64 (A,).
        width: W.
        labels: codes of all items, where being of another label is part of `eligible`.
    """
    start = Near(first.distances[anchors], first.indices[anchors])
    chosen = eligible_of(start, eligible(anchors[:, None], start.indices, start.distances), width)
    short = np.flatnonzero(chosen.indices[:, -1] < 0)
    for rows, pool in _pools(search, anchors, short, labels):
        available = len(search.rows) - 1 if pool is None else len(pool)
        k = first.indices.shape[1]
        while len(rows) and (pool is not None or k < available):
            k = min(GROWTH * k, available)
            for part in _chunks(rows, k):
                near = search.nearest(anchors[part], k, pool)
                mask = eligible(anchors[part][:, None], near.indices, near.distances)
                found = eligible_of(near, mask, width)
                chosen.distances[part], chosen.indices[part] = found.distances, found.indices
            if k == available:
                break
            rows = rows[chosen.indices[rows, -1] < 0]
    return chosen


def _pools(
    search: Search, anchors: np.ndarray, short: np.ndarray, labels: np.ndarray | None
) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
    """Rows to search again, each with the items to search among: all (None), or those of other classes."""
    if labels is None or search.index is not None:
        yield short, None
        return
    sizes = np.bincount(labels)
    codes = labels[anchors[short]]
    large = sizes[codes] > LARGE_CLASS
    yield short[~large], None
    for code in np.unique(codes[large]):
        yield short[codes == code], np.flatnonzero(labels != code)


def _chosen(n_items: int, metric: Distance) -> tuple[str, str]:
    """Exact or approximate, for "auto", and what to say of it."""
    if n_items <= EXACT_ITEMS:
        return "exact", ""
    if metric.name not in DISTANCES:
        return "exact", f" (faiss cannot search {metric.name} distances)"
    try:
        require("faiss", "faiss")
    except MissingDependency:
        return "exact", " (approximate search is faster and needs: pip install 'tercet[faiss]')"
    return "approximate", ""


def _chunks(rows: np.ndarray, k: int) -> Iterator[np.ndarray]:
    size = max(1, CHUNK_ENTRIES // k)
    for start in range(0, len(rows), size):
        yield rows[start : start + size]

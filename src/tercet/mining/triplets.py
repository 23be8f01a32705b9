"""mine_triplets: embeddings and labels of a whole set -> its triplets, and what is better looked at first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tercet.distances import resolve
from tercet.errors import InputError
from tercet.mining.items import Items
from tercet.mining.options import MiningOptions
from tercet.mining.positives import choose_positives
from tercet.mining.search import LARGE_CLASS, Near, Progress, Search, first_pass, nearest_eligible
from tercet.mining.selection import are_allowed, take
from tercet.mining.suspects import (
    LabelError,
    NearDuplicate,
    contradictory_copies,
    duplicate_distance,
    label_errors,
    near_duplicates,
)
from tercet.neighbors.vectors import as_vectors

ANCHORS_AT_A_TIME = 1 << 13


@dataclass(frozen=True)
class LeftOut:
    """Items that are the anchor of no triplet, by the first reason that applies."""

    label_errors: int
    """Likely label errors; they are no positives and no negatives either."""
    without_positive: int
    """Nothing else in their class, or only copies, their own group, and likely label errors."""
    without_negative: int
    """No negative in the ranks and margins that were asked for."""
    crowded_out: int
    """Every such negative was taken as often as it may be."""


@dataclass(frozen=True, eq=False)
class Mined:
    """T triplets of N items, by anchor, then positive, then rank; and what is suspect."""

    anchors: np.ndarray  # int64 (T,), rows
    positives: np.ndarray  # int64 (T,)
    negatives: np.ndarray  # int64 (T,)
    d_ap: np.ndarray  # float32 (T,)
    d_an: np.ndarray  # float32 (T,)
    ranks: np.ndarray  # int64 (T,), from 1: the negative's among those that the anchor may have
    items: Items
    label_errors: Sequence[LabelError]
    near_duplicates: Sequence[NearDuplicate]
    duplicate_distance: float
    """The distance up to which items are near-duplicates."""
    left_out: LeftOut
    distance: str
    options: MiningOptions
    search: str
    """How neighbours were found, in words."""
    recall: float | None
    """The share of the 10 nearest that approximate search finds, measured on a sample; None where it is exact."""

    def __len__(self) -> int:
        return len(self.anchors)

    def hardness(self, margin: float) -> dict[str, int]:
        """How many triplets are hard, d_an <= d_ap; semi-hard, d_ap < d_an < d_ap + margin; and easy, the rest.

        Raises:
            InputError: a margin below zero.
        """
        if not 0 <= margin < np.inf:
            raise InputError(f"margin is {margin!r}; it must be a finite number, 0 or more.")
        gap = self.d_an.astype(np.float64) - self.d_ap.astype(np.float64)
        hard, easy = gap <= 0, gap >= margin
        return {"hard": int(hard.sum()), "semihard": int((~hard & ~easy).sum()), "easy": int((easy & ~hard).sum())}

    def busiest_negative(self) -> tuple[int, int]:
        """The item that is the negative of the most triplets, the first of equals, and of how many; (-1, 0) of none."""
        if not len(self):
            return -1, 0
        counts = np.bincount(self.negatives)
        return int(counts.argmax()), int(counts.max())


def mine_triplets(
    vectors: Any,
    labels: Any,
    options: MiningOptions | None = None,
    *,
    distance: Any = "euclidean",
    groups: Any = None,
    contents: Any = None,
    progress: Progress | None = None,
) -> Mined:
    """Triplets of each item with positives of its class and the nearest of other classes, by the rules of `options`.

    For an anchor a, in this order:

    1. Likely label errors (see `label_errors`) and copies under several labels are left out of everything, and listed.
    2. Its positives are of its class, of another group, and no copies of it.
    3. Its negatives are of another class and another group, and farther than the duplicate distance, which is
       `duplicate_ratio` times the median distance from an item to its nearest. Their rank is counted from 1 by
       (d(a, n), index).
    4. With a positive p, a negative counts that lies in the ranks and margins and is no near-duplicate of p either.
    5. These are taken, the smallest d(a, n) first, as far as `negatives_per_anchor`, `per_class` and `per_negative`
       allow.

    The result depends on the order of the rows only where distances are equal: then the lowest index is first. Time
    O(N²D) for exact search, memory O(N (rank_to + 32) + N D + a tile).

    Args:
        vectors: embeddings, (N, D).
        labels: a plain label for each, N of them.
        options: the rules; `MiningOptions()` by default.
        distance: as everywhere, by name or as an object; what the vectors were trained with.
        groups: a plain value for each item, or None for an item of no group; items of one group never meet.
        contents: integers (N,), equal for copies of one thing, such as `Records.fingerprints()`; random positives are
            keyed by them, and by the rows where they are not given.
        progress: called as progress(anchors searched, N).

    Raises:
        InputError: no items, a single class, a missing label, lengths that do not fit, values that are not finite.
        MissingDependency: approximate search without faiss.

    Example:
        >>> import numpy as np
        >>> from tercet.mining import mine_triplets
        >>> mined = mine_triplets(np.array([[0.0], [1.0], [1.5], [4.0]]), ["a", "a", "b", "b"])
        >>> list(zip(mined.anchors.tolist(), mined.positives.tolist(), mined.negatives.tolist()))[:2]
        [(0, 1, 2), (0, 1, 3)]
    """
    options = MiningOptions() if options is None else options
    rows, metric = as_vectors(vectors, "vectors"), resolve(distance)
    metric.check_rows(rows, "vectors")
    items = Items.of(len(rows), labels, groups, contents)
    search = Search.over(rows, metric, options.search)
    width = max(options.rank_to, options.suspect_neighbors)
    first = first_pass(search, min(len(items) - 1, width + min(LARGE_CLASS, int(items.class_sizes.max()))), progress)

    errors, limit = _suspects(search, items, first, options)
    usable = np.ones(len(items), dtype=bool)
    usable[[one.item for one in errors]] = False
    positives = choose_positives(search, items, usable, options)
    anchors = np.flatnonzero(positives.indices[:, 0] >= 0)
    last = max(1, min(options.rank_to, len(items) - 1))
    negatives = _ranked(search, items, first, usable, limit, anchors, last)
    picked, n_without = _picked(search, items, anchors, positives, negatives, limit, options)

    row, place, rank = picked
    n_anchors = len(np.unique(row))
    return Mined(
        anchors=anchors[row],
        positives=positives.indices[anchors[row], place],
        negatives=negatives.indices[row, rank],
        d_ap=positives.distances[anchors[row], place],
        d_an=negatives.distances[row, rank],
        ranks=rank + 1,
        items=items,
        label_errors=errors,
        near_duplicates=near_duplicates(items, first, limit),
        duplicate_distance=limit,
        left_out=LeftOut(
            label_errors=len(errors),
            without_positive=int(usable.sum()) - len(anchors),
            without_negative=n_without,
            crowded_out=len(anchors) - n_without - n_anchors,
        ),
        distance=metric.name,
        options=options,
        search=search.described(),
        recall=search.recall,
    )


def _suspects(search: Search, items: Items, first: Near, options: MiningOptions) -> tuple[list[LabelError], float]:
    """Likely label errors, by item, and the distance of near-duplicates."""
    everyone = np.arange(len(items))
    near = nearest_eligible(
        search, first, lambda rows, others, _: items.are_apart(rows, others), everyone,
        max(1, min(options.suspect_neighbors, len(items) - 1)),
    )  # fmt: skip
    copies = contradictory_copies(items)
    known = {one.item for one in copies}
    voted = label_errors(items, near, options.suspect_share) if options.suspect_neighbors else []
    errors = copies + [one for one in voted if one.item not in known]
    return sorted(errors, key=lambda one: one.item), duplicate_distance(near, options.duplicate_ratio)


def _ranked(
    search: Search, items: Items, first: Near, usable: np.ndarray, limit: float, anchors: np.ndarray, rank_to: int
) -> Near:
    """The negatives of each anchor by rank, (A, rank_to)."""

    def eligible(rows: np.ndarray, others: np.ndarray, distances: np.ndarray) -> np.ndarray:
        other_class = items.labels[rows] != items.labels[others]
        return other_class & items.are_apart(rows, others) & usable[others] & (distances > limit)

    return nearest_eligible(search, first, eligible, anchors, rank_to, items.labels)


def _picked(
    search: Search, items: Items, anchors: np.ndarray, positives: Near, negatives: Near, limit: float,
    options: MiningOptions,
) -> tuple[tuple[np.ndarray, np.ndarray, np.ndarray], int]:  # fmt: skip
    """What is taken: rows of `anchors`, places of positives, ranks from 0; and how many anchors have no candidate."""
    allowed = np.concatenate([
        _candidates(search, anchors[part], positives, Near(negatives.distances[part], negatives.indices[part]), limit,
                    options)
        for part in _parts(len(anchors))
    ])  # fmt: skip
    classes = items.labels[negatives.indices]
    taken = take(allowed, negatives.distances, negatives.indices, classes, options)
    row, place, rank = np.nonzero(taken)
    return (row, place, rank), int((~allowed.any(axis=(1, 2))).sum())


def _candidates(
    search: Search, anchors: np.ndarray, positives: Near, negatives: Near, limit: float, options: MiningOptions
) -> np.ndarray:
    """Which candidates the ranks, the margins and the positive itself allow, bool (A, P, W)."""
    allowed = are_allowed(positives.distances[anchors], negatives.distances, options)
    row, place, rank = np.nonzero(allowed)
    apart = search.measure(positives.indices[anchors[row], place], negatives.indices[row, rank]) > limit
    allowed[row, place, rank] = apart
    return allowed


def _parts(count: int) -> list[slice]:
    """Slices that cover `count` rows; one of none where there are none."""
    return [slice(start, start + ANCHORS_AT_A_TIME) for start in range(0, max(1, count), ANCHORS_AT_A_TIME)]

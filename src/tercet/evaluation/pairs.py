"""Pairs to verify: all of a labelled set (or a seeded sample of them), or those that came with the data."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from tercet.distances import Distance, resolve
from tercet.errors import InputError
from tercet.evaluation.classes import class_codes
from tercet.evaluation.curve import Curve
from tercet.evaluation.relevance import are_several, relevance
from tercet.neighbors.vectors import as_vectors

if TYPE_CHECKING:
    from tercet.evaluation.counting import Counted

MOST_LISTED = 2_000_000
"""Of more pairs a sample of that size is listed, whatever is counted besides."""
LISTED_BESIDE_COUNTS = 200_000
"""Where all pairs are counted, so many are listed for intervals and histograms."""
MOST_COUNTED = 1_000_000_000
"""Counted without being listed, unless the caller says otherwise: more would take minutes."""
DIMENSIONS = 128
"""That many pairs are counted of rows with up to so many numbers; of longer ones as many as take the same time."""
SLOWER = 20
"""And a fraction of them for a distance without a compiled loop."""
MOST_COUNTABLE = 2**32 - 1
"""Counted in any case: counts of four bytes."""
MOST_KEPT = 20_000_000
"""Pairs of the rarer kind whose distances are kept while the others are counted, 16 bytes each if no two are equal."""


@dataclass(frozen=True, eq=False)
class Pairs:
    """P pairs of items, how far apart they are and whether they are the same.

    Attributes:
        distance: (P,), float32 or float64 as the embeddings are.
        same: (P,) bool.
        left: row of one item, (P,) int64.
        right: row of the other.
        left_unit: what intervals are over, (P,) int64: the class of the left item, or its row where items have several
            labels, or the number of the given pair or triplet.
        right_unit: the same of the right item.
        unit: "class", "item", "pair" or "triplet".
        sampled: whether only a part of the pairs there are is here.
        n_same_total: same pairs there are, sampled or not.
        n_different_total: different pairs there are.
        counted: what was counted over all pairs, where that was done and only a sample of them is listed here.
    """

    distance: np.ndarray
    same: np.ndarray
    left: np.ndarray
    right: np.ndarray
    left_unit: np.ndarray
    right_unit: np.ndarray
    unit: str
    sampled: bool
    n_same_total: int
    n_different_total: int
    counted: Counted | None = None

    @cached_property
    def curve(self) -> Curve:
        """The operating points of all pairs, or of those listed where the others were not counted."""
        return self.counted.curve if self.counted is not None else Curve.of(self.distance, self.same)

    @property
    def share_same(self) -> float:
        """Share of the same pairs among all there are, sampled or not; 0 of none."""
        return self.n_same_total / max(self.n_same_total + self.n_different_total, 1)

    def part(self, rows: np.ndarray) -> Pairs:
        """These of the pairs; they stand for as many as all of them did."""
        arrays = ("distance", "same", "left", "right", "left_unit", "right_unit")
        return replace(self, sampled=True, counted=None, **{name: getattr(self, name)[rows] for name in arrays})


def all_pairs(
    embeddings: Any, labels: Any, distance: Any = "euclidean", max_pairs: int | None = None, seed: int = 0
) -> Pairs:
    """Every pair of N items: listed up to two million, beyond that counted, and beyond `max_pairs` sampled.

    Of pairs that are counted, curve and figures are those of all of them, and a sample is listed besides. What is
    listed holds all pairs of the rarer kind as long as they are at most half of it; the rest is a uniform sample,
    without replacement, of the other kind. Time O(N²D) counted and O(PD) listed, memory O(ND + P).

    Args:
        embeddings: of shape (N, D).
        labels: whole numbers of any width or strings, (N,); or several an item, see `retrieval`: the same are then
            those that share one, and they are listed as `gallery_pairs` does.
        distance: any distance of `tercet.distances`.
        max_pairs: at least 2; by default a thousand million, or as many as take no longer, for rows of more than 128
            numbers or distances other than those through products. Pairs of which more than 20 million are of the rarer
            kind, or more than 2³² - 1 in all, are sampled in any case: their counts would not fit into a gigabyte.
        seed: of the sample.
    """
    rows_ND = as_vectors(embeddings, "embeddings")
    if are_several(labels):
        from tercet.evaluation.gallery_pairs import gallery_pairs  # which lists pairs as this does

        known = relevance(labels, len(rows_ND), None, None, None, None, None)
        return gallery_pairs(embeddings, None, known, distance, MOST_LISTED if max_pairs is None else max_pairs, seed)
    codes = class_codes(labels, len(rows_ND))
    metric = resolve(distance)
    max_pairs = _most_counted(rows_ND, metric) if max_pairs is None else max_pairs
    if max_pairs < 2:
        raise InputError(f"max_pairs must be at least 2; given {max_pairs}.")
    # With items sorted by class, the item at position j makes same pairs with those from start[j] up to j and
    # different ones with those before start[j]: both kinds can be counted off, and drawn from, unlisted.
    order = np.argsort(codes, kind="stable")
    position = np.arange(len(order))
    start = np.searchsorted(codes[order], codes[order])
    n_same, n_different = int((position - start).sum()), int(start.sum())
    is_counted = MOST_LISTED < n_same + n_different <= max_pairs and _fit(n_same, n_different)
    listed = LISTED_BESIDE_COUNTS if is_counted else min(max_pairs, MOST_LISTED)
    take_different = min(n_different, max(listed - n_same, listed // 2))
    take_same = min(n_same, listed - take_different)
    rng = np.random.default_rng(seed)
    same_left, same_right = _pairs_of(position - start, start, _draw(rng, n_same, take_same))
    other_left, other_right = _pairs_of(start, 0 * start, _draw(rng, n_different, take_different))
    one = order[np.concatenate([same_left, other_left])]
    two = order[np.concatenate([same_right, other_right])]
    left, right = np.minimum(one, two), np.maximum(one, two)
    found = Pairs(
        distance=pair_distances(rows_ND, left, right, metric),
        same=np.arange(len(left)) < take_same,
        left=left,
        right=right,
        left_unit=codes[left],
        right_unit=codes[right],
        unit="class",
        sampled=take_same + take_different < n_same + n_different,
        n_same_total=n_same,
        n_different_total=n_different,
    )
    return _with_counts(found, rows_ND, start, order, metric) if is_counted else found


def _most_counted(rows_ND: torch.Tensor, metric: Distance) -> int:
    """How many pairs of rows like these are counted in a minute or so."""
    compiled = metric.after_map.prepared(rows_ND[:1], rows_ND[:1]) is not None
    most = MOST_COUNTED * DIMENSIONS // max(rows_ND.shape[1], DIMENSIONS)
    return max(most if compiled else most // SLOWER, MOST_LISTED)


def _fit(n_same: int, n_different: int) -> bool:
    """Whether the counts of so many pairs fit into memory; of one kind alone there is nothing to count."""
    rarer = min(n_same, n_different)
    return 0 < rarer <= MOST_KEPT and n_same + n_different <= MOST_COUNTABLE


def _with_counts(pairs: Pairs, rows_ND: torch.Tensor, start: np.ndarray, order: np.ndarray, metric: Distance) -> Pairs:
    """With all pairs counted; see `counting`."""
    from tercet.evaluation import counting  # brings numba, which small sets can do without

    commoner = pairs.distance[pairs.same == (pairs.n_same_total > pairs.n_different_total)]
    splitters = commoner[:: max(1, len(commoner) // counting.SPLITTERS)]
    at = torch.from_numpy(order).to(rows_ND.device)
    population = counting.Population(rows_ND[at], start, order, metric)
    return replace(pairs, counted=counting.counted(population, splitters))


def given_pairs(embeddings: Any, tuples: Any, similar: Any = None, distance: Any = "euclidean") -> Pairs:
    """The pairs that came with the data: marked ones, or of a triplet (a, p) as same and (a, n) as different.

    Args:
        embeddings: of shape (N, D).
        tuples: rows of the embeddings, (T, 2) for pairs or (T, 3) for triplets (anchor, positive, negative).
        similar: with pairs, whether each is the same, (T,) bool or 0 and 1.
        distance: any distance of `tercet.distances`.
    """
    rows_ND = as_vectors(embeddings, "embeddings")
    tuples_TC = _checked_tuples(tuples, len(rows_ND))
    numbers = np.arange(len(tuples_TC))
    if tuples_TC.shape[1] == 3:
        if similar is not None:
            raise InputError("similar belongs to pairs; the rows of triplets already say which item is which.")
        left, right = np.tile(tuples_TC[:, 0], 2), np.concatenate([tuples_TC[:, 1], tuples_TC[:, 2]])
        same, unit = np.arange(len(left)) < len(tuples_TC), np.tile(numbers, 2)
    else:
        left, right = tuples_TC[:, 0], tuples_TC[:, 1]
        same, unit = _checked_similar(similar, len(tuples_TC)), numbers
    return Pairs(
        distance=pair_distances(rows_ND, left, right, distance),
        same=same,
        left=left,
        right=right,
        left_unit=unit,
        right_unit=unit,
        unit="triplet" if tuples_TC.shape[1] == 3 else "pair",
        sampled=False,
        n_same_total=int(same.sum()),
        n_different_total=int((~same).sum()),
    )


def pair_distances(rows_ND: torch.Tensor, left: np.ndarray, right: np.ndarray, distance: Any) -> np.ndarray:
    """`[d(rows[l], rows[r]) for l, r in zip(left, right)]`, by differences: near pairs keep their digits."""
    one, two = torch.from_numpy(left).to(rows_ND.device), torch.from_numpy(right).to(rows_ND.device)
    metric = resolve(distance)
    metric.check_rows(rows_ND, "embeddings")
    with torch.no_grad():
        return metric.listed(rows_ND, rows_ND, one, two).cpu().numpy()


def _draw(rng: np.random.Generator, population: int, size: int) -> np.ndarray:
    """`size` distinct numbers below `population`, sorted, in memory O(size)."""
    if size == population:
        return np.arange(population)
    if population <= 4 * size:
        return np.sort(rng.choice(population, size=size, replace=False))
    drawn = np.empty(0, dtype=np.int64)
    while len(drawn) < size:
        drawn = np.unique(np.concatenate([drawn, rng.integers(population, size=size)]))
    return np.sort(rng.choice(drawn, size=size, replace=False))


def _pairs_of(partners: np.ndarray, first: np.ndarray, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The pairs with these numbers, when position j has `partners[j]` partners from `first[j]` on."""
    ends = np.cumsum(partners)
    right = np.searchsorted(ends, numbers, side="right")
    return first[right] + numbers - (ends[right] - partners[right]), right


def _checked_tuples(tuples: Any, n_rows: int) -> np.ndarray:
    given = tuples.detach().cpu().numpy() if isinstance(tuples, torch.Tensor) else np.asarray(tuples)
    if given.ndim != 2 or given.shape[1] not in (2, 3) or given.dtype.kind not in "iu":
        raise InputError(
            "tuples must be whole numbers of shape (T, 2) for pairs or (T, 3) for triplets; "
            f"given {given.dtype} of shape {given.shape}."
        )
    outside = np.flatnonzero(((given < 0) | (given >= n_rows)).any(axis=1))
    if len(outside):
        raise InputError(
            f"tuple {outside[0]} is {tuple(given[outside[0]].tolist())}, "
            f"but the embeddings have rows 0 to {n_rows - 1}."
        )
    return given.astype(np.int64)


def _checked_similar(similar: Any, n_tuples: int) -> np.ndarray:
    if similar is None:
        raise InputError(
            "pairs need similar: which of them are the same. Where all are, evaluate with labels instead: "
            "the number of the pair is the label of both its items."
        )
    given = similar.detach().cpu().numpy() if isinstance(similar, torch.Tensor) else np.asarray(similar)
    if given.shape != (n_tuples,) or given.dtype.kind not in "biu" or not np.isin(given, (0, 1)).all():
        raise InputError(
            f"similar must be true or false (or 1 and 0) for each of the {n_tuples} pairs; "
            f"given {given.dtype} of shape {given.shape}."
        )
    return given.astype(bool)

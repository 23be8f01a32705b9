"""Ranks of the relevant candidates of each query, streamed, and every figure of retrieval that follows from them.

Of a query's candidates at distances d, with the relevant ones at d_1 <= ... <= d_R and n_i the number of irrelevant
ones with d <= d_i,

    rank_i = i + n_i.

A tie between a relevant and an irrelevant candidate is thereby counted as wrong, as in triplet accuracy: no figure
depends on the order of the items, and an embedding that has collapsed gets no credit.

Shapes: A queries at a time, E relevant candidates of all of them, R of one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from tercet.neighbors.compared import Compared
from tercet.neighbors.lists import Array, Lists


@dataclass(frozen=True)
class Ranks:
    """Ranks from 1 on of each query's relevant candidates, ascending; each query has one at least.

    Attributes:
        first: those of query a are rank[first[a]:first[a + 1]], int64 (A + 1,).
        rank: int64 (E,).
    """

    first: Array
    rank: Array

    @classmethod
    def of(cls, sides: Compared, queries: Array, relevant: Lists, left_out: Lists) -> Ranks:
        """The ranks of some queries' (A,) relevant candidates; left_out holds all but the irrelevant ones."""
        owner = relevant.owner
        distance = sides.measure(queries[owner], relevant.entries)
        for start, stop in pairwise(relevant.first.tolist()):
            distance[start:stop].sort()
        nearer = sides.count_within(queries, Lists(relevant.first, distance), left_out)
        return cls(relevant.first, nearer + cls._place(relevant.first))

    @staticmethod
    def _place(first: Array) -> Array:
        """I of each rank_i."""
        return np.arange(1, first[-1] + 1) - np.repeat(first[:-1], np.diff(first))

    @property
    def r(self) -> Array:
        """R of each query, (A,)."""
        return np.diff(self.first)

    @property
    def place(self) -> Array:
        """I of each rank_i, (E,)."""
        return self._place(self.first)

    def total(self, values: Array) -> Array:
        """The sum of each query's values, of (E,) ones, (A,)."""
        return np.add.reduceat(values, self.first[:-1]) if len(self.first) > 1 else np.zeros(0)

    def hits(self, k: int) -> Array:
        """How many are among the k nearest, (A,)."""
        return self.total((self.rank <= k).astype(np.float64))


def recall_at(ranks: Ranks, k: int) -> Array:
    """[rank_1 <= k]: is any of the k nearest relevant?"""
    return (ranks.rank[ranks.first[:-1]] <= k).astype(np.float64)


def precision_at(ranks: Ranks, k: int) -> Array:
    """#{i : rank_i <= k} / k."""
    return ranks.hits(k) / k


def ndcg_at(ranks: Ranks, k: int) -> Array:
    """Sum of 1 / log2(1 + rank_i) over rank_i <= k, divided by what it is when all relevant ones come first.

    Source: Järvelin and Kekäläinen, Cumulated gain-based evaluation of IR techniques (2002), with gains 0 and 1.
    """
    gain = ranks.total(np.where(ranks.rank <= k, 1 / np.log2(1 + ranks.rank), 0))
    ideal = np.concatenate([[0], np.cumsum(1 / np.log2(1 + np.arange(1, k + 1)))])
    return gain / ideal[np.minimum(ranks.r, k)]


def r_precision(ranks: Ranks) -> Array:
    """#{i : rank_i <= R} / R."""
    return ranks.total((ranks.rank <= np.repeat(ranks.r, ranks.r)).astype(np.float64)) / ranks.r


def map_at_r(ranks: Ranks) -> Array:
    """(1/R) sum of i / rank_i over rank_i <= R.

    Source: Musgrave et al., A Metric Learning Reality Check (ECCV 2020).
    """
    within = ranks.rank <= np.repeat(ranks.r, ranks.r)
    return ranks.total(np.where(within, ranks.place / ranks.rank, 0)) / ranks.r


def average_precision(ranks: Ranks) -> Array:
    """(1/R) sum of i / rank_i."""
    return ranks.total(ranks.place / ranks.rank) / ranks.r


def trapezoidal_average_precision(ranks: Ranks) -> Array:
    """(1/R) sum of (i / rank_i + (i - 1) / (rank_i - 1)) / 2, the second being 1 where rank_i is 1.

    The area under precision over recall by trapezoids, as Market-1501 computes it: between two relevant candidates
    precision goes from what it was just before the second, not from what it was at the first.

    Source: Zheng et al., Scalable Person Re-identification: A Benchmark (ICCV 2015), its evaluation code.
    """
    before = np.where(ranks.rank > 1, (ranks.place - 1) / np.maximum(ranks.rank - 1, 1), 1)
    return ranks.total((ranks.place / ranks.rank + before) / 2) / ranks.r


def reciprocal_rank(ranks: Ranks) -> Array:
    """1 / rank_1."""
    return 1 / ranks.rank[ranks.first[:-1]]


AT_K: dict[str, Callable[[Ranks, int], Array]] = {
    "recall_at": recall_at,
    "precision_at": precision_at,
    "ndcg_at": ndcg_at,
    "cmc_at": recall_at,
}
"""Figures of the k nearest, by the name to which _k is added. CMC is what re-identification calls recall."""

OF_ALL: dict[str, Callable[[Ranks], Array]] = {
    "r_precision": r_precision,
    "map_at_r": map_at_r,
    "map": average_precision,
    "mrr": reciprocal_rank,
    "map_market": trapezoidal_average_precision,
}
"""Figures of all ranks."""


def figures_of(ranks: Ranks, ks: Sequence[int], of_all: Iterable[str] = OF_ALL) -> dict[str, Array]:
    """Figures of each query, by the name of its mean: those of the k nearest for every k, and some of `OF_ALL`."""
    at_k = {f"{name}_{k}": figure(ranks, k) for name, figure in AT_K.items() for k in ks}
    return at_k | {name: OF_ALL[name](ranks) for name in of_all}

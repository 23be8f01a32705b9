"""Retrieval: each query's relevant items among all its candidates, and the figures that their ranks give."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from tercet.distances import Distance, resolve
from tercet.errors import InputError
from tercet.evaluation.ranks import AT_K, OF_ALL, Ranks, figures_of
from tercet.evaluation.relevance import Relevance, relevance
from tercet.neighbors import ApproximateNeighbors, nearest
from tercet.neighbors.compared import compared
from tercet.neighbors.lists import Array, Lists
from tercet.neighbors.vectors import as_vectors, check_same_space

QUERY_TILE_ROWS = 256
TILE_ENTRIES = 1 << 17  # relevant candidates of a tile of queries: some arrays of so many numbers each
TILES_AT_ONCE = 16  # between two steps of the progress bar
QUERIES_SEARCHED_AGAIN = 200  # exactly, to measure what an approximate search finds

Progress = Callable[[int, int], None]
"""Called as progress(done, total), in queries."""


@dataclass(frozen=True, eq=False)
class Retrieval:
    """Figures of each query, before any mean is taken; Q queries that have a relevant candidate.

    Attributes:
        query_rows: which row each query is, (Q,) int64.
        query_classes: its class as a code, (Q,) int64; of several labels, a code for the same set.
        values: by name (`recall_at_1`, `map_at_r`, ...) the figure of each query, (Q,) float64.
        ks: the k of recall@k, precision@k and so on.
        ks_left_out: those of the k asked for that exceed the number of candidates.
        n_dropped: items that are no queries, for nothing is relevant to them. They stay among the candidates.
        n_candidates: items of the gallery, or other items.
        relevance: what is relevant to whom, with the names of classes and groups.
        missing: the reason for each figure that could not be had.
        search_recall: share of the nearest that an approximate search found; None of an exact one.
    """

    query_rows: Array
    query_classes: Array
    values: dict[str, Array]
    ks: tuple[int, ...]
    ks_left_out: tuple[int, ...]
    n_dropped: int
    n_candidates: int
    relevance: Relevance
    missing: dict[str, str] = field(default_factory=dict)
    search_recall: float | None = None

    def figures(self) -> dict[str, Array]:
        """The figures of each query by the name of their mean: `recall_at_1`, …, `map_at_r`."""
        return self.values

    @property
    def recall(self) -> Array:
        """Is one of the k nearest relevant, (Q, len(ks)) float64."""
        return np.stack([self.values[f"recall_at_{k}"] for k in self.ks], axis=1)

    @property
    def r_precision(self) -> Array:
        """Share of the R nearest that is relevant, (Q,)."""
        return self.values["r_precision"]

    @property
    def average_precision_at_r(self) -> Array:
        """(1/R) sum over i <= R of P(i) rel(i), (Q,)."""
        return self.values["map_at_r"]


def retrieval(
    embeddings: Any,
    labels: Any,
    ks: Sequence[int] = (1, 5, 10),
    distance: Any = "euclidean",
    *,
    gallery: Any = None,
    gallery_labels: Any = None,
    groups: Any = None,
    gallery_groups: Any = None,
    exclude: str | None = None,
    approximate: bool = False,
    seed: int = 0,
    query_tile_rows: int = QUERY_TILE_ROWS,
    progress: Progress | None = None,
) -> Retrieval:
    """Figures of every query in a gallery, or among the other items (leave one out).

    A candidate is relevant where it shares a label with the query. With the relevant ones at distances
    d_1 <= ... <= d_R, rank_i = i + #{irrelevant candidates with d <= d_i}: a tie counts as wrong, so the order of the
    items does not matter. All figures follow from the ranks; `ranks` has their equations. Distances that the rounding
    of matrix products could confuse are measured by differences.

    Time O(QGD) for Q queries among G candidates, memory O(GD + tile R); on all threads, or on the embeddings' device.

    Args:
        embeddings: of shape (N, D).
        labels: whole numbers of any width or strings, (N,); or several of them an item: a list of collections, or
            multi-hot rows (N, L). Items without any label are no queries.
        ks: the k of recall@k, precision@k, nDCG@k and CMC@k.
        distance: any distance of `tercet.distances`.
        gallery: what to search in, (G, D); without it each item is searched for among all the others.
        gallery_labels: (G,), in the form of the labels.
        groups: the group of each item, such as its camera, whole numbers or strings, (N,); None for an item of none.
        gallery_groups: of the gallery, (G,).
        exclude: "group" leaves a query's whole group out of its candidates; "group-and-label" only what is of its group
            and shares a label with it, and, as Market-1501 does, all items labelled -1, which are junk.
        approximate: search through faiss; only the figures of the k nearest can be had.
        seed: of the approximate search.
        query_tile_rows: queries at a time, at most; the result does not depend on it.
        progress: called after every few tiles as progress(done, total), in queries.

    Raises:
        InputError: shapes that do not fit, float labels, values that are not finite, an exclusion without groups.
        MissingDependency: an approximate search without faiss.
    """
    rows = as_vectors(embeddings, "embeddings")
    others = rows if gallery is None else as_vectors(gallery, "gallery")
    rows, others = (rows, rows) if gallery is None else check_same_space(rows, others)
    known = relevance(
        labels, len(rows), gallery_labels, None if gallery is None else len(others), groups, gallery_groups, exclude
    )
    if known.kept is not None:
        others = others[torch.from_numpy(known.kept).to(others.device)]
    metric = resolve(distance)
    metric.check_rows(rows, "embeddings")
    if gallery is not None:
        metric.check_rows(others, "gallery")
    wanted = _checked_ks(ks)
    n_candidates = max(len(others) - int(gallery is None), 0)
    usable = tuple(k for k in wanted if k <= n_candidates)
    reach = known.reach
    asked = np.flatnonzero(reach > (0 if gallery is not None else 1))  # in a set of its own, an item reaches itself
    plan = _Plan(known, asked, usable, _tiles(reach[asked], query_tile_rows), seed, progress)
    rows, others, metric = metric.mapped(rows), metric.mapped(others), metric.after_map
    search_recall = None
    if approximate:
        queries, values, search_recall = _approximate(rows, others, metric, plan)
    else:
        queries, values = _exact(rows, others, metric, plan)
    reason = "an approximate search finds the k nearest, and this needs the ranks beyond them"
    return Retrieval(
        query_rows=queries,
        query_classes=known.classes[queries],
        values=values,
        ks=usable,
        ks_left_out=tuple(k for k in wanted if k not in usable),
        n_dropped=len(rows) - len(queries),
        n_candidates=n_candidates,
        relevance=known,
        missing=dict.fromkeys(OF_ALL, reason) if approximate else {},
        search_recall=search_recall,
    )


@dataclass(frozen=True)
class _Plan:
    """What is asked for: the queries that may have a relevant candidate, the ks, and the tiles they are dealt in."""

    known: Relevance
    asked: Array
    ks: tuple[int, ...]
    tiles: list[slice]
    seed: int
    progress: Progress | None

    def report(self, part: slice) -> None:
        """Say how far it is."""
        if self.progress is not None:
            self.progress(part.stop, len(self.asked))


def _exact(rows: torch.Tensor, others: torch.Tensor, metric: Distance, plan: _Plan) -> tuple[Array, dict[str, Array]]:
    sides = compared(rows, others, metric)
    found = _Figures(len(plan.asked), plan.ks, list(OF_ALL))

    def look(part: slice) -> None:
        queries, relevant, left_out = _with_relevant(plan.known, plan.asked[part])
        if len(queries):
            ranks = Ranks.of(sides, queries, relevant, left_out)
            found.put(part, queries, plan.asked, figures_of(ranks, plan.ks, OF_ALL))

    for start in range(0, len(plan.tiles), TILES_AT_ONCE):
        some = plan.tiles[start : start + TILES_AT_ONCE]
        sides.each(look, some)
        plan.report(some[-1])
    return found.kept(plan.asked)


def _approximate(
    rows: torch.Tensor, others: torch.Tensor, metric: Distance, plan: _Plan
) -> tuple[Array, dict[str, Array], float | None]:
    index, rows = ApproximateNeighbors.build(others, metric.name, seed=plan.seed), rows.cpu()
    found, ks = _Figures(len(plan.asked), plan.ks, []), plan.ks
    if not len(plan.asked) or not ks:
        return *found.kept(plan.asked), None
    for part in plan.tiles:
        queries, relevant, left_out = _with_relevant(plan.known, plan.asked[part])
        if len(queries):
            depth = min(len(others), ks[-1] + int((left_out.lengths - relevant.lengths).max()))
            distances, indices = index.search(rows[torch.from_numpy(queries)], depth)
            ranks = _ranks_found(distances.numpy(), indices.numpy(), relevant, left_out)
            found.put(part, queries, plan.asked, figures_of(ranks, ks, ()))
        plan.report(part)
    recall = _search_recall(index, rows, others, ks[-1], metric, plan)
    return *found.kept(plan.asked), recall


class _Figures:
    """Every figure of each query, written tile by tile; nothing is held twice."""

    def __init__(self, length: int, ks: tuple[int, ...], names: list[str]) -> None:
        own = [f"{name}_{k}" for name in AT_K for k in ks if name != "cmc_at"]
        self.values = {name: np.zeros(length) for name in (*own, *names)}
        self.same = {f"cmc_at_{k}": f"recall_at_{k}" for k in ks}
        self.there = np.zeros(length, bool)

    def put(self, part: slice, queries: Array, asked: Array, figures: dict[str, Array]) -> None:
        """Keep what was found of some queries."""
        here = part.start + np.searchsorted(asked[part], queries)
        self.there[here] = True
        for name, values in self.values.items():
            values[here] = figures[name]

    def kept(self, asked: Array) -> tuple[Array, dict[str, Array]]:
        """The queries of which something was found, and their figures."""
        if not self.there.all():
            for name in self.values:
                self.values[name] = self.values[name][self.there]
        return asked[self.there], self.values | {name: self.values[other] for name, other in self.same.items()}


def _with_relevant(known: Relevance, queries: Array) -> tuple[Array, Lists, Lists]:
    """Those of the queries that have a relevant candidate, these candidates, and all that is not irrelevant."""
    relevant, left_out = known.of(queries)
    keep = relevant.lengths > 0
    if not keep.all():
        owner = np.cumsum(keep) - 1
        kept = keep[left_out.owner]
        left_out = Lists.of(owner[left_out.owner[kept]], left_out.entries[kept], int(keep.sum()))
        relevant = Lists.of(owner[relevant.owner], relevant.entries, int(keep.sum()))
    return queries[keep], relevant, left_out


def _ranks_found(distances: Array, indices: Array, relevant: Lists, left_out: Lists) -> Ranks:
    """Ranks of the relevant candidates among those found (A, depth), nearest first; the others' are out of reach."""
    length, width = len(indices), int(max(indices.max(), left_out.entries.max())) + 1
    keys = np.arange(length)[:, None] * width + indices
    hit = np.isin(keys, relevant.owner * width + relevant.entries)
    counts = hit | ~np.isin(keys, left_out.owner * width + left_out.entries)
    order = np.lexsort((hit, distances))  # of equal distances the irrelevant first
    hit, counts = np.take_along_axis(hit, order, 1), np.take_along_axis(counts, order, 1)
    ranks = np.full(len(relevant.entries), np.iinfo(np.int64).max // 2)
    place = np.cumsum(hit, axis=1) - 1 + relevant.first[:-1, None]
    ranks[place[hit]] = np.cumsum(counts, axis=1)[hit]
    return Ranks(relevant.first, ranks)


def _search_recall(
    index: ApproximateNeighbors, rows: torch.Tensor, others: torch.Tensor, k: int, metric: Distance, plan: _Plan
) -> float:
    """Share of the exact k nearest that the index finds, over a seeded sample of the queries.

    A query that is itself searched is not counted among its nearest: it is always found.
    """
    rng = np.random.default_rng(plan.seed)
    sample = np.sort(rng.choice(len(plan.asked), min(QUERIES_SEARCHED_AGAIN, len(plan.asked)), replace=False))
    asked = plan.asked[sample]
    chosen, own = rows[torch.from_numpy(asked)], None if plan.known.own is None else plan.known.own[asked]
    exact = nearest(chosen, others.cpu(), k, metric, exclude_self=own is not None, query_rows=own)[1].numpy()
    found = index.search(chosen, k if own is None else k + 1)[1].numpy()
    if own is not None:
        found = np.where(found == own[:, None], -1, found)
    return float(np.mean([np.isin(a, b).mean() for a, b in zip(exact, found, strict=True)]))


def _tiles(reach: Array, most_rows: int) -> list[slice]:
    """Slices of the queries, each with few enough relevant candidates; one query may have more."""
    ends, entries, start = [], 0, 0
    for row, count in enumerate(reach.tolist()):
        if row > start and (row - start == most_rows or entries + count > TILE_ENTRIES):
            ends.append(slice(start, row))
            entries, start = 0, row
        entries += count
    return [*ends, slice(start, len(reach))] if len(reach) else []


def _checked_ks(ks: Sequence[int]) -> tuple[int, ...]:
    if any(isinstance(k, bool) or not isinstance(k, int | np.integer) or k < 1 for k in ks):
        raise InputError(f"ks must be whole numbers of at least 1; given {tuple(ks)!r}.")
    return tuple(sorted({int(k) for k in ks}))

"""Rivals: what each query would gain if one of the other classes were not there.

A class that lies in the way of others costs their queries as surely as it misses its own, and who is in the way is as
much a matter of which classes were drawn. Intervals of retrieval that leave this out are too narrow: a class's own
queries are then all it is held to account for.

Shapes: Q queries, L nearest items of each, E pairs of a query and a class that is in its way.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from tercet.distances import blocks
from tercet.evaluation.classes import class_codes
from tercet.evaluation.relevance import NONE, Relevance
from tercet.evaluation.retrieval import Retrieval
from tercet.neighbors.exact import QUERY_TILE_ROWS, nearest
from tercet.neighbors.vectors import as_vectors

MOST_PRODUCTS = 50_000_000  # distances measured, a second or two: of more queries than that a part is drawn
MOST_DEPTH = 512  # of larger classes the front of the list is looked at
EDGES_AT_A_TIME = 4096
NO_ONE = -1


@dataclass(frozen=True, eq=False)
class Rivals:
    """What queries gain without one class of the others.

    Attributes:
        query: position among the queries, (E,) int64.
        own: the class of that query as a code, (E,).
        rival: the class that is taken away, (E,).
        gain: by the name of a figure, how much more the query has of it then, (E,); may be negative.
        drawn: the share of the queries that was looked at; 1 is all.
    """

    query: np.ndarray
    own: np.ndarray
    rival: np.ndarray
    gain: dict[str, np.ndarray]
    drawn: float = 1.0

    def of_queries(self, inside: np.ndarray) -> Rivals:
        """Those of some of the queries, of which `inside` says which, (Q,) bool; these are then numbered anew."""
        kept = inside[self.query]
        place = np.cumsum(inside) - 1
        gains = {name: values[kept] for name, values in self.gain.items()}
        return Rivals(place[self.query[kept]], self.own[kept], self.rival[kept], gains, self.drawn)


def rivals_within(
    embeddings: Any, labels: Any, figures: Iterable[str], distance: Any = "euclidean", *, seed: int = 0,
    most_products: int = MOST_PRODUCTS,
) -> Rivals:  # fmt: skip
    """The rivals of every query of a labelled set, leave one out; of more than `most_products` / N, of drawn ones.

    Args:
        embeddings: of shape (N, D).
        labels: whole numbers or strings, (N,); codes are those of `Retrieval.query_classes`, in the order of rows.
        figures: names such as "recall_at_1", "map_at_r"; those without an equation here are left out.
        distance: any distance of `tercet.distances`.
        seed: of the queries that are drawn.
        most_products: distances that may be measured.
    """
    rows = as_vectors(embeddings, "embeddings")
    codes = class_codes(labels, len(rows))
    sizes = np.bincount(codes, minlength=1)
    own_rows = np.flatnonzero(sizes[codes] > 1) if len(codes) else codes
    return rivals_among(
        rows, own_rows, codes[own_rows], sizes[codes[own_rows]] - 1, rows, codes, figures, distance,
        leave_out=True, seed=seed, most_products=most_products,
    )  # fmt: skip


def rivals_of(
    found: Retrieval, embeddings: Any, gallery: Any = None, distance: Any = "euclidean", *, seed: int = 0
) -> Rivals | None:
    """The rivals of the queries of a retrieval; None where items have several labels, and so no one class.

    Args:
        found: from `retrieval`, of these embeddings and gallery.
        embeddings: of shape (N, D).
        gallery: of shape (G, D), if there was one.
        distance: that of the retrieval.
        seed: of the queries that are drawn.
    """
    known = found.relevance
    if not known.has_one_label:
        return None
    others = embeddings if gallery is None else as_vectors(gallery, "gallery")
    if known.kept is not None:
        others = as_vectors(others, "gallery")[torch.from_numpy(known.kept)]
    rows = found.query_rows
    relevant = [known.of(rows[part])[0].lengths for part in blocks(len(rows), EDGES_AT_A_TIME)]
    if known.own is not None:  # searched for among themselves, without junk: by their rows there
        embeddings, rows = others, known.own[rows]
    return rivals_among(
        embeddings, rows, found.query_classes, np.concatenate([*relevant, rows[:0]]), others, known.gallery_classes,
        found.figures(), distance, leave_out=gallery is None, excluded=_exclusion(known), seed=seed,
    )  # fmt: skip


def _exclusion(known: Relevance) -> Callable[[np.ndarray, np.ndarray], np.ndarray] | None:
    """Which neighbours (A, L) of queries (A,) are no candidates of theirs."""
    if known.exclude is None:
        return None
    assert known.groups is not None
    assert known.gallery_groups is not None
    of_gallery, gallery_classes = known.gallery_groups, known.gallery_classes
    is_own = known.own is not None  # queries are then rows of the gallery
    groups, classes = (of_gallery, gallery_classes) if is_own else (known.groups[:, 0], known.classes)

    def excluded(queries: np.ndarray, near: np.ndarray) -> np.ndarray:
        own = groups[queries][:, None]
        gone = (of_gallery[near] == own) & (own != NONE)
        if known.exclude == "group-and-label":
            gone &= gallery_classes[near] == classes[queries][:, None]
        return gone

    return excluded


def rivals_among(
    queries: Any, rows: np.ndarray, own: np.ndarray, relevant: np.ndarray, gallery: Any, codes: np.ndarray,
    figures: Iterable[str], distance: Any = "euclidean", *, leave_out: bool = False,
    excluded: Callable[[np.ndarray, np.ndarray], np.ndarray] | None = None, seed: int = 0,
    most_products: int = MOST_PRODUCTS,
) -> Rivals:  # fmt: skip
    """The rivals of queries that are looked for in a gallery.

    Time O(qGD + E L) for q queries drawn and a gallery of G, memory O(tile · (L + G) + E).

    Args:
        queries: vectors, (M, D).
        rows: which of them are queries, (Q,).
        own: the class of each, (Q,).
        relevant: R of each, the items of its class that are to be found, (Q,).
        gallery: vectors, (G, D).
        codes: their classes, (G,).
        figures: see `rivals_within`.
        distance: any distance of `tercet.distances`.
        leave_out: each query is a row of the gallery, and no neighbour of itself.
        excluded: called with rows of queries (A,) and their neighbours (A, L), says which of these are no candidates.
        seed: of the queries that are drawn.
        most_products: distances that may be measured.
    """
    queries, gallery = as_vectors(queries, "embeddings"), as_vectors(gallery, "embeddings")
    named = [name for name in figures if _is_known(name)]
    count = min(len(rows), max(most_products // max(len(gallery), 1), 1))
    drawn = np.sort(np.random.default_rng((seed, 3)).choice(len(rows), count, replace=False))
    at_most = len(gallery) - int(leave_out)
    if not named or not count or at_most < 1:
        empty = np.zeros(0, dtype=np.int64)
        return Rivals(empty, empty, empty, {name: np.zeros(0) for name in named})
    front = max(int(relevant.max()), *(_cutoff(name) for name in named))
    room = 1 if excluded is None else 2  # as many again for what is excluded
    depth = min(room * (front + int(np.bincount(codes).max())), MOST_DEPTH, at_most)
    found = []
    for part in blocks(count, QUERY_TILE_ROWS):
        chosen = drawn[part]
        at = torch.from_numpy(rows[chosen]).to(queries.device)
        found_near = nearest(queries[at], gallery, depth, distance, leave_out, query_rows=at if leave_out else None)
        far, near = (one.cpu().numpy() for one in found_near)
        is_own = codes[near] == own[chosen, None]  # of equal distances the wrong item is nearer, as in the figures
        near = np.take_along_axis(near, np.lexsort((is_own, far)), 1)
        ranked = codes[near]
        if excluded is not None:
            ranked = _without(ranked, excluded(rows[chosen], near))
        found.append(_edges(ranked, chosen, own[chosen], relevant[chosen], front, named))
    query, own_of, rival = (np.concatenate([one[part] for one in found]) for part in range(3))
    gain = {name: np.concatenate([one[3][name] for one in found]) for name in named}
    return Rivals(query, own_of, rival, gain, count / len(rows))


def _edges(
    ranked: np.ndarray, query: np.ndarray, own: np.ndarray, relevant: np.ndarray, front: int, names: list[str]
) -> tuple[np.ndarray, np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """Of a tile of ranked classes (A, L): query, its class, a rival of its front, and the gains without that."""
    n_codes = int(max(ranked.max(), own.max())) + 1
    reach = np.minimum(np.maximum(relevant, max(_cutoff(name) for name in names)), front)
    others = (ranked != own[:, None]) & (ranked != NO_ONE)
    row, column = np.nonzero(others & (np.arange(ranked.shape[1]) < reach[:, None]))
    keys = np.unique(row * n_codes + ranked[row, column])
    row, rival = keys // n_codes, keys % n_codes
    before = _figures(ranked == own[:, None], relevant, names)
    gain = {name: np.zeros(len(row)) for name in names}
    for part in blocks(len(row), EDGES_AT_A_TIME):
        lists = ranked[row[part]]
        left = _without(lists, lists == rival[part, None])
        after = _figures(left == own[row[part], None], relevant[row[part]], names)
        for name in names:
            gain[name][part] = after[name] - before[name][row[part]]
    return query[row], own[row], rival, gain


def _without(ranked: np.ndarray, gone: np.ndarray) -> np.ndarray:
    """The lists (A, L) without some of their entries: what is left moves up, in its order."""
    order = np.argsort(gone, axis=1, kind="stable")
    return np.take_along_axis(np.where(gone, NO_ONE, ranked), order, axis=1)


def _figures(hits: np.ndarray, relevant: np.ndarray, names: list[str]) -> dict[str, np.ndarray]:
    """The figures of queries whose nearest items are hits or not, (A, L); an item beyond the list is no hit."""
    ranks = np.arange(1, hits.shape[1] + 1)
    precision = np.cumsum(hits, axis=1) / ranks
    within = hits & (ranks <= relevant[:, None])
    found: dict[str, np.ndarray] = {}
    for name in names:
        kind, k = _kind(name), _cutoff(name)
        if kind in ("recall", "cmc"):
            found[name] = np.asarray(hits[:, :k].any(axis=1), dtype=np.float64)
        elif kind == "precision":
            found[name] = np.asarray(hits[:, :k].sum(axis=1) / k)
        elif kind == "ndcg":
            ideal = np.cumsum(1 / np.log2(1 + np.arange(1, k + 1)))
            found[name] = np.asarray(hits[:, :k] @ (1 / np.log2(1 + ranks[:k]))) / ideal[np.minimum(relevant, k) - 1]
        elif kind == "r_precision":
            found[name] = within.sum(axis=1) / relevant
        elif kind == "map_at_r":
            found[name] = (precision * within).sum(axis=1) / relevant
        elif kind == "map":
            found[name] = (precision * hits).sum(axis=1) / relevant
        elif kind == "map_market":
            before = np.concatenate([np.ones((len(hits), 1)), precision[:, :-1]], axis=1)
            found[name] = ((precision + before) / 2 * hits).sum(axis=1) / relevant
        else:
            found[name] = np.where(hits.any(axis=1), 1 / (hits.argmax(axis=1) + 1), 0.0)
    return found


def _kind(name: str) -> str:
    return re.sub(r"_at_\d+$", "", name)


def _cutoff(name: str) -> int:
    """The k of recall_at_k; 1 of a figure without."""
    found = re.search(r"_at_(\d+)$", name)
    return int(found[1]) if found else 1


def _is_known(name: str) -> bool:
    if re.search(r"_at_\d+$", name):
        return _kind(name) in ("recall", "cmc", "precision", "ndcg")
    return name in ("r_precision", "map_at_r", "map", "map_market", "mrr")

"""Who is nearest to whom in an evaluation, for people to look at: queries that go wrong, and labels that may be.

Neighbours are those of the embedding itself, exact, by the run's distance; of many items only a sample is asked for
theirs. Shapes: N items, Q queries, k neighbours.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from tercet.data.labels import NONE, are_alike
from tercet.data.randomness import keyed
from tercet.data.records import Records
from tercet.data.sides import SIDES
from tercet.data.wishes import ALIKE
from tercet.distances import Distance
from tercet.mining.items import Items
from tercet.mining.options import MiningOptions
from tercet.mining.search import Near
from tercet.mining.suspects import duplicate_distance, label_errors, near_duplicates
from tercet.neighbors import nearest
from tercet.training.batches.supervision import labels_of

MOST_QUERIES = 5000  # asked for their neighbours: of 33,000 items that is a sixth of what retrieval costs
NEIGHBOURS = 10
SHOWN_NEIGHBOURS = 5
MOST_MISTAKEN = 12
MOST_OF_A_CLASS = 2  # so that one odd class does not fill the list
MOST_SUSPECTS = 24


@dataclass(frozen=True, eq=False)
class Neighbours:
    """The nearest others of some of N items, nearest first; of two sides, those on the other side.

    Attributes:
        queries: which rows were asked, (Q,) int64, in the order that they were drawn.
        indices: their neighbours, (Q, k) int64; -1 where a side holds fewer than k.
        distances: to them, (Q, k) float32.
        labels: codes of all items that say who is alike, (N,) int64, or (N, L) of several and -1; None where nothing
            does.
    """

    queries: np.ndarray
    indices: np.ndarray
    distances: np.ndarray
    labels: np.ndarray | None

    @classmethod
    def of(cls, vectors: np.ndarray, records: Records, distance: Distance) -> Neighbours:
        """The neighbours of up to 5,000 items of the records, whose embeddings are of shape (N, D).

        Time O(Q N D), memory O(Q k + tile).
        """
        queries = keyed(0, "shown").permutation(len(records))[:MOST_QUERIES]
        sides = records.items.sides if records.kind == SIDES else None
        k = min(NEIGHBOURS, len(records) - 1)
        indices = np.full((len(queries), k), -1, dtype=np.int64)
        distances = np.full((len(queries), k), np.inf, dtype=np.float32)
        for asked, among in _searches(queries, sides, len(records)):
            own = queries[asked]
            width = min(k, len(among) - (sides is None))
            if not width or not len(own):
                continue
            rows = torch.from_numpy(vectors[among])
            found, places = nearest(
                torch.from_numpy(vectors[own]), rows, width, distance, exclude_self=sides is None,
                query_rows=own if sides is None else None,
            )  # fmt: skip
            indices[asked, :width], distances[asked, :width] = among[places.numpy()], found.numpy()
        labels = labels_of(records) if records.form in ALIKE else None
        return cls(queries, indices, distances, labels)

    def are_right(self) -> np.ndarray:
        """Whether each neighbour is of its query's class, or shares a label with it, bool (Q, k); needs labels."""
        assert self.labels is not None
        return (self.indices >= 0) & are_alike(self.labels[self.indices], self.labels[self.queries][:, None], 2)

    def are_answerable(self) -> np.ndarray:
        """Whether there is another item of each query's class, or with a label of its own, bool (Q,); needs labels."""
        assert self.labels is not None
        known = self.labels != NONE
        sizes = np.append(np.bincount(self.labels[known]), 0)  # what NONE, the last, points to
        return (sizes[self.labels[self.queries]].reshape(len(self.queries), -1) > 1).any(axis=1)


def _searches(queries: np.ndarray, sides: np.ndarray | None, count: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Places of queries, and the rows that they are looked for among."""
    if sides is None:
        return [(np.arange(len(queries)), np.arange(count))]
    return [(np.flatnonzero(sides[queries] == side), np.flatnonzero(sides != side)) for side in (0, 1)]


def mistaken_queries(found: Neighbours) -> list[dict[str, Any]]:
    """The queries that go most wrong: those with most wrong items among the 5 nearest, and of equals the nearest wrong.

    A query counts whose class has another member and whose nearest item is of another class; at most two of a class.
    Each is {"query", "neighbours": [{"item", "distance", "right"}]}, rows of the items.
    """
    if found.labels is None or not found.indices.shape[1]:
        return []
    right = found.are_right()[:, :SHOWN_NEIGHBOURS]
    own = found.labels[found.queries]
    wrong = (~right & (found.indices[:, :SHOWN_NEIGHBOURS] >= 0)).sum(axis=1)
    candidates = np.flatnonzero(found.are_answerable() & ~right[:, 0] & (found.indices[:, 0] >= 0))
    order = candidates[np.lexsort((found.queries[candidates], found.distances[candidates, 0], -wrong[candidates]))]
    chosen: list[dict[str, Any]] = []
    seen: dict[bytes, int] = {}
    for place in order.tolist():
        label = own[place].tobytes()
        seen[label] = seen.get(label, 0) + 1
        if seen[label] <= MOST_OF_A_CLASS and len(chosen) < MOST_MISTAKEN:
            chosen.append({"query": int(found.queries[place]), "neighbours": _listed(found, place, right[place])})
    return chosen


def _listed(found: Neighbours, place: int, right: np.ndarray) -> list[dict[str, Any]]:
    shown = zip(found.indices[place].tolist(), found.distances[place].tolist(), right.tolist(), strict=False)
    return [{"item": item, "distance": far, "right": is_right} for item, far, is_right in shown if item >= 0]


def suspects(found: Neighbours, records: Records) -> dict[str, Any]:
    """Items whose label their neighbours contradict, and near-duplicates of two labels, by the rules of `tercet mine`.

    {"asked", "label_errors", "near_duplicates"}: how many items were looked at, and up to 24 of each with how many
    there are; empty where the records have no labels, or one class.
    """
    if records.labels is None or len(records.classes) < 2 or not found.indices.shape[1]:
        return {}
    rules = MiningOptions()
    items = Items.of(len(records), [records.classes[code] for code in records.labels])
    near = _near_of_all(found, len(records))
    limit = duplicate_distance(Near(near.distances[found.queries], near.indices[found.queries]), rules.duplicate_ratio)
    errors = label_errors(items, near, rules.suspect_share)
    errors.sort(key=lambda one: (-one.share, -one.n_neighbors, one.distance, one.item))
    copies = near_duplicates(items, near, limit)
    copies.sort(key=lambda one: (one.distance, one.item, one.other))
    return {
        "asked": len(found.queries),
        "n_label_errors": len(errors),
        "label_errors": [
            {"item": one.item, "other": one.other, "other_label": str(one.other_label), "share": one.share,
             "n_neighbors": one.n_neighbors}
            for one in errors[:MOST_SUSPECTS]
        ],
        "n_near_duplicates": len(copies),
        "near_duplicates": [
            {"item": one.item, "other": one.other, "distance": one.distance} for one in copies[:MOST_SUSPECTS]
        ],
    }  # fmt: skip


def _near_of_all(found: Neighbours, count: int) -> Near:
    """The neighbours as rows of all items; those that were not asked have none, and are accused of nothing."""
    indices = np.full((count, found.indices.shape[1]), -1, dtype=np.int64)
    distances = np.full(indices.shape, np.inf, dtype=np.float32)
    indices[found.queries], distances[found.queries] = found.indices, found.distances
    return Near(distances, indices)

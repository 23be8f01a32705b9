"""What is better looked at than trained on: likely label errors, copies under two labels, near-duplicates.

The rule for label errors is a vote of the neighbours, as in edited nearest neighbours (Wilson 1972), which removes what
its three nearest outvote. Here one other label must hold nearly all of them, the neighbourhood is smaller than that
label's class, and what is found is listed with its evidence. It is a rule about the embedding as much as about the
labels: docs/mining.md says what follows from it and what does not.

Shapes: N items, k neighbours.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from tercet.mining.items import Items
from tercet.mining.search import Near

FEWEST_NEIGHBORS = 3  # fewer say nothing: where two classes touch, the nearest is often the other's


@dataclass(frozen=True)
class LabelError:
    """An item whose label is likely wrong, with the evidence. It is left out of all triplets."""

    item: int
    reason: str
    """"neighbours", or "copies" where items of equal content have several labels."""
    label: Any
    other_label: Any
    """What nearly all neighbours, or most of the copies under another label, are called."""
    share: float
    """Their share of the neighbours, or of the copies."""
    n_neighbors: int
    """How many neighbours, or copies, that is a share of."""
    distance: float
    """The mean distance to those of the other label."""
    other: int
    """The nearest of them."""


@dataclass(frozen=True)
class NearDuplicate:
    """Two items under different labels that are nearer than copies need be; neither is the other's negative."""

    item: int
    other: int
    label: Any
    other_label: Any
    distance: float


def label_errors(items: Items, near: Near, share: float) -> list[LabelError]:
    """Items of which one other label L holds at least `share` of the nearest min(k, max(3, n_L - 1)) neighbours.

    n_L is the size of that label's class: no more of the neighbours can have it, and one of the class may itself carry
    the label by mistake and lie elsewhere. A label of fewer than 3 items accuses nobody, and an item alone in its class
    is not accused. Of several labels the one with the largest share counts, then the one with the nearest item. Time
    O(N k²).

    Args:
        items: all of them.
        near: the k nearest of each that are neither copies of it nor of its group.
        share: above 0.5.
    """
    n_items, k = near.indices.shape
    codes = np.where(near.indices >= 0, items.labels[near.indices], -1)
    best_share, best_place = np.zeros(n_items), np.zeros(n_items, dtype=np.int64)
    for place in range(k):
        code = codes[:, place]
        reach = _reach(items, code, k)
        votes = ((codes == code[:, None]) & (np.arange(k) < reach[:, None])).sum(axis=1)
        may_accuse = (code >= 0) & (code != items.labels) & (np.minimum(k, items.class_sizes[code]) >= FEWEST_NEIGHBORS)
        found = np.where(may_accuse, votes / reach, 0.0)
        better = found > best_share
        best_share[better], best_place[better] = found[better], place
    accused = (best_share >= share) & (items.class_sizes[items.labels] > 1)
    return [_accusation(items, near, codes, item, int(best_place[item])) for item in np.flatnonzero(accused).tolist()]


def _reach(items: Items, code: np.ndarray, k: int) -> np.ndarray:
    """How many of the nearest k decide whether an item is of that class."""
    return np.minimum(k, np.maximum(FEWEST_NEIGHBORS, items.class_sizes[code] - 1))


def _accusation(items: Items, near: Near, codes: np.ndarray, item: int, place: int) -> LabelError:
    code = codes[item, place]
    reach = int(_reach(items, code, near.indices.shape[1]))
    of_label = np.flatnonzero(codes[item, :reach] == code)
    return LabelError(
        item, "neighbours", items.classes[items.labels[item]], items.classes[code], len(of_label) / reach, reach,
        float(near.distances[item, of_label].mean(dtype=np.float64)), int(near.indices[item, of_label[0]]),
    )  # fmt: skip


def contradictory_copies(items: Items) -> list[LabelError]:
    """Items of equal content under several labels: at most one of the labels is right. Time O(N log N)."""
    order = np.argsort(items.contents, kind="stable")
    starts = np.flatnonzero(np.diff(items.contents[order])) + 1
    found = []
    for copies in np.split(order, starts):
        codes = items.labels[copies]
        if len(copies) > 1 and (codes != codes[0]).any():
            found += [_contradiction(items, copies, codes, place) for place in range(len(copies))]
    return sorted(found, key=lambda one: one.item)


def _contradiction(items: Items, copies: np.ndarray, codes: np.ndarray, place: int) -> LabelError:
    others = [code for code in codes.tolist() if code != codes[place]]
    other = max(others, key=others.count)  # the first of the most frequent
    first = int(copies[codes == other][0])
    return LabelError(
        int(copies[place]), "copies", items.classes[codes[place]], items.classes[other],
        others.count(other) / (len(copies) - 1), len(copies) - 1, 0.0, first,
    )  # fmt: skip


def duplicate_distance(near: Near, ratio: float) -> float:
    """The distance up to which items are near-duplicates: `ratio` times the median distance to a nearest neighbour.

    Args:
        near: the nearest of each item that is neither a copy of it nor of its group.
        ratio: 0 or more.
    """
    found = near.distances[:, 0][near.indices[:, 0] >= 0]
    return ratio * float(np.median(found.astype(np.float64))) if len(found) else 0.0


def near_duplicates(items: Items, first: Near, distance: float) -> list[NearDuplicate]:
    """Pairs of different labels up to that distance, among the first neighbours of each item, each pair once.

    Copies and items of one group are left out: of the former `contradictory_copies` tells, the latter never meet.
    """
    rows, places = np.nonzero(first.distances <= distance)
    others = first.indices[rows, places]
    kept = (items.labels[rows] != items.labels[others]) & items.are_apart(rows, others)
    pairs = {
        (min(row, other), max(row, other)): float(far)
        for row, other, far in zip(
            rows[kept].tolist(), others[kept].tolist(), first.distances[rows, places][kept].tolist(), strict=True
        )
    }
    names = [items.classes[code] for code in items.labels.tolist()]
    return [NearDuplicate(row, other, names[row], names[other], far) for (row, other), far in sorted(pairs.items())]

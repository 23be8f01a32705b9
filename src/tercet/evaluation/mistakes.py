"""The hardest pairs, for people to look at: label errors surface here before anything else."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from tercet.evaluation.pairs import Pairs

if TYPE_CHECKING:
    from tercet.evaluation.counting import Extremes

MOST_SHOWN = 12
MOST_PER_ITEM = 2  # so that one odd picture does not fill the list


def hardest(
    pairs: Pairs | Extremes, threshold: float | None = None, most_shown: int = MOST_SHOWN
) -> dict[str, list[dict[str, Any]]]:
    """`false_matches`, the nearest different pairs, and `false_non_matches`, the farthest same pairs.

    Hardest first; an item is in at most two pairs of a list. Each pair is {"left", "right", "distance",
    "wrong"}: rows of the items, and whether it lies on the wrong side of the threshold (None without one).
    """
    different, same = np.flatnonzero(~pairs.same), np.flatnonzero(pairs.same)
    nearest_first = different[np.argsort(pairs.distance[different], kind="stable")]
    farthest_first = same[np.argsort(-pairs.distance[same], kind="stable")]
    return {
        "false_matches": _spread(pairs, nearest_first, threshold, most_shown),
        "false_non_matches": _spread(pairs, farthest_first, threshold, most_shown),
    }


def _spread(
    pairs: Pairs | Extremes, order: np.ndarray, threshold: float | None, most_shown: int
) -> list[dict[str, Any]]:
    chosen: list[dict[str, Any]] = []
    seen: dict[int, int] = {}
    for pair in order:
        if len(chosen) == most_shown:
            break
        left, right, distance = int(pairs.left[pair]), int(pairs.right[pair]), float(pairs.distance[pair])
        if max(seen.get(left, 0), seen.get(right, 0)) >= MOST_PER_ITEM:
            continue
        seen[left], seen[right] = seen.get(left, 0) + 1, seen.get(right, 0) + 1
        accepted = None if threshold is None else distance <= threshold
        wrong = None if accepted is None else accepted != bool(pairs.same[pair])
        chosen.append({"left": left, "right": right, "distance": distance, "wrong": wrong})
    return chosen

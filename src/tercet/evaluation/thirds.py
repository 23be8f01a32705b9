"""Thirds of the classes by their size: rare, middle, common; what retrieval comes to in each."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from tercet.evaluation.intervals import Interval, mean_intervals
from tercet.evaluation.retrieval import Retrieval
from tercet.evaluation.rivals import Rivals

THIRDS = ("rare", "middle", "common")
FIGURES = ("recall_at_1", "map_at_r")
UNLIKE = 2  # the largest class is more than so many times the smallest: below that there is nothing to tell apart


@dataclass(frozen=True)
class Thirds:
    """What the thirds hold and what was measured on each; all empty where the classes are of like sizes.

    Attributes:
        metrics: recall_at_1_rare, map_at_r_rare, recall_at_1_middle, …
        intervals: their 95 % intervals.
        parts: of each third its name, the smallest and the largest size, and how many classes and queries it has.
        note: the same in a sentence.
    """

    metrics: dict[str, float | None] = field(default_factory=dict)
    intervals: dict[str, Interval] = field(default_factory=dict)
    parts: list[dict[str, Any]] = field(default_factory=list)
    note: str | None = None


def by_thirds(found: Retrieval, sizes: np.ndarray, where: str, rivals: Rivals | None = None) -> Thirds:
    """Recall@1 and MAP@R by thirds of the classes, and their intervals over the classes of each.

    Of C classes with queries, one with a smaller ones and b of its own size is in third floor(3 (a + b / 2) / C), so
    that classes of one size are never parted. A third without a class is left out.

    Args:
        found: figures of Q queries.
        sizes: of each query's class, (Q,), counted wherever sampling matters.
        where: what the sizes were counted in, such as "the training data".
        rivals: of the queries, for the intervals.
    """
    if not len(sizes) or sizes.max() <= UNLIKE * sizes.min():
        return Thirds()
    _, first, of_query = np.unique(found.query_classes, return_index=True, return_inverse=True)
    third = _third_of(sizes[first])[of_query.reshape(-1)]
    figures = {name: values for name, values in found.figures().items() if name in FIGURES}
    metrics: dict[str, float | None] = {}
    intervals: dict[str, Interval] = {}
    parts = []
    for number, name in enumerate(THIRDS):
        inside = third == number
        if not inside.any():
            continue
        own = {f"{figure}_{name}": values[inside] for figure, values in figures.items()}
        metrics |= {figure: float(values.mean()) for figure, values in own.items()}
        intervals |= mean_intervals(own, found.query_classes[inside], rivals=_of_third(rivals, inside, name))
        parts.append({
            "name": name, "smallest": int(sizes[inside].min()), "largest": int(sizes[inside].max()),
            "classes": len(np.unique(found.query_classes[inside])), "queries": int(inside.sum()),
        })  # fmt: skip
    return Thirds(metrics, intervals, parts, _in_words(parts, where))


def _of_third(rivals: Rivals | None, inside: np.ndarray, third: str) -> Rivals | None:
    if rivals is None:
        return None
    part = rivals.of_queries(inside)
    return replace(part, gain={f"{figure}_{third}": gain for figure, gain in part.gain.items()})


def _third_of(sizes: np.ndarray) -> np.ndarray:
    """The third of each class, 0, 1 or 2, of shape (C,)."""
    ordered = np.sort(sizes)
    smaller, up_to = np.searchsorted(ordered, sizes, "left"), np.searchsorted(ordered, sizes, "right")
    return 3 * (smaller + up_to) // (2 * len(sizes))


def _in_words(parts: list[dict[str, Any]], where: str) -> str:
    spans = [f"{part['name']} {_span(part['smallest'], part['largest'])}" for part in parts]
    return f"Thirds of the classes by how many items of each are in {where}: {', '.join(spans)}."


def _span(smallest: int, largest: int) -> str:
    return f"{smallest:,}" if smallest == largest else f"{smallest:,} to {largest:,}"

"""Retrieval class by class and group by group."""

from __future__ import annotations

from typing import Any

import numpy as np

from tercet.evaluation.retrieval import Retrieval
from tercet.neighbors.lists import Array

FIGURES = ("recall_at_1", "map_at_r")


def by_class(found: Retrieval) -> list[dict[str, Any]]:
    """A row for each class of the queries, in the order in which they first appear.

    Each is {"class", "items", "queries", "recall_at_1", "map_at_r"}: items are those of the data that was evaluated,
    queries those to which something is relevant, and figures their means; None without queries, or where they were
    not to be had. Of items with several labels each label is a row, and an item is in all of its own; those of none,
    and junk, are in no row.
    """
    return _table("class", found.relevance.labels, found.relevance.label_names, found)


def by_group(found: Retrieval) -> list[dict[str, Any]]:
    """The same by the queries' groups, with "group" for "class"; empty without groups."""
    known = found.relevance
    return [] if known.groups is None else _table("group", known.groups, known.group_names, found)


def _table(word: str, codes: Array, names: list[Any], found: Retrieval) -> list[dict[str, Any]]:
    """Rows by codes of shape (Q, L)."""
    own = codes[found.query_rows]
    length = len(names)
    items = np.bincount(codes[codes >= 0], minlength=length)
    queries = np.bincount(own[own >= 0], minlength=length)
    means = {name: _means(found.values[name], own, queries) for name in FIGURES if name in found.values}
    return [
        {word: names[code], "items": int(items[code]), "queries": int(queries[code])}
        | {name: means[name][code] if name in means else None for name in FIGURES}
        for code in range(length)
        if items[code]
    ]


def _means(values: Array, codes: Array, counts: Array) -> list[float | None]:
    query, place = np.nonzero(codes >= 0)
    sums = np.bincount(codes[query, place], values[query], minlength=len(counts))
    return [float(total / count) if count else None for total, count in zip(sums, counts, strict=True)]

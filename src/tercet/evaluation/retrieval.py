"""Retrieval: every item is a query once, all the others are what it is looked for among (leave one out)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from tercet.distances import blocks, resolve
from tercet.errors import InputError
from tercet.evaluation.classes import class_codes
from tercet.neighbors.exact import QUERY_TILE_ROWS, nearest_of_tile
from tercet.neighbors.vectors import as_vectors


@dataclass(frozen=True, eq=False)
class Retrieval:
    """Figures of each query, before any mean is taken; Q queries whose class has another member.

    Attributes:
        query_rows: which row each query is, (Q,) int64.
        query_classes: its class as a code, (Q,) int64.
        recall: is one of the k nearest of the query's class, (Q, len(ks)) float64.
        r_precision: share of the class among the R nearest, R = other members of the class, (Q,).
        average_precision_at_r: (1/R) sum over i <= R of P(i) rel(i), (Q,).
        ks: the k of each column of `recall`.
        ks_left_out: those of the k asked for that exceed the number of other items.
        n_dropped: items whose class has no other member. They are no queries, but stay among the others.
    """

    query_rows: np.ndarray
    query_classes: np.ndarray
    recall: np.ndarray
    r_precision: np.ndarray
    average_precision_at_r: np.ndarray
    ks: tuple[int, ...]
    ks_left_out: tuple[int, ...]
    n_dropped: int

    def figures(self) -> dict[str, np.ndarray]:
        """The figures of each query by the name of their mean: `recall_at_1`, …, `map_at_r`."""
        by_k = {f"recall_at_{k}": self.recall[:, column] for column, k in enumerate(self.ks)}
        return by_k | {"r_precision": self.r_precision, "map_at_r": self.average_precision_at_r}


def retrieval(
    embeddings: Any,
    labels: Any,
    ks: Sequence[int] = (1, 5, 10),
    distance: Any = "euclidean",
    *,
    query_tile_rows: int = QUERY_TILE_ROWS,
) -> Retrieval:
    """Recall@k, R-precision and MAP@R of every query, leave one out.

    recall@k = any(rel[:k]); R-precision = sum(rel[:R]) / R; MAP@R = sum(P(i) rel(i) for i <= R) / R, where
    rel(i) says whether the i-th nearest is of the query's class and P(i) = sum(rel[:i]) / i. The query
    itself is left out; among equal distances the item that comes first counts as nearer.
    Time O(N²D), memory O(ND + tile · max(R, k)).

    Args:
        embeddings: of shape (N, D).
        labels: whole numbers of any width or strings, (N,).
        ks: the k of recall@k.
        distance: any distance of `tercet.distances`.
        query_tile_rows: queries at a time; the result does not depend on it.

    Raises:
        InputError: shapes that do not fit, float labels, values that are not finite.

    Source: Musgrave et al., A Metric Learning Reality Check (ECCV 2020), for R-precision and MAP@R.
    """
    rows_ND = as_vectors(embeddings, "embeddings")
    codes = class_codes(labels, len(rows_ND))
    metric = resolve(distance)
    metric.check_rows(rows_ND, "embeddings")
    wanted = _checked_ks(ks)
    usable = tuple(k for k in wanted if k <= len(rows_ND) - 1)
    others = np.bincount(codes)[codes] - 1 if len(codes) else codes  # R of every item
    queries = np.flatnonzero(others > 0)
    recall = np.zeros((len(queries), len(usable)))
    r_precision, average_precision = np.zeros(len(queries)), np.zeros(len(queries))
    for part in blocks(len(queries), query_tile_rows):
        rows = queries[part]
        r = others[rows]
        depth = int(max(r.max(), max(usable, default=1)))
        own = torch.from_numpy(rows).to(rows_ND.device)
        neighbors = nearest_of_tile(rows_ND[own], rows_ND, depth, metric, own)[1].cpu().numpy()
        hits = codes[neighbors] == codes[rows, None]  # (tile, depth)
        ranks = np.arange(1, depth + 1)
        within_r = hits & (ranks <= r[:, None])
        precision = np.cumsum(hits, axis=1) / ranks
        recall[part] = np.stack([hits[:, :k].any(axis=1) for k in usable], axis=1) if usable else 0
        r_precision[part] = within_r.sum(axis=1) / r
        average_precision[part] = (precision * within_r).sum(axis=1) / r
    return Retrieval(
        query_rows=queries,
        query_classes=codes[queries],
        recall=recall,
        r_precision=r_precision,
        average_precision_at_r=average_precision,
        ks=usable,
        ks_left_out=tuple(k for k in wanted if k not in usable),
        n_dropped=len(rows_ND) - len(queries),
    )


def _checked_ks(ks: Sequence[int]) -> tuple[int, ...]:
    if any(isinstance(k, bool) or not isinstance(k, int | np.integer) or k < 1 for k in ks):
        raise InputError(f"ks must be whole numbers of at least 1; given {tuple(ks)!r}.")
    return tuple(sorted({int(k) for k in ks}))

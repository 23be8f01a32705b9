"""Exact nearest neighbours, streamed: no matrix of all distances is ever held.

Shapes: Q queries, M references, D dimensions, A rows of a tile of queries, T columns of a tile of references.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from tercet.distances import Distance, Prepared, blocks, resolve
from tercet.errors import InputError
from tercet.neighbors.vectors import as_vectors, check_same_space

QUERY_TILE_ROWS = 256
REFERENCE_TILE_ROWS = 2048  # a tile of keys is then 4 MB: larger ones leave the cache and take twice the time
SPARE = 8  # chosen beyond k, for the tiles' rounding may put near ties in the wrong order
LAST_KEY = torch.iinfo(torch.int64).max  # sorts behind every distance, infinity included


def nearest(
    queries: Any,
    references: Any,
    k: int,
    distance: Any = "euclidean",
    exclude_self: bool = False,
    *,
    query_rows: Any = None,
    query_tile_rows: int = QUERY_TILE_ROWS,
    reference_tile_rows: int = REFERENCE_TILE_ROWS,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The k nearest references of every query: the first k of `sorted((d(q, r), r) for r in references)`.

    Distances are by differences, rounded to float32; among equal ones the lowest index comes first. Time O(QMD),
    memory O(Qk + tile). On the CPU, where distances follow from matrix products, compiled loops look through these.
    (Elsewhere, where more than 8 references tie for the last places within the rounding of a tile, that rounding
    decides which of them are in.)

    Args:
        queries: of shape (Q, D), an array or a tensor.
        references: of shape (M, D).
        k: how many, from 1 to M, or to M - 1 with `exclude_self`.
        distance: any distance of `tercet.distances`, by name or as an object.
        exclude_self: leave out of each query's neighbours the row that it is itself.
        query_rows: with `exclude_self`, which row of the references each query is, of shape (Q,); without it
            query i is row i.
        query_tile_rows: A, rows of queries at a time.
        reference_tile_rows: T, rows of references at a time. The result does not depend on either.

    Returns:
        distances (Q, k) float32 and indices (Q, k) int64, nearest first, on the device of the queries.

    Raises:
        InputError: shapes that do not fit, values that are not finite or not in the distance's domain, a k with fewer
            references than that.
    """
    queries_QD, references_MD = check_same_space(as_vectors(queries, "queries"), as_vectors(references, "references"))
    rows_Q = _own_rows(queries_QD, references_MD, query_rows) if exclude_self else None
    if query_rows is not None and not exclude_self:
        raise InputError("query_rows says which row each query is; it has a meaning only with exclude_self=True.")
    _check_k(k, len(references_MD), exclude_self)
    metric = resolve(distance)
    metric.check_rows(queries_QD, "queries")
    metric.check_rows(references_MD, "references")
    ready = metric.prepared(queries_QD, references_MD) if queries_QD.device.type == "cpu" else None
    if ready is not None:
        return _by_products(ready, k, rows_Q, query_tile_rows)
    tiles = [
        _nearest_of_tile(
            queries_QD[part],
            references_MD,
            k,
            metric,
            None if rows_Q is None else rows_Q[part],
            reference_tile_rows,
        )
        for part in blocks(len(queries_QD), query_tile_rows)
    ]
    if not tiles:
        return queries_QD.new_empty((0, k)).float(), torch.empty((0, k), dtype=torch.int64)
    return torch.cat([tile[0] for tile in tiles]), torch.cat([tile[1] for tile in tiles])


def _by_products(
    ready: Prepared, k: int, rows_Q: torch.Tensor | None, tile_rows: int
) -> tuple[torch.Tensor, torch.Tensor]:
    from tercet.neighbors.products import ByProducts

    sides, length = ByProducts.of(ready), len(ready.rows_x)
    own_Q = np.full(length, -1) if rows_Q is None else rows_Q.numpy()
    distances, indices = np.empty((length, k), np.float32), np.empty((length, k), np.int64)

    def search(part: slice) -> None:
        distances[part], indices[part] = sides.nearest(part, k, own_Q[part])

    sides.each(search, list(blocks(length, tile_rows)))
    return torch.from_numpy(distances), torch.from_numpy(indices)


def _nearest_of_tile(
    queries_AD: torch.Tensor,
    references_MD: torch.Tensor,
    k: int,
    metric: Distance,
    own_rows_A: torch.Tensor | None,
    reference_tile_rows: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """`nearest` for one tile of queries whose arguments were checked: a running top k over the references.

    The tiles, which round, choose a few more than k; these are measured again by differences, which decide.
    """
    n_chosen = min(k + SPARE, len(references_MD) - int(own_rows_A is not None))
    best_AK = torch.empty((len(queries_AD), 0), dtype=torch.int64, device=queries_AD.device)
    for part in blocks(len(references_MD), reference_tile_rows):
        columns = torch.arange(part.start, part.stop, device=queries_AD.device)
        keys_AT = _keys(metric.tile(queries_AD, references_MD[part]), columns)
        if own_rows_A is not None:
            keys_AT.masked_fill_(own_rows_A[:, None] == columns, LAST_KEY)
        best_AK = _first(torch.cat([best_AK, keys_AT], dim=1), n_chosen)
    chosen_AK = _indices(best_AK)
    rows = torch.arange(len(queries_AD), device=queries_AD.device).repeat_interleave(n_chosen)
    exact_AK = metric.listed(queries_AD, references_MD, rows, chosen_AK.flatten()).view(chosen_AK.shape)
    first_AK = _first(_keys(exact_AK, chosen_AK), k)
    return _distances(first_AK), _indices(first_AK)


def _keys(distances: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
    """One int64 per pair that orders by (distance, index): topk alone leaves the order of ties open.

    The bits of a float32 order like the integer they spell; below zero (cosine rounds to -1e-7) they order
    backwards, which the exclusive or undoes. Adding 0 makes -0 and 0 one value.
    """
    bits = distances.float().add(0.0).contiguous().view(torch.int32)
    flips = (bits >> 31).bitwise_and_(0x7FFFFFFF)
    return bits.bitwise_xor_(flips).long().mul_(1 << 32).add_(indices)


def _first(keys: torch.Tensor, k: int) -> torch.Tensor:
    return keys.topk(min(k, keys.shape[1]), dim=1, largest=False).values


def _indices(keys: torch.Tensor) -> torch.Tensor:
    return keys & 0xFFFFFFFF


def _distances(keys: torch.Tensor) -> torch.Tensor:
    ordered = (keys >> 32).int()
    return (ordered ^ ((ordered >> 31) & 0x7FFFFFFF)).view(torch.float32)


def _own_rows(queries_QD: torch.Tensor, references_MD: torch.Tensor, query_rows: Any) -> torch.Tensor:
    if query_rows is None:
        if len(queries_QD) != len(references_MD):
            raise InputError(
                f"exclude_self with {len(queries_QD)} queries and {len(references_MD)} references needs "
                "query_rows: which row of the references each query is."
            )
        return torch.arange(len(queries_QD), device=queries_QD.device)
    rows = torch.as_tensor(np.asarray(query_rows)) if not isinstance(query_rows, torch.Tensor) else query_rows
    if rows.shape != (len(queries_QD),) or rows.is_floating_point() or rows.dtype == torch.bool:
        raise InputError(f"query_rows must be {len(queries_QD)} integers; given {rows.dtype} {tuple(rows.shape)}.")
    rows = rows.to(queries_QD.device, torch.int64)
    if len(rows) and not 0 <= int(rows.min()) <= int(rows.max()) < len(references_MD):
        raise InputError(f"query_rows must lie from 0 to {len(references_MD) - 1}, the rows of the references.")
    return rows


def _check_k(k: int, n_references: int, exclude_self: bool) -> None:
    if isinstance(k, bool) or not isinstance(k, int | np.integer) or k < 1:
        raise InputError(f"k must be a whole number of at least 1; given {k!r}.")
    available = n_references - int(exclude_self)
    if k > available:
        left_out = " besides the query itself" if exclude_self else ""
        raise InputError(f"k is {k}, but there are only {max(available, 0)} references{left_out}.")

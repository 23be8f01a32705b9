"""Pairs to verify where items have several labels, or queries a gallery of their own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from tercet.data.labels import are_alike
from tercet.distances import blocks
from tercet.errors import InputError
from tercet.evaluation.pairs import Pairs, pair_distances
from tercet.evaluation.relevance import Relevance
from tercet.neighbors.lists import Array
from tercet.neighbors.vectors import as_vectors, check_same_space

QUERIES = 1024  # whose same pairs are listed at a time
LABELS_AT_A_TIME = 1 << 22  # of pairs that are asked whether they share one


def gallery_pairs(
    embeddings: Any, gallery: Any, known: Relevance, distance: Any, max_pairs: int, seed: int = 0
) -> Pairs:
    """Every pair of a query and an item of the gallery, or of two items; same where they share a label.

    Of more than `max_pairs`, a seeded part: all same pairs as far as half of `max_pairs` goes, and for the rest
    different ones, drawn uniformly. What a search excludes is in, for whether two items are the same does not depend on
    where they come from; junk is not. Units are classes; of items with several labels the items, as labels overlap.
    Memory O(max_pairs).

    Args:
        embeddings: of the queries, (Q, D).
        gallery: (G, D); None for the pairs of the queries.
        known: who is relevant to whom.
        distance: any distance of `tercet.distances`.
        max_pairs: at least 2.
        seed: of the sample.

    Returns:
        pairs whose right rows are those of the gallery, counted from Q on.
    """
    if max_pairs < 2:
        raise InputError(f"max_pairs must be at least 2; given {max_pairs}.")
    rows = as_vectors(embeddings, "embeddings")
    others = rows if gallery is None else as_vectors(gallery, "gallery")
    alone, n_others = gallery is None, len(known.gallery_classes)
    kept = np.arange(n_others) if known.kept is None else known.kept
    own = kept if alone else np.arange(len(rows))
    known = replace(known, labels=known.labels[own], classes=known.classes[own])
    n_queries = len(own)
    rng = np.random.default_rng(seed)
    n_same = sum(len(left) for left, _ in _same_pairs(known, alone))
    n_all = n_queries * (n_queries - 1) // 2 if alone else n_queries * n_others
    n_different = n_all - n_same
    take_different = min(n_different, max(max_pairs - n_same, max_pairs // 2))
    take_same = min(n_same, max_pairs - take_different)
    same = _taken(_same_pairs(known, alone), np.sort(rng.choice(n_same, take_same, replace=False)))
    different = _different_pairs(known, alone, n_queries, n_others, take_different, n_different, rng)
    left, right = (np.concatenate(sides) for sides in zip(same, different, strict=True))
    if not alone:
        rows, others = check_same_space(rows, others)
        rows = torch.cat([rows, others])
    shown = kept[right] + (0 if alone else n_queries)
    units = (known.classes[left], known.gallery_classes[right]) if known.has_one_label else (own[left], shown)
    return Pairs(
        distance=pair_distances(rows, own[left], shown, distance),
        same=np.arange(len(left)) < take_same,
        left=own[left],
        right=shown,
        left_unit=units[0],
        right_unit=units[1],
        unit="class" if known.has_one_label else "item",
        sampled=take_same + take_different < n_all,
        n_same_total=n_same,
        n_different_total=n_different,
    )


def _same_pairs(known: Relevance, alone: bool) -> Iterator[tuple[Array, Array]]:
    """Queries and what shares a label with them, some queries at a time; of two items each pair once."""
    for part in blocks(len(known.labels), QUERIES):
        owner, item = known.by_label.pairs(known.labels[part])
        owner = owner + part.start
        later = item > owner if alone else slice(None)
        yield owner[later], item[later]


def _taken(parts: Iterator[tuple[Array, Array]], chosen: Array) -> tuple[Array, Array]:
    """The pairs at these positions, ascending, of all that the parts hold."""
    found, start = [(chosen[:0], chosen[:0])], 0
    for left, right in parts:
        here = chosen[np.searchsorted(chosen, start) : np.searchsorted(chosen, start + len(left))] - start
        found.append((left[here], right[here]))
        start += len(left)
    return np.concatenate([left for left, _ in found]), np.concatenate([right for _, right in found])


def _different_pairs(
    known: Relevance, alone: bool, n_queries: int, n_others: int, size: int, population: int, rng: np.random.Generator
) -> tuple[Array, Array]:
    """So many pairs that share no label, each once: all there are, or drawn."""
    if size == population or population <= 4 * size:
        keys = _all_different(known, alone, n_others)
        keys = keys if size == population else np.sort(rng.choice(keys, size, replace=False))
    else:
        keys = np.empty(0, np.int64)
        while len(keys) < size:
            left, right = rng.integers(n_queries, size=size), rng.integers(n_others, size=size)
            fits = ~_share(known, left, right) & ((left < right) if alone else True)
            keys = np.unique(np.concatenate([keys, left[fits] * n_others + right[fits]]))
        keys = np.sort(rng.choice(keys, size, replace=False))
    return keys // max(n_others, 1), keys % max(n_others, 1)


def _all_different(known: Relevance, alone: bool, n_others: int) -> Array:
    """Query * G + item of every pair that shares no label."""
    found = [np.empty(0, np.int64)]
    for part in blocks(len(known.labels), QUERIES):
        apart = np.ones((part.stop - part.start, n_others), bool)
        apart[known.by_label.pairs(known.labels[part])] = False
        left, right = np.nonzero(apart)
        left = left + part.start
        keep = left < right if alone else slice(None)
        found.append((left * n_others + right)[keep])
    return np.concatenate(found)


def _share(known: Relevance, left: Array, right: Array) -> Array:
    """Whether each pair shares a label."""
    parts = blocks(len(left), max(LABELS_AT_A_TIME // known.labels.shape[1], 1))
    found = [are_alike(known.labels[left[part]], known.gallery_labels[right[part]], 1) for part in parts]
    return np.concatenate([np.zeros(0, dtype=bool), *found])

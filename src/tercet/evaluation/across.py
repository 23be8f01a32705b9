"""Evaluation across two sides: each left item searched among the right ones, and each right one among the left."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from tercet.distances import resolve
from tercet.errors import InputError
from tercet.evaluation.evaluation import Evaluation, Metrics, with_verification
from tercet.evaluation.intervals import mean_intervals
from tercet.evaluation.pairs import MOST_LISTED, Pairs, given_pairs
from tercet.evaluation.probability import Probability
from tercet.evaluation.retrieval import retrieval
from tercet.evaluation.rivals import rivals_of
from tercet.neighbors.vectors import as_vectors


def evaluate_across(
    embeddings: Any,
    labels: np.ndarray,
    sides: np.ndarray,
    pairs: Pairs,
    names: tuple[str, str] = ("left", "right"),
    *,
    threshold: float | None = None,
    distance: Any = "euclidean",
    ks: Sequence[int] = (1, 5, 10),
    seed: int = 0,
    intervals: bool = True,
    probability: Probability | None = None,
) -> Evaluation:
    """Retrieval from each side in the other, their mean, and verification of pairs across.

    Items with equal labels belong together; every label is on both sides.

    Args:
        embeddings: of shape (N, D).
        labels: whole numbers, (N,).
        sides: 0 or 1, (N,).
        pairs: see `pairs_across`.
        names: of the sides; `image_to_text.recall_at_1` is that of images as queries.
        threshold: from `calibrate` on other data.
        distance: any distance of `tercet.distances`.
        ks: the k of recall@k.
        seed: of what the intervals draw.
        intervals: whether to have any; the means of both directions have none.
        probability: fitted on other data, to be judged here.

    Raises:
        InputError: a side is empty.
    """
    rows = as_vectors(embeddings, "embeddings")
    resolve(distance).check_rows(rows, "embeddings")
    places = [torch.from_numpy(np.flatnonzero(sides == side)) for side in (0, 1)]
    if not all(len(own) for own in places):
        raise InputError("Both sides need items; one has none.")
    metrics: Metrics = {}
    ends: dict[str, tuple[float, float]] = {}
    all_figures: set[str] = set()
    for query, other in ((0, 1), (1, 0)):
        of_queries, of_gallery = labels[places[query].numpy()], labels[places[other].numpy()]
        found = retrieval(
            rows[places[query]], of_queries, ks, distance, gallery=rows[places[other]], gallery_labels=of_gallery
        )
        figures, units = found.figures(), found.query_classes
        named = {f"{names[query]}_to_{names[other]}.{name}": values for name, values in figures.items()}
        all_figures |= figures.keys()
        metrics |= {name: float(values.mean()) for name, values in named.items()}
        if intervals:
            rivals = rivals_of(found, rows[places[query]], rows[places[other]], distance, seed=seed)
            assert rivals is not None  # each item has one label
            prefix = f"{names[query]}_to_{names[other]}"
            rivals = dataclasses.replace(rivals, gain={f"{prefix}.{name}": of for name, of in rivals.gain.items()})
            ends |= mean_intervals(named, units, rivals=rivals)
    both = [f"{a}_to_{b}" for a, b in (names, names[::-1])]
    for name in sorted(all_figures):
        values = [metrics.get(f"{direction}.{name}") for direction in both]
        known = [value for value in values if value is not None]
        metrics[name] = sum(known) / 2 if len(known) == 2 else None
    missing = {name: "one side has too few items" for name, value in metrics.items() if value is None}
    counts: Metrics = {f"n_{names[side]}_items": len(places[side]) for side in (0, 1)}
    counts |= {"n_items": len(labels), "n_classes": len(np.unique(labels))}
    evaluated = Evaluation(
        metrics=metrics | counts,
        missing=missing,
        intervals=ends,
        settings={"distance": resolve(distance).name, "ks": list(ks), "seed": seed, "sides": list(names)},
    )
    return with_verification(evaluated, pairs, threshold, seed, intervals, probability)


def pairs_across(
    embeddings: Any,
    labels: np.ndarray,
    sides: np.ndarray,
    distance: Any = "euclidean",
    max_pairs: int = MOST_LISTED,
    seed: int = 0,
) -> Pairs:
    """Every pair of a left and a right item, same where their labels are; of more than `max_pairs`, a drawn part.

    Intervals are over labels: an item is in as many pairs as the other side has items, and these tell little more than
    one. All pairs that are the same are kept, as far as half of `max_pairs` goes.
    """
    left, right = (np.flatnonzero(sides == side) for side in (0, 1))
    total = len(left) * len(right)
    if total <= max_pairs:
        tuples = np.stack(np.meshgrid(left, right, indexing="ij"), axis=-1).reshape(-1, 2)
    else:
        generator = np.random.default_rng(seed)
        same = _same_pairs(labels, left, right)
        same = same[np.sort(generator.permutation(len(same))[: max_pairs // 2])]
        drawn = np.stack([generator.choice(left, max_pairs), generator.choice(right, max_pairs)], axis=1)
        different = np.unique(drawn[labels[drawn[:, 0]] != labels[drawn[:, 1]]], axis=0)
        keep = np.sort(generator.permutation(len(different))[: max_pairs - len(same)])
        tuples = np.concatenate([same, different[keep]])
    alike = labels[tuples[:, 0]] == labels[tuples[:, 1]]
    found = dataclasses.replace(
        given_pairs(embeddings, tuples, alike, distance),
        left_unit=labels[tuples[:, 0]], right_unit=labels[tuples[:, 1]], unit="class",
    )  # fmt: skip
    if total <= max_pairs:
        return found
    n_same = len(_same_pairs(labels, left, right))
    return _sampled(found, n_same, total - n_same)


def _same_pairs(labels: np.ndarray, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Left and right items of one label, (S, 2)."""
    order = right[np.argsort(labels[right], kind="stable")]
    sorted_labels = labels[order]
    starts, stops = (np.searchsorted(sorted_labels, labels[left], side=side) for side in ("left", "right"))
    partners = [order[start:stop] for start, stop in zip(starts, stops, strict=True)]
    return np.stack([np.repeat(left, stops - starts), np.concatenate(partners)], axis=1)


def _sampled(pairs: Pairs, n_same: int, n_different: int) -> Pairs:
    return dataclasses.replace(pairs, sampled=True, n_same_total=n_same, n_different_total=n_different)

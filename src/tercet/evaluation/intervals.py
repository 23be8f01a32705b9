"""Confidence intervals by a percentile bootstrap over classes.

Photographs of one person resemble each other: drawing single items, or single pairs, again would count as
evidence what is repetition, and give intervals far too narrow. The class (the identity) is the honest unit:
a replicate draws as many classes as there are, with replacement, and class c then counts w_c times. For data
that came as pairs or triplets, which have no classes, the unit is the row.

Weights of a pair in a replicate: a different pair of classes c and d is there w_c · w_d times. A same pair
of class c is there w_c times: each copy of the class is a person of its own, whose pairs are drawn with it;
the pairs *between* two copies are neither honestly same nor different, and are left out.
For retrieval, queries of class c weigh w_c, among an unchanged set of other items.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from tercet.evaluation.pairs import Pairs
from tercet.evaluation.verification import curve_metrics, threshold_metrics

REPLICATES = 200
MOST_PAIRS = 100_000
FEWEST_UNITS = 3
LEVELS = (2.5, 97.5)

Interval = tuple[float, float]


def mean_intervals(
    figures: Mapping[str, np.ndarray], units: np.ndarray, *, seed: int = 0, replicates: int = REPLICATES
) -> dict[str, Interval]:
    """95 % intervals of the mean of each figure, over Q queries (or triplets) of the given units.

    Args:
        figures: by name, one value per query, (Q,).
        units: the class of each query, or the number of the row, (Q,).
        seed: of the replicates.
        replicates: how many.

    Returns:
        by name (low, high); empty with fewer than 3 units.
    """
    if not figures or len(np.unique(units)) < FEWEST_UNITS:
        return {}
    units = np.unique(units, return_inverse=True)[1].reshape(-1)
    stacked = np.stack(list(figures.values()))  # (figures, Q)

    def means(multiplicity: np.ndarray) -> dict[str, float]:
        weights = multiplicity[units]
        return dict(zip(figures, (stacked @ weights / weights.sum()).tolist(), strict=True))

    return _intervals(means, int(units.max()) + 1, seed, replicates)


def verification_intervals(
    pairs: Pairs,
    threshold: float | None = None,
    *,
    seed: int = 0,
    replicates: int = REPLICATES,
    most_pairs: int = MOST_PAIRS,
) -> dict[str, Interval]:
    """95 % intervals of auc, eer, tar_at_far_… and, with a threshold, of accuracy, far and frr.

    More than `most_pairs` pairs are resampled on a seeded part of that size, half of it same pairs where
    there are so many. Time O(P log P + replicates · P) for that P. Empty with fewer than 3 units, or where
    no replicate has pairs of both kinds.
    """
    part = pairs.part(_resampled(pairs, most_pairs, seed))
    distance, same = part.distance, part.same
    units, ids = np.unique(np.stack([part.left_unit, part.right_unit]), return_inverse=True)
    left, right = ids.reshape(2, -1)
    if len(units) < FEWEST_UNITS:
        return {}
    within = left == right
    ends = np.append(np.flatnonzero(np.diff(distance)), len(distance) - 1)  # the last of each run of ties

    def metrics(multiplicity: np.ndarray) -> dict[str, float] | None:
        weights = multiplicity[left] * np.where(within, 1.0, multiplicity[right])
        accepted_same = np.cumsum(weights * same)[ends]
        accepted_different = np.cumsum(weights * ~same)[ends]
        if not accepted_same[-1] or not accepted_different[-1]:
            return None
        tar = np.append(0.0, accepted_same / accepted_same[-1])
        far = np.append(0.0, accepted_different / accepted_different[-1])
        found = curve_metrics(far, tar)
        if threshold is not None:
            found |= threshold_metrics(part, threshold, weights)
        return found

    return _intervals(metrics, len(units), seed, replicates)


def _resampled(pairs: Pairs, most_pairs: int, seed: int) -> np.ndarray:
    """Which pairs to resample on, in the order of their distance."""
    rows = np.arange(len(pairs.distance))
    if len(rows) > most_pairs:
        rng = np.random.default_rng((seed, 1))
        same, different = np.flatnonzero(pairs.same), np.flatnonzero(~pairs.same)
        n_same = min(len(same), max(most_pairs // 2, most_pairs - len(different)))
        rows = np.concatenate(
            [
                rng.choice(same, n_same, replace=False),
                rng.choice(different, min(len(different), most_pairs - n_same), replace=False),
            ]
        )
    return rows[np.argsort(pairs.distance[rows], kind="stable")]


def _intervals(
    metrics: Callable[[np.ndarray], dict[str, float] | None], n_units: int, seed: int, replicates: int
) -> dict[str, Interval]:
    rng = np.random.default_rng((seed, 2))
    drawn = rng.multinomial(n_units, np.full(n_units, 1 / n_units), size=replicates).astype(np.float64)
    found = [values for values in map(metrics, drawn) if values is not None]
    if not found:
        return {}
    low, high = np.percentile([list(values.values()) for values in found], LEVELS, axis=0).tolist()
    return {name: (low[i], high[i]) for i, name in enumerate(found[0])}

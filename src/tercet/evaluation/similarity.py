"""Similarity: how well distances between pairs agree with graded scores of how alike these are, as STS has them.

Spearman's rank correlation is the measure of that field (Reimers and Gurevych 2019, section 4.1): it asks only that
pairs which people find more alike are nearer. Pearson's asks that distance be a straight line of the score, which
nothing in training makes it (Reimers, Beyer and Gurevych 2016 show how it misleads).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tercet.distances import resolve
from tercet.errors import InputError
from tercet.evaluation.contributions import Contributions
from tercet.evaluation.evaluation import Evaluation, Metrics
from tercet.evaluation.intervals import FEWEST_UNITS, Interval, quantile_of
from tercet.evaluation.pairs import pair_distances
from tercet.neighbors.vectors import as_vectors


def evaluate_scores(
    embeddings: Any, pairs: Any, scores: Any, *, distance: Any = "cosine", intervals: bool = True
) -> Evaluation:
    """Spearman's and Pearson's correlation of the nearness of pairs with their scores, and 95 % intervals.

    Nearness is minus the distance, which for cosine distance orders pairs as cosine similarity does. Intervals are over
    rows, and over items where items are in several pairs (`item_variance`). Time O(T log T + TD).

    Args:
        embeddings: of shape (N, D).
        pairs: rows of the embeddings, (T, 2).
        scores: how alike, larger for more, (T,).
        distance: any distance of `tercet.distances`.
        intervals: whether to have any.

    Raises:
        InputError: shapes that do not fit, scores that are not finite.
    """
    rows = as_vectors(embeddings, "embeddings")
    pairs_T2, scores_T = np.asarray(pairs), np.asarray(scores, dtype=np.float64)
    if pairs_T2.ndim != 2 or pairs_T2.shape[1] != 2 or scores_T.shape != pairs_T2.shape[:1]:
        raise InputError(
            "pairs must be of shape (T, 2) and scores of shape (T,); "
            f"given shapes {pairs_T2.shape} and {scores_T.shape}."
        )
    if not np.isfinite(scores_T).all():
        raise InputError(f"scores must be finite; number {int(np.argmin(np.isfinite(scores_T)))} is not.")
    near = -pair_distances(rows, pairs_T2[:, 0], pairs_T2[:, 1], distance).astype(np.float64)
    metrics: Metrics = {"spearman": None, "pearson": None}
    missing, ends = {}, {}
    reason = _reason(near, scores_T)
    repeats = len(np.unique(pairs_T2)) < pairs_T2.size
    if reason:
        missing = dict.fromkeys(metrics, reason)
    else:
        for name, (value, effects) in {
            "spearman": spearman(near, scores_T),
            "pearson": pearson(near, scores_T),
        }.items():
            metrics[name] = value
            if intervals and len(near) >= FEWEST_UNITS:
                variance = item_variance(effects, pairs_T2)
                ends[name] = correlation_interval(value, variance, len(np.unique(pairs_T2)) if repeats else len(near))
    counts: Metrics = {"n_items": len(np.unique(pairs_T2)), "n_pairs": len(pairs_T2)}
    notes = ["Items are in several pairs; intervals are over items."] if repeats and ends else []
    settings = {"distance": resolve(distance).name}
    return Evaluation(metrics=metrics | counts, missing=missing, intervals=ends, notes=notes, settings=settings)


def spearman(x: np.ndarray, y: np.ndarray) -> tuple[float, np.ndarray]:
    """Spearman's correlation, ties at their mean rank, and each row's effect on it, (T,), which add up to nothing.

    With F and G the shares of rows below, ties half, u = mean FG, a = mean F², b = mean G²:
    rho = (u - 1/4) / sqrt((a - 1/4)(b - 1/4)). A row has its effect on u by its own FG and by every row that it is
    below of, mean over j of [x_j >= x] G_j and the like; so for a and b (the delta method; each divided by T).
    """
    f, g = _shares(x), _shares(y)
    u, a, b = (f * g).mean(), np.square(f).mean(), np.square(g).mean()
    root = math.sqrt((a - 0.25) * (b - 0.25))
    rho = float((u - 0.25) / root)
    of_u = f * g + _above(x, g) + _above(y, f) - 3 * u
    of_a = np.square(f) + 2 * _above(x, f) - 3 * a
    of_b = np.square(g) + 2 * _above(y, g) - 3 * b
    effects = of_u / root - rho / 2 * (of_a / (a - 0.25) + of_b / (b - 0.25))
    return min(max(rho, -1.0), 1.0), effects / len(x)


def pearson(x: np.ndarray, y: np.ndarray) -> tuple[float, np.ndarray]:
    """Pearson's correlation r, and each row's effect: (z_x z_y - r (z_x² + z_y²) / 2) / T of standardised values."""
    one, two = ((values - values.mean()) / values.std() for values in (x, y))
    r = float((one * two).mean())
    return min(max(r, -1.0), 1.0), (one * two - r / 2 * (np.square(one) + np.square(two))) / len(x)


def item_variance(effects: np.ndarray, pairs: np.ndarray) -> float:
    """Sum of squared effects over rows, or of all products of rows that share an item if that is more.

    Aronow, Samii and Assenova 2015, eq. 4: what two rows with one item in common tell is not told twice.
    """
    codes = np.unique(pairs, return_inverse=True)[1].reshape(-1, 2)
    n_items = int(codes.max()) + 1
    rows = float(np.square(effects).sum()) * len(effects) / (len(effects) - 1)
    return max(rows, Contributions(codes[:, 0], codes[:, 1], effects).variance(n_items, 1.0))


def correlation_interval(value: float, variance: float, n_units: int) -> Interval:
    """tanh(atanh(r) ∓ t sqrt(V) / (1 - r²)): Fisher's transformation keeps the ends within -1 and 1."""
    if abs(value) >= 1 or variance <= 0:
        return value, value
    half = quantile_of(n_units - 1) * math.sqrt(variance) / (1 - value**2)
    return math.tanh(math.atanh(value) - half), math.tanh(math.atanh(value) + half)


def _reason(near: np.ndarray, scores: np.ndarray) -> str | None:
    if len(near) < 2:
        return f"needs at least 2 pairs; there are {len(near)}"
    if np.ptp(scores) == 0:
        return "all scores are equal"
    return "all pairs are equally far apart" if np.ptp(near) == 0 else None


def _shares(values: np.ndarray) -> np.ndarray:
    """Of each value the share of all that are smaller, ties and itself half."""
    ordered = np.sort(values)
    return (np.searchsorted(ordered, values, "left") + np.searchsorted(ordered, values, "right")) / (2 * len(values))


def _above(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Of each value v the mean over all rows of [their value > v] · weight, ties half."""
    order = np.argsort(values, kind="stable")
    ordered, sums = values[order], np.append(0.0, np.cumsum(weights[order]))
    upto = (sums[np.searchsorted(ordered, values, "left")] + sums[np.searchsorted(ordered, values, "right")]) / 2
    return (sums[-1] - upto) / len(values)

"""95 % intervals that hold for new classes, from the variance between classes.

Photographs of one person resemble each other: counting single items, or single pairs, as evidence would count what is
repetition, and give intervals far too narrow. The class (the identity) is the honest unit; for data that came as pairs
or triplets, which have no classes, it is the row. What the figure would have been with other classes is estimated from
what each class contributes to it (`contributions.py`), and the interval is Student's on the logit scale, so that its
ends are rates as well:

    logit(low, high) = logit(T) ∓ t(C - 1) sqrt(V) / (T (1 - T))

benchmarks/interval_coverage.py counts how often such an interval holds the truth; docs/intervals.md has the table.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence

import numpy as np

from tercet.errors import InputError
from tercet.evaluation.contributions import Contributions
from tercet.evaluation.operating import pair_contributions
from tercet.evaluation.pairs import Pairs
from tercet.evaluation.rivals import Rivals

MOST_PAIRS = 1_000_000
FEWEST_UNITS = 3
FEW_UNITS = 20  # below, and near 0 or 1, intervals hold the truth less often than they say; see docs/intervals.md
LEVEL = 0.95
SHARED = 0.5
"""How much of what two classes share is taken off for retrieval: between the whole, which is right where each confusion
is one of two classes, and nothing, which is never too little."""

Interval = tuple[float, float]


def mean_intervals(
    figures: Mapping[str, np.ndarray], units: np.ndarray, *, rivals: Rivals | None = None
) -> dict[str, Interval]:
    """95 % intervals of the mean of each figure, over Q queries (or triplets) of the given units.

    Rates get an interval within [0, 1]; a figure with a value outside gets T ∓ t(C - 1) sqrt(V). Time O(Q) a figure.

    Args:
        figures: by name, one value per query, (Q,).
        units: the class of each query as a code, or the number of the row, (Q,).
        rivals: of the same queries, with codes of the same numbering; without them a class is held to account for
            its own queries alone, and intervals of retrieval are too narrow.

    Returns:
        by name (low, high); empty with fewer than 3 units.
    """
    n_units = len(np.unique(units))
    if not figures or n_units < FEWEST_UNITS:
        return {}
    met = units if rivals is None else np.concatenate([units, rivals.rival])
    found = {}
    for name, values in figures.items():
        own = mean_contributions(name, values, units, rivals).among(np.unique(met))
        variance = own.variance(len(np.unique(met)), SHARED)
        is_rate = bool(values.min() >= 0 and values.max() <= 1)
        found[name] = interval_of(float(values.mean()), variance, n_units, is_rate)
    return found


def mean_contributions(name: str, values: np.ndarray, units: np.ndarray, rivals: Rivals | None = None) -> Contributions:
    """What each class contributes to the mean of a figure, of Q queries of the given units.

    Class c: sum over its queries of (y - mean) / Q, less what other queries would gain without it, over Q.
    """
    kept = Contributions(units, units, (values - values.mean()) / len(values))
    if rivals is None or name not in rivals.gain:
        return kept
    gain = rivals.gain[name] / (len(values) * rivals.drawn)
    # A query's value is what it would be without its rivals, owed to its own class, less what these take, owed to both.
    back = Contributions(rivals.own, rivals.own, gain, rivals.query, rivals.drawn)
    taken = Contributions(rivals.own, rivals.rival, -gain, rivals.query, rivals.drawn)
    return Contributions.joined([kept, back, taken], [1, 1, 1])


def verification_intervals(
    pairs: Pairs,
    threshold: float | None = None,
    *,
    estimates: Mapping[str, float | None] | None = None,
    seed: int = 0,
    most_pairs: int = MOST_PAIRS,
) -> dict[str, Interval]:
    """95 % intervals of auc, eer, tar_at_far_… and, with a threshold, of the accuracies, far and frr.

    Of more than `most_pairs` pairs a seeded part of that size is looked at, half of it same pairs where there are so
    many. Time O(P log P) for that P. Empty with fewer than 3 units, or without pairs of both kinds.

    Args:
        pairs: of classes, or given.
        threshold: see `verification.threshold_metrics`.
        estimates: the figures themselves, where they were measured on more pairs than these.
        seed: of the part.
        most_pairs: looked at.
    """
    part = pairs.part(_looked_at(pairs, most_pairs, seed))
    units = np.unique(np.stack([part.left_unit, part.right_unit]))
    if len(units) < FEWEST_UNITS or part.same.all() or not part.same.any():
        return {}
    found = {}
    for name, (own, contributions) in pair_contributions(part, threshold).items():
        given = None if estimates is None else estimates.get(name)
        found[name] = interval_of(
            own if given is None else given, contributions.among(units).variance(len(units)), len(units)
        )
    return found


def interval_of(estimate: float, variance: float, n_units: int, is_rate: bool = True) -> Interval:
    """The 95 % interval of a figure of so many units: Student's t, of a rate on the logit scale.

    A rate of 0 or 1, or one that no unit differs in, shows no variance, which is not to say that there is none: it
    gets Wilson's interval for C units that all agree.
    """
    quantile = quantile_of(n_units - 1)
    if not is_rate:
        half = quantile * math.sqrt(variance)
        return estimate - half, estimate + half
    inside = estimate * (1 - estimate)
    if inside <= 0 or variance <= 0:
        return _wilson(min(max(estimate, 0.0), 1.0), n_units, quantile)
    middle, half = math.log(estimate / (1 - estimate)), quantile * math.sqrt(variance) / inside
    return _logistic(middle - half), _logistic(middle + half)


def interval_over_seeds(values: Sequence[float]) -> Interval | None:
    """The 95 % interval of the mean of a figure over trainings with other seeds, by Student's t; None of one value.

    mean ∓ t(n - 1) s / sqrt(n). It says what another seed would give on the same data, and nothing of other classes.

    Raises:
        InputError: no values, or one that is not finite.
    """
    if not len(values) or not all(math.isfinite(value) for value in values):
        raise InputError(f"values must be finite numbers, one for each seed; given {list(values)!r}.")
    if len(values) == 1:
        return None
    mean = statistics.fmean(values)
    half = quantile_of(len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))
    return mean - half, mean + half


def quantile_of(degrees: int) -> float:
    """Student's t that 95 % of the deviations stay within, of so many degrees of freedom."""
    from scipy.stats import t

    return float(t.ppf((1 + LEVEL) / 2, degrees))


def _wilson(rate: float, n: int, quantile: float) -> Interval:
    square = quantile**2 / n
    middle = (rate + square / 2) / (1 + square)
    half = math.sqrt(rate * (1 - rate) * square + square**2 / 4) / (1 + square)
    return max(middle - half, 0.0), min(middle + half, 1.0)


def _logistic(value: float) -> float:
    return 1 / (1 + math.exp(-value)) if value >= 0 else math.exp(value) / (1 + math.exp(value))


def _looked_at(pairs: Pairs, most_pairs: int, seed: int) -> np.ndarray:
    """Which pairs to look at, in the order of their distance."""
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

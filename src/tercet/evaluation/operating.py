"""What each pair contributes to AUC, EER and the rates at an operating point: their derivatives by the pair's weight.

With same pairs s of S and different ones n of D:

    AUC          (share of different farther than s - AUC) / S,  (share of same nearer than n - AUC) / D
    far, frr     (n accepted - far) / D,  (s rejected - frr) / S
    TAR at FAR   (s accepted - tar) / S - r (n accepted - far) / D
    EER          ((s rejected - frr) / S + r (n accepted - far) / D) / (1 + r)

r = dTAR / dFAR, the slope of the curve at that point, says how far the threshold moves. Ties count half.
"""

from __future__ import annotations

import numpy as np

from tercet.evaluation.contributions import Contributions
from tercet.evaluation.pairs import Pairs
from tercet.evaluation.verification import FARS, curve_metrics, tar_name, threshold_metrics

WINDOW = 0.3  # the slope is taken over so many standard deviations of FAR to either side, where the curve is straight


def pair_contributions(pairs: Pairs, threshold: float | None = None) -> dict[str, tuple[float, Contributions]]:
    """By the name of a figure, what it is on these pairs, and what each pair contributes, (P,).

    Args:
        pairs: sorted by distance, of both kinds.
        threshold: see `verification.threshold_metrics`.
    """
    values = _curve_values(pairs)
    if threshold is not None:
        values |= _threshold_values(pairs, threshold)
    return {
        name: (figure, Contributions(pairs.left_unit, pairs.right_unit, value))
        for name, (figure, value) in values.items()
    }


def _curve_values(pairs: Pairs) -> dict[str, tuple[float, np.ndarray]]:
    same, n_same = pairs.same, int(pairs.same.sum())
    n_different = len(same) - n_same
    share = np.where(same, 1 / n_same, 1 / n_different)  # of its kind, that a pair is
    ends = np.append(np.flatnonzero(np.diff(pairs.distance)), len(same) - 1)  # the last of each run of ties
    of_pair = np.repeat(np.arange(1, len(ends) + 1), np.diff(ends, prepend=-1))  # the operating point that accepts it
    tar = np.append(0.0, np.cumsum(same)[ends] / n_same)
    far = np.append(0.0, np.cumsum(~same)[ends] / n_different)
    metrics = curve_metrics(far, tar)
    nearer = (tar[of_pair] + tar[of_pair - 1]) / 2
    farther = 1 - (far[of_pair] + far[of_pair - 1]) / 2
    found = {"auc": (metrics["auc"], (np.where(same, farther, nearer) - metrics["auc"]) * share)}
    point = int(np.argmax(far + tar >= 1))
    slope, accepted = _slope(far, tar, point, n_same, n_different), of_pair <= point
    rejected_same, accepted_different = ~accepted - (1 - tar[point]), slope * (accepted - far[point])
    eer = np.where(same, rejected_same, accepted_different) * share / (1 + slope)
    found["eer"] = (metrics["eer"], eer)
    for rate in FARS:
        point = int(np.searchsorted(far, rate, side="right")) - 1
        slope, accepted = _slope(far, tar, point, n_same, n_different), of_pair <= point
        value = np.where(same, accepted - tar[point], -slope * (accepted - far[point])) * share
        found[tar_name(rate)] = (metrics[tar_name(rate)], value)
    return found


def _slope(far: np.ndarray, tar: np.ndarray, point: int, n_same: int, n_different: int) -> float:
    """DTAR / dFAR at an operating point, by the chord of a window on normal-deviate axes."""
    from scipy.stats import norm

    at_far, at_tar = _deviate(far[point], n_different), _deviate(tar[point], n_same)
    low, high = np.searchsorted(far, norm.cdf([at_far - WINDOW, at_far + WINDOW])).clip(0, len(far) - 1)
    run = _deviate(far[high], n_different) - _deviate(far[low], n_different)
    rise = _deviate(tar[high], n_same) - _deviate(tar[low], n_same)
    return float(rise / run * norm.pdf(at_tar) / norm.pdf(at_far)) if run > 0 else 0.0


def _deviate(rate: float, count: int) -> float:
    """The standard normal deviate of a rate of so many, half a pair away from 0 and 1."""
    from scipy.stats import norm

    return float(norm.ppf(np.clip(rate, 0.5 / count, 1 - 0.5 / count)))


def _threshold_values(pairs: Pairs, threshold: float) -> dict[str, tuple[float, np.ndarray]]:
    metrics = threshold_metrics(pairs, threshold)
    accepted = pairs.distance.astype(np.float64) <= threshold
    n_same = pairs.same.sum()
    frr = np.where(pairs.same, ~accepted - metrics["frr"], 0.0) / n_same
    far = np.where(pairs.same, 0.0, accepted - metrics["far"]) / (len(pairs.same) - n_same)
    values = {
        "accuracy": -pairs.share_same * frr - (1 - pairs.share_same) * far,
        "balanced_accuracy": -(far + frr) / 2,
        "far": far,
        "frr": frr,
    }
    return {name: (metrics[name], value) for name, value in values.items()}

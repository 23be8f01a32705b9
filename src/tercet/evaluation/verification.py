"""Verification: are two items the same? A pair is accepted as the same when its distance is <= a threshold.

FAR, the false accept rate, is the share of the different pairs that are accepted; TAR, the true accept rate,
the share of the same pairs that are accepted; FRR = 1 - TAR. The EER is their common value where FAR = FRR.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from tercet.errors import InputError, suggest
from tercet.evaluation.curve import Curve, Roc, f1
from tercet.evaluation.pairs import Pairs

FARS = (0.1, 0.01, 0.001, 0.0001, 0.00001, 0.000001)
AT_THRESHOLD = ("threshold", "accuracy", "balanced_accuracy", "far", "frr", "f1")
TARGETS = ("eer", "f1")


@dataclass(frozen=True, eq=False)
class Verification:
    """What a threshold can do on these pairs; None where the pairs cannot tell, with the reason in `missing`.

    Attributes:
        roc: all operating points, or None without pairs of both kinds.
        metrics: auc, eer, eer_threshold, tar_at_far_0.1, …, d_prime, and threshold, accuracy, balanced_accuracy,
            far, frr and f1 at the threshold that was given.
        missing: the reason for each metric that is None.
    """

    roc: Roc | None
    metrics: dict[str, float | None]
    missing: dict[str, str] = field(default_factory=dict)


def verification(pairs: Pairs, threshold: float | None = None) -> Verification:
    """ROC, AUC, EER, TAR at given FAR and d', and the figures at a threshold that was calibrated on other data.

    VAL(d) and FAR(d) of FaceNet (Schroff et al. 2015, equations 5 and 6) are TAR and FAR at the threshold d. The best
    accuracy that any threshold has on these pairs is not among the figures: a threshold chosen on the data that it is
    then judged by flatters. accuracy and f1 count pairs as there are, not as sampled: (TAR · same + (1 - FAR) ·
    different) / all, so with many classes accuracy mostly tells about the different ones; balanced_accuracy =
    (TAR + 1 - FAR) / 2. Time O(P log P), and where pairs were counted, one look at all of them for a threshold.

    Raises:
        InputError: a threshold that is not finite.
    """
    if threshold is not None and not math.isfinite(threshold):
        raise InputError(f"threshold must be a finite number; given {threshold}.")
    curve = pairs.curve
    if not curve.n_same or not curve.n_different:
        reason = f"needs pairs of both kinds; there are {curve.n_same} same and {curve.n_different} different"
        names = [*curve_metric_names(), "d_prime", *AT_THRESHOLD]
        return Verification(None, dict.fromkeys(names), dict.fromkeys(names, reason))
    metrics: dict[str, float | None] = {"auc": curve.auc(), "eer": curve.eer()}
    missing = {}
    for rate in FARS:
        name = tar_name(rate)
        known = resolves(curve.n_different, rate)
        metrics[name] = curve.rates(curve.point_of_far(rate))[1] if known else None
        if not known:
            missing[name] = _too_few(rate, curve.n_different)
    metrics["eer_threshold"] = curve.threshold_of(Curve.point_of_eer)
    metrics["d_prime"] = decidability(pairs)
    if metrics["d_prime"] is None:
        missing["d_prime"] = "all distances of a kind are equal"
    if threshold is None:
        missing |= dict.fromkeys(AT_THRESHOLD, "no threshold was given; calibrate one on other data")
        metrics |= dict.fromkeys(AT_THRESHOLD)
    else:
        metrics |= {"threshold": float(threshold)} | errors_at(pairs, threshold)
    return Verification(curve.roc(), metrics, missing)


def errors_at(pairs: Pairs, threshold: float) -> dict[str, float]:
    """accuracy, balanced_accuracy, far, frr and f1 of a threshold, over all pairs; see `verification`."""
    same, different = pairs.curve.accepted(threshold)
    far, tar = different / pairs.curve.n_different, same / pairs.curve.n_same
    found = _errors(far, 1 - tar, pairs.share_same)
    return found | {"f1": float(f1(np.array(far), np.array(tar), pairs.share_same))}


def decidability(pairs: Pairs) -> float | None:
    """Daugman's d' = |mean_different - mean_same| / sqrt((var_different + var_same) / 2).

    None where both variances are zero.
    """
    if pairs.counted is not None:
        (same, same_spread), (other, other_spread) = ((one.mean, one.variance) for one in pairs.counted.moments)
    else:
        of_kinds = (pairs.distance[kind].astype(np.float64) for kind in (pairs.same, ~pairs.same))
        (same, same_spread), (other, other_spread) = ((float(one.mean()), float(one.var())) for one in of_kinds)
    spread = math.sqrt((same_spread + other_spread) / 2)
    return abs(other - same) / spread if spread else None


def calibrate(pairs: Pairs, target: str | float = "eer") -> float:
    """The threshold for new data: a pair is the same when its distance is <= it.

    "eer" takes the operating point where FAR and FRR differ least, "f1" the one with the greatest F1 = 2 TP / (2 TP +
    FP + FN) over all pairs, as many of either kind as there are, and a number the one with the most true accepts whose
    FAR is at most that. The threshold lies midway between the last distance accepted and the first one not, so that
    rounding cannot move a pair across it.

    Raises:
        InputError: a target that is neither "eer" or "f1" nor between 0 and 1, pairs of one kind only, or fewer
            different pairs than a FAR so small can be told from.
    """
    curve = pairs.curve
    if not curve.n_same or not curve.n_different:
        raise InputError(
            f"a threshold is calibrated on pairs of both kinds; there are {curve.n_same} same and "
            f"{curve.n_different} different."
        )
    if target == "eer":
        return curve.threshold_of(Curve.point_of_eer)
    if target == "f1":
        return curve.threshold_of(lambda points: points.point_of_f1(pairs.share_same))
    if isinstance(target, bool) or not isinstance(target, int | float) or not 0 < target < 1:
        raise InputError(
            f"target must be 'eer', 'f1' or a false accept rate between 0 and 1; given {target!r}."
            f"{suggest(target, TARGETS) if isinstance(target, str) else ''}"
        )
    if not resolves(curve.n_different, target):
        raise InputError(f"a FAR of {target} {_too_few(target, curve.n_different)}.")
    return curve.threshold_of(lambda points: points.point_of_far(target))


def tar_name(rate: float) -> str:
    """The key of TAR at this FAR: "tar_at_far_0.00001"."""
    return f"tar_at_far_{np.format_float_positional(rate, trim='-')}"


def curve_metric_names() -> list[str]:
    """The metrics that are read off the curve, in order."""
    return ["auc", "eer", *map(tar_name, FARS), "eer_threshold"]


def curve_metrics(far: np.ndarray, tar: np.ndarray) -> dict[str, float]:
    """AUC (trapezoids: a tie counts half), EER and TAR at FAR of a curve from (0, 0) to (1, 1).

    The EER is where the polyline crosses FAR = 1 - TAR. TAR at FAR is that of the best operating point whose
    FAR is at most the one asked for; no point is made up between two.
    """
    excess = far + tar - 1  # FAR - FRR: from -1 up to 1
    after = int(np.argmax(excess >= 0))
    step = -excess[after - 1] / (excess[after] - excess[after - 1])
    eer = far[after - 1] + step * (far[after] - far[after - 1])
    auc = np.diff(far) @ (tar[1:] + tar[:-1]) / 2
    metrics = {"auc": float(auc), "eer": float(eer)}
    for rate in FARS:
        metrics[tar_name(rate)] = float(tar[np.searchsorted(far, rate, side="right") - 1])
    return metrics


def threshold_metrics(pairs: Pairs, threshold: float, weights: np.ndarray | None = None) -> dict[str, float]:
    """FAR, FRR and accuracies at a threshold, where each pair of a kind counts as often as its weight says.

    Accuracy keeps the kinds in the proportion in which they are there, whatever was sampled or resampled.
    """
    weights = np.ones(len(pairs.same)) if weights is None else weights
    accepted = pairs.distance.astype(np.float64) <= threshold
    same, different = weights * pairs.same, weights * ~pairs.same
    far = float((different * accepted).sum() / different.sum())
    frr = float((same * ~accepted).sum() / same.sum())
    return _errors(far, frr, pairs.share_same)


def resolves(n_different: int, rate: float) -> bool:
    """Whether so many different pairs can show a FAR so small: one of them must be at most that share."""
    return n_different * rate >= 1 - 1e-9


def _too_few(rate: float, n_different: int) -> str:
    return f"needs at least {math.ceil(1 / rate - 1e-9):,} different pairs; there are {n_different:,}"


def _errors(far: float, frr: float, share_same: float) -> dict[str, float]:
    return {
        "accuracy": 1 - share_same * frr - (1 - share_same) * far,
        "balanced_accuracy": 1 - (far + frr) / 2,
        "far": far,
        "frr": frr,
    }

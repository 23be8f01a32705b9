"""Verification: are two items the same? A pair is accepted as the same when its distance is <= a threshold.

FAR, the false accept rate, is the share of the different pairs that are accepted; TAR, the true accept rate,
the share of the same pairs that are accepted; FRR = 1 - TAR. The EER is their common value where FAR = FRR.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from tercet.errors import InputError
from tercet.evaluation.pairs import Pairs

FARS = (0.1, 0.01, 0.001)


@dataclass(frozen=True, eq=False)
class Roc:
    """Operating points from "accept none" (threshold -inf) to "accept all", each of shape (L,)."""

    threshold: np.ndarray
    far: np.ndarray
    tar: np.ndarray


@dataclass(frozen=True, eq=False)
class Verification:
    """What a threshold can do on these pairs; None where the pairs cannot tell, with the reason in `missing`.

    Attributes:
        roc: all operating points, or None without pairs of both kinds.
        metrics: auc, eer, eer_threshold, tar_at_far_0.1, …, and threshold, accuracy, balanced_accuracy, far
            and frr at the threshold that was given.
        missing: the reason for each metric that is None.
    """

    roc: Roc | None
    metrics: dict[str, float | None]
    missing: dict[str, str] = field(default_factory=dict)


def verification(pairs: Pairs, threshold: float | None = None) -> Verification:
    """ROC, AUC, EER and TAR at given FAR, and the figures at a threshold that was calibrated on other data.

    accuracy counts pairs as there are, not as sampled: (TAR · same + (1 - FAR) · different) / all, so with
    many classes it mostly tells about the different ones; balanced_accuracy = (TAR + 1 - FAR) / 2. Time O(P
    log P).

    Raises:
        InputError: a threshold that is not finite.
    """
    if threshold is not None and not math.isfinite(threshold):
        raise InputError(f"threshold must be a finite number; given {threshold}.")
    n_same = int(pairs.same.sum())
    n_different = len(pairs.same) - n_same
    if not n_same or not n_different:
        reason = f"needs pairs of both kinds; there are {n_same} same and {n_different} different"
        names = [*curve_metric_names(), "threshold", "accuracy", "balanced_accuracy", "far", "frr"]
        return Verification(None, dict.fromkeys(names), dict.fromkeys(names, reason))
    roc = _roc(pairs)
    metrics: dict[str, float | None] = dict(curve_metrics(roc.far, roc.tar))
    missing = {}
    for rate in FARS:
        if not resolves(n_different, rate):
            metrics[f"tar_at_far_{rate}"] = None
            missing[f"tar_at_far_{rate}"] = _too_few(rate, n_different)
    metrics["eer_threshold"] = _threshold_after(roc, _eer_point(roc))
    names = ["threshold", "accuracy", "balanced_accuracy", "far", "frr"]
    if threshold is None:
        missing |= dict.fromkeys(names, "no threshold was given; calibrate one on other data")
        metrics |= dict.fromkeys(names)
    else:
        metrics |= {"threshold": float(threshold)} | threshold_metrics(pairs, threshold)
    return Verification(roc, metrics, missing)


def calibrate(pairs: Pairs, target: str | float = "eer") -> float:
    """The threshold for new data: a pair is the same when its distance is <= it.

    "eer" takes the operating point where FAR and FRR differ least, a number the one with the most true
    accepts whose FAR is at most that. The threshold lies midway between the last distance accepted and the
    first one not, so that rounding cannot move a pair across it.

    Raises:
        InputError: a target that is neither "eer" nor between 0 and 1, pairs of one kind only, or fewer
            different pairs than a FAR so small can be told from.
    """
    n_different = int((~pairs.same).sum())
    if not pairs.same.any() or not n_different:
        raise InputError(
            f"a threshold is calibrated on pairs of both kinds; there are {int(pairs.same.sum())} same and "
            f"{n_different} different."
        )
    roc = _roc(pairs)
    if target == "eer":
        return _threshold_after(roc, _eer_point(roc))
    if isinstance(target, bool) or not isinstance(target, int | float) or not 0 < target < 1:
        raise InputError(f"target must be 'eer' or a false accept rate between 0 and 1; given {target!r}.")
    if not resolves(n_different, target):
        raise InputError(f"a FAR of {target} {_too_few(target, n_different)}.")
    return _threshold_after(roc, int(np.searchsorted(roc.far, target, side="right")) - 1)


def curve_metric_names() -> list[str]:
    """The metrics that are read off the curve, in order."""
    return ["auc", "eer", *(f"tar_at_far_{rate}" for rate in FARS), "eer_threshold"]


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
        metrics[f"tar_at_far_{rate}"] = float(tar[np.searchsorted(far, rate, side="right") - 1])
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
    return {
        "accuracy": 1 - pairs.share_same * frr - (1 - pairs.share_same) * far,
        "balanced_accuracy": 1 - (far + frr) / 2,
        "far": far,
        "frr": frr,
    }


def resolves(n_different: int, rate: float) -> bool:
    """Whether so many different pairs can show a FAR so small: one of them must be at most that share."""
    return n_different * rate >= 1 - 1e-9


def _too_few(rate: float, n_different: int) -> str:
    return f"needs at least {math.ceil(1 / rate - 1e-9):,} different pairs; there are {n_different:,}"


def _roc(pairs: Pairs) -> Roc:
    from sklearn.metrics import roc_curve

    far, tar, score = roc_curve(pairs.same, -pairs.distance.astype(np.float64), drop_intermediate=False)
    return Roc(threshold=-score, far=far, tar=tar)


def _eer_point(roc: Roc) -> int:
    """The operating point with the least |FAR - FRR|; of two, the one that accepts less."""
    return int(np.argmin(np.abs(roc.far + roc.tar - 1)))


def _threshold_after(roc: Roc, point: int) -> float:
    """Midway between the distance of this operating point and the next one's."""
    if point == len(roc.threshold) - 1:
        return float(roc.threshold[point])
    if point == 0:  # accepts none: below the least distance
        return float(np.nextafter(roc.threshold[1], -np.inf))
    here, following = roc.threshold[point], roc.threshold[point + 1]
    middle = (here + following) / 2
    return float(middle if middle < following else here)  # of two neighbouring floats it may round up

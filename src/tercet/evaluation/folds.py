"""Verification in folds, as on Labeled Faces in the Wild: each fold is judged by a threshold that the others chose."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tercet.errors import InputError
from tercet.evaluation.curve import Curve
from tercet.evaluation.pairs import Pairs
from tercet.evaluation.verification import resolves

FEWEST_FOLDS = 2
FAR_OF_FOLDS = 0.001
"""The FAR of FaceNet's VAL (Schroff et al. 2015, section 4)."""


def in_order(n_pairs: int, n_folds: int) -> np.ndarray:
    """The fold of each pair, (P,): runs of neighbouring rows, as equal in length as can be.

    Raises:
        InputError: fewer folds than two, or more than pairs.
    """
    if not FEWEST_FOLDS <= n_folds <= n_pairs:
        raise InputError(f"folds is {n_folds}, and there are {n_pairs:,} pairs; it must be from 2 to their number.")
    return np.arange(n_pairs) * n_folds // n_pairs


def by_folds(pairs: Pairs, folds: Any) -> tuple[dict[str, float | None], dict[str, str]]:
    """Accuracy, and VAL at FAR 0.001, by thresholds that the other folds chose (FaceNet, section 5.6).

    For each fold the threshold is the middle of the two distances between which the accuracy over the pairs of all
    other folds is greatest (the least such pair of distances of several); for VAL the one whose FAR on them is at most
    0.001 with the most true accepts. VAL, its TAR, and FAR are then counted on the fold. Mean and standard error over
    the F folds, s / sqrt(F), with s the standard deviation with F - 1. Time O(F P log P).

    Args:
        pairs: listed, all of them.
        folds: the fold of each pair, (P,): numbers or words.

    Returns:
        n_folds, accuracy_folds, accuracy_folds_error, threshold_folds, val_at_far_0.001_folds with _error, and
        far_at_far_0.001_folds, the FAR that came of it; and the reasons for those that are None.

    Raises:
        InputError: folds that are not one for each pair, fewer than two, or a fold with pairs of one kind only.
    """
    given = np.asarray(folds)
    if given.shape != pairs.same.shape:
        raise InputError(f"folds must be one for each of the {len(pairs.same):,} pairs; given shape {given.shape}.")
    words, codes = np.unique(given, return_inverse=True)
    if len(words) < FEWEST_FOLDS:
        raise InputError(f"there is one fold, {words[:1].tolist()}; a threshold is chosen on others, so it takes two.")
    of_each = [_of_fold(pairs, codes == code, str(words[code])) for code in range(len(words))]
    metrics: dict[str, float | None] = {"n_folds": len(words)}
    for place, name in enumerate(("accuracy_folds", "threshold_folds")):
        metrics |= _mean(name, [values[place] for values in of_each])
    val, far = f"val_at_far_{FAR_OF_FOLDS}_folds", f"far_at_far_{FAR_OF_FOLDS}_folds"
    fewest = min(int((~pairs.same & (codes != code)).sum()) for code in range(len(words)))
    if resolves(fewest, FAR_OF_FOLDS):
        metrics |= _mean(val, [values[2] for values in of_each]) | _mean(far, [values[3] for values in of_each])
        return metrics, {}
    names = [val, f"{val}_error", far, f"{far}_error"]
    reason = f"needs at least {1 / FAR_OF_FOLDS:,.0f} different pairs outside each fold; there are {fewest:,}"
    return metrics | dict.fromkeys(names), dict.fromkeys(names, reason)


def best_accuracy_threshold(distance: np.ndarray, same: np.ndarray) -> float:
    """The threshold with the most right decisions on these pairs; of several the least."""
    curve = Curve.of(distance, same)
    right = curve.same - curve.different  # and all different pairs, which is the same for every point
    return curve.threshold_of(lambda points: int(np.argmax(right)))


def _of_fold(pairs: Pairs, inside: np.ndarray, name: str) -> tuple[float, float, float, float]:
    """Accuracy in the fold, its threshold, and VAL and FAR in the fold at the threshold for FAR 0.001."""
    for where, rows in (("in", inside), ("outside", ~inside)):
        n_same = int(pairs.same[rows].sum())
        if n_same in (0, rows.sum()):
            raise InputError(
                f"{where} fold {name!r} there are {n_same} same and {int(rows.sum()) - n_same} different pairs; each "
                "fold needs both kinds."
            )
    others = pairs.distance[~inside], pairs.same[~inside]
    distance, same = pairs.distance[inside].astype(np.float64), pairs.same[inside]
    threshold = best_accuracy_threshold(*others)
    strict = Curve.of(*others).threshold_of(lambda points: points.point_of_far(FAR_OF_FOLDS))
    accepted = distance <= strict
    accuracy = float(((distance <= threshold) == same).mean())
    return accuracy, threshold, float(accepted[same].mean()), float(accepted[~same].mean())


def _mean(name: str, values: list[float]) -> dict[str, float | None]:
    error = float(np.std(values, ddof=1)) / math.sqrt(len(values))
    return {name: float(np.mean(values)), f"{name}_error": error}

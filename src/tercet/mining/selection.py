"""Which candidates are taken: first by what each is alone, then by how many there may be.

A candidate is an anchor with one of its positives and one of its negatives. Shapes: P positives and W negatives of each
of A anchors, in their order.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import numpy as np

from tercet.mining.options import MiningOptions

BLOCK = 1 << 16  # candidates that are Python numbers at a time


def are_allowed(d_ap: np.ndarray, d_an: np.ndarray, options: MiningOptions) -> np.ndarray:
    """Candidates that lie in the ranks and margins, bool (A, P, W).

    Args:
        d_ap: distances of the positives, (A, P); infinite where there is none.
        d_an: distances of the negatives, (A, W), by rank; infinite where there is none.
        options: the rules.
    """
    near, far = d_ap[:, :, None].astype(np.float64), d_an[:, None, :].astype(np.float64)
    ranks = np.arange(1, d_an.shape[1] + 1)
    allowed = np.isfinite(near) & np.isfinite(far) & (ranks >= options.rank_from) & (ranks <= options.rank_to)
    with np.errstate(invalid="ignore"):  # infinity - infinity, where there is no candidate
        gap = far - near
    if options.absolute_from is not None:
        allowed &= gap >= options.absolute_from
    if options.absolute_to is not None:
        allowed &= gap <= options.absolute_to
    if options.relative_from is not None:
        allowed &= far >= near * (1 + options.relative_from)
    if options.relative_to is not None:
        allowed &= far <= near * (1 + options.relative_to)
    return allowed


def take(
    allowed: np.ndarray, d_an: np.ndarray, negatives: np.ndarray, classes: np.ndarray, options: MiningOptions
) -> np.ndarray:
    """Which of the allowed candidates are taken, bool (A, P, W).

    They are offered by d_an, the smallest first, among equals by anchor, positive and rank; each is taken unless its
    anchor and positive have enough negatives, or enough of that class, or the negative serves often enough already.
    Time O(APW) and a sort.

    Args:
        allowed: of `are_allowed`.
        d_an: (A, W).
        negatives: the item that each negative is, int64 (A, W).
        classes: the class of each negative, int64 (A, W).
        options: the rules.
    """
    n_pairs, width = allowed.shape[0] * allowed.shape[1], allowed.shape[2]
    taken = np.zeros(n_pairs * width, dtype=bool)
    left = [options.negatives_per_anchor] * n_pairs
    of_class: Counter[tuple[int, int]] = Counter()
    of_item: Counter[int] = Counter()
    for place, pair, item, code in _offers(allowed, d_an, negatives, classes):
        if not left[pair] or of_class[pair, code] == options.per_class or of_item[item] == options.per_negative:
            continue
        left[pair] -= 1
        of_class[pair, code] += 1
        of_item[item] += 1
        taken[place] = True
    return taken.reshape(allowed.shape)


def _offers(
    allowed: np.ndarray, d_an: np.ndarray, negatives: np.ndarray, classes: np.ndarray
) -> Iterator[tuple[int, int, int, int]]:
    """Each candidate's place among all, its anchor and positive, its negative and that one's class, as numbers."""
    n_positives, width = allowed.shape[1:]
    places = np.flatnonzero(allowed)
    entries = places // (n_positives * width) * width + places % width  # of the (A, W) arrays
    order = np.argsort(d_an.reshape(-1)[entries], kind="stable")
    places, entries = places[order], entries[order]
    for start in range(0, len(places), BLOCK):
        place, entry = places[start : start + BLOCK], entries[start : start + BLOCK]
        yield from zip(
            place.tolist(), (place // width).tolist(), negatives.reshape(-1)[entry].tolist(),
            classes.reshape(-1)[entry].tolist(), strict=True,
        )  # fmt: skip

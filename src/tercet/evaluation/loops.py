"""The compiled loops of verification over all pairs: distances of runs of neighbouring rows, and their moments."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit

from tercet import compilation  # noqa: F401  listens from here on

Array = np.ndarray[Any, Any]

OPTIONS: dict[str, Any] = {"nogil": True, "error_model": "numpy", "fastmath": {"reassoc", "contract", "nsz"}}


def _compiled(function: Any) -> Any:
    try:
        return njit(cache=True, **OPTIONS)(function)
    except RuntimeError:  # neither the package's folder nor the user's cache can be written to
        return njit(cache=False, **OPTIONS)(function)


@_compiled
def squared(a: Array, b: Array) -> float:
    """|a - b|², in the type of the rows."""
    total = a.dtype.type(0)
    for k in range(a.shape[0]):
        gap = a[k] - b[k]
        total += gap * gap
    return total


@_compiled
def fill(
    rows: Array, extra: Array, top: int, first: Array, count: Array, root: bool, factor: float, out: Array
) -> None:
    """Put into `out` the distances of each row top + r to rows first[r], first[r] + 1, ..., count[r] of them.

    As `Prepared` says: the root of |a - b|², or factor times it; 1 where extra marks either row.
    """
    at = 0
    for r in range(first.shape[0]):
        own = rows[top + r]
        for i in range(first[r], first[r] + count[r]):
            value = squared(own, rows[i])
            if extra[top + r] + extra[i] > 0:
                out[at] = 1.0
            elif root:
                out[at] = math.sqrt(value)
            else:
                out[at] = factor * value
            at += 1


@_compiled
def moments(values: Array) -> tuple[float, float]:
    """Mean and sum of squared deviations from it, in float64; of one value or more."""
    total = 0.0
    for k in range(values.shape[0]):
        total += np.float64(values[k])
    mean = total / values.shape[0]
    squares = 0.0
    for k in range(values.shape[0]):
        gap = np.float64(values[k]) - mean
        squares += gap * gap
    return mean, squares

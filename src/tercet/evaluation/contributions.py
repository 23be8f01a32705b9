"""Contributions: what each class, or each pair of classes, added to a figure; and the variance that follows.

A figure T of classes drawn at random changes by about S_c when class c is left out, S_c being the sum of what c had a
part in. The jackknife's variance is then the sum of S_c² (Efron and Stein 1981; for means over pairs of units, Aronow,
Samii and Assenova 2015). What two classes do to each other is counted for both of them, so that the sum is too large
on the average, never too small. Shapes: E contributions, C units (classes, or rows of pairs and triplets).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np


@dataclass(frozen=True, eq=False)
class Contributions:
    """Parts of a figure, each owed to one unit or to two; they add up to about nothing.

    Attributes:
        left: a unit, (E,) int64; from 0 up where sums are taken.
        right: the other unit, or the same one, (E,).
        value: what the figure has of it beyond its mean, (E,) float64.
        source: the query that the part was measured on, (E,), or -1; of use where only some queries were drawn.
        drawn: the share of the queries that parts with a source stand for; their values are already divided by it.
    """

    left: np.ndarray
    right: np.ndarray
    value: np.ndarray
    source: np.ndarray | None = None
    drawn: float = 1.0

    @classmethod
    def joined(cls, parts: Sequence[Contributions], signs: Sequence[float]) -> Contributions:
        """The contributions to a weighted sum of figures of the same units, such as a difference."""
        sources = [np.full(len(one.left), -1) if one.source is None else one.source for one in parts]
        return cls(
            np.concatenate([one.left for one in parts]),
            np.concatenate([one.right for one in parts]),
            np.concatenate([sign * one.value for one, sign in zip(parts, signs, strict=True)]),
            np.concatenate(sources),
            min(one.drawn for one in parts),
        )

    def among(self, units: np.ndarray) -> Contributions:
        """The same with units numbered by their place among the sorted ones, (C,), which hold all there are."""
        left, right = np.searchsorted(units, self.left), np.searchsorted(units, self.right)
        return replace(self, left=left, right=right)

    def of_units(self, n_units: int) -> np.ndarray:
        """S_c of every unit, less their mean, (C,)."""
        other = np.where(self.left != self.right, self.value, 0.0)
        sums = np.bincount(self.left, self.value, n_units) + np.bincount(self.right, other, n_units)
        return sums - sums.mean()

    def variance(self, n_units: int, shared: float = 0.0) -> float:
        """C / (C - 1) · (sum of S_c² - shared · sum over two units of D_cd²), D_cd being what the two share.

        D_cd² is in both S_c² and S_d² and belongs there once: with shared = 1 this is unbiased where no figure takes
        more than two classes, too small where it does, as the nearest of many do.
        Parts measured on some of the queries alone vary by which were drawn; that much is taken off.
        """
        squares = float(np.square(self.of_units(n_units)).sum())
        noise = self._noise(n_units)
        squares -= noise
        if shared:
            squares -= shared * (self._shared(n_units) - noise)
        return max(squares, 0.0) * n_units / (n_units - 1)

    def _shared(self, n_units: int) -> float:
        two = self.left != self.right
        low, high = np.minimum(self.left, self.right)[two], np.maximum(self.left, self.right)[two]
        return float(np.square(_summed(low * n_units + high, self.value[two])).sum())

    def _noise(self, n_units: int) -> float:
        """(1 - drawn) · sum of value²: Horvitz and Thompson's estimate for queries drawn one by one.

        Of the parts owed to two alone: what a query keeps is owed to its class whichever queries were drawn.
        """
        if self.drawn >= 1 or self.source is None:
            return 0.0
        of_query = (self.source >= 0) & (self.left != self.right)
        keys = self.source[of_query] * n_units + self.right[of_query]
        return (1 - self.drawn) * float(np.square(_summed(keys, self.value[of_query])).sum())


def _summed(keys: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Sums of the values of equal keys."""
    return np.bincount(np.unique(keys, return_inverse=True)[1].reshape(-1), values) if len(keys) else values

"""Operating points: how many same and different pairs each threshold accepts, and what follows from these counts.

Shapes: L operating points. A pair is accepted when its distance is at most the threshold.
"""

from __future__ import annotations

import bisect
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from tercet.distances import blocks

POINTS_AT_ONCE = 1 << 20
POINTS_PER_AXIS = 1000

Between = Callable[[list[tuple[float, float]]], list[np.ndarray]]
"""For intervals (low, high], the distances within each that no operating point lists, sorted."""


@dataclass(frozen=True, eq=False)
class Roc:
    """Operating points from "accept none" (threshold -inf) to "accept all", each of shape (L,)."""

    threshold: np.ndarray
    far: np.ndarray
    tar: np.ndarray


@dataclass(frozen=True, eq=False)
class Curve:
    """Counts of accepted pairs, from none to all; each point accepts more pairs than the one before.

    Where pairs were counted without being listed, a step to the next point may hold distances of one kind that are not
    known one by one. Such a step is open. It is a straight line of the ROC along an axis, so that areas and crossings
    are exact without them; a threshold beside one asks `between` for its distances first.

    Attributes:
        threshold: ascending from -inf, (L,).
        same: same pairs accepted, whole numbers from 0 to all, (L,).
        different: different pairs accepted, (L,).
        open: whether the step that ends at this point is open, (L,) bool.
        between: lists the distances of open steps; None if there are none.
    """

    threshold: np.ndarray
    same: np.ndarray
    different: np.ndarray
    open: np.ndarray
    between: Between | None = None

    @classmethod
    def of(cls, distance: np.ndarray, same: np.ndarray) -> Curve:
        """The curve of listed pairs: a point for each distance that occurs. Time O(P log P).

        Args:
            distance: of shape (P,).
            same: of shape (P,), bool.
        """
        order = np.argsort(distance, kind="stable")
        ascending, alike = distance[order].astype(np.float64), same[order]
        last = np.flatnonzero(np.append(ascending[1:] != ascending[:-1], True)[: len(ascending)])
        accepted = np.cumsum(alike)[last]
        return cls(
            threshold=np.append(-np.inf, ascending[last]),
            same=np.append(0, accepted),
            different=np.append(0, last + 1 - accepted),
            open=np.zeros(len(last) + 1, dtype=bool),
        )

    @property
    def n_same(self) -> int:
        """All same pairs."""
        return int(self.same[-1])

    @property
    def n_different(self) -> int:
        """All different pairs."""
        return int(self.different[-1])

    @staticmethod
    def first(counts: np.ndarray, least: int) -> int:
        """The first point where so many pairs of a kind are accepted; behind the last where that is never so."""
        if least > int(counts[-1]):
            return len(counts)
        return int(np.searchsorted(counts, counts.dtype.type(least)))  # in its own type, or it would be copied

    def rates(self, point: int) -> tuple[float, float]:
        """FAR and TAR of a point."""
        return int(self.different[point]) / self.n_different, int(self.same[point]) / self.n_same

    def auc(self) -> float:
        """Area under the ROC by trapezoids, so that a tie of a same and a different pair counts half."""
        total = 0.0
        for part in blocks(len(self.same) - 1, POINTS_AT_ONCE):
            same, different = (
                counts[part.start : part.stop + 1].astype(np.float64) for counts in (self.same, self.different)
            )
            total += float(np.diff(different) @ (same[1:] + same[:-1]))
        return total / 2 / self.n_same / self.n_different

    def eer(self) -> float:
        """Where the polyline of the points crosses FAR = FRR."""
        after = self._crossing()
        (far, tar), (next_far, next_tar) = self.rates(after - 1), self.rates(after)
        excess, next_excess = far + tar - 1, next_far + next_tar - 1
        return far - excess / (next_excess - excess) * (next_far - far)

    def point_of_eer(self) -> int:
        """The point with the least |FAR - FRR|; of two, the one that accepts less."""
        after = self._crossing()
        return after - 1 if -self._excess(after - 1) <= self._excess(after) else after

    def point_of_far(self, rate: float) -> int:
        """The last point whose FAR is at most that."""
        allowed = int(rate * self.n_different * (1 + 1e-12))  # a FAR that is met exactly counts, however it rounds
        return self.first(self.different, allowed + 1) - 1

    def point_of_f1(self, share_same: float) -> int:
        """The first point with the greatest F1, where that share of all pairs is the same."""
        best, place = -1.0, 0
        for part in blocks(len(self.same), POINTS_AT_ONCE):
            found = f1(self.different[part] / self.n_different, self.same[part] / self.n_same, share_same)
            if found.max() > best:
                best, place = float(found.max()), part.start + int(found.argmax())
        return place

    def threshold_of(self, choose: Callable[[Curve], int]) -> float:
        """A threshold for the point that is chosen: midway to the next distance, so that rounding moves no pair."""
        curve, point = self._listed_beside(choose)
        if point == len(curve.threshold) - 1:
            return float(curve.threshold[point])
        if point == 0:  # accepts none: below the least distance
            return float(np.nextafter(np.float64(curve.threshold[1]), -np.inf))
        here, following = float(curve.threshold[point]), float(curve.threshold[point + 1])
        middle = (here + following) / 2
        return middle if middle < following else here  # of two neighbouring floats it may round up

    def accepted(self, threshold: float) -> tuple[int, int]:
        """How many same and how many different pairs a threshold accepts."""
        kept = _rounded_down(threshold, self.threshold.dtype)

        def at(curve: Curve) -> int:
            return int(np.searchsorted(curve.threshold, kept, side="right")) - 1

        curve, point = self._listed_beside(at)
        return int(curve.same[point]), int(curve.different[point])

    def roc(self) -> Roc:
        """Every point; where steps are open, some thousand of them, spread over FAR, log FAR and TAR."""
        points = np.arange(len(self.same)) if self.between is None else self._spread()
        far, tar = self.different[points] / self.n_different, self.same[points] / self.n_same
        return Roc(self.threshold[points].astype(np.float64), far, tar)

    def _spread(self) -> np.ndarray:
        steps, logarithmic = np.linspace(0, 1, POINTS_PER_AXIS), np.logspace(-9, 0, POINTS_PER_AXIS)
        wanted = [
            np.searchsorted(counts, (shares * int(counts[-1])).astype(counts.dtype))
            for counts, shares in ((self.different, steps), (self.different, logarithmic), (self.same, steps))
        ]
        return np.unique(np.concatenate([[0, len(self.same) - 1], *wanted]))

    def _excess(self, point: int) -> int:
        """FAR - FRR, times both counts: exact, and rising from point to point."""
        n_same, n_different = self.n_same, self.n_different
        return int(self.different[point]) * n_same + int(self.same[point]) * n_different - n_same * n_different

    def _crossing(self) -> int:
        """The first point with FAR >= FRR; never the first of all."""
        return bisect.bisect_left(range(len(self.same)), 0, key=self._excess)

    def _listed_beside(self, choose: Callable[[Curve], int]) -> tuple[Curve, int]:
        """The curve with the distances before and behind the chosen point listed, and that point there."""
        curve = self
        while True:
            point = choose(curve)
            steps = [step for step in (point, point + 1) if step < len(curve.open) and curve.open[step]]
            if not steps:
                return curve, point
            curve = curve._listed(steps)

    def _listed(self, steps: Sequence[int]) -> Curve:
        """The curve with a point for each distance of these open steps."""
        assert self.between is not None
        distances = self.between([(float(self.threshold[step - 1]), float(self.threshold[step])) for step in steps])
        curve = self
        for step, inside in sorted(zip(steps, distances, strict=True), key=lambda pair: -pair[0]):
            curve = curve._with_step(step, inside)
        return curve

    def _with_step(self, step: int, inside: np.ndarray) -> Curve:
        of_same = bool(self.same[step] != self.same[step - 1])
        values, counts = np.unique(inside, return_counts=True)
        added = np.cumsum(counts)
        same, different = (
            int(array[step - 1]) + added * moves
            for array, moves in ((self.same, of_same), (self.different, not of_same))
        )
        assert (same[-1], different[-1]) == (self.same[step], self.different[step])

        def spliced(array: np.ndarray, new: np.ndarray) -> np.ndarray:
            return np.concatenate([array[:step], new.astype(array.dtype), array[step + 1 :]])

        return Curve(
            spliced(self.threshold, values), spliced(self.same, same), spliced(self.different, different),
            spliced(self.open, np.zeros(len(values), dtype=bool)), self.between,
        )  # fmt: skip


def f1(far: np.ndarray, tar: np.ndarray, share_same: float) -> np.ndarray:
    """2 TP / (2 TP + FP + FN) of rates, where that share of all pairs is the same."""
    hits = share_same * tar
    return 2 * hits / (hits + (1 - share_same) * far + share_same)


def _rounded_down(value: float, dtype: np.dtype) -> np.floating:
    """The largest number of this type that is at most the value: it accepts the same distances of this type."""
    rounded = dtype.type(value)
    return np.nextafter(rounded, dtype.type(-np.inf)) if float(rounded) > value else rounded

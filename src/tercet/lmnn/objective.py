"""The objective of LMNN and its gradient, exactly, without a list of triplets.

    (1 - mu) sum_{i, j} d(i, j) + mu sum_{i, j} sum_{l: y_l != y_i} penalty(1 + d(i, j) - d(i, l))

with d(i, j) = |L (x_i - x_j)|², j over the k target neighbours of i, and penalty(u) = max(0, u) or its square
(Weinberger, Blitzer and Saul 2005, eq. 2 and 3; Weinberger and Saul 2009, eq. 11 to 13).

Shapes: N rows, D features, d dimensions of the learned space, k target neighbours.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tercet.lmnn.impostors import Impostors
from tercet.lmnn.loops import Array, pull, push, target_distances
from tercet.lmnn.workers import Workers

PENALTIES = ("hinge", "squared-hinge")
KEPT_BYTES_PER_CANDIDATE = 4
LEAST_KEPT_BYTES = 64 << 20  # of small data everything may be kept


@dataclass(frozen=True)
class Value:
    """The objective at one map.

    Attributes:
        total: the objective.
        gradient: by the map, of shape (d, D).
        pull: the sum of the targets' distances, before it is weighted.
        push: the sum of the triplets' penalties, before it is weighted.
        n_active: triplets whose penalty is above zero.
    """

    total: float
    gradient: Array
    pull: float
    push: float
    n_active: int


class Objective:
    """The objective as a function of the map, for rows, classes and target neighbours that stay.

    A call costs O(N D d + P d) for P candidate pairs, and O(N² d) more where they have to be searched for; memory is
    O(N D + tile). A triplet's impostor lies within the distance of the farthest target as it is now, plus 1. For a
    pair's weight w (how many thresholds of both its rows it is below) the gradient by the rows of Z = X L' is
    2 (diag(w 1) - w) Z, summed by differences, and the one by L is its transpose times X: O(N D d), never an outer
    product for each triplet.
    """

    def __init__(
        self,
        X: Array,
        classes: Array,
        targets: Array,
        *,
        mu: float = 0.5,
        penalty: str = "hinge",
        workers: Workers | None = None,
        triplet_weights: Array | None = None,
        keep: bool = True,
    ) -> None:
        """Take centred rows in the order of their classes.

        Args:
            X: of shape (N, D), float64; large offsets cost digits.
            classes: of shape (A,), ascending, of the first A rows, which are anchors and impostors; rows behind them
                serve as targets alone.
            targets: of shape (A, k), rows of X.
            mu: weight of the push, from 0 to 1.
            penalty: hinge or squared-hinge.
            workers: threads.
            triplet_weights: of shape (A,), of each anchor's triplets; None for 1.
            keep: candidates from one call to the next.
        """
        self.X, self.targets = X, targets
        self.mu, self.is_squared = mu, penalty == "squared-hinge"
        self.workers = workers or Workers(None)
        self.triplet_weights = np.ones(len(classes)) if triplet_weights is None else triplet_weights
        kept = max(X.nbytes, LEAST_KEPT_BYTES) // KEPT_BYTES_PER_CANDIDATE // max(len(classes), 1) if keep else 0
        self.impostors = Impostors(classes, kept, self.workers)
        self.blocks = self.impostors.blocks

    def __call__(self, components: Array) -> Value:
        """Value and gradient at a map of shape (d, D)."""
        rows = self._mapped(components)
        distances = self._target_distances(rows)
        levels = distances + 1.0
        self.impostors.move(rows[: len(levels)], np.sqrt(levels.max(axis=1)))
        gradient = np.zeros_like(rows)
        pulls, losses, n_active = self._push(rows, levels, gradient)
        gradient *= self.mu
        pull(rows, self.targets, (1 - self.mu) + self.mu * pulls, gradient)
        pulled, pushed = float(distances.sum()), float(losses.sum())
        total = (1 - self.mu) * pulled + self.mu * pushed
        return Value(total, 2.0 * self._by_map(gradient), pulled, pushed, n_active)

    def _mapped(self, components: Array) -> Array:
        rows = np.empty((len(self.X), len(components)))

        def fill(part: slice) -> None:
            np.matmul(self.X[part], components.T, out=rows[part])

        self.workers.each(fill, _parts(len(rows)))
        return rows

    def _target_distances(self, rows: Array) -> Array:
        found = np.empty(self.targets.shape)

        def fill(block: slice) -> None:
            target_distances(rows, self.targets, block.start, found[block])

        self.workers.each(fill, self.blocks)
        return found

    def _push(self, rows: Array, levels: Array, gradient: Array) -> tuple[Array, Array, int]:
        """The triplets' derivatives by the targets' distances (A, k), their penalties by anchor (A,), and how many."""
        radius = levels.max(axis=1)
        pulls, losses = np.zeros_like(levels), np.zeros(len(levels))

        def add(block: slice) -> int:
            near = self.impostors.of_block(block)
            return int(push(
                rows, levels, radius, self.triplet_weights, self.is_squared, block.start, near.starts, near.rows,
                gradient[block], pulls[block], losses[block],
            ))  # fmt: skip

        return pulls, losses, sum(self.workers.each(add, self.blocks))

    def _by_map(self, gradient: Array) -> Array:
        """The transposed gradient times X, of shape (d, D), added in one order whatever the number of threads."""
        return np.sum(self.workers.each(lambda part: gradient[part].T @ self.X[part], _parts(len(gradient))), axis=0)


def _parts(n_rows: int, size: int = 4096) -> list[slice]:
    return [slice(i, min(i + size, n_rows)) for i in range(0, n_rows, size)]

"""Energy-based classification: the class in which a row would add least to the objective.

    E(x, c) = (1 - mu) sum_j d(x, j) + mu sum_j sum_{l: y_l != c} penalty(1 + d(x, j) - d(x, l))
              + mu sum_{i: y_i != c} sum_{j of i} penalty(1 + d(i, j) - d(i, x))

with j over the k training rows of class c nearest to x, and j of i over the target neighbours of i: x's own pull, its
impostors, and the impostor that it would be to others (Weinberger and Saul 2009, section 3.5, eq. 15).

Shapes: Q rows to classify, N training rows, C classes, d dimensions, k target neighbours.
"""

from __future__ import annotations

import numpy as np

from tercet.lmnn.loops import Array, class_energies, target_distances
from tercet.lmnn.workers import Workers

TILE_NUMBERS = 1 << 20  # of a tile of distances, 8 MB


def energies(
    queries: Array, rows: Array, classes: Array, targets: Array, mu: float, penalty: str, workers: Workers
) -> Array:
    """E of shape (Q, C), for queries (Q, d) and training rows (N, d) in the learned space.

    Time O(Q N (d + C k)) at worst, O(Q N d) where few rows lie within a target's distance and 1; memory O(Q C + tile).

    Args:
        queries: of shape (Q, d), float64.
        rows: of shape (N, d), float64.
        classes: of shape (N,), numbers from 0 to C - 1, each with at least k rows.
        targets: of shape (N, k), the target neighbours of the training rows.
        mu: weight of the push.
        penalty: hinge or squared-hinge.
        workers: threads.
    """
    centre = rows.mean(axis=0)
    rows, queries = np.ascontiguousarray(rows - centre), queries - centre
    levels = np.empty(targets.shape)
    target_distances(rows, targets, 0, levels)
    levels += 1.0
    norms, radius = np.einsum("nd,nd->n", rows, rows), levels.max(axis=1)
    found = np.zeros((len(queries), int(classes.max()) + 1))

    def fill(part: slice) -> None:
        own = np.einsum("nd,nd->n", queries[part], queries[part])
        distances = np.maximum(own[:, None] + norms - 2.0 * (queries[part] @ rows.T), 0.0)
        nearest = np.empty((found.shape[1], targets.shape[1]))
        class_energies(distances, classes, levels, radius, mu, penalty == "squared-hinge", nearest, found[part])

    size = max(TILE_NUMBERS // len(rows), 1)
    workers.each(fill, [slice(i, min(i + size, len(queries))) for i in range(0, len(queries), size)])
    return found

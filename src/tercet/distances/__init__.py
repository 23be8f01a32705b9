"""Distances: a table of small objects, each with its tile, its gradient and its textbook definition.

A distance compares rows. It offers two views of the same numbers:

    pairs(x, y)[n]   = d(x[n], y[n])      direct differences, exact near zero, differentiable by autograd
    tile(x, y)[a, m] = d(x[a], y[m])      fast; off from `pairs` by no more than `rounding(x, y)[a]`

Whoever has to decide something between two distances (which is smaller?) takes the tile's numbers where they
are further apart than the rounding, and asks `listed` (the pairs of a list of indices) where they are not.

    base.py          Distance: what is to be given for a new one, and what follows
    euclidean.py     through matrix products     euclidean           |x - y|
                                                 squared-euclidean   |x - y|²
                                                 cosine              1 - cos(x, y)
    mahalanobis.py   Euclidean after a map       (an object)         |L x - L y|, L given or learned
    elementwise.py   coordinate by coordinate    manhattan           sum |x - y|
                                                 minkowski           (sum |x - y|^p)^(1/p)
                                                 chebyshev           max |x - y|
                                                 jaccard             1 - sum min(x, y) / sum max(x, y), on x, y >= 0
                                                 (a function)        whatever a user's function of rows says
    prepared.py      Prepared: rows made ready once for all tiles, where distances follow from matrix products

Shapes: x (A, D) or (N, D), y (M, D) or (N, D), tiles and weights (A, M), pairs and their weights (N,).
Smaller is nearer. The gradient at coincident points is zero, by choice.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from tercet.distances.base import Distance, blocks
from tercet.distances.elementwise import Chebyshev, Jaccard, Manhattan, Minkowski, RowDistance
from tercet.distances.euclidean import Cosine, Euclidean, SquaredEuclidean
from tercet.distances.mahalanobis import Mahalanobis
from tercet.distances.prepared import Prepared
from tercet.errors import InputError, suggest

__all__ = [
    "DISTANCES",
    "resolve",
    "Distance",
    "Euclidean",
    "SquaredEuclidean",
    "Cosine",
    "Manhattan",
    "Minkowski",
    "Chebyshev",
    "Jaccard",
    "Mahalanobis",
    "RowDistance",
    "Prepared",
    "blocks",
]

# A distance entered here can be given by name, and inherits the contract tests.
DISTANCES: dict[str, Callable[[], Distance]] = {
    "euclidean": Euclidean,
    "squared-euclidean": SquaredEuclidean,
    "cosine": Cosine,
    "manhattan": Manhattan,
    "minkowski": Minkowski,
    "chebyshev": Chebyshev,
    "jaccard": Jaccard,
}


def resolve(distance: str | Distance | Callable[[Tensor, Tensor], Tensor]) -> Distance:
    """The distance that is meant by a name of the table, an object, or a function of rows.

    Raises:
        InputError: the name is not in the table, or the object cannot be called on rows.
    """
    if isinstance(distance, Distance):
        return distance
    if isinstance(distance, str):
        with_p = re.fullmatch(r"minkowski\(p=([0-9.eE+-]+)\)", distance)
        if with_p:
            return Minkowski(float(with_p[1]))
        if distance in DISTANCES:
            return DISTANCES[distance]()
        if distance == Mahalanobis.name:
            raise InputError(
                "the distance 'mahalanobis' needs a map, which its name alone does not give; give an object: "
                "Mahalanobis(matrix=M), Mahalanobis(components=L), or Mahalanobis(learned=True, dim=D)."
            )
    elif callable(distance) and not isinstance(distance, type):
        return RowDistance(_without_parameters(distance))
    listed = ", ".join(repr(word) for word in DISTANCES)
    hint = suggest(distance, (*DISTANCES, Mahalanobis.name)) if isinstance(distance, str) else ""
    raise InputError(
        f"distance is {distance!r}; allowed are {listed}, a distance object such as Minkowski(p=3), "
        f"or a function of rows, (N, D), (N, D) -> (N,).{hint}"
    )


def _without_parameters(function: Any) -> Any:
    if isinstance(function, torch.nn.Module) and any(p.requires_grad for p in function.parameters()):
        raise InputError(
            f"the distance {type(function).__name__} has parameters to train, and a loss forms no gradient "
            f"for them; apply them before the loss, or freeze them with requires_grad_(False)."
        )
    return function

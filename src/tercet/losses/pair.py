"""Contrastive loss on given pairs, each marked similar or not."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from tercet import distances
from tercet.distances import Distance
from tercet.errors import InputError
from tercet.losses.inputs import check_alike, check_rows, working_dtype


def contrastive_pair_loss(
    left: Tensor,
    right: Tensor,
    similar: Tensor,
    positive_margin: float = 0.0,
    negative_margin: float = 0.5,
    distance: str | Distance | Callable[[Tensor, Tensor], Tensor] = "euclidean",
) -> Tensor:
    """Mean over N pairs, at distance d, of similar · max(0, d - m₊)² + (1 - similar) · max(0, m₋ - d)².

    With m₊ = 0 it is twice the mean of Hadsell et al. (2006), eq. 4, who halve both terms (and write Y = 0
    for similar pairs); the factor only scales the learning rate. At coincident points the gradient of the
    distance is zero, so a dissimilar pair at distance 0 is not driven apart. The mean over no pairs is 0.

    Args:
        left: of shape (N, D).
        right: of shape (N, D).
        similar: of shape (N,): booleans, or integers 0 and 1.
        positive_margin: m₊, the distance within which similar pairs cost nothing; finite and at least 0.
        negative_margin: m₋, the distance beyond which other pairs cost nothing; finite and at least 0.
        distance: as in `TripletLoss`.

    Returns:
        0-d, of the inputs' dtype (float32 for half precision); NaN if an embedding is not finite.

    Raises:
        InputError: shapes, dtypes or margins are not allowed, or `similar` holds something else than 0 and 1.
    """
    check_alike("right", check_rows("right", right), "left", check_rows("left", left), rows=True)
    for name, margin in (("positive_margin", positive_margin), ("negative_margin", negative_margin)):
        if not math.isfinite(margin) or margin < 0:
            raise InputError(f"{name} is {margin!r}; allowed is a finite number of at least 0.")
    is_similar = _marks(similar, len(left)).to(left.device)
    between = distances.resolve(distance)
    dtype = working_dtype(left, right)
    with torch.autocast(left.device.type, enabled=False):
        d = between.pairs(left.to(dtype), right.to(dtype))
        costs = torch.where(is_similar, torch.relu(d - positive_margin), torch.relu(negative_margin - d)).square()
        costs = torch.where(d.isfinite(), costs, torch.nan)  # infinitely far would otherwise cost nothing
        return costs.sum() / max(1, len(costs))


def _marks(similar: object, length: int) -> Tensor:
    marks = torch.as_tensor(similar)
    if marks.shape != (length,):
        raise InputError(f"similar has shape {tuple(marks.shape)}; allowed is ({length},), one mark for each pair.")
    if marks.is_floating_point() or marks.is_complex():
        raise InputError(f"similar has dtype {marks.dtype}; allowed are booleans, or integers 0 and 1.")
    other = marks[(marks != 0) & (marks != 1)]
    if len(other):
        raise InputError(f"similar holds {int(other[0])}; allowed are booleans, or integers 0 and 1.")
    return marks.bool()

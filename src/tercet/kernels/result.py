"""What a reduction over triplets gives back: the value, its gradient, and figures of the batch."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from tercet.kernels.rule import Plan


@dataclass(frozen=True)
class TripletStats:
    """Figures of one batch, as detached 0-d tensors on its device; `to_dict` reads them, synchronising once.

    Attributes:
        n_valid: triplets of an anchor, another item of its class, and an item of another class.
        n_mined: those that the mining chose.
        n_active: those mined with d_ap + margin > d_an, strictly, whatever the penalty.
        mean_positive: mean of d over all valid anchor-positive pairs; 0 if there are none.
        mean_negative: mean of d over all valid anchor-negative pairs; 0 if there are none.
        anchors_without_positive: anchors that no other item shares a class with.
        anchors_without_negative: anchors that every other item shares a class with.
    """

    n_valid: Tensor
    n_mined: Tensor
    n_active: Tensor
    mean_positive: Tensor
    mean_negative: Tensor
    anchors_without_positive: Tensor
    anchors_without_negative: Tensor

    @property
    def active_share(self) -> Tensor:
        """n_active / n_mined; 0 if none was mined."""
        return self.n_active / self.n_mined.clamp(min=1)

    def to_dict(self) -> dict[str, int | float]:
        """All figures as plain numbers, `active_share` included."""
        names = [field.name for field in fields(self)] + ["active_share"]
        tensors = [getattr(self, name) for name in names]
        numbers = torch.stack([tensor.double() for tensor in tensors]).tolist()
        return {
            name: number if tensor.is_floating_point() else int(number)
            for name, tensor, number in zip(names, tensors, numbers, strict=True)
        }


@dataclass(frozen=True)
class Totals:
    """What an implementation returns: the sum over the mined triplets and its gradient, before division.

    Attributes:
        value: 0-d, float64.
        n_terms: how many costs the value is the sum of: mined triplets, or, for logsumexp with `all`,
            anchor-positive pairs that have a negative.
        gradient_anchors: of shape (A, D); None if it was not asked for.
        gradient_references: of shape (M, D), the same object where the anchors are the references; or None.
        stats: figures of the batch.
    """

    value: Tensor
    n_terms: Tensor
    gradient_anchors: Tensor | None
    gradient_references: Tensor | None
    stats: TripletStats


@dataclass(frozen=True)
class Result:
    """The value of a rule on a batch, with its gradient.

    Attributes:
        value: 0-d, of the embeddings' dtype.
        gradient_anchors: of shape (A, D); None if it was not asked for.
        gradient_references: of shape (M, D); None if not asked for, or if the anchors are the references.
        stats: figures of the batch.
        plan: how it was computed.
    """

    value: Tensor
    gradient_anchors: Tensor | None
    gradient_references: Tensor | None
    stats: TripletStats
    plan: Plan

"""What a reduction over triplets gives back: the value, its gradient, and figures of the batch."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from tercet.kernels.rule import Plan

BINS = 64  # of a histogram of distances


@dataclass(frozen=True)
class TripletStats:
    """Figures of one batch, as detached 0-d tensors on its device; `to_dict` reads them, synchronising once.

    Attributes:
        n_valid: triplets of an anchor, one of its positives and one of its negatives.
        n_mined: those that the mining chose. Of contrastive, which has no triplets: the pairs compared; of
            supcon: the anchors with a positive.
        n_active: those mined with d_ap + margin > d_an, strictly, whatever the penalty. Of contrastive: the
            pairs that cost something; of supcon: all that were mined.
        mean_positive: mean of d over all valid anchor-positive pairs; 0 if there are none.
        mean_negative: mean of d over all valid anchor-negative pairs; 0 if there are none.
        anchors_without_positive: anchors that have no positive, such as the only item of a class.
        anchors_without_negative: anchors that have no negative.
        n_hard: of the valid triplets, those with d_an <= d_ap. This and all below only where full figures
            were asked for, else None.
        n_semihard: those with d_ap < d_an < d_ap + margin.
        n_easy: those with d_an > d_ap and d_an >= d_ap + margin: all the others.
        histogram_positive: of shape (64,), int64: how many valid anchor-positive pairs lie in each of 64
            equal bins of d. The lower edge belongs to a bin, and the last bin has its upper edge too.
        histogram_negative: the same of the valid anchor-negative pairs.
        histogram_edges: of shape (65,), float64: the bins' edges, from 0 to the distance's largest value or,
            where it has none, to the largest one seen.
    """

    n_valid: Tensor
    n_mined: Tensor
    n_active: Tensor
    mean_positive: Tensor
    mean_negative: Tensor
    anchors_without_positive: Tensor
    anchors_without_negative: Tensor
    n_hard: Tensor | None = None
    n_semihard: Tensor | None = None
    n_easy: Tensor | None = None
    histogram_positive: Tensor | None = None
    histogram_negative: Tensor | None = None
    histogram_edges: Tensor | None = None

    @property
    def active_share(self) -> Tensor:
        """n_active / n_mined; 0 if none was mined."""
        return self.n_active / self.n_mined.clamp(min=1)

    def to_dict(self) -> dict[str, int | float]:
        """All 0-d figures as plain numbers, `active_share` included; histograms stay tensors."""
        named = {field.name: getattr(self, field.name) for field in fields(self)}
        named["active_share"] = self.active_share
        named = {name: tensor for name, tensor in named.items() if tensor is not None and tensor.ndim == 0}
        numbers = torch.stack([tensor.double() for tensor in named.values()]).tolist()
        return {
            name: number if tensor.is_floating_point() else int(number)
            for (name, tensor), number in zip(named.items(), numbers, strict=True)
        }


def stats_of(
    n_positives: Tensor,
    n_negatives: Tensor,
    *,
    n_mined: Tensor,
    n_active: Tensor,
    positive: Tensor,
    negative: Tensor,
    dtype: torch.dtype,
) -> TripletStats:
    """The figures of a batch.

    Args:
        n_positives: of each anchor, of shape (A,).
        n_negatives: the same of its negatives.
        n_mined: see `TripletStats`.
        n_active: see `TripletStats`.
        positive: sum of the distances of all positive pairs, 0-d.
        negative: the same of all negative pairs.
        dtype: of the means.
    """
    return TripletStats(
        n_valid=(n_positives * n_negatives).sum(),
        n_mined=n_mined,
        n_active=n_active,
        mean_positive=(positive / n_positives.sum().clamp(min=1)).to(dtype),
        mean_negative=(negative / n_negatives.sum().clamp(min=1)).to(dtype),
        anchors_without_positive=(n_positives == 0).sum(),
        anchors_without_negative=(n_negatives == 0).sum(),
    )


@dataclass(frozen=True)
class Census:
    """What only a pass of its own can count: the last fields of `TripletStats`, described there."""

    n_hard: Tensor
    n_semihard: Tensor
    n_easy: Tensor
    histogram_positive: Tensor
    histogram_negative: Tensor
    histogram_edges: Tensor


@dataclass(frozen=True)
class Part:
    """Sums over terms that are divided by one number, and their gradient, before that division.

    The gradients are those of sum over a of w_a values[a], with w the anchors' weights; the other tensors
    know nothing of weights.

    Attributes:
        values: of shape (A,), float64: the sum of each anchor's terms.
        n_terms: of shape (A,), int64: how many terms that is, see `Rule`.
        n_active: of shape (A,), int64: how many of them are above zero.
        gradient_anchors: of shape (A, D); None if it was not asked for.
        gradient_references: of shape (M, D), the same object where the anchors are the references; or None.
        gradient_margins: of shape (A,), float64, by each anchor's margin; None without margins or gradient.
        gradient_temperature: 0-d, float64; None if the penalty has no temperature, or without gradient.
    """

    values: Tensor
    n_terms: Tensor
    n_active: Tensor
    gradient_anchors: Tensor | None
    gradient_references: Tensor | None
    gradient_margins: Tensor | None
    gradient_temperature: Tensor | None


@dataclass(frozen=True)
class Totals:
    """What an implementation returns: sums over the mined triplets, before division.

    Attributes:
        parts: one part; for a rule that divides pairs apart, that of the positives and that of the negatives.
        stats: figures of the batch.
    """

    parts: tuple[Part, ...]
    stats: TripletStats


@dataclass(frozen=True)
class Result:
    """The value of a rule on a batch, with its gradient.

    Attributes:
        value: 0-d, of the embeddings' dtype.
        gradient_anchors: of shape (A, D); None if it was not asked for.
        gradient_references: of shape (M, D); None if not asked for, or if the anchors are the references.
        gradient_margins: of shape (A,): the derivative by each anchor's margin; None without margins.
        gradient_temperature: 0-d: the derivative by the rule's temperature; None if the penalty has none.
        per_anchor: of shape (A,): the mean of each anchor's own terms, or their sum with `sum`, unweighted;
            0 for an anchor that has none.
        stats: figures of the batch.
        plan: how it was computed.
    """

    value: Tensor
    gradient_anchors: Tensor | None
    gradient_references: Tensor | None
    gradient_margins: Tensor | None
    gradient_temperature: Tensor | None
    per_anchor: Tensor
    stats: TripletStats
    plan: Plan

"""Contrastive loss: over all pairs of a batch, or over given pairs marked similar or not."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor

from tercet import distances
from tercet.errors import InputError, TercetWarning
from tercet.kernels import PAIR_PENALTIES, Rule
from tercet.losses.base import BatchLoss, DistanceLike, check_execution, distance_setting
from tercet.losses.inputs import attempt, check_alike, check_flag, check_number, check_rows, faults_of, working_dtype


class ContrastiveLoss(BatchLoss):
    """Contrastive loss over all pairs of a batch.

    It is the mean, over ordered pairs (a, b) of different items, of

        max(0, d(a, b) - m₊)²     if b is a positive of a, as where they share a label
        max(0, m₋ - d(a, b))²     if it is a negative

    With m₊ = 0 it is twice the mean of Hadsell et al. (2006), eq. 4, who halve both terms (and write Y = 0 for similar
    pairs); the factor only scales the learning rate. At coincident points the gradient of the distance is zero, so a
    dissimilar pair at distance 0 is not driven apart.

    A batch of P classes × K samples has (P - 1)K / (K - 1) negatives for each positive, so the mean over all pairs says
    little of the positives. With reduction `mean-active` both kinds count alike: it is the mean over the positive pairs
    that cost something, plus the mean over the negative pairs that do, as PyTorch Metric Learning reduces. (There the
    costs are not squared, and distances are of unit rows: normalize=True.)

    Time: three products of (B, D) by (D, B), forward and backward together. Memory: O(B·D + tile). The gradient is
    formed in the forward pass, so the loss over a batch cannot be differentiated twice; `pairs` can.

    Relations: `TripletLoss` compares a positive with a negative of the same anchor, and so asks for an order; this loss
    asks for distances, the same for all classes.

    Args:
        positive_margin: m₊, the distance within which positive pairs cost nothing; finite and at least 0.
        negative_margin: m₋, the distance beyond which negative pairs cost nothing; finite and at least 0.
        distance: as in `TripletLoss`.
        reduction: "mean", "mean-active" or "sum". A mean over nothing is 0.
        implementation: as in `TripletLoss`.
        normalize: whether rows are brought to unit length first (a zero row stays zero).
        statistics: as in `TripletLoss`, with m₋ as the margin.
        across_ranks: as in `TripletLoss`; `pairs` is of the pairs that it is given, on whatever rank.

    Attributes:
        stats: `TripletStats` of the last call over a batch, which count pairs for triplets; None before.
        plan: how that call was computed; None before.

    Raises:
        InputError: any setting is not allowed; all faults are named together.

    Example:
        >>> import torch
        >>> loss = ContrastiveLoss(negative_margin=2.0)
        >>> loss(torch.tensor([[0.0], [1.0], [1.5]]), ["a", "a", "b"])  # 1, 0.5² and 1.5², each in both orders
        tensor(1.1667)
        >>> loss.pairs(torch.tensor([[0.0], [1.0]]), torch.tensor([[1.0], [1.5]]), [True, False])
        tensor(1.6250)
    """

    def __init__(
        self,
        positive_margin: float = 0.0,
        negative_margin: float = 0.5,
        distance: DistanceLike = "euclidean",
        reduction: str = "mean",
        implementation: str = "auto",
        *,
        normalize: bool = False,
        statistics: str = "free",
        across_ranks: bool | str = False,
    ) -> None:
        faults: list[str] = []
        resolved = attempt(lambda: distances.resolve(distance), distances.Euclidean(), faults)
        faults += faults_of(
            lambda: check_number("positive_margin", positive_margin),
            lambda: check_number("negative_margin", negative_margin),
        )
        faults += Rule(resolved, penalty="contrastive", reduction=reduction).faults(PAIR_PENALTIES)
        faults += faults_of(
            lambda: check_flag("normalize", normalize), *check_execution(implementation, statistics, across_ranks)
        )
        if faults:
            raise InputError("\n".join(faults))
        rule = Rule(
            resolved,
            margin=negative_margin,
            penalty="contrastive",
            reduction=reduction,
            positive_margin=positive_margin,
        )
        super().__init__(
            rule,
            normalize=normalize,
            learn_temperature=False,
            implementation=implementation,
            statistics=statistics,
            across_ranks=across_ranks,
        )
        if negative_margin > resolved.largest:
            warnings.warn(
                f"a negative_margin of {negative_margin:g} can never be reached: the {resolved.name} distance is at "
                f"most {resolved.largest:g}, so every negative pair costs something for ever. Choose a smaller one.",
                TercetWarning,
                stacklevel=2,
            )

    @property
    def settings(self) -> dict[str, Any]:
        """The constructor's arguments, from which an equal loss can be built; those after `implementation` if in use.

        A distance that its name does not give is the object itself.
        """
        rule = self.rule
        named = {
            "positive_margin": rule.positive_margin,
            "negative_margin": rule.margin,
            "distance": distance_setting(rule.distance),
            "reduction": rule.reduction,
            "implementation": self.implementation,
        }
        further = {"normalize": self.normalize, "statistics": self.statistics, "across_ranks": self.across_ranks}
        return named | {name: value for name, value in further.items() if value not in (False, "free")}

    def pairs(self, left: Tensor, right: Tensor, similar: object) -> Tensor:
        """The same loss over N given pairs of rows, each marked similar or not; differentiable twice.

        Args:
            left: of shape (N, D).
            right: of shape (N, D).
            similar: of shape (N,): booleans, or integers 0 and 1.

        Returns:
            0-d, of the inputs' dtype (float32 for half precision); NaN if an embedding is not finite. The mean over no
            pairs is 0.

        Raises:
            InputError: shapes or dtypes are not allowed, or `similar` holds something else than 0 and 1.
        """
        check_alike("right", check_rows("right", right), "left", check_rows("left", left), rows=True)
        is_similar = _marks(similar, len(left)).to(left.device)
        rule, dtype = self.rule, working_dtype(left, right)
        with torch.autocast(left.device.type, enabled=False):
            a, b = self._compared("left", left, dtype), self._compared("right", right, dtype)
            d = rule.distance.pairs(a, b)
            excess = torch.where(is_similar, d - rule.positive_margin, rule.margin - d)
            costs = torch.relu(excess).square()
            costs = torch.where(d.isfinite(), costs, torch.nan)  # infinitely far would otherwise cost nothing
            return self._over_pairs(costs, excess > 0, is_similar)

    def _over_pairs(self, costs: Tensor, active: Tensor, similar: Tensor) -> Tensor:
        if self.rule.reduction == "sum":
            return costs.sum()
        if self.rule.reduction == "mean":
            return costs.sum() / max(1, len(costs))
        sides = [(torch.where(side, costs, 0).sum(), (active & side).sum()) for side in (similar, ~similar)]
        return sides[0][0] / sides[0][1].clamp(min=1) + sides[1][0] / sides[1][1].clamp(min=1)


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

"""Triplet loss on triplets that are given as rows, as torch's functions take them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from tercet import distances
from tercet.distances import Distance
from tercet.errors import InputError, check_choice
from tercet.kernels import Rule
from tercet.kernels.rule import settled_temperature
from tercet.losses.inputs import attempt, check_alike, check_flag, check_rows, faults_of, unit_rows, working_dtype

REDUCTIONS = ("mean", "sum", "none", "mean-active")
PENALTIES = ("hinge", "squared-hinge", "softplus", "logsumexp")  # of one triplet, lifted would be the hinge


def triplet_margin_loss(
    anchor: Tensor,
    positive: Tensor,
    negative: Tensor,
    margin: float = 1.0,
    distance: str | Distance | Callable[[Tensor, Tensor], Tensor] = "euclidean",
    swap: bool = False,
    penalty: str = "hinge",
    reduction: str = "mean",
    temperature: float | None = None,
    normalize: bool = False,
) -> Tensor:
    """Triplet loss of N given triplets: the reduction of penalty(d(a, p) + margin - d(a, n)).

    With `swap`, d(a, n) is replaced by min(d(a, n), d(p, n)) (Balntas et al. 2016, section 3). It equals
    `torch.nn.TripletMarginLoss(margin, p, swap=swap)` with distance `Minkowski(p)` (`euclidean` for p = 2),
    except that torch adds 1e-6 to every difference and Tercet adds nothing; and
    `torch.nn.TripletMarginWithDistanceLoss` with its distance function. At coincident points the gradient of
    the distance is zero. Where z = d(a, p) + margin - d(a, n) is exactly 0 the hinge's gradient is 0.

    Args:
        anchor: of shape (N, D).
        positive: of shape (N, D).
        negative: of shape (N, D).
        margin: finite and at least 0.
        distance: as in `TripletLoss`.
        swap: whether the negative may be compared with the positive instead of with the anchor.
        penalty: "hinge", "squared-hinge", "softplus", or "logsumexp", which for one negative is
            temperature * softplus(z / temperature).
        temperature: of logsumexp, 0.1 by default; it belongs to that penalty alone.
        reduction: "mean", "sum", "none" (the N penalties), or "mean-active": the mean over triplets with z >
            0 (with softplus and logsumexp, which penalise every triplet, over all). A mean over nothing is 0.
        normalize: whether rows are brought to unit length first (a zero row stays zero).

    Returns:
        0-d, or of shape (N,) with reduction "none", of the inputs' dtype (float32 for half precision). A
        triplet with an embedding that is not finite gives NaN.

    Raises:
        InputError: shapes, dtypes or settings are not allowed; all faults of the settings are named together.
    """
    for name, rows in (("anchor", anchor), ("positive", positive), ("negative", negative)):
        check_alike(name, check_rows(name, rows), "anchor", anchor, rows=True)
    faults: list[str] = []
    between = attempt(lambda: distances.resolve(distance), distances.Euclidean(), faults)
    rule = Rule(between, margin=margin, penalty=penalty, temperature=settled_temperature(penalty, temperature))
    faults += rule.faults(PENALTIES) + faults_of(
        lambda: check_choice("reduction", reduction, REDUCTIONS), lambda: check_flag("normalize", normalize)
    )
    if faults:
        raise InputError("\n".join(faults))
    given = {"anchor": anchor, "positive": positive, "negative": negative}
    dtype = working_dtype(*given.values())
    with torch.autocast(anchor.device.type, enabled=False):
        a, p, n = (unit_rows(rows.to(dtype)) if normalize else rows.to(dtype) for rows in given.values())
        for name, rows in zip(given, (a, p, n), strict=True):
            between.check_rows(rows, name)
        d_positive, d_negative = between.pairs(a, p), between.pairs(a, n)
        if swap:
            d_negative = torch.minimum(d_negative, between.pairs(p, n))
        z = d_positive + margin - d_negative
        # An infinite negative would otherwise pass for a triplet that is satisfied.
        z = torch.where(d_positive.isfinite() & d_negative.isfinite(), z, torch.nan)
        return _reduced(rule.cost.value(z), z, reduction, active_only=rule.cost.degree is not None)


def _reduced(costs: Tensor, z: Tensor, reduction: str, active_only: bool) -> Tensor:
    if reduction == "none":
        return costs
    if reduction == "sum":
        return costs.sum()
    if reduction == "mean-active" and active_only:
        return costs.sum() / (z > 0).sum().clamp(min=1)
    return costs.sum() / max(1, len(costs))

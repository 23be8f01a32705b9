"""Exact reductions over all triplets of a batch, without the triplets.

Overview. An anchor a has positives P(a) and negatives N(a) among the references. A `Rule` says which triplets
(a, p, n) are mined, what each costs as a function of z = d(a,p) + margin - d(a,n), and how the costs are put
together. All of it follows from pairwise distances, and an anchor's triplets from its few positives'
distances and one look at each negative's. So the distances are visited in tiles, and value and gradient
formed in the same visit:

    reduce_triplets      the one entry: plans, dispatches, normalises
      rule.py            Rule, Penalty, Plan: what is to be computed, and how
      pairing.py         labels and ids -> positives (lists), negatives (masks of a tile), their numbers
      tiled.py           "torch": the loop over tiles
        tiles.py         a block of anchors, a tile of distances, and the sums that they add to
        mining.py        the rules as reductions: begin with the positives, see tiles, finish
      reference.py       "reference": the definition by plain loops in float64, for small inputs and tests
      result.py          TripletStats, Totals (before division) and Result

Cost of "torch" with B anchors and references, K positives an anchor: two visits of a tile's products for the
gradient and one for the distances, 3 B²D multiplications in all (one B²D for `hard` and `semihard`), O(log K)
work a distance, and O(B·D + tile) memory. `softplus` with `all` has no finite summary: O(B²K) work, same
memory. `logsumexp` with `all` visits the tiles twice.

To add a rule, write a `Miner`, name it in `mining.miner_of` and `rule.MININGS`, and define it by loops in
reference.py; to add a penalty, enter it in `rule.PENALTIES` and `reference.COSTS`. Both then inherit
`tercet.testing.KernelContract`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from tercet.kernels.pairing import Batch
from tercet.kernels.reference import reduce_by_loops
from tercet.kernels.result import Result, Totals, TripletStats
from tercet.kernels.rule import (
    FALLBACKS,
    IMPLEMENTATIONS,
    MININGS,
    PENALTIES,
    REDUCTIONS,
    Plan,
    Rule,
    make_plan,
)
from tercet.kernels.tiled import reduce_by_tiles

__all__ = [
    "reduce_triplets",
    "Rule",
    "Plan",
    "Result",
    "TripletStats",
    "MININGS",
    "PENALTIES",
    "REDUCTIONS",
    "FALLBACKS",
    "IMPLEMENTATIONS",
]


REDUCERS: dict[str, Callable[[Batch, Rule, Plan, bool], Totals]] = {
    "torch": reduce_by_tiles,
    "reference": reduce_by_loops,
}


@torch.no_grad()
def reduce_triplets(
    anchors: Tensor,
    references: Tensor | None,
    labels: Tensor,
    reference_labels: Tensor | None,
    rule: Rule,
    *,
    ids: Tensor | None = None,
    reference_ids: Tensor | None = None,
    need_gradient: bool = True,
    implementation: str = "auto",
    plan: Plan | None = None,
) -> Result:
    """Value, gradient and figures of a rule on a batch.

    Args:
        anchors: of shape (A, D), float32 or float64.
        references: of shape (M, D), same dtype; None means the anchors themselves.
        labels: int64 of shape (A,).
        reference_labels: int64 of shape (M,); None with references None.
        rule: what to compute; its words are taken as checked.
        ids: int64 of shape (A,): rows of the same id are one item, never compared. None means that each
            anchor is an item of its own, and none of them is among the references.
        reference_ids: int64 of shape (M,), given with ids where there are references.
        need_gradient: whether to form the gradient; without it only the distances are computed.
        implementation: "auto", "torch" or "reference"; the plan of the result records the choice.
        plan: overrides the plan, tile sizes included.
    """
    if references is None or reference_labels is None:
        references, reference_labels = anchors, labels
        ids = torch.arange(len(labels), device=labels.device) if ids is None else ids
        reference_ids = ids
    batch = Batch(anchors, references, labels, reference_labels, ids, reference_ids)
    if plan is None:
        plan = make_plan(implementation, len(anchors), len(references), batch.pairing.largest_class)
    totals = REDUCERS[plan.implementation](batch, rule, plan, need_gradient)
    return _normalised(batch, rule, plan, totals)


def _normalised(batch: Batch, rule: Rule, plan: Plan, totals: Totals) -> Result:
    """Divide as the reduction says; a mean over nothing is 0, and what is not finite becomes NaN."""
    stats, dtype = totals.stats, batch.anchors.dtype
    share = torch.ones_like(totals.value)
    if rule.reduction != "sum":
        number = stats.n_active if rule.counts_active_only else totals.n_terms
        share = share / number.clamp(min=1)
    finite = batch.anchors.isfinite().all() & batch.references.isfinite().all()
    finite &= stats.mean_positive.isfinite() & stats.mean_negative.isfinite()  # a distance may overflow
    share = torch.where(finite, share, torch.nan)

    def scaled(part: Tensor | None) -> Tensor | None:
        return None if part is None else (part * share).to(dtype)

    return Result(
        value=(totals.value * share).to(dtype),
        gradient_anchors=scaled(totals.gradient_anchors),
        gradient_references=None if batch.is_alone else scaled(totals.gradient_references),
        stats=stats,
        plan=plan,
    )

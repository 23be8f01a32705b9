"""Exact reductions over all triplets of a batch, without the triplets.

Overview. An anchor a has positives P(a) and negatives N(a) among the references. A `Rule` says which triplets
(a, p, n) are mined, what each costs as a function of z = d(a,p) + margin - d(a,n), and how the costs are put
together. All of it follows from pairwise distances, and an anchor's triplets from its few positives'
distances and one look at each negative's. So the distances are visited in tiles, and value and gradient
formed in the same visit:

    reduce_triplets      the one entry: plans, dispatches, normalises
      rule.py            Rule, Penalty, Plan: what is to be computed, and how
      pairing.py         labels, ids, groups, relation -> positives (lists), negatives (masks of a tile), numbers
      implementations.py the choice between those that follow, and their names
      compiled/          "numba": loops compiled for the CPU, between PyTorch's products
      triton/            "triton": kernels for CUDA
      tiled.py           "torch": the loop over tiles
        tiles.py         a block of anchors, a tile of distances, and the sums that they add to
        mining/          the rules as reductions: begin with the positives, see tiles, finish
      reference.py       "reference": the definition by plain loops in float64, for small inputs and tests
      ranks.py           one batch over several ranks
      census.py          counts of hard, semi-hard and easy triplets, and histograms, where asked for
      result.py          TripletStats, Totals (before division) and Result

Cost of "torch" with B anchors and references, K positives an anchor: two visits of a tile's products for the
gradient and one for the distances, 3 B²D multiplications in all (one B²D where a negative is mined for each
pair or anchor), O(log K) work a distance, and O(B·D + tile) memory. `softplus` with `all` has no finite
summary: O(B²K) work, same memory. `logsumexp`, `lifted` and `supcon` with `all`, and `distance-weighted`,
visit the tiles twice. Labels of one class an item are sorted and counted; several labels an item, or a
relation, are compared for every pair and visit, and once more to count and once to list the positives.

To add a rule, write a `Miner`, name it in `mining.miner_of` and `rule.MININGS`, and define it by loops in
reference.py; to add a penalty, enter it in `rule.PENALTIES` and `reference.COSTS`, or, if it takes all of an
anchor's pairs together, in `mining.softmax.FORMULAS` and `reference.terms_of`. They then inherit
`tercet.testing.KernelContract`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import torch
from torch import Tensor

from tercet.distances import RowDistance
from tercet.kernels.census import census_by_tiles
from tercet.kernels.implementations import carry_out, make_plan_for
from tercet.kernels.pairing import Batch, Relation
from tercet.kernels.ranks import UNDIVIDED, Division, reduce_over_ranks
from tercet.kernels.reference import census_by_loops
from tercet.kernels.result import Part, Result, Totals, TripletStats
from tercet.kernels.rule import (
    FALLBACKS,
    IMPLEMENTATIONS,
    MININGS,
    PAIR_PENALTIES,
    PENALTIES,
    REDUCTIONS,
    Plan,
    Rule,
)

__all__ = [
    "reduce_triplets",
    "Rule",
    "Plan",
    "Division",
    "UNDIVIDED",
    "Result",
    "TripletStats",
    "MININGS",
    "PENALTIES",
    "PAIR_PENALTIES",
    "REDUCTIONS",
    "FALLBACKS",
    "IMPLEMENTATIONS",
]


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
    groups: Tensor | None = None,
    reference_groups: Tensor | None = None,
    relation: Relation | None = None,
    margins: Tensor | None = None,
    weights: Tensor | None = None,
    need_gradient: bool = True,
    full_stats: bool = False,
    implementation: str = "auto",
    plan: Plan | None = None,
    division: Division = UNDIVIDED,
) -> Result:
    """Value, gradient and figures of a rule on a batch.

    With v_a the sum of anchor a's terms, n_a their number and w_a its weight, the value is
    sum_a w_a v_a / sum_a w_a n_a, or the numerator alone with reduction `sum`; 0 if the denominator is 0.

    Args:
        anchors: of shape (A, D), float32 or float64.
        references: of shape (M, D), same dtype; None means the anchors themselves.
        labels: int64 of shape (A,): equal labels make positives. Or int64 of shape (A, L), several labels an
            item, padded with -1: items that share a label are positives. With a relation, of any shape
            (A, ...) and any dtype.
        reference_labels: the same of the references, (M,), (M, L) or (M, ...); None with references None.
        rule: what to compute; its words are taken as checked.
        ids: int64 of shape (A,): rows of the same id are one item, never compared. None means that each
            anchor is an item of its own, and none of them is among the references.
        reference_ids: int64 of shape (M,), given with ids where there are references.
        groups: int64 of shape (A,): a reference of the anchor's group is neither positive nor negative.
        reference_groups: int64 of shape (M,), given with groups where there are references.
        relation: a function of the labels of R anchors and C references (slices of what was given along the
            first dimension) -> (R, C): booleans, True for positive and False for negative; or numbers, above
            0 for positive, below for negative, 0 for neither. It need not be symmetric.
        margins: of shape (A,): each anchor's margin, in place of the rule's.
        weights: of shape (A,), at least 0: each anchor's weight; None means 1.
        need_gradient: whether to form the gradient; without it only the distances are computed.
        full_stats: whether to count hard, semi-hard and easy triplets and to make histograms of the
            distances, for which all distances are computed once or twice more.
        implementation: one of IMPLEMENTATIONS; the plan of the result records the choice.
        plan: overrides the plan, tile sizes included.
        division: over which ranks the work is divided. Each of them holds the whole batch and makes the same call;
            the result is that of one device, up to rounding, but for the gradient of rows of other ranks, which may
            be left at 0.

    Raises:
        InputError: the relation gives something else than it should.
    """
    dtype = anchors.dtype
    anchors = anchors.resolve_neg()  # a view that is negated when read is no memory that a loop can read
    references = None if references is None else references.resolve_neg()
    if references is None or reference_labels is None:
        references, reference_labels = anchors, labels
        ids = torch.arange(len(labels), device=labels.device) if ids is None else ids
        reference_ids, reference_groups = ids, groups
    if _draws_in_float64(rule):
        alone = references is anchors
        anchors = anchors.double()
        references = anchors if alone else references.double()
    batch = Batch(
        anchors, references, labels, reference_labels, ids, reference_ids, groups, reference_groups, relation,
        margins=None if margins is None else margins.to(anchors.dtype),
        weights=None if weights is None else weights.to(anchors.dtype),
    )  # fmt: skip
    part = division.part(batch)
    if plan is None:  # by class all ranks make the same; a relation would be asked for every pair of the batch
        plan = make_plan_for(batch if batch.is_by_class else part, rule, implementation)
    chosen = replace(plan, ranks=division.ranks.size)

    def reduced() -> Result:
        totals = reduce_over_ranks(batch, part, rule, chosen, need_gradient, division)
        return _normalised(batch, rule, chosen, totals, dtype)

    result = carry_out(chosen, reduced)
    if not full_stats:
        return result
    count = census_by_loops if chosen.implementation == "reference" else census_by_tiles
    census = count(part, rule, chosen, division.ranks)
    return replace(result, stats=replace(result.stats, **vars(census)))


def _draws_in_float64(rule: Rule) -> bool:
    """Whether distances must not depend on the tiles at all, since which negative is drawn hangs on their sums."""
    return rule.mining == "distance-weighted" and not isinstance(rule.distance, RowDistance)  # made of pairs


def _normalised(batch: Batch, rule: Rule, plan: Plan, totals: Totals, dtype: torch.dtype) -> Result:
    """Divide as the reduction says; a mean over nothing is 0, and what is not finite becomes NaN."""
    stats = totals.stats
    finite = _all_finite(batch.anchors)
    if not batch.is_alone:
        finite &= _all_finite(batch.references)
    finite &= stats.mean_positive.isfinite() & stats.mean_negative.isfinite()  # a distance may overflow
    if batch.margins is not None:
        finite &= batch.margins.isfinite().all()
    shares = [torch.where(finite, _share(part, rule, batch.weights), torch.nan) for part in totals.parts]
    weights = 1 if batch.weights is None else batch.weights.double()

    def divided(name: str) -> Tensor | None:
        sums = [getattr(part, name) for part in totals.parts]
        if any(part is None for part in sums):
            return None
        return _added(part * share for part, share in zip(sums, shares, strict=True)).to(dtype)

    return Result(
        value=_added(
            (weights * part.values).sum() * share for part, share in zip(totals.parts, shares, strict=True)
        ).to(dtype),
        gradient_anchors=divided("gradient_anchors"),
        gradient_references=None if batch.is_alone else divided("gradient_references"),
        gradient_margins=divided("gradient_margins"),
        gradient_temperature=divided("gradient_temperature"),
        per_anchor=torch.where(finite, _added(_own_means(part, rule) for part in totals.parts), torch.nan).to(dtype),
        stats=stats,
        plan=plan,
    )


def _all_finite(rows: Tensor) -> Tensor:
    """`rows.isfinite().all()`, several times faster on a CPU."""
    if not rows.numel():
        return torch.ones((), dtype=torch.bool, device=rows.device)
    smallest, largest = torch.aminmax(rows)
    return smallest.isfinite() & largest.isfinite()


def _added(parts: Iterable[Tensor]) -> Tensor:
    first, *more = parts
    return sum(more, first)


def _number(part: Part, rule: Rule) -> Tensor:
    """What each anchor's sum of terms is divided by, of shape (A,)."""
    return part.n_active if rule.counts_active_only else part.n_terms


def _own_means(part: Part, rule: Rule) -> Tensor:
    return part.values if rule.reduction == "sum" else part.values / _number(part, rule).clamp(min=1)


def _share(part: Part, rule: Rule, weights: Tensor | None) -> Tensor:
    """What a part is multiplied by: one divided by the weighted number of its terms; 0-d, float64."""
    if rule.reduction == "sum":
        return part.values.new_ones(())
    number = _number(part, rule).double()
    total = number.sum() if weights is None else (weights.double() * number).sum()
    return torch.where(total > 0, 1 / total, 0)

"""One batch over several ranks: every rank holds all rows and all labels, and does its share of the work.

Any rule, by any implementation: a rank takes its share of the anchors against all references, as one device takes the
anchors of a bank; a row is still never compared with itself. Of B rows in D dimensions that are 3/W of B²D
multiplications, W the number of ranks. The compiled kernels, of rows among themselves by class, deal their tiles
instead, each of which serves the anchors of both its sides: 1.5/W. There every rank still lists all positives.

Sums, numbers and figures are added up over the ranks before anything is divided, so that value, figures and gradient
are those of one device, up to rounding. Besides the rows, a few numbers for each anchor are sent (by the compiled
kernels for each positive, too), and the gradient of the rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from tercet.collectives import ALONE, Ranks
from tercet.kernels.implementations import reduce_by_plan
from tercet.kernels.pairing import Batch
from tercet.kernels.result import Part, Totals, TripletStats
from tercet.kernels.rule import Plan, Rule

COUNTED = ("n_valid", "n_mined", "n_active", "anchors_without_positive", "anchors_without_negative")


@dataclass(frozen=True)
class Division:
    """Who computes a batch, and who needs its gradient. All ranks give the same, but for their own number.

    Attributes:
        ranks: those that compute it together.
        anchors: how many of the anchors belong to each rank, in order. The gradient of an anchor is then formed for
            the rank that it belongs to; elsewhere it is 0. None: every rank gets the gradient of all.
        references: the same of the references; not used where these are the anchors.
        reference_gradient: whether any rank needs the gradient of the references; otherwise it is left at 0.
    """

    ranks: Ranks = ALONE
    anchors: tuple[int, ...] | None = None
    references: tuple[int, ...] | None = None
    reference_gradient: bool = True

    @property
    def own(self) -> slice:
        """The anchors that belong to this rank; all, where none belongs to anyone."""
        return slice(None) if self.anchors is None else self.ranks.owned(self.anchors)

    def swapped(self) -> Division:
        """The same where anchors and references have changed places; both gradients are then formed."""
        return replace(self, anchors=self.references, references=self.anchors, reference_gradient=True)

    def part(self, batch: Batch) -> Batch:
        """The batch with this rank's share of the anchors, whomever they belong to."""
        return batch if self.ranks.size == 1 else batch.part(self.ranks.share(len(batch.anchors)))


UNDIVIDED = Division()


def reduce_over_ranks(
    batch: Batch, part: Batch, rule: Rule, plan: Plan, need_gradient: bool, division: Division
) -> Totals:
    """Totals of the rule over all anchors, on every rank; `part` is `division.part(batch)`."""
    ranks = division.ranks
    if ranks.size == 1:
        return reduce_by_plan(part, rule, plan, need_gradient)
    if _divides_tiles(batch, plan):
        totals = _reduce_tiles(batch, rule, plan, need_gradient, ranks)
    else:
        totals = reduce_by_plan(part, rule, plan, need_gradient)
        totals = _with_figures_summed(batch, part, totals, ranks)
    return replace(totals, parts=tuple(_with_gradient_summed(batch, each, division) for each in totals.parts))


def _divides_tiles(batch: Batch, plan: Plan) -> bool:
    if plan.implementation != "numba":
        return False
    from tercet.kernels.compiled import divides_tiles

    return divides_tiles(batch)


def _reduce_tiles(batch: Batch, rule: Rule, plan: Plan, need_gradient: bool, ranks: Ranks) -> Totals:
    from tercet.kernels.compiled import reduce_compiled

    return reduce_compiled(batch, rule, plan, need_gradient, ranks)


def _with_figures_summed(batch: Batch, part: Batch, totals: Totals, ranks: Ranks) -> Totals:
    """The totals of a share as those of the batch, but for the gradient of rows."""
    rows = ranks.share(len(batch.anchors))
    stats, n_pairs = totals.stats, [number.sum() for number in part.pairing.counts]
    figures = [getattr(stats, name) for name in COUNTED] + n_pairs
    figures += [stats.mean_positive.double() * n_pairs[0], stats.mean_negative.double() * n_pairs[1]]
    sums: list[Tensor] = [figure.double()[None] for figure in figures]
    for each in totals.parts:
        sums += [_spread(column, batch, rows) for column in (each.values, each.n_terms, each.n_active)]
        sums += [] if each.gradient_margins is None else [_spread(each.gradient_margins, batch, rows)]
        sums += [] if each.gradient_temperature is None else [each.gradient_temperature.double()[None]]
    found = _summed(sums, ranks)  # as float64, which holds every count below 2^53
    counts: dict[str, Any] = {name: next(found).long()[0] for name in COUNTED}
    n_positive, n_negative, positive, negative = (next(found)[0] for _ in range(4))
    dtype = stats.mean_positive.dtype
    means = {
        "mean_positive": (positive / n_positive.clamp(min=1)).to(dtype),
        "mean_negative": (negative / n_negative.clamp(min=1)).to(dtype),
    }
    return Totals(tuple(_figures_of(each, found) for each in totals.parts), TripletStats(**counts, **means))


def _figures_of(part: Part, found: Iterator[Tensor]) -> Part:
    """The part with the sums that come next."""
    return replace(
        part,
        values=next(found),
        n_terms=next(found).long(),
        n_active=next(found).long(),
        gradient_margins=None if part.gradient_margins is None else next(found),
        gradient_temperature=None if part.gradient_temperature is None else next(found)[0],
    )


def _spread(column: Tensor, batch: Batch, rows: slice) -> Tensor:
    """The numbers of some anchors among zeros for the others, float64."""
    found = column.new_zeros(len(batch.anchors), dtype=torch.float64)
    found[rows] = column.double()
    return found


def _summed(tensors: list[Tensor], ranks: Ranks) -> Iterator[Tensor]:
    """The sums over ranks of vectors, all sent together."""
    together = ranks.sum(torch.cat(tensors))
    return iter(together.split([len(tensor) for tensor in tensors]))


def _with_gradient_summed(batch: Batch, part: Part, division: Division) -> Part:
    dx, dy = part.gradient_anchors, part.gradient_references
    if dx is None or dy is None:
        return part
    rows, ranks = division.ranks.share(len(batch.anchors)), division.ranks
    if batch.is_alone:
        if dx is not dy:  # of a share of the anchors, and of what they were compared with
            dy[rows] += dx
        dx = dy = _gradient_summed(dy, division.anchors, ranks)
    else:
        of_anchors = dx.new_zeros(len(batch.anchors), dx.shape[1])
        of_anchors[rows] = dx
        dx = _gradient_summed(of_anchors, division.anchors, ranks)
        dy = _gradient_summed(dy, division.references, ranks) if division.reference_gradient else torch.zeros_like(dy)
    return replace(part, gradient_anchors=dx, gradient_references=dy)


def _gradient_summed(gradient: Tensor, owned: tuple[int, ...] | None, ranks: Ranks) -> Tensor:
    """The sum over ranks; where rows have owners, each rank's own rows of it among zeros."""
    if owned is None:
        return ranks.sum(gradient.contiguous())
    found = torch.zeros_like(gradient)
    found[ranks.owned(owned)] = ranks.sum_to_owners(gradient, owned)
    return found

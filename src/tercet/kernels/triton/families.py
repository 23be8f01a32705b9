"""The rules: the levels that distances are compared with, the visits that they take, and what follows from the sums."""
# ruff: noqa: D102  the method of a family is described once, in the base class

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from tercet.distances import blocks
from tercet.kernels.mining.softmax import evaluate
from tercet.kernels.pairing import Batch
from tercet.kernels.rule import SEMIHARD, SETS, Rule
from tercet.kernels.triton import device
from tercet.kernels.triton.tables import Side
from tercet.kernels.triton.visits import Job, Visitor

ENTRIES = 1 << 24  # of a table of positives, where it need not be kept
COSTS = {"softplus": device.SOFTPLUS.value, "hinge": device.HINGE.value, "squared-hinge": device.SQUARED.value}
DISTANCES, VALUE, ACTIVE, SMALLEST, OF_LEVELS = (
    row.value for row in (device.DISTANCES, device.VALUE, device.ACTIVE, device.SMALLEST, device.OF_LEVELS)
)


@dataclass
class Positives:
    """Of each of A anchors K positives, in ascending order, the real ones first.

    Attributes:
        index: of shape (A, K).
        real: which of them are real, of shape (A, K).
        d: their distances, of shape (A, K); 0 where not real.
    """

    index: Tensor
    real: Tensor
    d: Tensor

    def pairs(self) -> tuple[Tensor, Tensor]:
        """The real ones as lists: anchors, ascending, and positives."""
        anchors, slots = self.real.nonzero(as_tuple=True)
        return anchors, self.index[anchors, slots]


@dataclass
class Sums:
    """One part of the value: what `Part` holds; of shape (A,) where nothing else is said.

    Attributes:
        values, n_terms, n_active: as there.
        of_tiles: whether the gradient that the visits have formed belongs to this part.
        of_positives: weights of the positives' distances, of shape (A, K), without the anchors' weights; or None.
        negatives: indices of mined negatives, (A, K), their distances and their weights; or None.
        of_margins: derivative of the values by the anchors' margins.
        of_temperature: derivative of each anchor's value by the temperature; or None.
    """

    values: Tensor
    n_terms: Tensor
    n_active: Tensor
    of_tiles: bool = False
    of_positives: Tensor | None = None
    negatives: tuple[Tensor, Tensor, Tensor] | None = None
    of_margins: Tensor | None = None
    of_temperature: Tensor | None = None


class Family:
    """Base: what rules of a kind do with a batch, once its tables are made.

    Attributes:
        positives: those that the rule takes.
        positive: the sum of the distances of all positives, 0-d, float64.
        negative: the same of the negatives.
        dx, dy: what the visits add to the gradients for the rows of the products; None if nothing.
    """

    def __init__(self, batch: Batch, rule: Rule, visitor: Visitor, x: Side, y: Side, need_gradient: bool) -> None:
        self.batch, self.rule, self.visitor, self.x, self.y = batch, rule, visitor, x, y
        self.need_gradient = need_gradient
        self.margin = x.facts.new_full((len(x),), rule.margin) if batch.margins is None else batch.margins
        self.n_positives, self.n_negatives = batch.pairing.counts
        self.positive = x.facts.new_zeros((), dtype=torch.float64)
        self.negative = self.positive
        self.dx: Tensor | None = None
        self.dy: Tensor | None = None
        self.positives = self._list_positives()

    def run(self) -> tuple[list[Sums], Tensor, Tensor]:
        """The parts, and per anchor the numbers of mined and of active triplets, or pairs."""
        raise NotImplementedError

    def _list_positives(self) -> Positives:
        """All positives, or what `_choose` leaves of them."""
        length, width = len(self.x), max(1, self.batch.pairing.largest_class)
        size = max(1, length if self.keeps_all else ENTRIES // width)
        parts = [self._measured(rows) for rows in blocks(length, size)]
        if not parts:
            return Positives(*(self.x.rows.new_zeros(0, 1, dtype=kind) for kind in (torch.int64, torch.bool, None)))
        return Positives(*(torch.cat([getattr(part, name) for part in parts]) for name in ("index", "real", "d")))

    def _measured(self, rows: slice) -> Positives:
        index, real = self.batch.pairing.positives(rows)
        order = (~real).to(torch.uint8).sort(dim=1, stable=True)[1]  # items are not their own positives: close the gap
        width = max(1, int(real.sum(1).max()))
        index, real = index.gather(1, order)[:, :width], real.gather(1, order)[:, :width]
        found = Positives(index, real, self.x.rows.new_zeros(real.shape))
        anchors, positives = found.pairs()
        d = self.visitor.measure(self.x, self.y, anchors + rows.start, positives)
        found.d.masked_scatter_(real, d)
        self.positive = self.positive + d.sum(dtype=torch.float64)
        return self._choose(found)

    @property
    def keeps_all(self) -> bool:
        """Whether the rule takes all positives, not one of each anchor."""
        return True

    def _choose(self, positives: Positives) -> Positives:
        return positives

    def thresholds(self) -> Tensor:
        """d_ap + margin, of shape (A, K); -inf where there is no positive."""
        return torch.where(self.positives.real, self.positives.d + self.margin[:, None], -torch.inf)

    def visit(self, job: Job) -> Tensor:
        """Visit all pairs; the anchors' sums. The gradient is added for both sides."""
        alone = self.x is self.y
        job = replace(job, gradient=job.gradient and self.need_gradient)
        sums, dx = self.visitor.visit(self.x, self.y, replace(job, other=alone and job.gradient))
        if job.gradient:
            self.dx = dx
            if not alone:
                _, self.dy = self.visitor.visit(self.y, self.x, replace(job, own=False, other=True))
        return sums


class Below(Family):
    """`all` with a penalty of each triplet: sums of cost(t - d) over the thresholds t = d_ap + m."""

    def run(self) -> tuple[list[Sums], Tensor, Tensor]:
        levels = self.thresholds()
        self.x.set_levels(levels)
        sums = self.visit(Job(device.BELOW.value, COSTS[self.rule.penalty], levels.shape[1], gradient=True))
        self.negative = sums[DISTANCES].sum()
        slopes = sums[OF_LEVELS : OF_LEVELS + levels.shape[1]].T
        mined, active = self.n_positives * self.n_negatives, sums[ACTIVE].long()
        part = Sums(sums[VALUE], mined, active, True, slopes, of_margins=slopes.sum(1))
        return [part], mined, active


class Contrastive(Family):
    """Positive pairs beyond one margin, negative pairs within another, squared."""

    def run(self) -> tuple[list[Sums], Tensor, Tensor]:
        self.x.set_levels(self.margin[:, None])
        sums = self.visit(Job(device.BELOW.value, device.SQUARED.value, 1, gradient=True))
        self.negative = sums[DISTANCES].sum()
        of_margins, active_negatives = sums[OF_LEVELS], sums[ACTIVE].long()
        gap = torch.where(self.positives.real, self.positives.d - self.rule.positive_margin, 0).relu()
        active_positives, values = (gap > 0).sum(1), gap.double().square().sum(1)
        pairs, active = self.n_positives + self.n_negatives, active_positives + active_negatives
        if self.rule.divides_pairs_apart:
            positive = Sums(values, self.n_positives, active_positives, of_positives=2 * gap)
            negative = Sums(sums[VALUE], self.n_negatives, active_negatives, True, of_margins=of_margins)
            return [positive, negative], pairs, active
        return [Sums(values + sums[VALUE], pairs, active, True, 2 * gap, of_margins=of_margins)], pairs, active


class Exponents(Family):
    """`all` with a penalty of the log-sum-exp over an anchor's negatives, which takes two visits."""

    def run(self) -> tuple[list[Sums], Tensor, Tensor]:
        counts_triplets = self.rule.penalty != "supcon"
        levels = self.thresholds()
        if counts_triplets:
            self.x.set_levels(levels)
        sums = self.visit(Job(device.EXPONENTS.value, levels=levels.shape[1] if counts_triplets else 0))
        self.negative = sums[DISTANCES].sum()
        has_term = (self.n_positives > 0) & ((self.n_negatives > 0) | (not counts_triplets))
        n_terms = has_term * (self.n_positives if self.rule.penalty == "logsumexp" else 1)
        values, of_positives, of_logarithm, of_margin, of_temperature = self._evaluate(has_term, sums)
        part = Sums(values, n_terms, (values > 0).long(), of_margins=of_margin)
        if self.need_gradient:
            part = replace(
                part, of_tiles=True, of_positives=of_positives,
                of_temperature=of_temperature - self._spread(of_logarithm, sums),
            )  # fmt: skip
        if counts_triplets:
            return [part], self.n_positives * self.n_negatives, sums[ACTIVE].long()
        return [part], n_terms, n_terms

    def _evaluate(self, has_term: Tensor, sums: Tensor) -> list[Tensor]:
        """The value of each anchor, and its derivatives as `mining.softmax.Evaluated` has them; 0 without a term."""
        length, width = self.positives.d.shape
        found = [sums.new_zeros(length, columns) for columns in (1, width, 1, 1, 1)]
        for rows in blocks(length, max(1, ENTRIES // (8 * width))):
            at = has_term[rows].nonzero()[:, 0] + rows.start
            part = evaluate(
                self.rule, self.positives.d[at].double(), self.positives.real[at], sums[SMALLEST, at, None],
                sums[VALUE, at, None], self.margin[at, None].double(), self.need_gradient,
            )  # fmt: skip
            columns = (part.values[:, None], part.of_positives, part.of_logarithm, part.of_margin, part.of_temperature)
            for whole, some in zip(found, columns, strict=True):
                whole[at] = some
        return [column if k == 1 else column[:, 0] for k, column in enumerate(found)]

    def _spread(self, of_logarithm: Tensor, sums: Tensor) -> Tensor:
        """The gradient through the log-sum-exp, formed by a second visit; and what the temperature has less by it."""
        share = of_logarithm / (sums[VALUE].clamp(min=1) * self.rule.temperature)
        weights = 1 if self.batch.weights is None else self.batch.weights.double()
        self.x.set_fact(device.SCALE.value, weights * share)
        self.x.set_fact(device.ORIGIN.value, torch.where(sums[SMALLEST] < torch.inf, sums[SMALLEST], 0))
        return share * self.visit(Job(device.SHARES.value, gradient=True))[VALUE]


class OneEach(Family):
    """One negative for each chosen positive: the nearest of all, or the nearest beyond it."""

    @property
    def keeps_all(self) -> bool:
        return self.rule.mining == "semihard"

    def _choose(self, positives: Positives) -> Positives:
        if self.keeps_all:
            return positives
        d, real = positives.d, positives.real
        if self.rule.mining == "hard":
            d, slot = torch.where(real, d, -torch.inf).max(dim=1, keepdim=True)
        else:
            d, slot = torch.where(real, d, torch.inf).min(dim=1, keepdim=True)
        real = real.any(1, keepdim=True)
        return Positives(positives.index.gather(1, slot), real, torch.where(real, d, 0))

    def run(self) -> tuple[list[Sums], Tensor, Tensor]:
        beyond, farthest = self.rule.mining in SEMIHARD, self.rule.fallback == "farthest"
        positives, width = self.positives, self.positives.d.shape[1]
        self.x.set_levels(torch.where(positives.real, positives.d if beyond else -torch.inf, torch.inf))
        sums = self.visit(Job(device.NEAREST.value, levels=width, farthest=beyond and farthest))
        self.negative = sums[DISTANCES].sum()
        d, index, last = sums[OF_LEVELS:].split([width, width, 2])
        d, index = d.T, index.T.long()
        if beyond and farthest:
            d = torch.where(index < 0, last[0, :, None], d)
            index = torch.where(index < 0, last[1, :, None].long(), index)
        return self._triplets(index, d.to(positives.d.dtype), positives.real & (index >= 0))

    def _triplets(self, negatives: Tensor, d: Tensor, kept: Tensor) -> tuple[list[Sums], Tensor, Tensor]:
        """The triplets of each chosen positive with its negative, of shape (A, K), where they are kept."""
        cost, threshold = self.rule.cost, self.positives.d + self.margin[:, None]
        z = torch.where(kept, threshold - d, 0)
        value, slope = (torch.where(kept, of(z), 0).double() for of in (cost.value, cost.slope))
        mined, active = kept.sum(1), (kept & (threshold > d)).sum(1)
        part = Sums(
            value.sum(1), mined, active, of_positives=slope,
            negatives=(negatives, d, -slope), of_margins=slope.sum(1),
            of_temperature=((value - z.double() * slope) / self.rule.temperature).sum(1),
        )  # fmt: skip
        return [part], mined, active


def family_of(rule: Rule) -> type[Family]:
    """The family that reduces by this rule."""
    if rule.mining != "all":
        return OneEach
    if rule.penalty in SETS:
        return Exponents
    return Contrastive if rule.penalty == "contrastive" else Below

"""The compiled CPU implementation: products by PyTorch, everything between them by loops compiled with numba.

    crew.py          threads, and the order of tiles that lets them write without waiting for each other
    sides.py         a batch -> anchors and references, sorted and ready
    pulls.py         the gradient for them, as it is gathered
    problem.py       a strip of them -> positives as lists, threads' shares
    loops.py         compiled: distances of rows and of a tile, what a tile adds to an anchor's state, gradients
    tiles.py         the visit: products, distances, looks, gradient
    rules.py         the families: state, looks, and what follows in the end

Where rows are compared among themselves by class, a tile of anchors i and references j serves the anchors j, too:
only tiles on and above the diagonal are visited, half a product for the distances and one for the gradient. Otherwise
(a bank, a relation), or where the positives of all anchors at once would not fit (few classes in a large batch), the
anchors go in strips, one-sided: three products.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tercet import compilation  # noqa: F401  listens from here on
from tercet.collectives import ALONE, Ranks
from tercet.kernels.compiled.crew import Crew, current_crew, give_back_memory, leading_crew
from tercet.kernels.compiled.loops import Array
from tercet.kernels.compiled.problem import Problem
from tercet.kernels.compiled.pulls import Pulls
from tercet.kernels.compiled.rules import Family, Sums, family_of
from tercet.kernels.compiled.sides import ELEMENTWISE, Sides
from tercet.kernels.compiled.tiles import Tiles
from tercet.kernels.pairing import Batch
from tercet.kernels.result import Part, Result, Totals, stats_of
from tercet.kernels.rule import Plan, Rule
from tercet.kernels.tiles import full_precision

MOST_POSITIVES = 1 << 20  # listed at once: with what is kept of each, some 60 MB


def obstacle(batch: Batch, rule: Rule) -> str:
    """What keeps this implementation from reducing the batch by the rule; empty if nothing does."""
    rows = batch.anchors
    if rows.device.type != "cpu":
        return f"it runs on the CPU, and the embeddings are on {rows.device}"
    if type(rule.distance) not in ELEMENTWISE and rule.distance.prepared(rows[:0], rows[:0]) is None:
        return f"it has no loop for the distance {rule.distance.name}"
    if family_of(rule) is None:
        return f"it has no loop for mining {rule.mining!r} with penalty {rule.penalty!r}"
    return ""


def lead(job: Callable[[], Result]) -> Result:
    """What a job gives that reduces by this implementation, done in the thread that is to do it."""
    return current_crew().lead(job)


def divides_tiles(batch: Batch) -> bool:
    """Whether several ranks may each take some of the batch's tiles, which serve the anchors of both sides."""
    return batch.is_alone and batch.is_by_class and len(batch.anchors) * _largest_class(batch) <= MOST_POSITIVES


def reduce_compiled(batch: Batch, rule: Rule, plan: Plan, need_gradient: bool, ranks: Ranks = ALONE) -> Totals:
    """Totals of the rule over all anchors; to be called by the crew's leader, see `lead`.

    With several ranks, of a batch that `divides_tiles`, the gradient of rows is that of this rank's share of the tiles
    and of the positives: what one device gives is the sum over ranks. All else is whole on every rank.
    """
    with full_precision():
        return Reduction(batch, rule, plan, need_gradient, leading_crew(), ranks).totals()


@dataclass
class Strip:
    """What is kept of some of the anchors once their tiles are visited: a few numbers for each."""

    n_positives: Array
    n_negatives: Array
    scale: Array
    sums: list[Sums]
    n_mined: int
    n_active: int
    positive: float  # the sum of all distances to positives
    negative: float


class Reduction:
    """One batch, from its sides to its totals."""

    def __init__(self, batch: Batch, rule: Rule, plan: Plan, need_gradient: bool, threads: Crew, ranks: Ranks) -> None:
        self.batch, self.rule, self.plan, self.need_gradient = batch, rule, plan, need_gradient
        self.crew, self.ranks = threads, ranks
        self.sides = Sides.of(batch, rule.distance)
        self.strips = _strips(batch)
        self.pulls: list[Pulls] = []  # of each part
        self.of_tiles: Pulls | None = None
        if need_gradient:
            self.of_tiles = Pulls(self.sides.rows_x, self.sides.rows_y, self.sides.two_sided)

    def totals(self) -> Totals:
        """Visit all, and put what was found in the order of the batch."""
        strips = []
        for rows in self.strips:
            strips.append(self._strip(rows))
            if len(self.strips) > 1:
                give_back_memory()
        stats = stats_of(
            _joined([strip.n_positives for strip in strips]),
            _joined([strip.n_negatives for strip in strips]),
            n_mined=torch.tensor(sum(strip.n_mined for strip in strips)),
            n_active=torch.tensor(sum(strip.n_active for strip in strips)),
            positive=_real(sum(strip.positive for strip in strips)),
            negative=_real(np.nan if self.sides.overflows else sum(strip.negative for strip in strips)),
            dtype=self.batch.anchors.dtype,
        )
        scale = _joined([strip.scale for strip in strips]).double()
        parts = zip(*(strip.sums for strip in strips), strict=True)
        return Totals(tuple(self._part(number, part, scale) for number, part in enumerate(parts)), stats)

    def _strip(self, rows: slice) -> Strip:
        problem = Problem(self.sides.part(rows), self.crew)
        make = family_of(self.rule)
        assert make is not None
        family: Family = make(self.rule, problem, problem.count_negatives())
        with nullcontext() if self.of_tiles is None else self.of_tiles.part(rows) as pulls:
            tiles = Tiles(problem, family, self.plan.tile_rows, pulls, self.ranks)
            tiles.visit_all()
        sums, mined, active = family.finish()
        for number, part in enumerate(sums) if self.need_gradient else ():
            with self._pulls_of(number, part).part(rows) as pulls:
                self._pull(problem, family.scale, part, pulls)
        return Strip(
            family.n_positives, family.n_negatives, family.scale,
            [replace(part, of_positives=None, triplets=None) for part in sums],
            int(mined.sum()), int(active.sum()), problem.d.sum(), tiles.sum_of_distances(),
        )  # fmt: skip

    def _pulls_of(self, number: int, part: Sums) -> Pulls:
        """What the gradient of a part is gathered in."""
        assert self.of_tiles is not None
        if number == len(self.pulls):
            two_sided = self.of_tiles.dy is self.of_tiles.dx
            own = self.of_tiles if part.of_tiles else Pulls(self.sides.rows_x, self.sides.rows_y, two_sided)
            self.pulls.append(own)
        return self.pulls[number]

    def _pull(self, problem: Problem, scale: Array, sums: Sums, pulls: Pulls) -> None:
        """Add the gradient of positives and of listed triplets."""
        if sums.of_positives is not None:
            problem.pull_positives(sums.of_positives * problem.spread(scale), pulls, self.ranks)
        if sums.triplets is not None:
            share = self.ranks.share(len(sums.triplets[0]))
            anchor, chosen, negative, d_negative, slope = (column[share] for column in sums.triplets)
            problem.pull_triplets((anchor, chosen, negative, d_negative, slope), scale, pulls)

    def _part(self, number: int, strips: Sequence[Sums], scale: Tensor) -> Part:
        order = self.sides.order_x

        def joined(name: str) -> Tensor:
            return _joined([getattr(sums, name) for sums in strips])

        dx, dy = self._gradient(self.pulls[number]) if self.need_gradient else (None, None)
        margins = temperature = None
        if self.need_gradient and self.batch.margins is not None:
            known = strips[0].of_margins is not None
            margins = _unsorted(scale * joined("of_margins") if known else torch.zeros_like(scale), order)
        if self.need_gradient and self.rule.has_temperature:
            temperature = (scale * joined("of_temperature")).sum()
        return Part(
            values=_unsorted(joined("values").double(), order),
            n_terms=_unsorted(joined("n_terms").long(), order),
            n_active=_unsorted(joined("n_active").long(), order),
            gradient_anchors=dx,
            gradient_references=dy,
            gradient_margins=margins,
            gradient_temperature=temperature,
        )

    def _gradient(self, pulls: Pulls) -> tuple[Tensor, Tensor]:
        """The gradient for anchors and references, in the order of the batch; of rows among themselves one for both."""
        sides, prepared = self.sides, self.sides.prepared
        dx, dy = pulls.whole(sides.rows_x, sides.rows_y)
        if self.batch.is_alone and dy is not dx:  # in strips, or by a relation: both sides are the same rows
            dx = dy = dx.add_(dy)
        one = dx is dy
        if prepared is not None:
            dx, dy = prepared.backward_x(dx), dx if one else prepared.backward_y(dy)
        dx = _unsorted(dx, sides.order_x)
        return (dx, dx) if one else (dx, _unsorted(dy, sides.order_y))


def _strips(batch: Batch) -> list[slice]:
    """All anchors, or some at a time, so that each one's positives may be listed."""
    length, largest = len(batch.anchors), _largest_class(batch)
    if length * largest <= MOST_POSITIVES:
        return [slice(0, length)]
    most = max(1, MOST_POSITIVES // max(1, largest))
    return [slice(start, min(start + most, length)) for start in range(0, length, most)]


def _largest_class(batch: Batch) -> int:
    """At least the largest number of positives of an anchor."""
    if not batch.is_by_class:
        return batch.pairing.largest_class
    return int(np.unique(batch.reference_labels.numpy(), return_counts=True)[1].max(initial=0))


def _joined(arrays: Sequence[Array]) -> Tensor:
    return torch.from_numpy(arrays[0] if len(arrays) == 1 else np.concatenate(arrays))


def _real(number: Any) -> Tensor:
    return torch.tensor(float(number), dtype=torch.float64)


def _unsorted(rows: Array | Tensor, order: Tensor | None) -> Tensor:
    """Rows in the order that `order` took them from."""
    given = torch.as_tensor(rows)
    return given if order is None else torch.empty_like(given).index_copy_(0, order, given)

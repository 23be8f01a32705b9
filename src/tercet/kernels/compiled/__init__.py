"""The compiled CPU implementation: products by PyTorch, everything between them by loops compiled with numba.

    compilation.py   says that the loops are being compiled
    crew.py          threads, and the order of tiles that lets them write without waiting for each other
    problem.py       a batch -> sorted rows, positives as lists, threads' shares
    loops.py         compiled: distances of rows and of a tile, what a tile adds to an anchor's state, gradients
    tiles.py         the visit: products, distances, looks, gradient
    rules.py         the families: state, looks, and what follows in the end

Where rows are compared among themselves by class, a tile of anchors i and references j serves the anchors j, too:
only tiles on and above the diagonal are visited, half a product for the distances and one for the gradient. Otherwise
(a bank, a relation), or where the positives of all anchors at once would not fit (few classes in a large batch), the
anchors go in strips, one-sided: three products.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tercet.collectives import ALONE, Ranks
from tercet.kernels.compiled import compilation  # noqa: F401  listens from here on
from tercet.kernels.compiled.crew import Crew, current_crew, leading_crew
from tercet.kernels.compiled.loops import Array
from tercet.kernels.compiled.problem import ELEMENTWISE, Problem
from tercet.kernels.compiled.rules import Family, Sums, family_of
from tercet.kernels.compiled.tiles import Tiles
from tercet.kernels.pairing import Batch
from tercet.kernels.result import Part, Result, Totals, TripletStats, stats_of
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
    threads = leading_crew()
    with full_precision():
        strips = [Reduction(strip, rule, plan, need_gradient, threads, ranks).totals() for strip in _strips(batch)]
    return strips[0] if len(strips) == 1 else _joined(batch, strips)


class Reduction:
    """One problem, from its tiles to its totals."""

    def __init__(self, batch: Batch, rule: Rule, plan: Plan, need_gradient: bool, threads: Crew, ranks: Ranks) -> None:
        self.batch, self.rule, self.need_gradient, self.ranks = batch, rule, need_gradient, ranks
        self.problem = problem = Problem(batch, rule.distance, threads)
        make = family_of(rule)
        assert make is not None
        self.family: Family = make(rule, problem, problem.count_negatives())
        self.tiles = Tiles(problem, self.family, plan.tile_rows, need_gradient, ranks)

    def totals(self) -> Totals:
        """Visit all, and put what was found in the order of the batch."""
        self.tiles.visit_all()
        sums, mined, active = self.family.finish()
        stats = stats_of(
            torch.from_numpy(self.family.n_positives), torch.from_numpy(self.family.n_negatives),
            n_mined=_whole(mined.sum()), n_active=_whole(active.sum()),
            positive=_real(self.problem.d.sum()),
            negative=_real(np.nan if self.problem.overflows else self.tiles.sum_of_distances()),
            dtype=self.batch.anchors.dtype,
        )  # fmt: skip
        return Totals(tuple(self._part(part) for part in sums), stats)

    def _part(self, sums: Sums) -> Part:
        problem, scale, order = self.problem, self.family.scale.astype(np.float64), self.problem.order_x
        dx, dy = self._gradient(sums) if self.need_gradient else (None, None)
        margins = temperature = None
        if self.need_gradient and self.batch.margins is not None:
            margins = _unsorted(scale * (0 if sums.of_margins is None else sums.of_margins), order)
        if self.need_gradient and self.rule.has_temperature:
            assert sums.of_temperature is not None
            temperature = torch.tensor((scale * sums.of_temperature).sum())
        return Part(
            values=_unsorted(sums.values.astype(np.float64), order),
            n_terms=_unsorted(sums.n_terms.astype(np.int64), order),
            n_active=_unsorted(sums.n_active.astype(np.int64), order),
            gradient_anchors=dx,
            gradient_references=dx if problem.two_sided else dy,
            gradient_margins=margins,
            gradient_temperature=temperature,
        )

    def _gradient(self, sums: Sums) -> tuple[Tensor, Tensor]:
        problem, tiles, scale = self.problem, self.tiles, self.family.scale
        dx, dy = tiles.dx, tiles.dy
        if not sums.of_tiles:
            dx = torch.zeros_like(dx)
            dy = dx if problem.two_sided else torch.zeros_like(dy)
        if sums.of_positives is not None:
            rows = self.ranks.share(len(dx))
            problem.pull_positives(sums.of_positives * scale[problem.owner], dx.numpy(), dy.numpy(), rows)
        if sums.triplets is not None:
            share = self.ranks.share(len(sums.triplets[0]))
            anchor, chosen, negative, d_negative, slope = (column[share] for column in sums.triplets)
            triplets = (anchor, chosen, negative, d_negative, slope)
            problem.pull_triplets(triplets, scale, dx.numpy(), dy.numpy())
        if problem.prepared is not None:
            dx, dy = problem.prepared.backward_x(dx), dy if problem.two_sided else problem.prepared.backward_y(dy)
        dx = _unsorted(dx, problem.order_x)
        if problem.two_sided:
            return dx, dx
        dy = _unsorted(dy, problem.order_y)
        return (dx + dy,) * 2 if self.batch.is_alone else (dx, dy)


def _strips(batch: Batch) -> Iterator[Batch]:
    """The batch, or batches of some of its anchors, so that each one's positives may be listed."""
    length, largest = len(batch.anchors), _largest_class(batch)
    most = max(1, MOST_POSITIVES // max(1, largest))
    if length * largest <= MOST_POSITIVES:
        yield batch
        return
    for start in range(0, length, most):
        yield batch.part(slice(start, min(start + most, length)))


def _largest_class(batch: Batch) -> int:
    """At least the largest number of positives of an anchor."""
    if not batch.is_by_class:
        return batch.pairing.largest_class
    return int(np.unique(batch.reference_labels.numpy(), return_counts=True)[1].max(initial=0))


def _joined(batch: Batch, strips: list[Totals]) -> Totals:
    """The totals of all strips as those of the batch."""
    parts = []
    for of_strips in zip(*(totals.parts for totals in strips), strict=True):
        together: dict[str, Any] = {
            name: _join([getattr(part, name) for part in of_strips], torch.cat)
            for name in ("values", "n_terms", "n_active", "gradient_anchors", "gradient_margins")
        }
        references = _join([part.gradient_references for part in of_strips], sum)
        if batch.is_alone and references is not None:
            references = together["gradient_anchors"] = together["gradient_anchors"] + references
        temperature = _join([part.gradient_temperature for part in of_strips], sum)
        parts.append(Part(**together, gradient_references=references, gradient_temperature=temperature))
    return Totals(tuple(parts), _joined_stats(batch, strips))


def _joined_stats(batch: Batch, strips: list[Totals]) -> TripletStats:
    """Counts add up; a mean of distances is one over pairs, of which the strips have unequal numbers."""
    lengths = [len(totals.parts[0].values) for totals in strips]
    stats = [totals.stats for totals in strips]

    def whole(name: str, numbers: Tensor) -> Tensor:
        of_strips = torch.stack([part.sum() for part in numbers.split(lengths)])
        return (torch.stack([getattr(each, name).double() for each in stats]) * of_strips).sum()

    n_positives, n_negatives = batch.pairing.counts
    return stats_of(
        n_positives, n_negatives,
        n_mined=torch.stack([each.n_mined for each in stats]).sum(),
        n_active=torch.stack([each.n_active for each in stats]).sum(),
        positive=whole("mean_positive", n_positives), negative=whole("mean_negative", n_negatives),
        dtype=batch.anchors.dtype,
    )  # fmt: skip


def _join(found: list[Any], how: Any) -> Any:
    return None if found[0] is None else how(found)


def _whole(number: Any) -> Tensor:
    return torch.tensor(int(number))


def _real(number: Any) -> Tensor:
    return torch.tensor(float(number), dtype=torch.float64)


def _unsorted(rows: Array | Tensor, order: Tensor | None) -> Tensor:
    """Rows in the order that `order` took them from."""
    given = torch.as_tensor(rows)
    return given if order is None else torch.empty_like(given).index_copy_(0, order, given)

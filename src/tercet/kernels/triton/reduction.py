"""A batch and a rule -> totals."""

from __future__ import annotations

import torch
from torch import Tensor

from tercet.errors import InputError, check_choice
from tercet.kernels.pairing import Batch
from tercet.kernels.result import Part, Totals, stats_of
from tercet.kernels.rule import Plan, Rule
from tercet.kernels.triton import obstacle
from tercet.kernels.triton.families import Sums, family_of
from tercet.kernels.triton.tables import PRECISIONS, sides
from tercet.kernels.triton.visits import Visitor


class Reduction:
    """One batch, from its tables to its totals."""

    def __init__(self, batch: Batch, rule: Rule, plan: Plan, need_gradient: bool, precision: str) -> None:
        check_choice("precision", precision, PRECISIONS)
        found = obstacle(batch, rule)
        if found:
            raise InputError(f"implementation 'triton' cannot do this: {found}; use 'auto' or 'torch'.")
        self.batch, self.rule, self.need_gradient = batch, rule, need_gradient
        ready = rule.distance.prepared(batch.anchors, batch.references)
        assert ready is not None
        self.ready = ready
        self.x, self.y = sides(batch, ready, PRECISIONS[precision])
        self.visitor = Visitor(ready, precision, rule.temperature, (plan.tile_rows, plan.tile_columns))

    def totals(self) -> Totals:
        """Visit all, and put together what was found."""
        with torch.cuda.device_of(self.x.rows):
            self.family = family_of(self.rule)(self.batch, self.rule, self.visitor, self.x, self.y, self.need_gradient)
            sums, mined, active = self.family.run()
            parts = tuple(self._part(part) for part in sums)
        stats = stats_of(
            *self.batch.pairing.counts, n_mined=mined.sum(), n_active=active.sum(),
            positive=self.family.positive, negative=self.family.negative, dtype=self.batch.anchors.dtype,
        )  # fmt: skip
        return Totals(parts, stats)

    def _part(self, sums: Sums) -> Part:
        dx, dy = self._gradient(sums) if self.need_gradient else (None, None)
        weights = 1 if self.batch.weights is None else self.batch.weights.double()
        margins = temperature = None
        if self.need_gradient and self.batch.margins is not None:
            of_margins = torch.zeros_like(sums.values) if sums.of_margins is None else sums.of_margins
            margins = weights * of_margins
        if self.need_gradient and self.rule.has_temperature:
            assert sums.of_temperature is not None
            temperature = (weights * sums.of_temperature).sum()
        return Part(sums.values, sums.n_terms, sums.n_active, dx, dy, margins, temperature)

    def _gradient(self, sums: Sums) -> tuple[Tensor, Tensor]:
        """The gradients for anchors and references; the same object where they are the same rows."""
        family, alone = self.family, self.batch.is_alone
        dx = family.dx if sums.of_tiles else None
        dx = torch.zeros_like(self.x.rows) if dx is None else dx
        dy = family.dy if sums.of_tiles else None
        dy = dx if alone else torch.zeros_like(self.y.rows) if dy is None else dy
        scale = 1 if self.batch.weights is None else self.batch.weights[:, None]
        if sums.of_positives is not None:
            positives = family.positives
            self._pull(positives.real, positives.index, positives.d, scale * sums.of_positives, dx, dy)
        if sums.negatives is not None:
            index, d, weights = sums.negatives
            self._pull(index >= 0, index, d, scale * weights, dx, dy)
        if alone:
            dx = self.ready.backward_x(dx)
            return dx, dx
        return self.ready.backward_x(dx), self.ready.backward_y(dy)

    def _pull(self, real: Tensor, index: Tensor, d: Tensor, weights: Tensor, dx: Tensor, dy: Tensor) -> None:
        """Add the gradient of sum(weights * d) over listed pairs, all of shape (A, K)."""
        anchors, slots = real.nonzero(as_tuple=True)
        force = self.visitor.force(d[anchors, slots], weights[anchors, slots])
        self.visitor.pull_both(self.x, self.y, anchors, index[anchors, slots], force, dx, dy)

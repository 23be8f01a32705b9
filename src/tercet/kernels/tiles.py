"""Blocks of anchors, tiles of distances, and the sums that they add to.

Tensors are named by their axes: R anchors of a block of rows, C references of a block of columns, K positives
of an anchor (padded), D dimensions.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from tercet.kernels.pairing import Batch
from tercet.kernels.result import Part
from tercet.kernels.rule import Rule


class _Precision:
    """The process's setting for matrix products, and how many have asked for the highest."""

    def __init__(self) -> None:
        self.lock, self.users, self.kept = threading.Lock(), 0, "highest"


_precision = _Precision()


@contextmanager
def full_precision() -> Iterator[None]:
    """Matrix products in the dtype that is given: TF32 would leave three digits of a float32 distance.

    The setting is the process's. Threads may ask for it at once: the last one out puts back what the first one found.
    """
    with _precision.lock:
        if not _precision.users:
            _precision.kept = torch.get_float32_matmul_precision()
            torch.set_float32_matmul_precision("highest")
        _precision.users += 1
    try:
        yield
    finally:
        with _precision.lock:
            _precision.users -= 1
            if not _precision.users:
                torch.set_float32_matmul_precision(_precision.kept)


def _empty_part(batch: Batch, rule: Rule, need_gradient: bool) -> Part:
    """A part with nothing in it yet."""
    x, y = batch.anchors, batch.references
    values, margins = x.new_zeros(2, len(x), dtype=torch.float64)
    n_terms, n_active = torch.zeros(2, len(x), dtype=torch.int64, device=x.device)
    dx = torch.zeros_like(x) if need_gradient else None
    return Part(
        values,
        n_terms,
        n_active,
        gradient_anchors=dx,
        gradient_references=dx if batch.is_alone or dx is None else torch.zeros_like(y),
        gradient_margins=margins if need_gradient and batch.margins is not None else None,
        gradient_temperature=values.new_zeros(()) if need_gradient and rule.has_temperature else None,
    )


class Sums:
    """Everything that is added up over the tiles. Sums that cancel, or run over many terms, are float64.

    Attributes:
        of_positives: the part that positive pairs add to.
        of_negatives: the part that negative pairs add to: the same one, unless the rule divides them apart.
    """

    def __init__(self, batch: Batch, rule: Rule, need_gradient: bool) -> None:
        self.x, self.y, self.pairing, self.distance = batch.anchors, batch.references, batch.pairing, rule.distance
        self.need_gradient, self.weights, self.start = need_gradient, batch.weights, batch.start
        margins = self.x.new_full((1,), rule.margin).expand(len(self.x)) if batch.margins is None else batch.margins
        self.margins = margins[:, None]  # (A, 1)
        self.parts = tuple(_empty_part(batch, rule, need_gradient) for _ in range(2 if rule.divides_pairs_apart else 1))
        self.of_positives, self.of_negatives = self.parts[0], self.parts[-1]
        self.positive, self.negative = self.x.new_zeros(2, dtype=torch.float64).unbind()
        self.n_mined, self.n_active = torch.zeros(2, dtype=torch.int64, device=self.x.device).unbind()

    def add_pairs(self, part: Part, i: Tensor, j: Tensor, d: Tensor, weights: Tensor) -> None:
        """Add the gradient of sum(weights * d) over listed pairs of rows x[i] and y[j], weighed by their anchors."""
        if part.gradient_anchors is None or part.gradient_references is None:
            return
        if self.weights is not None:
            weights = weights * self.weights[i]
        dx, dy = part.gradient_anchors, part.gradient_references
        self.distance.add_listed_gradient(self.x, self.y, i, j, d, weights, dx, dy)


class Rows:
    """A block of anchors with their positives, and where their sums and gradients go."""

    def __init__(self, sums: Sums, rows: slice) -> None:
        self.sums, self.rows = sums, rows
        self.margin = sums.margins[rows]  # (R, 1)
        self.positives, self.real = sums.pairing.positives(rows)  # (R, K)
        self.i, slot = self.real.nonzero(as_tuple=True)
        self.anchors, self.chosen = self.i + rows.start, self.positives[self.i, slot]  # the real pairs, as a list
        self.d_listed = sums.distance.listed(sums.x, sums.y, self.anchors, self.chosen)
        self.d = sums.x.new_zeros(self.real.shape).masked_scatter_(self.real, self.d_listed)  # (R, K)
        sums.positive += self.d_listed.sum(dtype=torch.float64)

    def n_valid(self) -> Tensor:
        """The number of valid triplets of each of these anchors, of shape (R,)."""
        positives, negatives = self.sums.pairing.counts
        return positives[self.rows] * negatives[self.rows]

    def add_terms(self, part: Part, values: Tensor, n_terms: Tensor, n_active: Tensor) -> None:
        """Add to a part's values and numbers, all of shape (R,)."""
        part.values[self.rows] += values
        part.n_terms[self.rows] += n_terms
        part.n_active[self.rows] += n_active

    def add_positive_gradient(self, weights: Tensor) -> None:
        """Add the gradient of sum(weights * d), with weights of shape (R, K)."""
        self.sums.add_pairs(self.sums.of_positives, self.anchors, self.chosen, self.d_listed, weights[self.real])

    def add_slopes(self, part: Part, of_margin: Tensor, of_temperature: Tensor | None = None) -> None:
        """Add the derivatives of these anchors' values by margin and temperature, of shape (R,)."""
        weights = 1 if self.sums.weights is None else self.sums.weights[self.rows].double()
        if part.gradient_margins is not None:
            part.gradient_margins[self.rows] += weights * of_margin
        if part.gradient_temperature is not None and of_temperature is not None:
            part.gradient_temperature.add_((weights * of_temperature).sum())


class Tile:
    """Distances of a block of anchors to a block of references; where not negatives, infinite."""

    def __init__(self, sums: Sums, rows: slice, columns: slice) -> None:
        self.sums, self.rows, self.columns = sums, rows, columns
        x, y = sums.x[rows], sums.y[columns]
        self.negative = sums.pairing.negatives(rows, columns)  # (R, C)
        self.d = sums.distance.tile(x, y)
        self.slack = sums.distance.rounding(x, y)  # (R, 1)
        self.d.masked_fill_(~self.negative, torch.inf)

    def count(self) -> None:
        """Add the distances to the sum that the mean distance of negatives is made of."""
        self.sums.negative += torch.where(self.negative, self.d, 0).sum(dtype=torch.float64)

    def settle(self, doubtful: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Put exact distances where the mask of shape (R, C) says; return where and what, as lists."""
        i, j = (doubtful & self.negative).nonzero(as_tuple=True)
        sums = self.sums
        exact = sums.distance.listed(sums.x, sums.y, i + self.rows.start, j + self.columns.start)
        self.d[i, j] = exact
        return i, j, exact

    def add_negative_gradient(self, weights: Tensor) -> None:
        """Add the gradient of sum(weights * d), with weights of shape (R, C)."""
        sums, part = self.sums, self.sums.of_negatives
        if part.gradient_anchors is None or part.gradient_references is None:
            return
        if sums.weights is not None:
            weights = weights * sums.weights[self.rows, None]
        dx, dy = sums.distance.tile_gradient(sums.x[self.rows], sums.y[self.columns], self.d, weights)
        part.gradient_anchors[self.rows] += dx
        part.gradient_references[self.columns] += dy

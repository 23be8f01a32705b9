"""Blocks of anchors, tiles of distances, and the sums that they add to.

Tensors are named by their axes: R anchors of a block of rows, C references of a block of columns, K positives
of an anchor (padded), D dimensions.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tercet.distances import Distance
from tercet.kernels.pairing import Pairing


class Sums:
    """Everything that is added up over the tiles. Sums that cancel, or run over many terms, are float64."""

    def __init__(self, x: Tensor, y: Tensor, pairing: Pairing, distance: Distance, need_gradient: bool) -> None:
        self.x, self.y, self.pairing, self.distance = x, y, pairing, distance
        self.dx = torch.zeros_like(x) if need_gradient else None
        self.dy = self.dx if y is x else torch.zeros_like(y) if need_gradient else None
        self.value, self.positive, self.negative = x.new_zeros(3, dtype=torch.float64).unbind()
        self.n_mined, self.n_active, self.n_terms = torch.zeros(3, dtype=torch.int64, device=x.device).unbind()

    def add_pairs(self, i: Tensor, j: Tensor, d: Tensor, weights: Tensor) -> None:
        """Add the gradient of sum(weights * d) over listed pairs of rows x[i] and y[j]."""
        if self.dx is not None and self.dy is not None:
            self.distance.add_listed_gradient(self.x, self.y, i, j, d, weights, self.dx, self.dy)


class Rows:
    """A block of anchors with their positives, and where their sums and gradients go."""

    def __init__(self, sums: Sums, rows: slice) -> None:
        self.sums, self.rows = sums, rows
        self.positives, self.real = sums.pairing.positives(rows)  # (R, K)
        self.i, slot = self.real.nonzero(as_tuple=True)
        self.anchors, self.chosen = (
            self.i + rows.start,
            self.positives[self.i, slot],
        )  # the real pairs, as a list
        self.d_listed = sums.distance.listed(sums.x, sums.y, self.anchors, self.chosen)
        self.d = sums.x.new_zeros(self.real.shape).masked_scatter_(self.real, self.d_listed)  # (R, K)
        sums.positive += self.d_listed.sum(dtype=torch.float64)

    def n_valid(self) -> Tensor:
        """The number of valid triplets of these anchors."""
        positives, negatives = self.sums.pairing.counts
        return (positives[self.rows] * negatives[self.rows]).sum()

    def add_positive_gradient(self, weights: Tensor) -> None:
        """Add the gradient of sum(weights * d), with weights of shape (R, K)."""
        self.sums.add_pairs(self.anchors, self.chosen, self.d_listed, weights[self.real])


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
        sums = self.sums
        if sums.dx is not None and sums.dy is not None:
            x, y = sums.x[self.rows], sums.y[self.columns]
            dx, dy = sums.distance.tile_gradient(x, y, self.d, weights)
            sums.dx[self.rows] += dx
            sums.dy[self.columns] += dy

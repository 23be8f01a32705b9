"""The tiles of a problem: their distances, shown to a family of rules, and the gradient that it gives them."""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import partial
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from tercet.collectives import ALONE, Ranks
from tercet.kernels.compiled import loops
from tercet.kernels.compiled.crew import Crew, dealt, rectangle, tournament
from tercet.kernels.compiled.loops import Array
from tercet.kernels.compiled.problem import Problem
from tercet.kernels.compiled.pulls import Pulls
from tercet.kernels.compiled.rules import Family, View

Bounds = tuple[int, int]
SMALLEST = 64  # rows of a block, below which a tile costs more than what it saves


class Buffers:
    """What a worker writes tiles to: the distances, their weights, and the same as the columns see them."""

    def __init__(self, entries: int, dtype: torch.dtype) -> None:
        self.flat = torch.empty(4, entries, dtype=dtype)
        self.views: dict[tuple[int, int], list[tuple[Tensor, Array]]] = {}

    def of(self, rows: int, columns: int) -> list[tuple[Tensor, Array]]:
        """Tensors and arrays of shapes (R, C), (R, C), (C, R), (C, R)."""
        if (rows, columns) not in self.views:
            shapes = [(rows, columns)] * 2 + [(columns, rows)] * 2
            tensors = [flat[: rows * columns].view(shape) for flat, shape in zip(self.flat, shapes, strict=True)]
            self.views[rows, columns] = [(tensor, tensor.numpy()) for tensor in tensors]
        return self.views[rows, columns]


class Tiles:
    """Visits every tile of a problem for a family.

    Args:
        problem: what the tiles are of.
        family: what they are shown to.
        size: rows of a tile, at most.
        pulls: what the gradient that the family gives is added to; None if it is not wanted.
        ranks: each takes its share of the tiles.

    Attributes:
        distances: each worker's sum of all distances to negatives.
    """

    def __init__(self, problem: Problem, family: Family, size: int, pulls: Pulls | None, ranks: Ranks = ALONE) -> None:
        self.problem, self.family, self.crew, self.ranks = problem, family, problem.crew, ranks
        self.rows_x, self.rows_y = problem.sides.rows_x, problem.sides.rows_y
        at_once = _threads_of_all(self.crew, ranks) * (2 if problem.two_sided else 1)
        self.blocks_x, self.blocks_y = (_blocks(len(rows), size, at_once) for rows in (self.rows_x, self.rows_y))
        self.pulls = pulls is not None and family.pulls
        pulls = pulls or Pulls(self.rows_x[:0], self.rows_y[:0], problem.two_sided)
        self.dx, self.dy = pulls.dx, pulls.dy
        self.arrays = (pulls.dx.numpy(), pulls.dy.numpy(), pulls.of_x, pulls.of_y)
        self.distances = np.zeros(self.crew.size)
        entries = min(size, max(1, len(self.rows_x))) * min(size, max(1, len(self.rows_y)))
        self.buffers = [Buffers(entries, self.rows_x.dtype) for _ in range(self.crew.size)]

    def rounds(self) -> Iterable[list[tuple[int, int]]]:
        """This rank's tiles that may be visited at once, as numbers of blocks of rows and columns."""
        if self.problem.two_sided:
            return dealt(tournament(len(self.blocks_x)), self.ranks.rank, self.ranks.size)
        return rectangle(len(self.blocks_x), len(self.blocks_y))

    def sum_of_distances(self) -> float:
        """The sum of all distances to negatives, of all ranks."""
        return float(self.ranks.sum(torch.tensor(self.distances.sum())))

    def visit_all(self) -> None:
        """Show the family every tile, as often as it needs."""
        visits = self.family.visits if self.pulls else 1
        for visit in range(visits):
            for tiles in self.rounds():
                self.crew.run(partial(self._visit, visit, visit == visits - 1), tiles)
            if self.ranks.size > 1:
                self.family.join(self.ranks, visit)
            if visit == 0:
                self.family.turn(self.pulls)

    def _visit(self, visit: int, last: bool, worker: int, tile: tuple[int, int]) -> None:
        """Form one tile of distances, show it, and add the gradient."""
        problem, family = self.problem, self.family
        rows, columns = self.blocks_x[tile[0]], self.blocks_y[tile[1]]
        (i0, i1), (j0, j1) = rows, columns
        if problem.all_one_class(i0, i1, j0, j1):
            return
        buffers = self.buffers[worker].of(i1 - i0, j1 - j0)
        pulls = last and self.pulls
        if problem.sides.prepared is not None and problem.two_sided and family.sees_both:
            tensor, d = buffers[0]
            self._form(tensor, d, rows, columns)
            gradient = (pulls, self.arrays[0], self.arrays[2])
            self.distances[worker] += 2 * family.look_both(d, problem.x, i0, j0, problem.metric, gradient)
            if pulls:
                self._multiply(tensor, rows, columns)
        else:
            self._show(visit, pulls, worker, rows, columns, buffers)

    def _form(self, tensor: Tensor, d: Array, rows: Bounds, columns: Bounds) -> None:
        """Put inner products in a tile, -inf where pairs are no negatives; or distances, and inf, without products."""
        problem, (i0, i1), (j0, j1) = self.problem, rows, columns
        if problem.sides.prepared is not None:
            torch.mm(self.rows_x[i0:i1], self.rows_y[j0:j1].T, out=tensor)
            problem.mask(d, i0, i1, j0, j1, -math.inf)
        else:
            loops.fill_tile(d, problem.x, i0, problem.y, j0, problem.metric)
            problem.mask(d, i0, i1, j0, j1, math.inf)

    def _show(
        self, visit: int, pulls: bool, worker: int, rows: Bounds, columns: Bounds, buffers: list[tuple[Tensor, Array]]
    ) -> None:
        """Form a tile of distances, show it from one side and then from the other, and add the gradient."""
        problem, family, metric, i0, j0 = self.problem, self.family, self.problem.metric, rows[0], columns[0]
        (tensor, d), (weight_tensor, weights), turned, back = buffers
        mirrored = problem.two_sided and i0 != j0
        self._form(tensor, d, rows, columns)
        if problem.sides.prepared is not None:
            total = loops.to_distances(d, problem.x, i0, problem.y, j0, metric)
        else:
            total = loops.sum_of_finite(d)
        if visit == 0:
            self.distances[worker] += 2 * total if mirrored else total
        family.look(View(d, weights, weight_tensor, problem.x, i0, problem.y, j0, metric), visit)
        if mirrored:
            loops.transpose(d, turned[1])
            family.look(View(turned[1], back[1], back[0], problem.y, j0, problem.x, i0, metric), visit)
            if pulls:
                loops.add_transpose(weights, back[1])
        if pulls and problem.sides.prepared is not None:
            loops.to_pulls(d, weights, problem.x, i0, problem.y, j0, metric, *self.arrays)
            if problem.two_sided and not mirrored:
                loops.add_own_transpose(d)
            self._multiply(tensor, rows, columns)
        elif pulls:
            loops.pull_tile(d, weights, problem.x, i0, problem.y, j0, metric, *self.arrays[:2])

    def _multiply(self, pulls: Tensor, rows: Bounds, columns: Bounds) -> None:
        """The part of the gradient that is a matrix product: -pulls y for x, and -pulls' x for y.

        On the diagonal of a two-sided problem, where pulls are symmetric, these are one.
        """
        (i0, i1), (j0, j1) = rows, columns
        self.dx[i0:i1].addmm_(pulls, self.rows_y[j0:j1], alpha=-1)
        if not (self.problem.two_sided and rows == columns):
            self.dy[j0:j1].addmm_(pulls.T, self.rows_x[i0:i1], alpha=-1)


def _threads_of_all(crew: Crew, ranks: Ranks) -> int:
    """How many tiles all ranks may visit at once, which all must agree on: the tiles are cut by it."""
    return ranks.size * int(ranks.smallest(torch.tensor(crew.size)))


def _blocks(length: int, size: int, at_once: int = 1) -> list[Bounds]:
    """Bounds of blocks of nearly equal length, at most `size`; a multiple of `at_once` if not too small."""
    count = -(-length // size)
    even = -(-count // at_once) * at_once
    if length // max(1, even) >= SMALLEST:
        count = even
    bounds = [length * k // max(1, count) for k in range(count + 1)]
    return list(pairwise(bounds))

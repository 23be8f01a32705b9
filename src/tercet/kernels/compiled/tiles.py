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
    """Visits every tile of a problem for a family, and gathers the gradient that it gives.

    Attributes:
        dx, dy: the gradient for the problem's rows; one tensor if the problem is two-sided.
        distances: each worker's sum of all distances to negatives.
    """

    def __init__(self, problem: Problem, family: Family, size: int, need_gradient: bool, ranks: Ranks = ALONE) -> None:
        self.problem, self.family, self.crew, self.ranks = problem, family, problem.crew, ranks
        x, y = problem.rows_x, problem.rows_y
        at_once = _threads_of_all(self.crew, ranks) * (2 if problem.two_sided else 1)
        self.rows_x, self.rows_y = _blocks(len(x), size, at_once), _blocks(len(y), size, at_once)
        self.pulls = need_gradient and family.pulls
        self.dx = torch.zeros_like(x)
        self.dy = self.dx if problem.two_sided else torch.zeros_like(y)
        self.pull_x = np.zeros(len(x))
        self.pull_y = self.pull_x if problem.two_sided else np.zeros(len(y))
        self.arrays = (self.dx.numpy(), self.dy.numpy(), self.pull_x, self.pull_y)
        self.distances = np.zeros(self.crew.size)
        entries = min(size, max(1, len(x))) * min(size, max(1, len(y)))
        self.buffers = [Buffers(entries, x.dtype) for _ in range(self.crew.size)]

    def rounds(self) -> Iterable[list[tuple[int, int]]]:
        """This rank's tiles that may be visited at once, as numbers of blocks of rows and columns."""
        if self.problem.two_sided:
            return dealt(tournament(len(self.rows_x)), self.ranks.rank, self.ranks.size)
        return rectangle(len(self.rows_x), len(self.rows_y))

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
        if self.pulls and self.problem.prepared is not None:
            _add_pulled(self.dx, self.pull_x, self.problem.rows_x)
            if not self.problem.two_sided:
                _add_pulled(self.dy, self.pull_y, self.problem.rows_y)

    def _visit(self, visit: int, last: bool, worker: int, tile: tuple[int, int]) -> None:
        """Form one tile of distances, show it, and add the gradient."""
        problem, family = self.problem, self.family
        rows, columns = self.rows_x[tile[0]], self.rows_y[tile[1]]
        (i0, i1), (j0, j1) = rows, columns
        if problem.all_one_class(i0, i1, j0, j1):
            return
        buffers = self.buffers[worker].of(i1 - i0, j1 - j0)
        pulls = last and self.pulls
        if problem.prepared is not None and problem.two_sided and family.sees_both:
            tensor, d = buffers[0]
            self._form(tensor, d, rows, columns)
            gradient = (pulls, self.arrays[0], self.pull_x)
            self.distances[worker] += 2 * family.look_both(d, problem.x, i0, j0, problem.metric, gradient)
            if pulls:
                self._multiply(tensor, rows, columns)
        else:
            self._show(visit, pulls, worker, rows, columns, buffers)

    def _form(self, tensor: Tensor, d: Array, rows: Bounds, columns: Bounds) -> None:
        """Put inner products in a tile, -inf where pairs are no negatives; or distances, and inf, without products."""
        problem, (i0, i1), (j0, j1) = self.problem, rows, columns
        if problem.prepared is not None:
            torch.mm(problem.rows_x[i0:i1], problem.rows_y[j0:j1].T, out=tensor)
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
        if problem.prepared is not None:
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
        if pulls and problem.prepared is not None:
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
        self.dx[i0:i1].addmm_(pulls, self.problem.rows_y[j0:j1], alpha=-1)
        if not (self.problem.two_sided and rows == columns):
            self.dy[j0:j1].addmm_(pulls.T, self.problem.rows_x[i0:i1], alpha=-1)


def _threads_of_all(crew: Crew, ranks: Ranks) -> int:
    """How many tiles all ranks may visit at once, which all must agree on: the tiles are cut by it."""
    return ranks.size * int(ranks.smallest(torch.tensor(crew.size)))


def _add_pulled(gradient: Tensor, pulls: Array, rows: Tensor) -> None:
    """Add diag(pulls) rows."""
    gradient.addcmul_(torch.from_numpy(pulls).to(rows.dtype)[:, None], rows)


def _blocks(length: int, size: int, at_once: int = 1) -> list[Bounds]:
    """Bounds of blocks of nearly equal length, at most `size`; a multiple of `at_once` if not too small."""
    count = -(-length // size)
    even = -(-count // at_once) * at_once
    if length // max(1, even) >= SMALLEST:
        count = even
    bounds = [length * k // max(1, count) for k in range(count + 1)]
    return list(pairwise(bounds))

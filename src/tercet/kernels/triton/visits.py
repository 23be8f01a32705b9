"""Launches the kernels: all pairs by products, then those that rounding leaves open by direct differences."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tercet.distances.prepared import Prepared
from tercet.kernels.triton import device
from tercet.kernels.triton.listed import measure, pull_listed, visit_listed
from tercet.kernels.triton.tables import PRECISIONS, Side, blocks_for
from tercet.kernels.triton.tiles import visit_tiles

LISTED = 1 << 23  # pairs in the list of doubtful ones, where not a single block of rows has more
PAIRS = 1 << 35  # visited before the list is settled, if it has room
WARPS = 8  # of a program that forms products: fewer would not have the registers
# Blocks of the kernels for listed pairs: rows, and pairs or features. The interpreter takes long for each program.
OF_LIST, OF_ROWS, OF_PAIRS, OF_FEATURES = (1024, 64, 16, 64) if device.INTERPRETED else (32, 32, 8, 64)


@dataclass(frozen=True)
class Job:
    """What a visit is to do, see `tiles.visit_tiles`."""

    kind: int
    cost: int = device.HINGE.value
    levels: int = 0
    own: bool = True
    other: bool = False
    gradient: bool = False
    farthest: bool = False

    @property
    def n_sums(self) -> int:
        """The number of rows of `sums`."""
        return device.OF_LEVELS.value + 2 * self.levels + 2


@dataclass
class Listed:
    """Pairs of two sides, in ascending order of the rows and, for each, of the others.

    Attributes:
        chosen: rows that have a pair, each once, of shape (N,).
        begin: where each one's pairs begin, and where the last one's end, of shape (N + 1,).
        other: the other of each pair, of shape (L,).
    """

    chosen: Tensor
    begin: Tensor
    other: Tensor

    @staticmethod
    def of(i: Tensor, j: Tensor) -> Listed:
        """The pairs (i, j), in that order already."""
        chosen, counts = i.unique_consecutive(return_counts=True)
        return Listed(chosen, torch.nn.functional.pad(counts.cumsum(0), (1, 0)), j.contiguous())


class Visitor:
    """Visits all pairs of two sides, whichever way round."""

    def __init__(self, ready: Prepared, precision: str, temperature: float, tiles: tuple[int, int]) -> None:
        self.ready, self.name, self.precision = ready, precision, PRECISIONS[precision]
        self.dim, self.error = ready.rows_x.shape[1], self.precision.error_of(ready.rows_x)
        self.rate, self.tiles = 1 / temperature, tiles

    def visit(self, rows: Side, others: Side, job: Job) -> tuple[Tensor, Tensor]:
        """The sums of the rows, float64 of shape (S, N), and their gradient, of shape (N, D) (empty if not asked for).

        Both are for the rows of the products; `Prepared.backward_x` leads to those given.
        """
        sums = rows.facts.new_zeros(job.n_sums, len(rows), dtype=torch.float64)
        if job.kind == device.NEAREST.value:
            self._nothing_found(sums, job)
        gradient = torch.zeros_like(rows.rows) if job.gradient else rows.rows.new_zeros(0, self.dim)
        if len(rows) and len(others):
            _Strips(self, rows, others, job, sums, gradient).visit()
        return sums, gradient

    @staticmethod
    def _nothing_found(sums: Tensor, job: Job) -> None:
        nearest, index, farthest = sums[device.OF_LEVELS.value :].split([job.levels, job.levels, 2])
        nearest.fill_(torch.inf)
        index.fill_(-1)
        farthest[0], farthest[1] = -torch.inf, -1

    def measure(self, rows: Side, others: Side, i: Tensor, j: Tensor) -> Tensor:
        """Distances of listed pairs by direct differences, of shape (L,)."""
        d = rows.direct.new_empty(len(i))
        if len(i):
            measure[(_cells(len(i), OF_LIST),)](
                rows.direct, others.direct, rows.extra, others.extra, i, j, d, len(i), self.dim, self.ready.factor,
                ROOT=self.ready.root, N=OF_LIST, STEP=OF_FEATURES,
            )  # fmt: skip
        return d

    def force(self, d: Tensor, weights: Tensor) -> Tensor:
        """What the difference of two rows is multiplied by in the gradient of weights * d; none for coincident ones."""
        pull = weights / d if self.ready.root else 2 * self.ready.factor * weights
        return torch.where(d > 0, pull, 0).to(d.dtype)

    def pull(self, rows: Side, others: Side, listed: Listed, force: Tensor, gradient: Tensor) -> None:
        """Add to the gradient of the rows that of listed pairs."""
        if len(listed.chosen) and self.dim:
            grid = (_cells(len(listed.chosen), OF_ROWS), _cells(self.dim, OF_FEATURES))
            pull_listed[grid](
                listed.chosen, listed.begin, listed.other, force, rows.direct, others.direct, gradient,
                len(listed.chosen), self.dim, R=OF_ROWS, STEP=OF_FEATURES,
            )  # fmt: skip

    def pull_both(self, x: Side, y: Side, i: Tensor, j: Tensor, force: Tensor, dx: Tensor, dy: Tensor) -> None:
        """Add the gradient of listed pairs, i ascending, to both sides'."""
        self.pull(x, y, Listed.of(i, j), force, dx)
        back, order = j.sort(stable=True)
        self.pull(y, x, Listed.of(back, i[order]), force[order], dy)


class _Strips:
    """One visit: as many rows at a time as the list of their doubtful pairs has room for."""

    def __init__(self, visitor: Visitor, rows: Side, others: Side, job: Job, sums: Tensor, gradient: Tensor) -> None:
        self.visitor, self.rows, self.others, self.job = visitor, rows, others, job
        self.sums, self.gradient = sums, gradient
        self.blocks = blocks_for(visitor.dim, visitor.name, job.gradient, *visitor.tiles)
        self.capacity = min(LISTED, len(rows) * len(others))
        self.found = rows.keys.new_empty(self.capacity)
        self.counter = rows.keys.new_zeros(1)

    def visit(self) -> None:
        """Visit all rows. What does not fit is visited again, fewer rows at a time."""
        most = size = self._whole(PAIRS // len(self.others))
        start = 0
        while start < len(self.rows):
            stop = min(start + size, len(self.rows))
            number = self._visit_tiles(start, stop)
            if number <= self.capacity:
                self._settle(number)
                start = stop
                size = min(most, 2 * size)
            elif stop - start > self.blocks.rows:
                size = self._whole(int((stop - start) * self.capacity / (2 * number)))
            else:
                self.capacity = number
                self.found = self.found.new_empty(number)

    def _whole(self, rows: int) -> int:
        """Whole blocks of rows, at least one."""
        return max(1, rows // self.blocks.rows) * self.blocks.rows

    def _visit_tiles(self, start: int, stop: int) -> int:
        """Visit a strip; the number of its doubtful pairs."""
        visitor, rows, others, job, blocks = self.visitor, self.rows, self.others, self.job, self.blocks
        self.counter.zero_()
        visit_tiles[(_cells(stop - start, blocks.rows),)](
            rows.rows, others.rows, rows.facts, others.facts, rows.keys, others.keys, self.sums, self.gradient,
            self.found, self.counter, self.capacity, start, stop, len(rows), len(others), visitor.dim, job.levels,
            visitor.ready.factor, visitor.precision.near, visitor.error, visitor.rate,
            KIND=job.kind, COST=job.cost, OWN=job.own, OTHER=job.other, GRADIENT=job.gradient, FARTHEST=job.farthest,
            ROOT=visitor.ready.root, ROUNDED=visitor.precision.rounds_rows, PRECISION=visitor.name,
            KEYS=len(rows.keys), K=_padded(job.levels), R=blocks.rows, C=blocks.others, STEP=blocks.features,
            D=blocks.width, num_warps=WARPS,
        )  # fmt: skip
        return int(self.counter)

    def _settle(self, number: int) -> None:
        """Add what the listed pairs add, by their exact distances."""
        if not number:
            return
        visitor, rows, others, job = self.visitor, self.rows, self.others, self.job
        pairs = self.found[:number].sort()[0]  # the order in which programs found them is nobody's
        i = pairs // len(others)
        j = pairs - i * len(others)
        d = visitor.measure(rows, others, i, j)
        listed, force = Listed.of(i, j), torch.empty_like(d)
        visit_listed[(_cells(len(listed.chosen), OF_ROWS),)](
            listed.chosen, listed.begin, listed.other, d, force, rows.facts, others.facts, self.sums,
            len(listed.chosen), len(rows), len(others), job.levels, visitor.ready.factor, visitor.rate,
            KIND=job.kind, COST=job.cost, OWN=job.own, OTHER=job.other, GRADIENT=job.gradient, FARTHEST=job.farthest,
            ROOT=visitor.ready.root, K=_padded(job.levels), R=OF_ROWS, C=OF_PAIRS,
        )  # fmt: skip
        if job.gradient:
            visitor.pull(rows, others, listed, force, self.gradient)


def _padded(levels: int) -> int:
    return 1 << max(0, levels - 1).bit_length()


def _cells(length: int, block: int) -> int:
    return -(-length // block)

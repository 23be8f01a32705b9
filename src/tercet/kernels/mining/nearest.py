"""One negative for each chosen positive: the nearest, or the nearest beyond it."""

from __future__ import annotations

import torch
from torch import Tensor

from tercet.kernels.mining.base import NONE, Miner
from tercet.kernels.mining.levels import count_levels_below
from tercet.kernels.rule import Rule
from tercet.kernels.tiles import Rows, Tile


def chosen_positives(rule: Rule, block: Rows) -> tuple[Tensor, Tensor, Tensor]:
    """The positives that the rule pairs with negatives, as indices, distances and which are real: (R, K) or (R, 1).

    All of them for semihard; for hard the farthest (Hermans et al. 2017, eq. 5), and for the easy positives
    the nearest (Xuan et al. 2020); the lowest index at ties.
    """
    if rule.mining == "semihard":
        return block.positives, block.d, block.real
    if rule.mining == "hard":
        d, slot = torch.where(block.real, block.d, -torch.inf).max(dim=1, keepdim=True)
    else:
        d, slot = torch.where(block.real, block.d, torch.inf).min(dim=1, keepdim=True)
    return block.positives.gather(1, slot), d, block.real.any(1, keepdim=True)


class _OneEach(Miner):
    """Base: one triplet for each chosen positive that has a negative."""

    def __init__(self, rule: Rule, block: Rows) -> None:
        super().__init__(rule, block)
        self.positives, self.d_positives, self.real = chosen_positives(rule, block)

    def add_mined(self, nearest: Tensor, d_nearest: Tensor) -> None:
        """Add the chosen positives with these negatives, of shape (R, K)."""
        mined = self.real & (nearest != NONE)
        self.add_triplets(
            mined.nonzero()[:, 0],
            (self.positives[mined], self.d_positives[mined]),
            (nearest[mined], d_nearest[mined]),
        )


class Nearest(_OneEach):
    """The nearest negative of all, lowest index first."""

    def __init__(self, rule: Rule, block: Rows) -> None:
        super().__init__(rule, block)
        rows = len(block.real)
        self.d_nearest = block.d.new_full((rows,), torch.inf)
        self.nearest = torch.full((rows,), NONE, device=block.d.device)

    def see(self, tile: Tile) -> None:
        """Keep the nearest negative so far."""
        bound = torch.minimum(tile.d.amin(1), self.d_nearest)[:, None]
        tile.settle(tile.d <= bound + 2 * tile.slack)
        d, j = tile.d.min(dim=1)
        nearer = d < self.d_nearest
        self.d_nearest = torch.where(nearer, d, self.d_nearest)
        self.nearest = torch.where(nearer, j + tile.columns.start, self.nearest)

    def finish(self) -> None:
        """Add one triplet for each anchor that has both."""
        self.add_mined(self.nearest[:, None], self.d_nearest[:, None])


class NearestBeyond(_OneEach):
    """For each chosen positive the nearest negative that is strictly farther than it.

    The positives' distances are the levels; each bucket keeps its nearest negative (lowest index at ties),
    and the answer for a positive is the minimum over the buckets above it. `farthest` falls back on the
    farthest negative.
    """

    def __init__(self, rule: Rule, block: Rows) -> None:
        super().__init__(rule, block)
        self.levels, self.order = torch.where(self.real, self.d_positives, -torch.inf).sort(dim=1)  # (R, K)
        rows, width = self.levels.shape
        self.d_nearest = self.levels.new_full((rows, width + 1), torch.inf)
        self.nearest = torch.full((rows, width + 1), NONE, device=self.levels.device)
        self.d_farthest = self.levels.new_full((rows,), -torch.inf)
        self.farthest = torch.full((rows,), NONE, device=self.levels.device)

    def see(self, tile: Tile) -> None:
        """Keep the nearest negative of every bucket so far, and the farthest of all if it may be needed."""
        bucket = count_levels_below(tile, self.levels, or_equal=False)
        rough = self.d_nearest.scatter_reduce(1, bucket, tile.d, "amin")
        tile.settle(tile.d <= rough.gather(1, bucket) + 2 * tile.slack)  # moves no distance across a level
        d = self.d_nearest.scatter_reduce(1, bucket, tile.d, "amin")
        end = tile.columns.stop
        index = torch.arange(tile.columns.start, end, device=d.device)
        first = torch.where(tile.negative & (tile.d == d.gather(1, bucket)), index, end)
        found = torch.full_like(self.nearest, end).scatter_reduce(1, bucket, first, "amin")
        self.nearest = torch.where(d < self.d_nearest, found, self.nearest)
        self.d_nearest = d
        if self.rule.fallback == "farthest":
            self._see_farthest(tile)

    def _see_farthest(self, tile: Tile) -> None:
        d = torch.where(tile.negative, tile.d, -torch.inf)
        bound = torch.maximum(d.amax(1), self.d_farthest)[:, None]
        tile.settle(d >= bound - 2 * tile.slack)
        d, j = torch.where(tile.negative, tile.d, -torch.inf).max(dim=1)
        farther = d > self.d_farthest
        self.d_farthest = torch.where(farther, d, self.d_farthest)
        self.farthest = torch.where(farther, j + tile.columns.start, self.farthest)

    def finish(self) -> None:
        """Add one triplet for each pair that has a negative."""
        d, at = self.d_nearest[:, 1:].flip(1).cummin(dim=1)  # over the buckets above each level
        nearest = self.nearest[:, 1:].flip(1).gather(1, at).flip(1)
        nearest = torch.empty_like(nearest).scatter_(1, self.order, nearest)
        d = torch.empty_like(d).scatter_(1, self.order, d.flip(1))
        if self.rule.fallback == "farthest":
            d = torch.where(nearest == NONE, self.d_farthest[:, None], d)
            nearest = torch.where(nearest == NONE, self.farthest[:, None], nearest)
        self.add_mined(nearest, d)

"""What every mining rule is told, in which order; and the sum over triplets that were mined as a list."""

from __future__ import annotations

import torch
from torch import Tensor

from tercet.kernels.rule import Rule
from tercet.kernels.tiles import Rows, Tile

NONE = -1  # no reference chosen


class Miner:
    """Reduces the negatives of a block of anchors, which it sees tile by tile, once or twice."""

    def __init__(self, rule: Rule, block: Rows) -> None:
        self.rule, self.block, self.sums = rule, block, block.sums

    def see(self, tile: Tile) -> None:
        """Take in the distances to the next references."""
        raise NotImplementedError

    def looks_again(self) -> bool:
        """All tiles have been seen: whether to see them once more."""
        return False

    def see_again(self, tile: Tile) -> None:
        """Take in the same distances for the second time."""
        raise NotImplementedError

    def finish(self) -> None:
        """Add to the sums what only all the references together decide."""

    def add_triplets(self, i: Tensor, positive: tuple[Tensor, Tensor], negative: tuple[Tensor, Tensor]) -> None:
        """Add listed triplets: anchors i of the block, and references with their distances, all of shape (N,)."""
        sums, penalty, part, anchors = self.sums, self.rule.cost, self.sums.parts[0], i + self.block.rows.start
        (p, d_positive), (n, d_negative) = positive, negative
        threshold = d_positive + self.block.margin[i, 0]
        z = threshold - d_negative
        value, slope, active = penalty.value(z), penalty.slope(z), threshold > d_negative
        sums.n_mined += len(z)
        sums.n_active += active.sum()
        # tau softplus(z / tau) is homogeneous in z and tau, so that its slopes give back its value (Euler).
        of_temperature = (value.double() - z.double() * slope.double()) / self.rule.temperature
        rows = len(self.block.real)
        self.block.add_terms(part, *(_by_anchor(i, terms, rows) for terms in (value, torch.ones_like(i), active)))
        self.block.add_slopes(part, _by_anchor(i, slope, rows), _by_anchor(i, of_temperature, rows))
        sums.add_pairs(part, anchors, p, d_positive, slope)
        sums.add_pairs(part, anchors, n, d_negative, -slope)


def _by_anchor(i: Tensor, terms: Tensor, rows: int) -> Tensor:
    """Sums over the terms of each row, of shape (R,): float64, or int64 of numbers and marks."""
    dtype = torch.float64 if terms.is_floating_point() else torch.int64
    return torch.zeros(rows, dtype=dtype, device=terms.device).index_add_(0, i, terms.to(dtype))

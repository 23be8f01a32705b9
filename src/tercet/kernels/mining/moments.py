"""Every valid triplet, or every pair: through counts and sums where the penalty allows it."""

from __future__ import annotations

import torch
from torch import Tensor

from tercet.kernels.mining.base import Miner
from tercet.kernels.mining.levels import count_levels_below
from tercet.kernels.result import Part
from tercet.kernels.rule import Rule
from tercet.kernels.tiles import Rows, Tile


def thresholds(block: Rows) -> Tensor:
    """d_ap + margin, of shape (R, K); -inf where there is no positive."""
    return torch.where(block.real, block.d + block.margin, -torch.inf)


class AllByMoments(Miner):
    """Every valid triplet, for penalties max(0, z)^degree: L_a = sum over p, n of max(0, t_p - d_an)^degree.

    With thresholds t_p = d_ap + margin in ascending order, a negative lies in the bucket of those at or below
    its distance, and counts for all the thresholds above. Per bucket the number, the sum and (for degree 2)
    the sum of squares of the distances are kept; their running sums k_p, s_p, q_p give

        degree 1:  L_a = sum_p (k_p t_p - s_p)                    dL/dt_p = k_p
                   dL/dd_an = -c_n
        degree 2:  L_a = sum_p (k_p t_p² - 2 t_p s_p + q_p)       dL/dt_p = 2 (k_p t_p - s_p)
                   dL/dd_an = -2 (sum of the t_p above d_an - c_n d_an)

    where c_n is the number of thresholds above d_an. So each negative's weight is known at once. Distances
    and thresholds are measured from the anchor's largest threshold, and summed in float64, since the sums
    cancel.
    """

    def __init__(self, rule: Rule, block: Rows) -> None:
        super().__init__(rule, block)
        self.degree = rule.cost.degree or 1
        self.levels, self.order = thresholds(block).sort(dim=1)  # (R, K), padding first
        largest = self.levels[:, -1:].double()
        self.origin = torch.where(largest > -torch.inf, largest, 0)
        self.t = torch.where(self.levels > -torch.inf, self.levels - self.origin, 0)
        size = (len(self.levels), self.levels.shape[1] + 1)
        self.moments = [self.t.new_zeros(size) for _ in range(self.degree + 1)]
        # Sums of the thresholds from each bucket's first on, (R, K + 1).
        self.t_above = torch.nn.functional.pad(self.t.flip(1).cumsum(1).flip(1), (0, 1))

    def see(self, tile: Tile) -> None:
        """Add the tile to the moments, and its gradient to the sums."""
        bucket = count_levels_below(tile, self.levels, or_equal=True)
        d = torch.where(tile.negative, tile.d - self.origin, 0)  # (R, C), float64
        power = tile.negative.double()
        for moment in self.moments:
            moment.scatter_add_(1, bucket, power)
            power = power * d
        above = self.levels.shape[1] - bucket  # c_n; none for what is no negative
        if self.degree == 1:
            weights = -above.to(tile.d.dtype)
        else:
            weights = (above * d - self.t_above.gather(1, bucket)).mul_(2).to(tile.d.dtype)
        tile.add_negative_gradient(weights)

    def finish(self) -> None:
        """Add the value, and the gradient of the positives."""
        block, part = self.block, self.sums.parts[0]
        k, s, *rest = (moment.cumsum(1)[:, :-1] for moment in self.moments)  # (R, K)
        slope, cost = k, k * self.t - s
        if self.degree == 2:
            slope, cost = 2 * cost, (k * self.t - 2 * s) * self.t + rest[0]
        n_valid, n_active = block.n_valid(), k.sum(1).long()
        block.add_terms(part, cost.sum(1), n_valid, n_active)
        self.sums.n_mined += n_valid.sum()
        self.sums.n_active += n_active.sum()
        block.add_slopes(part, slope.sum(1))
        weights = torch.zeros_like(self.levels).scatter_(1, self.order, slope.to(self.levels.dtype))
        block.add_positive_gradient(weights)


class AllByPositives(Miner):
    """Every valid triplet, for any other penalty: one pass over the tile for each positive, O(B²K) work."""

    def __init__(self, rule: Rule, block: Rows) -> None:
        super().__init__(rule, block)
        self.thresholds = thresholds(block)
        self.levels = self.thresholds.sort(dim=1)[0]
        self.weights = torch.zeros_like(self.levels, dtype=torch.float64)
        self.value = self.weights.new_zeros(len(self.levels))
        self.n_active = torch.zeros_like(self.value, dtype=torch.int64)

    def see(self, tile: Tile) -> None:
        """Add the tile's value and gradient."""
        self.n_active += (self.levels.shape[1] - count_levels_below(tile, self.levels, or_equal=True)).sum(1)
        of_negatives = torch.zeros_like(tile.d)
        penalty = self.rule.cost
        for k, threshold in enumerate(self.thresholds.split(1, dim=1)):
            z = threshold - tile.d  # -inf, so without penalty, for padding and for what is no negative
            self.value += penalty.value(z).sum(1, dtype=torch.float64)
            slope = penalty.slope(z)
            self.weights[:, k] += slope.sum(1, dtype=torch.float64)
            of_negatives -= slope
        tile.add_negative_gradient(of_negatives)

    def finish(self) -> None:
        """Add the gradient of the positives."""
        block, part, n_valid = self.block, self.sums.parts[0], self.block.n_valid()
        block.add_terms(part, self.value, n_valid, self.n_active)
        self.sums.n_mined += n_valid.sum()
        self.sums.n_active += self.n_active.sum()
        block.add_slopes(part, self.weights.sum(1))
        block.add_positive_gradient(self.weights.to(self.levels.dtype))


class Pairs(Miner):
    """Every pair: sum_p max(0, d_ap - positive_margin)² + sum_n max(0, margin - d_an)²."""

    def see(self, tile: Tile) -> None:
        """Add the pairs of the tile, negative ones."""
        active = tile.negative & (count_levels_below(tile, self.block.margin, or_equal=True) == 0)
        excess = torch.where(active, self.block.margin - tile.d, 0)
        part = self.sums.of_negatives
        self._add(part, excess.double().square().sum(1), tile.negative, active)
        self.block.add_slopes(part, 2 * excess.sum(1, dtype=torch.float64))
        tile.add_negative_gradient(-2 * excess)

    def finish(self) -> None:
        """Add the positive pairs."""
        excess = torch.where(self.block.real, self.block.d - self.rule.positive_margin, 0).relu()
        active = self.block.real & (self.block.d > self.rule.positive_margin)
        self._add(self.sums.of_positives, excess.double().square().sum(1), self.block.real, active)
        self.block.add_positive_gradient(2 * excess)

    def _add(self, part: Part, values: Tensor, compared: Tensor, active: Tensor) -> None:
        self.block.add_terms(part, values, compared.sum(1), active.sum(1))
        self.sums.n_mined += compared.sum()
        self.sums.n_active += active.sum()

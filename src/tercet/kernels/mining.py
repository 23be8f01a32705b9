"""The mining rules as reductions over an anchor's negatives: begin with its positives, see tiles, finish.

Every decision between two distances (is this negative below that threshold? is it the nearest?) is the one
that direct differences would make: where the tile's rounding leaves it open, the pair is settled by them
first. So ties between equal rows stay ties, and counts do not depend on the tiles.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from tercet.distances import blocks
from tercet.kernels.rule import Rule
from tercet.kernels.tiles import Rows, Tile

DIRECT_LEVELS = 16  # up to this many thresholds, comparing with each is faster than bisection
LISTED_ENTRIES = 1 << 17  # of a list of distances by thresholds, at a time
NONE = -1  # no reference chosen yet


class Miner(Protocol):
    """Reduces the negatives of a block of anchors, which it sees once, or twice with a turn in between."""

    visits: int

    def __init__(self, rule: Rule, block: Rows) -> None: ...

    def see(self, tile: Tile) -> None:
        """Take in the distances to the next references."""

    def turn(self) -> None:
        """Between two visits: settle what the first one was for."""

    def finish(self) -> None:
        """Add to the sums what only all the references together decide."""


class OneVisit:
    """Base of the miners that see each tile once."""

    visits = 1

    def turn(self) -> None:
        """Nothing is left for a second visit."""


def _count_below(levels: Tensor, d: Tensor, or_equal: bool) -> Tensor:
    """For each entry of d (R, C), the number of its row's ascending levels (R, K) that lie below it."""
    if levels.shape[1] > DIRECT_LEVELS:
        return torch.searchsorted(levels, d, right=or_equal)
    count = torch.zeros(d.shape, dtype=torch.int64, device=d.device)
    for level in levels.split(1, dim=1):
        count += (level <= d) if or_equal else (level < d)
    return count


def _buckets(tile: Tile, levels: Tensor, or_equal: bool) -> Tensor:
    """`_count_below` of the tile's distances (R, C); those too close to a level are settled first."""
    bucket = _count_below(levels, tile.d, or_equal)
    walls = torch.nn.functional.pad(levels, (1, 0), value=-torch.inf)
    walls = torch.nn.functional.pad(walls, (0, 1), value=torch.inf)  # (R, K + 2)
    doubtful = tile.d - walls.gather(1, bucket) <= tile.slack
    doubtful |= walls.gather(1, bucket + 1) - tile.d <= tile.slack
    i, j, exact = tile.settle(doubtful)
    for part in blocks(len(i), max(1, LISTED_ENTRIES // levels.shape[1])):
        own, d = levels[i[part]], exact[part, None]
        bucket[i[part], j[part]] = ((own <= d) if or_equal else (own < d)).sum(1)
    return bucket


class AllByMoments(OneVisit):
    """Every valid triplet, for penalties max(0, z)^degree: L_a = sum over p, n of max(0, t_p - d_an)^degree.

    With thresholds t_p = d_ap + margin in ascending order, a negative lies in the bucket of those at or below
    its distance, and counts for all the thresholds above. Per bucket the number, the sum and (for degree 2)
    the sum of squares of the distances are kept; their running sums k_p, s_p, q_p give

        degree 1:  L_a = sum_p (k_p t_p - s_p)                    dL/dt_p = k_p                 dL/dd_an =
        -c_n
        degree 2:  L_a = sum_p (k_p t_p² - 2 t_p s_p + q_p)       dL/dt_p = 2 (k_p t_p - s_p)
                   dL/dd_an = -2 (sum of the t_p above d_an - c_n d_an)

    where c_n is the number of thresholds above d_an. So each negative's weight is known at once. Distances
    and thresholds are measured from the anchor's largest threshold, and summed in float64, since the sums
    cancel.
    """

    def __init__(self, rule: Rule, block: Rows) -> None:
        self.block, self.degree = block, rule.cost.degree or 1
        thresholds = torch.where(block.real, block.d + rule.margin, -torch.inf)
        self.levels, self.order = thresholds.sort(dim=1)  # (R, K), padding first
        largest = self.levels[:, -1:].double()
        self.origin = torch.where(largest > -torch.inf, largest, 0)
        self.t = torch.where(self.levels > -torch.inf, self.levels - self.origin, 0)
        size = (len(self.levels), self.levels.shape[1] + 1)
        self.moments = [self.t.new_zeros(size) for _ in range(self.degree + 1)]
        # Sums of the thresholds from each bucket's first on, (R, K + 1).
        self.t_above = torch.nn.functional.pad(self.t.flip(1).cumsum(1).flip(1), (0, 1))

    def see(self, tile: Tile) -> None:
        """Add the tile to the moments, and its gradient to the sums."""
        bucket = _buckets(tile, self.levels, or_equal=True)
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
        sums = self.block.sums
        k, s, *rest = (moment.cumsum(1)[:, :-1] for moment in self.moments)  # (R, K)
        slope, cost = k, k * self.t - s
        if self.degree == 2:
            slope, cost = 2 * cost, (k * self.t - 2 * s) * self.t + rest[0]
        sums.value += cost.sum()
        sums.n_active += k.sum().long()
        sums.n_mined += self.block.n_valid()
        sums.n_terms += self.block.n_valid()
        weights = torch.zeros_like(self.levels).scatter_(1, self.order, slope.to(self.levels.dtype))
        self.block.add_positive_gradient(weights)


class AllByPositives(OneVisit):
    """Every valid triplet, for any other penalty: one pass over the tile for each positive, O(B²K) work."""

    def __init__(self, rule: Rule, block: Rows) -> None:
        self.block, self.penalty = block, rule.cost
        self.thresholds = torch.where(block.real, block.d + rule.margin, -torch.inf)
        self.levels = self.thresholds.sort(dim=1)[0]
        self.weights = torch.zeros_like(self.levels, dtype=torch.float64)

    def see(self, tile: Tile) -> None:
        """Add the tile's value and gradient."""
        sums = self.block.sums
        sums.n_active += (self.levels.shape[1] - _buckets(tile, self.levels, or_equal=True)).sum()
        of_negatives = torch.zeros_like(tile.d)
        for k, threshold in enumerate(self.thresholds.split(1, dim=1)):
            z = threshold - tile.d  # -inf, so without penalty, for padding and for what is no negative
            sums.value += self.penalty.value(z).sum(dtype=torch.float64)
            slope = self.penalty.slope(z)
            self.weights[:, k] += slope.sum(1, dtype=torch.float64)
            of_negatives -= slope
        tile.add_negative_gradient(of_negatives)

    def finish(self) -> None:
        """Add the gradient of the positives."""
        self.block.sums.n_mined += self.block.n_valid()
        self.block.sums.n_terms += self.block.n_valid()
        self.block.add_positive_gradient(self.weights.to(self.levels.dtype))


class AllByLogSumExp:
    """Every valid triplet, a pair's negatives taken together by their smooth maximum.

        L_a = sum over p of tau * log(1 + sum over n of exp((d_ap - d_an + margin) / tau))
            = sum over p of tau * softplus(z_p)       z_p = (d_ap + margin) / tau + logsumexp over n of -d_an / tau

        dL/dd_ap = sigmoid(z_p)        dL/dd_an = -(sum over p of sigmoid(z_p)) * softmax over n of -d_an / tau

    One log-sum-exp of an anchor's negatives serves all its positives: O(B²) work whatever K. The gradient needs it
    finished, so the tiles are visited twice. It is kept about the nearest negative, as FlashAttention keeps its sums.
    """

    visits = 2

    def __init__(self, rule: Rule, block: Rows) -> None:
        self.rule, self.block, self.turned = rule, block, False
        thresholds = torch.where(block.real, block.d + rule.margin, -torch.inf)
        self.levels = thresholds.sort(dim=1)[0]
        self.nearest = self.levels.new_full((len(self.levels), 1), torch.inf)  # distance of the nearest negative
        self.sum = self.levels.new_zeros(len(self.levels), 1, dtype=torch.float64)  # of exp((nearest - d_an) / tau)

    def see(self, tile: Tile) -> None:
        """First add the tile to the sums of exponentials, then its gradient."""
        if self.turned:
            share = self._exponentials(tile.d, self.nearest) / self.sum.clamp(min=1)
            tile.add_negative_gradient((-self.slope_sum * share).to(tile.d.dtype))
            return
        above = self.levels.shape[1] - _buckets(tile, self.levels, or_equal=True)
        self.block.sums.n_active += above.sum()
        nearest = torch.minimum(self.nearest, tile.d.amin(1, keepdim=True))
        self.sum *= self._exponentials(self.nearest, nearest)
        self.sum += self._exponentials(tile.d, nearest).sum(1, keepdim=True)
        self.nearest = nearest

    def turn(self) -> None:
        """The log-sum-exp is finished: add the value, and set the slopes."""
        tau, sums = self.rule.temperature, self.block.sums
        some = self.nearest < torch.inf
        logsumexp = torch.where(some, self.sum.log() - self.nearest.double() / tau, -torch.inf)
        z = torch.where(self.block.real, (self.block.d.double() + self.rule.margin) / tau + logsumexp, -torch.inf)
        sums.value += tau * torch.logaddexp(z, z.new_zeros(())).sum()
        sums.n_terms += (self.block.real & some).sum()
        self.slope = torch.sigmoid(z)
        self.slope_sum = self.slope.sum(1, keepdim=True)
        self.turned = True

    def finish(self) -> None:
        """Add the gradient of the positives."""
        self.block.sums.n_mined += self.block.n_valid()
        self.block.add_positive_gradient(self.slope.to(self.block.d.dtype))

    def _exponentials(self, d: Tensor, nearest: Tensor) -> Tensor:
        """exp((nearest - d) / tau) in float64; 0 for an infinite d, no negative."""
        gap = torch.where(d < torch.inf, nearest.double() - d.double(), -torch.inf)
        return torch.exp(gap / self.rule.temperature)


class Hard(OneVisit):
    """Each anchor's farthest positive and nearest negative, lowest index first (Hermans et al., eq. 5)."""

    def __init__(self, rule: Rule, block: Rows) -> None:
        self.rule, self.block = rule, block
        self.d_positive, slot = torch.where(block.real, block.d, -torch.inf).max(dim=1)  # (R,)
        self.positive = block.positives.gather(1, slot[:, None])[:, 0]
        self.d_nearest = torch.full_like(self.d_positive, torch.inf)
        self.nearest = torch.full_like(self.positive, NONE)

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
        mined = self.block.real.any(1) & (self.nearest != NONE)
        anchors = mined.nonzero()[:, 0]
        _add_triplets(
            self.rule,
            self.block,
            anchors,
            (self.positive[mined], self.d_positive[mined]),
            (self.nearest[mined], self.d_nearest[mined]),
        )


class Semihard(OneVisit):
    """For each anchor-positive pair the nearest negative that is strictly farther than the positive.

    The positives' distances are the levels; each bucket keeps its nearest negative (lowest index at ties),
    and the answer for a positive is the minimum over the buckets above it. `farthest` falls back on the
    farthest negative.
    """

    def __init__(self, rule: Rule, block: Rows) -> None:
        self.rule, self.block = rule, block
        self.levels, self.order = torch.where(block.real, block.d, -torch.inf).sort(dim=1)  # (R, K)
        rows, width = self.levels.shape
        self.d_nearest = self.levels.new_full((rows, width + 1), torch.inf)
        self.nearest = torch.full((rows, width + 1), NONE, device=self.levels.device)
        self.d_farthest = self.levels.new_full((rows,), -torch.inf)
        self.farthest = torch.full((rows,), NONE, device=self.levels.device)

    def see(self, tile: Tile) -> None:
        """Keep the nearest negative of every bucket so far, and the farthest of all if it may be needed."""
        bucket = _buckets(tile, self.levels, or_equal=False)
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
        mined = self.block.real & (nearest != NONE)
        _add_triplets(
            self.rule,
            self.block,
            mined.nonzero()[:, 0],
            (self.block.positives[mined], self.block.d[mined]),
            (nearest[mined], d[mined]),
        )


def _add_triplets(
    rule: Rule, block: Rows, i: Tensor, positive: tuple[Tensor, Tensor], negative: tuple[Tensor, Tensor]
) -> None:
    """Add listed triplets: anchors i of the block, and references with their distances, all of shape (N,)."""
    sums, penalty, anchors = block.sums, rule.cost, i + block.rows.start
    (p, d_positive), (n, d_negative) = positive, negative
    threshold = d_positive + rule.margin
    z = threshold - d_negative
    sums.value += penalty.value(z).sum(dtype=torch.float64)
    sums.n_mined += len(z)
    sums.n_terms += len(z)
    sums.n_active += (threshold > d_negative).sum()
    slope = penalty.slope(z)
    sums.add_pairs(anchors, p, d_positive, slope)
    sums.add_pairs(anchors, n, d_negative, -slope)


def miner_of(rule: Rule) -> type[Miner]:
    """The class that reduces by this rule."""
    if rule.mining == "all":
        if rule.penalty == "logsumexp":
            return AllByLogSumExp
        return AllByMoments if rule.cost.degree else AllByPositives
    return Hard if rule.mining == "hard" else Semihard

"""Every negative of an anchor together, through the log-sum-exp of their distances.

With L_a = log sum over n of exp(-d_an / tau), an anchor's value is a function F of L_a and of its few
positives' distances: one log-sum-exp serves all its positives, and the work is O(B²) whatever K. So is its
gradient,

    dF/dd_an = -dF/dL_a / tau * softmax over n of -d_an / tau

which needs L_a finished: the tiles are visited twice.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from tercet.kernels.mining.base import Miner
from tercet.kernels.mining.levels import count_levels_below
from tercet.kernels.mining.moments import thresholds
from tercet.kernels.rule import Rule
from tercet.kernels.tiles import Rows, Tile


class Exponentials:
    """Sums of exp(-d / tau) over the columns of one tile after another, for each row; float64.

    They are kept about the smallest d so far, as FlashAttention keeps its sums, and taken of differences: far
    from zero, d / tau alone would lose the digits that tell distances apart.

    Attributes:
        smallest: of shape (R, 1); infinite before any finite d.
        sum: of exp((smallest - d) / tau), of shape (R, 1): at least 1, or 0 for nothing.
    """

    def __init__(self, rows: int, tau: float, device: torch.device) -> None:
        self.tau = tau
        self.smallest = torch.full((rows, 1), torch.inf, dtype=torch.float64, device=device)
        self.sum = torch.zeros_like(self.smallest)

    def add(self, d: Tensor) -> None:
        """Take in numbers of shape (R, C), infinite for what does not count."""
        before, self.smallest = self.smallest, torch.minimum(self.smallest, d.amin(1, keepdim=True).double())
        self.sum = self.sum * self.exponents(before).exp_() + self.exponents(d).exp_().sum(1, keepdim=True)

    def exponents(self, d: Tensor) -> Tensor:
        """The numbers (smallest - d) / tau, float64; where exp would give 0, as for an infinite d, -800."""
        origin = torch.where(self.smallest < torch.inf, self.smallest, 0)
        return (origin - d).div_(self.tau).clamp_(min=-800)


@dataclass
class Anchors:
    """Anchors that have a term, all float64, for F to be written as it reads; each part has its derivative.

    Attributes:
        d: distances of the positives, of shape (N, K).
        real: which of them are real, of shape (N, K).
        negatives: tau L, of shape (N, 1); 0 where there are no negatives.
        some: whether there are any, of shape (N, 1).
        margin: of shape (N, 1).
        tau: of shape (N, 1).
    """

    d: Tensor
    real: Tensor
    negatives: Tensor
    some: Tensor
    margin: Tensor
    tau: Tensor

    def smooth_maximum(self, numbers: Tensor) -> Tensor:
        """The number tau log sum exp(numbers / tau) over the positives, of shape (N, 1); of differences, as above."""
        largest = torch.where(self.real, numbers, -torch.inf).detach().amax(1, keepdim=True)
        exponents = torch.where(self.real, (numbers - largest) / self.tau, -torch.inf)
        return largest + self.tau * exponents.logsumexp(1, keepdim=True)


def _logsumexp(a: Anchors) -> Tensor:
    z = torch.where(a.real, (a.d + a.margin + a.negatives) / a.tau, -torch.inf)
    return (a.tau * torch.logaddexp(z, z.new_zeros(()))).sum(1)


def _lifted(a: Anchors) -> Tensor:
    return torch.relu(a.smooth_maximum(a.d) + a.margin + a.negatives)[:, 0]


def _supcon(a: Anchors) -> Tensor:
    mean = torch.where(a.real, a.d, 0).sum(1, keepdim=True) / a.real.sum(1, keepdim=True)
    of_negatives = torch.where(a.some, (a.negatives + mean) / a.tau, -torch.inf)
    return torch.logaddexp((a.smooth_maximum(-a.d) + mean) / a.tau, of_negatives)[:, 0]


# F of anchors that have a term, of shape (N,).
FORMULAS: dict[str, Callable[[Anchors], Tensor]] = {
    "logsumexp": _logsumexp,
    "lifted": _lifted,
    "supcon": _supcon,
}


@dataclass
class Evaluated:
    """F of N anchors, float64, and its derivatives; zeros where no gradient was asked for.

    Attributes:
        values: of shape (N,).
        of_positives: by the positives' distances, of shape (N, K).
        of_logarithm: by the logarithm of the negatives' sum, of shape (N, 1).
        of_margin: of shape (N, 1).
        of_temperature: of shape (N, 1), with all distances held.
    """

    values: Tensor
    of_positives: Tensor
    of_logarithm: Tensor
    of_margin: Tensor
    of_temperature: Tensor


def evaluate(
    rule: Rule, d: Tensor, real: Tensor, smallest: Tensor, total: Tensor, margin: Tensor, need_gradient: bool
) -> Evaluated:
    """F of anchors that have a term, by autograd of its formula.

    Args:
        rule: with a penalty of FORMULAS.
        d: distances of the positives, of shape (N, K), float64.
        real: which of them are real, of shape (N, K).
        smallest: distance of the nearest negative, of shape (N, 1), float64; infinite if there is none.
        total: sum of exp((smallest - d) / tau) over the negatives, of shape (N, 1), float64.
        margin: of shape (N, 1), float64.
        need_gradient: whether to differentiate.
    """
    some = total > 0
    # Infinite numbers would make NaN of slopes of 0.
    nearest = torch.where(some, smallest, 0)
    logarithm = torch.where(some, total, 1).log()

    def evaluated(d: Tensor, logarithm: Tensor, margin: Tensor, tau: Tensor) -> Tensor:
        return FORMULAS[rule.penalty](Anchors(d, real, tau * logarithm - nearest, some, margin, tau))

    given = (d, logarithm, margin, torch.full_like(margin, rule.temperature))
    if not need_gradient:
        return Evaluated(evaluated(*given), *(torch.zeros_like(each) for each in given))
    with torch.enable_grad():
        leaves = [tensor.detach().requires_grad_() for tensor in given]
        values = evaluated(*leaves)
        slopes = torch.autograd.grad(values.sum(), leaves, materialize_grads=True)
    return Evaluated(values.detach(), *slopes)


class AllBySoftmax(Miner):
    """Every negative of an anchor in one log-sum-exp, for the penalties of FORMULAS."""

    def __init__(self, rule: Rule, block: Rows) -> None:
        super().__init__(rule, block)
        self.counts_triplets = rule.penalty != "supcon"
        self.levels = thresholds(block).sort(dim=1)[0]
        self.negatives = Exponentials(len(self.levels), rule.temperature, self.levels.device)

    def see(self, tile: Tile) -> None:
        """Add the tile to the sums of exponentials."""
        if self.counts_triplets:
            above = self.levels.shape[1] - count_levels_below(tile, self.levels, or_equal=True)
            self.sums.n_active += above.sum()
        self.negatives.add(tile.d)

    def looks_again(self) -> bool:
        """The log-sum-exp is finished: add the value, and set the slopes."""
        block = self.block
        has_term = block.real.any(1)
        if self.counts_triplets:
            has_term &= self.negatives.sum[:, 0] > 0
        at = has_term.nonzero()[:, 0]
        values = self.negatives.sum.new_zeros(len(has_term))
        values[at] = self._evaluate(at)
        n_terms = block.real.sum(1) * has_term if self.rule.penalty == "logsumexp" else has_term.long()
        block.add_terms(self.sums.parts[0], values, n_terms, (values > 0).long())
        if self.counts_triplets:
            self.sums.n_mined += block.n_valid().sum()
        else:
            self.sums.n_mined += n_terms.sum()
            self.sums.n_active += n_terms.sum()
        return self.sums.need_gradient

    def _evaluate(self, at: Tensor) -> Tensor:
        """F of these rows, of shape (N,); sets its slopes if a gradient is needed."""
        block, sums = self.block, self.negatives
        found = evaluate(
            self.rule, block.d[at].double(), block.real[at], sums.smallest[at], sums.sum[at],
            block.margin[at].double(), self.sums.need_gradient,
        )  # fmt: skip
        slopes = (found.of_positives, found.of_logarithm, found.of_margin, found.of_temperature)
        rows = len(block.real)
        self.of_positives, self.of_logarithm, self.of_margin, self.of_temperature = (
            slope.new_zeros(rows, slope.shape[1]).index_copy_(0, at, slope) for slope in slopes
        )
        return found.values

    def see_again(self, tile: Tile) -> None:
        """Add the tile's gradient."""
        exponents = self.negatives.exponents(tile.d)
        shares = exponents.exp()
        pull = self.of_logarithm / (self.negatives.sum.clamp(min=1) * self.rule.temperature)
        self.of_temperature -= pull * torch.linalg.vecdot(shares, exponents)[:, None]
        tile.add_negative_gradient(shares.mul_(-pull).to(tile.d.dtype))

    def finish(self) -> None:
        """Add the gradient of the positives."""
        if self.sums.need_gradient:
            self.block.add_slopes(self.sums.parts[0], self.of_margin[:, 0], self.of_temperature[:, 0])
            self.block.add_positive_gradient(self.of_positives.to(self.block.d.dtype))

"""Negatives drawn by their distance: near ones often, but not only them (Wu et al. 2017)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from tercet.distances import Cosine, Distance, SquaredEuclidean
from tercet.kernels.mining.base import NONE, Miner
from tercet.kernels.mining.softmax import Exponentials
from tercet.kernels.rule import DRAWN_BELOW, DRAWN_FROM, Rule
from tercet.kernels.tiles import Rows, Tile


def euclidean(distance: Distance, d: Tensor) -> Tensor:
    """The Euclidean distance that goes with d, where the distance tells it; else d itself."""
    if isinstance(distance, SquaredEuclidean):
        return d.sqrt()
    return (2 * d).sqrt() if isinstance(distance, Cosine) else d


def log_weights(distance: Distance, dim: int, d: Tensor) -> Tensor:
    """The logarithm of a negative's weight, 1 / q of its Euclidean distance; -inf from 1.4 on.

    Between random unit vectors of `dim` dimensions the Euclidean distance has the density q up to a factor,
    log q(d) = (dim - 2) log d + (dim - 3) / 2 log(1 - d² / 4). Below 0.5 the weight is that of 0.5, which
    caps it (Wu et al. 2017, section 4, and the authors' code).
    """
    d = euclidean(distance, d)
    kept = d.clamp(DRAWN_FROM, DRAWN_BELOW)
    log_q = (dim - 2) * kept.log() + (dim - 3) / 2 * torch.log1p(-kept.square() / 4)
    return torch.where(d < DRAWN_BELOW, -log_q, -torch.inf)


def _signed(number: int) -> int:
    """The int64 of the same 64 bits."""
    return number - (1 << 64) if number >= 1 << 63 else number


def _shifted(z: Tensor, bits: int) -> Tensor:
    """The 64 bits moved to the right, with zeros from the left where int64 would repeat its sign."""
    return (z >> bits) & ((1 << (64 - bits)) - 1)


def _mixed(z: Tensor) -> Tensor:
    """The finaliser of SplitMix64 (Steele, Lea and Flood 2014): a bijection of 64 bits that looks random."""
    z = z + _signed(0x9E3779B97F4A7C15)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        z = (z ^ _shifted(z, shift)) * _signed(factor)
    return z ^ _shifted(z, 31)


def uniforms(seed: int, anchors: Tensor, positives: Tensor) -> Tensor:
    """A number in [0, 1) for each pair, float64, which depends on the seed and the two positions alone."""
    key = _mixed(_mixed(_mixed(torch.full_like(anchors, seed)) ^ anchors) ^ positives)
    return _shifted(key, 11).double() * math.ldexp(1, -53)


class Sampled(Miner):
    """For each anchor-positive pair one negative, drawn with the weights above.

    The weights of an anchor's negatives add up in the first visit. In the second their running sum, in the
    order of the references, passes u * total at the negative that is drawn, u a uniform number of the pair.
    """

    def __init__(self, rule: Rule, block: Rows) -> None:
        super().__init__(rule, block)
        self.total = Exponentials(len(block.real), 1.0, block.d.device)

    def see(self, tile: Tile) -> None:
        """Add the weights of the tile."""
        self.total.add(-self._log_weights(tile))

    def looks_again(self) -> bool:
        """The total is known, so each pair's share of it is."""
        block, rows = self.block, self.block.rows
        anchors = torch.arange(rows.start, rows.stop, device=block.d.device) + self.sums.start
        anchors = anchors[:, None].expand_as(block.positives)
        self.target = uniforms(self.rule.seed, anchors, block.positives) * self.total.sum  # (R, K)
        self.running = torch.zeros_like(self.total.sum)
        self.drawn = torch.full_like(block.positives, NONE)
        self.last = torch.full_like(block.positives[:, :1], NONE)
        return True

    def see_again(self, tile: Tile) -> None:
        """Find where the running sum passes the targets."""
        weights = self.total.exponents(-self._log_weights(tile)).exp_()
        running = self.running + weights.cumsum(1)
        j = torch.searchsorted(running, self.target, right=True)
        found = (self.drawn == NONE) & (j < weights.shape[1])
        self.drawn = torch.where(found, j + tile.columns.start, self.drawn)
        self.running = running[:, -1:].contiguous()
        index = torch.arange(tile.columns.start, tile.columns.stop, device=j.device)
        self.last = torch.maximum(self.last, torch.where(weights > 0, index, NONE).amax(1, keepdim=True))

    def finish(self) -> None:
        """Add the triplets drawn."""
        block, sums = self.block, self.sums
        drawn = torch.where(self.drawn == NONE, self.last, self.drawn)  # a total rounded up may never be passed
        mined = block.real & (drawn != NONE)
        i = mined.nonzero()[:, 0]
        negatives = drawn[mined]
        d_negatives = sums.distance.listed(sums.x, sums.y, i + block.rows.start, negatives)
        self.add_triplets(i, (block.positives[mined], block.d[mined]), (negatives, d_negatives))

    def _log_weights(self, tile: Tile) -> Tensor:
        distance = self.sums.distance
        above, below = (euclidean(distance, (tile.d + slack).clamp(min=0)) for slack in (tile.slack, -tile.slack))
        tile.settle((above >= DRAWN_BELOW) & (below <= DRAWN_BELOW))
        return log_weights(distance, self.sums.x.shape[1], tile.d.double())

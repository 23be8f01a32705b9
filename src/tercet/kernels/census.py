"""How hard the triplets of a batch are, and how its distances are spread: a pass of its own, without gradient."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from tercet.collectives import ALONE, Ranks
from tercet.distances import blocks
from tercet.kernels.mining.levels import count_levels_below
from tercet.kernels.pairing import Batch
from tercet.kernels.result import BINS, Census
from tercet.kernels.rule import Plan, Rule
from tercet.kernels.tiles import Rows, Sums, Tile, full_precision


def census_by_tiles(batch: Batch, rule: Rule, plan: Plan, ranks: Ranks = ALONE) -> Census:
    """Counts over all valid triplets, and histograms over all valid pairs, of all ranks.

    The distances are computed once; twice where the distance has no largest value, to find the largest seen.
    """
    sums = Sums(batch, rule, need_gradient=False)
    n_hard, n_easy, n_valid = torch.zeros(3, dtype=torch.int64, device=sums.x.device).unbind()
    positive, negative = torch.zeros(2, BINS, dtype=torch.int64, device=sums.x.device).unbind()
    with full_precision():
        edges = _edges(sums, rule, plan, ranks)
        inner = edges[1:-1].contiguous()
        for rows in blocks(len(sums.x), plan.tile_rows):
            block = Rows(sums, rows)
            n_valid += block.n_valid().sum()
            positive += torch.bucketize(block.d_listed, inner, right=True).bincount(minlength=BINS)
            distances = torch.where(block.real, block.d, -torch.inf).sort(dim=1)[0]  # (R, K), padding first
            thresholds = distances + block.margin
            padding = (~block.real).sum(1, keepdim=True)
            for columns in blocks(len(sums.y), plan.tile_columns):
                tile = Tile(sums, rows, columns)
                nearer = count_levels_below(tile, distances, or_equal=False)  # positives, and padding
                cleared = torch.minimum(nearer, count_levels_below(tile, thresholds, or_equal=True))
                n_hard += (distances.shape[1] - nearer).sum()
                n_easy += torch.where(tile.negative, cleared - padding, 0).sum()
                bins = count_levels_below(tile, inner.repeat(len(tile.d), 1), or_equal=True)
                negative += bins[tile.negative].bincount(minlength=BINS)
    kinds = torch.stack([n_hard, n_valid - n_hard - n_easy, n_easy])
    kinds, positive, negative = ranks.sum(torch.cat([kinds, positive, negative])).split([3, BINS, BINS])
    return Census(kinds[0], kinds[1], kinds[2], positive, negative, edges.double())


def _edges(sums: Sums, rule: Rule, plan: Plan, ranks: Ranks) -> Tensor:
    """The edges of the bins, of shape (BINS + 1,)."""
    largest = sums.x.new_full((), rule.distance.largest)
    if not math.isfinite(rule.distance.largest):
        largest = sums.x.new_zeros(())
        for rows in blocks(len(sums.x), plan.tile_rows):
            largest = torch.cat([largest[None], Rows(sums, rows).d_listed]).amax()
            for columns in blocks(len(sums.y), plan.tile_columns):
                tile = Tile(sums, rows, columns)
                d = torch.where(tile.negative, tile.d, -torch.inf)
                tile.settle(d >= torch.maximum(d.amax(), largest) - 2 * tile.slack)
                largest = torch.maximum(largest, torch.where(tile.negative, tile.d, -torch.inf).amax())
        largest = -ranks.smallest(-largest)
    return largest * torch.arange(BINS + 1, device=largest.device) / BINS

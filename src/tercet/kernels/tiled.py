"""Visits every tile of distances once, or twice, and forms value and gradient on the way; keeps O(B·D + tile)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from tercet.distances import blocks
from tercet.kernels.mining import miner_of
from tercet.kernels.pairing import Batch
from tercet.kernels.result import Totals, TripletStats
from tercet.kernels.rule import Plan, Rule
from tercet.kernels.tiles import Rows, Sums, Tile


@contextmanager
def full_precision() -> Iterator[None]:
    """Matrix products in the dtype that is given: TF32 would leave three digits of a float32 distance."""
    kept = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(kept)


def reduce_by_tiles(batch: Batch, rule: Rule, plan: Plan, need_gradient: bool) -> Totals:
    """Totals of the rule over all anchors."""
    x, y, pairing = batch.anchors, batch.references, batch.pairing
    sums = Sums(x, y, pairing, rule.distance, need_gradient)
    with full_precision():
        for rows in blocks(len(x), plan.tile_rows):
            block = Rows(sums, rows)
            miner = miner_of(rule)(rule, block)
            for columns in blocks(len(y), plan.tile_columns):
                tile = Tile(sums, rows, columns)
                tile.count()
                miner.see(tile)
            miner.turn()
            if miner.visits == 2 and need_gradient:
                for columns in blocks(len(y), plan.tile_columns):
                    miner.see(Tile(sums, rows, columns))
            miner.finish()
    n_positives, n_negatives = pairing.counts
    stats = TripletStats(
        n_valid=(n_positives * n_negatives).sum(),
        n_mined=sums.n_mined,
        n_active=sums.n_active,
        mean_positive=(sums.positive / n_positives.sum().clamp(min=1)).to(x.dtype),
        mean_negative=(sums.negative / n_negatives.sum().clamp(min=1)).to(x.dtype),
        anchors_without_positive=(n_positives == 0).sum(),
        anchors_without_negative=(n_negatives == 0).sum(),
    )
    return Totals(sums.value, sums.n_terms, sums.dx, sums.dy, stats)

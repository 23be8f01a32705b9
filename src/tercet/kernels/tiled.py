"""Visits every tile of distances once, or twice, and forms value and gradient on the way; keeps O(B·D + tile)."""

from __future__ import annotations

from tercet.distances import blocks
from tercet.kernels.mining import miner_of
from tercet.kernels.pairing import Batch
from tercet.kernels.result import Totals, TripletStats
from tercet.kernels.rule import Plan, Rule
from tercet.kernels.tiles import Rows, Sums, Tile, full_precision


def reduce_by_tiles(batch: Batch, rule: Rule, plan: Plan, need_gradient: bool) -> Totals:
    """Totals of the rule over all anchors."""
    x, y, pairing = batch.anchors, batch.references, batch.pairing
    sums = Sums(batch, rule, need_gradient)
    with full_precision():
        for rows in blocks(len(x), plan.tile_rows):
            block = Rows(sums, rows)
            miner = miner_of(rule)(rule, block)
            for columns in blocks(len(y), plan.tile_columns):
                tile = Tile(sums, rows, columns)
                tile.count()
                miner.see(tile)
            if miner.looks_again():
                for columns in blocks(len(y), plan.tile_columns):
                    miner.see_again(Tile(sums, rows, columns))
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
    return Totals(sums.parts, stats)

"""Visits every tile of distances once, or twice, and forms value and gradient on the way; keeps O(B·D + tile)."""

from __future__ import annotations

from tercet.distances import blocks
from tercet.kernels.mining import miner_of
from tercet.kernels.pairing import Batch
from tercet.kernels.result import Totals, stats_of
from tercet.kernels.rule import Plan, Rule
from tercet.kernels.tiles import Rows, Sums, Tile, full_precision


def reduce_by_tiles(batch: Batch, rule: Rule, plan: Plan, need_gradient: bool) -> Totals:
    """Totals of the rule over all anchors."""
    x, y = batch.anchors, batch.references
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
    stats = stats_of(
        *batch.pairing.counts, n_mined=sums.n_mined, n_active=sums.n_active,
        positive=sums.positive, negative=sums.negative, dtype=x.dtype,
    )  # fmt: skip
    return Totals(sums.parts, stats)

"""Between which of an anchor's thresholds a distance lies."""

from __future__ import annotations

import torch
from torch import Tensor

from tercet.distances import blocks
from tercet.kernels.tiles import Tile

DIRECT_LEVELS = 16  # up to this many thresholds, comparing with each is faster than bisection
LISTED_ENTRIES = 1 << 17  # of a list of distances by thresholds, at a time


def _count_below(levels: Tensor, d: Tensor, or_equal: bool) -> Tensor:
    """For each entry of d (R, C), the number of its row's ascending levels (R, K) that lie below it."""
    if levels.shape[1] > DIRECT_LEVELS:
        return torch.searchsorted(levels, d, right=or_equal)
    count = torch.zeros(d.shape, dtype=torch.int64, device=d.device)
    for level in levels.split(1, dim=1):
        count += (level <= d) if or_equal else (level < d)
    return count


def count_levels_below(tile: Tile, levels: Tensor, or_equal: bool) -> Tensor:
    """For each of the tile's distances (R, C), how many of its row's ascending levels (R, K) lie below it.

    Distances too close to a level are settled first, and stay so in the tile.
    """
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

"""The positives of every anchor: the nearest of its class, some at random, or the farthest.

Shapes: N items, C members of a class, P positives of an anchor.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import torch

from tercet.data.randomness import keyed
from tercet.mining.items import Items
from tercet.mining.options import MiningOptions
from tercet.mining.search import Near, Search

TILE_ENTRIES = 1 << 22  # distances within a class held at a time
SPARE = 8  # chosen beyond P, for tiles round and may put near ties in the wrong order


def choose_positives(search: Search, items: Items, usable: np.ndarray, options: MiningOptions) -> Near:
    """Up to P positives of each usable item: of its class, usable, not of its group, and no copy of it.

    easy and hard come nearest and farthest first, among equals the lowest index first; random ones in the order drawn.
    P is at most C - 1. Time O(sum of C² D) for easy and hard, memory O(NP + tile).
    """
    classes = _classes(items, usable)
    width = min(options.positives_per_anchor, max((len(members) - 1 for members in classes), default=1))
    options = dataclasses.replace(options, positives_per_anchor=width)
    indices = np.full((len(items), width), -1, dtype=np.int64)
    distances = np.full((len(items), width), np.inf, dtype=np.float32)
    for members in classes:
        for part in _parts(members):
            mates = items.are_apart(part[:, None], members[None, :])
            if options.positives == "random":
                found = _drawn(items, part, members, mates, options)
            else:
                found = _extreme(search, part, members, mates, options)
            indices[part] = found
    known = indices >= 0
    rows = np.broadcast_to(np.arange(len(items))[:, None], indices.shape)
    distances[known] = search.measure(rows[known], indices[known])
    return Near(distances, indices)


def _classes(items: Items, usable: np.ndarray) -> list[np.ndarray]:
    """The usable members of each class that has two, each in order."""
    rows = np.flatnonzero(usable)
    order = rows[np.argsort(items.labels[rows], kind="stable")]
    starts = np.flatnonzero(np.diff(items.labels[order])) + 1
    return [members for members in np.split(order, starts) if len(members) > 1]


def _parts(members: np.ndarray) -> list[np.ndarray]:
    size = max(1, TILE_ENTRIES // len(members))
    return [members[start : start + size] for start in range(0, len(members), size)]


def _drawn(
    items: Items, part: np.ndarray, members: np.ndarray, mates: np.ndarray, options: MiningOptions
) -> np.ndarray:
    """Mates drawn without replacement, keyed by seed and content of the anchor: the order of the rows is no matter."""
    found = np.full((len(part), options.positives_per_anchor), -1, dtype=np.int64)
    by_content = np.argsort(items.contents[members], kind="stable")
    for row, anchor in enumerate(part):
        allowed = members[by_content[mates[row, by_content]]]
        count = min(found.shape[1], len(allowed))
        if count:
            generator = keyed(options.seed, "mine", item=int(items.contents[anchor].astype(np.uint64)))
            found[row, :count] = generator.choice(allowed, size=count, replace=False)
    return found


def _extreme(
    search: Search, part: np.ndarray, members: np.ndarray, mates: np.ndarray, options: MiningOptions
) -> np.ndarray:
    """The nearest or the farthest mates: some more are chosen by the tile, and measured again by differences."""
    sign = 1.0 if options.positives == "easy" else -1.0
    queries, references = (search.rows[torch.from_numpy(rows).to(search.rows.device)] for rows in (part, members))
    keys = sign * search.metric.tile(queries, references).cpu().numpy()
    keys[~mates] = np.inf
    places = np.argsort(keys, axis=1, kind="stable")[:, : options.positives_per_anchor + SPARE]
    chosen = members[places]
    exact = sign * search.measure(part[:, None], chosen)
    exact[~np.take_along_axis(mates, places, 1)] = np.inf
    order = np.lexsort((chosen, exact), axis=1)[:, : options.positives_per_anchor]
    found = np.where(np.isfinite(np.take_along_axis(exact, order, 1)), np.take_along_axis(chosen, order, 1), -1)
    lacking = options.positives_per_anchor - found.shape[1]
    return np.pad(found, ((0, 0), (0, lacking)), constant_values=-1)

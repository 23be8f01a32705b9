"""The mining rules as reductions over an anchor's negatives: begin with its positives, see tiles, finish.

Every decision between two distances (is this negative below that threshold? is it the nearest?) is the one
that direct differences would make: where the tile's rounding leaves it open, the pair is settled by them
first. So ties between equal rows stay ties, and counts do not depend on the tiles.

    base.py       Miner: what a rule is told, in which order
    levels.py     between which thresholds a distance lies
    moments.py    every triplet, or every pair, through counts and sums; or one after the other
    softmax.py    every negative of an anchor together: log-sum-exp, lifted structure, SupCon
    nearest.py    the nearest negative, or the nearest beyond a positive
    sampled.py    negatives drawn by their distance
"""

from __future__ import annotations

from tercet.kernels.mining.base import Miner
from tercet.kernels.mining.moments import AllByMoments, AllByPositives, Pairs
from tercet.kernels.mining.nearest import Nearest, NearestBeyond
from tercet.kernels.mining.sampled import Sampled
from tercet.kernels.mining.softmax import AllBySoftmax
from tercet.kernels.rule import SEMIHARD, SETS, Rule

__all__ = ["Miner", "miner_of"]


def miner_of(rule: Rule) -> type[Miner]:
    """The class that reduces by this rule."""
    if rule.mining == "distance-weighted":
        return Sampled
    if rule.mining != "all":
        return NearestBeyond if rule.mining in SEMIHARD else Nearest
    if rule.penalty in SETS:
        return AllBySoftmax
    if rule.penalty == "contrastive":
        return Pairs
    return AllByMoments if rule.cost.degree else AllByPositives

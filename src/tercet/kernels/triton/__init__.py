"""The CUDA implementation: row programs in Triton, which form distances, value and gradient without storing a tile.

    device.py     what runs on the GPU: tables, and what distances add up to
      tiles.py    all pairs by products
      listed.py   some pairs by direct differences
    tables.py     a batch -> the tables that the kernels read
    visits.py     launches: all pairs by products, then those that rounding leaves open by direct differences
    families.py   the rules: levels, visits, and what follows from their sums
    reduction.py  a batch and a rule -> totals

A program owns a block of anchors and goes through all references: a tile of products, compared with the anchors'
thresholds at once and forgotten. Where rows are compared among themselves it takes a pair's weight from both ends, and
so finishes the gradient of its own rows; for a bank a second visit with the roles exchanged forms the references'. Two
products for value and gradient (four for a bank; three, or five, for a log-sum-exp), O((A + M)(D + K)) memory.

Nothing is added up by atomics, so equal calls give equal bits. Pairs that lie within rounding of a threshold, or so
near that products lose their digits, are left out of all sums and listed, by one atomic counter; the list is sorted,
and settled exactly. It is kept short by taking fewer anchors at a time, never by leaving something out.

Triton is imported when this implementation is used, not before. Without a GPU its interpreter runs the kernels, slowly,
if TRITON_INTERPRET=1 is set before Triton is first imported.
"""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec

import torch

from tercet.kernels.pairing import Batch
from tercet.kernels.result import Totals
from tercet.kernels.rule import PAIR_PENALTIES, Plan, Rule

MOST_LEVELS = 32  # thresholds of an anchor, each of which a distance is compared with
MOST_FEATURES = 1024  # of a row: the gradient of a block of rows stays in registers
MOST_POSITIVES = 1 << 26  # anchors times the largest class: the table of their distances


def fits(batch: Batch, rule: Rule) -> bool:
    """Whether this implementation can do the rule on the batch."""
    return not obstacle(batch, rule)


def obstacle(batch: Batch, rule: Rule) -> str:
    """What keeps this implementation from reducing the batch by the rule; empty if nothing does."""
    rows = batch.anchors
    if rows.device.type != "cuda" and not (rows.device.type == "cpu" and _is_interpreted()):
        return f"it runs on CUDA devices, and the embeddings are on {rows.device}"
    if rows.dtype != torch.float32:
        return f"it computes in float32, and the embeddings are {rows.dtype}"
    if rows.shape[1] > MOST_FEATURES:
        return f"it takes up to {MOST_FEATURES} features, and the embeddings have {rows.shape[1]}"
    if not batch.is_by_class:
        return "it takes one label an item, not several, and no relation"
    if rule.mining == "distance-weighted":
        return "it has no kernel for mining 'distance-weighted'"
    if rule.distance.prepared(rows[:0], rows[:0]) is None:
        return f"it has no kernel for the distance {rule.distance.name}"
    if find_spec("triton") is None:
        return "it needs Triton, which is not installed (pip install triton)"
    return _too_many_positives(batch, rule)


def _too_many_positives(batch: Batch, rule: Rule) -> str:
    if rule.mining not in ("all", "semihard"):
        return ""  # these choose one positive
    largest = batch.pairing.largest_class
    if largest > MOST_LEVELS and rule.penalty not in PAIR_PENALTIES:  # which compare with the margin, or with nothing
        return f"it takes classes of up to {MOST_LEVELS}, and the largest here is one of {largest}"
    if largest * len(batch.anchors) > MOST_POSITIVES:
        return f"it lists up to {MOST_POSITIVES} positives, and here are up to {largest * len(batch.anchors)}"
    return ""


def _is_interpreted() -> bool:
    device = sys.modules.get(f"{__name__}.device")
    return os.environ.get("TRITON_INTERPRET") == "1" if device is None else device.INTERPRETED


def reduce_by_triton(batch: Batch, rule: Rule, plan: Plan, need_gradient: bool, precision: str = "ieee") -> Totals:
    """Totals of the rule over all anchors.

    Args:
        batch: what to compare; see `obstacle` for what is not taken.
        rule: what to compute.
        plan: its tile sizes bound the blocks of rows and references, which are powers of two of at least 16.
        need_gradient: whether to form the gradient.
        precision: how products of rows are formed, one of `tables.PRECISIONS`. The others than "ieee" are for
            tensor cores: faster, values and gradients less precise, every decision between distances the same.

    Raises:
        InputError: the batch or the rule is not among what is taken, or there is no such precision.
    """
    from tercet.kernels.triton.reduction import Reduction

    return Reduction(batch, rule, plan, need_gradient, precision).totals()

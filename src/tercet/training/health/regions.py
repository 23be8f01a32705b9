"""Triplet regions: which triplets of a batch are hard, semi-hard and easy, and what the loss makes of them.

Hard: d_an <= d_ap. Semi-hard: d_ap < d_an < d_ap + margin. Easy: the rest. The report draws both; see docs/report.md.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from tercet.losses import ContrastiveLoss, TripletLoss
from tercet.losses.base import BatchLoss
from tercet.training.folder import files
from tercet.training.objective.loss import Loss
from tercet.training.objective.loss_state import learned_figures

TRIPLETS_FILE = "triplets.json"
MOST_TRIPLETS = 400
CURVE_POINTS = 161
FEWEST_DIFFERENCE = 1e-6  # a curve over no range at all shows nothing


class Triplets(NamedTuple):
    """Distances of T triplets, each of shape (T,)."""

    d_ap: Tensor
    d_an: Tensor


def all_triplets(distances: Tensor, positive: Tensor, negative: Tensor) -> Triplets:
    """Every valid triplet of S items.

    Args:
        distances: between the items, (S, S).
        positive: bool (S, S): whether column is a positive of the anchor that the row is.
        negative: the same of negatives.
    """
    anchors, positives = positive.nonzero(as_tuple=True)
    pairs, negatives = negative[anchors].nonzero(as_tuple=True)
    return Triplets(distances[anchors, positives][pairs], distances[anchors[pairs], negatives])


def region_shares(triplets: Triplets, margin: float) -> dict[str, float]:
    """`hard_share`, `semihard_share` and `easy_share` of some triplets; nothing of none."""
    count = len(triplets.d_ap)
    if not count:
        return {}
    hard = triplets.d_an <= triplets.d_ap
    easy = (triplets.d_an >= triplets.d_ap + margin) & ~hard
    n_hard, n_easy = torch.stack([hard.sum(), easy.sum()]).tolist()
    return {
        "hard_share": n_hard / count,
        "semihard_share": (count - n_hard - n_easy) / count,
        "easy_share": n_easy / count,
    }


def margin_of(loss: Loss) -> float | None:
    """The margin that tells semi-hard from easy: 0 for a loss that has none, None where each class has its own."""
    if not isinstance(loss, TripletLoss):
        return 0.0
    return float(loss.rule.margin) if loss.margins is None else None


def write_triplets(folder: Path, step: int, triplets: Triplets, loss: Loss, generator: np.random.Generator) -> None:
    """Write triplets.json: up to 400 of a batch's triplets, drawn at random, and the loss of one by d_ap - d_an.

    Nothing is written of no triplets, or for a loss that is no function of d_ap - d_an: contrastive, one of the user's
    own, and margins by class.
    """
    content = _content(triplets, loss, generator)
    if content:
        files.write_text(folder / TRIPLETS_FILE, json.dumps({"step": step, **content}, sort_keys=True) + "\n")


def _content(triplets: Triplets, loss: Loss, generator: np.random.Generator) -> dict[str, Any]:
    margin, count = margin_of(loss), len(triplets.d_ap)
    if not isinstance(loss, BatchLoss) or isinstance(loss, ContrastiveLoss) or margin is None or not count:
        return {}
    chosen = torch.from_numpy(np.sort(generator.permutation(count)[:MOST_TRIPLETS]))
    d_ap, d_an = (values.cpu().double()[chosen] for values in triplets)
    difference = d_ap - d_an
    low = min(float(difference.min()), -2 * margin, -FEWEST_DIFFERENCE)
    high = max(float(difference.max()), margin, FEWEST_DIFFERENCE)
    at = torch.linspace(low, high, CURVE_POINTS, dtype=torch.float64)
    return {
        "of": count,
        "margin": margin if isinstance(loss, TripletLoss) else None,
        "penalty": loss.rule.penalty,
        "distance": loss.rule.distance.name,
        "d_ap": _rounded(d_ap),
        "d_an": _rounded(d_an),
        "loss": _rounded(loss_of_one(loss, difference)),
        "curve": {"difference": _rounded(at), "loss": _rounded(loss_of_one(loss, at))},
    }


def loss_of_one(loss: BatchLoss, difference: Tensor) -> Tensor:
    """What a single triplet costs by d_ap - d_an.

    Of InfoNCE and supcon, a batch of one positive and one negative: log(1 + exp((d_ap - d_an) / temperature)).
    """
    rule = loss.rule
    temperature = learned_figures(loss).get("temperature", rule.temperature)
    if not isinstance(loss, TripletLoss):
        return torch.logaddexp(difference / temperature, difference.new_zeros(()))
    if rule.penalty == "logsumexp":
        return temperature * torch.logaddexp((difference + rule.margin) / temperature, difference.new_zeros(()))
    return rule.cost.value(difference + rule.margin)


def _rounded(values: Tensor) -> list[float]:
    return [float(f"{value:.6g}") for value in values.tolist()]

"""Vital signs: what a step's embeddings look like, measured on a sample that costs little beside the step.

docs/doctor.md says what each figure means.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tercet.collectives import ALONE, Ranks
from tercet.data.labels import NONE, are_alike
from tercet.data.randomness import keyed
from tercet.distances import Distance
from tercet.encoders.base import Encoder
from tercet.evaluation.geometry import effective_rank
from tercet.losses.base import BatchLoss
from tercet.training.batches.supervision import Batch, Given, Labelled, Statistics, Supervision, TwoSided
from tercet.training.health.regions import Triplets, all_triplets, margin_of, region_shares
from tercet.training.step.shared import gather_norms

SAMPLE = 128
"""Items looked at, at most: 8,128 pairs put the median within a few per cent, in about a millisecond."""
SAMPLE_OF_CLASS = 4
"""Items of a class looked at, at most, so that a batch of few large classes still shows many."""
NEIGHBOURS = 3
"""An item whose so many nearest are of one other class is adopted by it; chance seldom brings three of one together."""


class VitalSigns:
    """Watches the encoder and the supervision of a training, and measures a step when asked to.

    Args:
        encoder: whose embeddings before normalisation are seen by a hook, in training alone.
        supervision: which keeps the embeddings and the batch of the last step.
        distance: between embeddings.
        seed: of the run; the sample is keyed by it and the step.
        ranks: each of which has encoded a part of the batch.
    """

    def __init__(
        self, encoder: Encoder, supervision: Supervision, distance: Distance, seed: int, ranks: Ranks = ALONE
    ) -> None:
        self.supervision, self.distance, self.seed, self.ranks = supervision, distance, seed, ranks
        self.triplets: Triplets | None = None
        """Those of the sample, or of the batch where the data gives them, of the last step that was measured."""
        self._raw: list[Tensor] = []
        encoder.scale.register_forward_hook(self._keep)

    def _keep(self, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        # A gradient cache encodes twice, the first time without a graph: each row is kept once.
        if module.training and torch.is_grad_enabled():
            self._raw.append(inputs[0].detach())

    def forget(self) -> None:
        """Let go of what the last step left behind."""
        self._raw.clear()
        self.triplets = None
        self.supervision.latest = None

    @torch.no_grad()
    def measure(self, step: int) -> Statistics:
        """The figures of the last step; those that it cannot have are left out.

        Time: O(S²·D) with S = min(B, 128) items.
        """
        norms = torch.cat([rows.norm(dim=1) for rows in self._raw]) if self._raw else torch.zeros(0)
        found = _quantiles("raw_norm", gather_norms(norms.cpu(), self.ranks))
        if self.supervision.latest is None:
            return found
        embeddings, batch = self.supervision.latest
        labels = batch.targets if isinstance(self.supervision, Labelled) else None
        chosen = sample(len(embeddings), labels, keyed(self.seed, "vitals", step))
        rows = embeddings[torch.from_numpy(chosen).to(embeddings.device)].float()
        if len(rows) < 2 or not bool(rows.isfinite().all()):
            return found
        found["effective_rank"] = effective_rank(rows)
        distances = _distances(self.supervision, self.distance, rows).cpu()
        own = batch.ids[chosen]
        other = torch.from_numpy(own[:, None] != own[None])  # a sample drawn twice is no pair
        found |= _quantiles("distance", distances[other.triu(1)])
        if labels is not None:
            found |= composition(batch) | _kinds(distances, other, labels[chosen])
            self.triplets = _sampled_triplets(self.supervision, distances, other, batch, chosen)
            if batch.views > 1 and np.array_equal(batch.targets, batch.positions):  # no label, which could be wrong
                found = {name: value for name, value in found.items() if name not in ("strange_share", "adopted_share")}
        elif isinstance(self.supervision, Given):
            self.triplets = self.supervision.triplet_distances()
        margin = margin_of(self.supervision.loss)
        if self.triplets is not None and margin is not None:
            found |= region_shares(self.triplets, margin)
        return found


def sample(items: int, labels: np.ndarray | None, generator: np.random.Generator) -> np.ndarray:
    """Up to 128 of so many items, in order: drawn class by class, up to four of each, where each has one label."""
    order = generator.permutation(items)
    if labels is None or labels.ndim > 1:
        return np.sort(order[:SAMPLE])
    codes = labels[order]
    by_class = np.argsort(codes, kind="stable")
    starts = np.flatnonzero(np.diff(codes[by_class], prepend=codes[by_class][0] - 1))
    place = np.arange(items) - np.repeat(starts, np.diff(starts, append=items))
    few = np.sort(by_class[place < SAMPLE_OF_CLASS])  # in the drawn order again
    first = dict.fromkeys(codes[few].tolist())
    rank = {code: number for number, code in enumerate(first)}
    whole = np.argsort([rank[code] for code in codes[few].tolist()], kind="stable")
    return np.sort(order[few[whole][:SAMPLE]])


def composition(batch: Batch) -> Statistics:
    """How many items and classes, or labels, a batch holds, and the share of its items that are of the largest."""
    found, counts = np.unique(batch.targets, return_counts=True)
    if batch.targets.ndim > 1:
        counts = counts[found != NONE]
    return {
        "n_items": len(batch.targets),
        "n_classes": len(counts),
        "largest_class": float(counts.max(initial=0) / len(batch.targets)),
    }


def _distances(supervision: Supervision, distance: Distance, rows: Tensor) -> Tensor:
    """Between all of the rows, of shape (S, S), as the loss compares them."""
    loss = supervision.loss
    if isinstance(loss, BatchLoss):
        distance = loss.rule.distance
        rows = rows if not loss.normalize else nn.functional.normalize(rows)
    return distance.tile(rows, rows)


def _alike(labels: np.ndarray) -> Tensor:
    """Which of S items are of one class, or share a label, bool (S, S)."""
    return torch.from_numpy(are_alike(labels[:, None], labels[None], 2))


def _kinds(distances: Tensor, other: Tensor, given: np.ndarray) -> Statistics:
    """Quantiles of positive and of negative distances, and which classes the nearest neighbours are of.

    Items with several labels are of no one class.
    """
    same = _alike(given)
    positive, negative = distances[(same & other).triu(1)], distances[(~same & other).triu(1)]
    found = _quantiles("positive", positive) | _quantiles("negative", negative)
    labels = torch.from_numpy(given)
    if labels.ndim > 1:
        return found
    if int((same & other).sum(1).max()) >= NEIGHBOURS - 1 and len(labels) > NEIGHBOURS:
        near = distances.masked_fill(~other, torch.inf).topk(NEIGHBOURS, largest=False).indices
        kinds = labels[near]
        strange = kinds[:, 0] != labels
        adopted = strange & (kinds == kinds[:, :1]).all(1)
        found |= {"strange_share": _mean(strange), "adopted_share": _mean(adopted)}
    return found


def _sampled_triplets(
    supervision: Supervision, distances: Tensor, other: Tensor, batch: Batch, chosen: np.ndarray
) -> Triplets:
    """Every triplet of the sampled items; of two sides, those whose anchor is on the other side."""
    if isinstance(supervision, TwoSided):
        sides = torch.from_numpy(supervision.sides[batch.positions[chosen]])
        other = other & (sides[:, None] != sides[None])
    same = _alike(batch.targets[chosen])
    return all_triplets(distances, same & other, ~same & other)


def _mean(flags: Tensor) -> float:
    return float(flags.double().mean())


def _quantiles(name: str, values: Tensor) -> Statistics:
    """`name`_5, `name`_50 and `name`_95: the quantiles of some values; nothing of none."""
    if not len(values):
        return {}
    plain = values.cpu().numpy().astype(np.float64)
    found = np.quantile(plain, (0.05, 0.5, 0.95)).tolist()  # torch.quantile takes four times as long
    return {f"{name}_{percent}": value for percent, value in zip((5, 50, 95), found, strict=True)}

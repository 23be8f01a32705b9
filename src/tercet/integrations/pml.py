"""Tercet's losses in PyTorch Metric Learning's training: with its miners, wrappers, trainers and regularizers."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor

from tercet import losses
from tercet.errors import InputError, TercetWarning, require
from tercet.integrations.adapted import check_loss, given_triplets
from tercet.losses.base import BatchLoss

Indices = tuple[Tensor, ...]
_BASE: Any = require("pytorch_metric_learning.losses", "pml").BaseMetricLossFunction


class PMLLoss(_BASE):
    """One of Tercet's losses as a loss of PyTorch Metric Learning (PML).

    It is called as PML's trainers and wrappers call their losses, with the indices that a miner gives:

        loss(embeddings, labels)                                   the loss itself
        loss(embeddings, labels, None, ref_emb, ref_labels)        the loss with a reference: anchors against a bank
        loss(embeddings, labels, (anchors, positives, negatives))  `TripletLoss`: these triplets, as rows, through
                                                                   `triplet_margin_loss` with the loss's settings;
                                                                   other losses: their pairs, as below
        loss(embeddings, labels, (a1, positives, a2, negatives))   the loss among these pairs alone, as its relation

    With pairs, b is a positive of a if (a, b) is among the first pairs, a negative if it is among the second, and
    neither otherwise. Every loss takes them so, with its own mining among them; for `TripletLoss(mining="all")` these
    are all triplets of a positive and a negative pair of one anchor, as PML makes them, but never listed. That is how
    `CrossBatchMemory` calls its loss, so a memory works with every mining.

    A pair counts once, however often it is named. PML counts a pair of pairs again each time; if pairs are repeated, a
    TercetWarning says so. From triplets, it also repeats (a, p) for each negative that p is named with, which changes
    its ContrastiveLoss and NTXentLoss. A row is never compared with itself unless it is in `ref_emb`, too.

    What it gives is reduced as the loss says, so there is no PML reducer to choose: `mean-active` is what
    AvgNonZeroReducer does, `mean` MeanReducer, `sum` SumReducer. PML compares unit rows by default
    (LpDistance(normalize_embeddings=True)); Tercet's TripletLoss and ContrastiveLoss do with normalize=True, or
    like="pytorch-metric-learning". Its ContrastiveLoss does not square.

    PML's wrappers (CrossBatchMemory, SelfSupervisedLoss) know the losses that they accept by the names of their
    classes. So what is made is of a subclass with its counterpart's name: TripletMarginLoss, ContrastiveLoss,
    NTXentLoss (for InfoNCE) or SupConLoss.

    Time and memory: those of the loss. Given triplets take O(T·D) memory for T of them, pairs one byte for each anchor
    and reference.

    Args:
        loss: a loss of Tercet's over a batch. Its parameters are this module's; `stats` and `plan` stay with it, and
            describe calls without triplets.
        embedding_regularizer: as of PML's losses: a function of the embeddings that is added.
        embedding_reg_weight: its factor.

    Attributes:
        loss: as given.

    Raises:
        InputError: something else is given as loss; in a call: indices of another form, a pair that is both positive
            and negative, or settings that given triplets do not go with; and what the loss raises.
        MissingDependency: on import, PyTorch Metric Learning is not installed.
    """

    def __new__(cls, loss: Any = None, **_: Any) -> PMLLoss:
        """The subclass that bears the counterpart's name; without a loss (a copy is being made) the class itself."""
        named = next((own for kind, own in _COUNTERPARTS.items() if isinstance(loss, kind)), cls)
        made: PMLLoss = super().__new__(named if cls is PMLLoss else cls)
        return made

    def __init__(self, loss: BatchLoss, *, embedding_regularizer: Any = None, embedding_reg_weight: float = 1) -> None:
        super().__init__(embedding_regularizer=embedding_regularizer, embedding_reg_weight=embedding_reg_weight)
        self.loss = check_loss(loss)

    def get_default_distance(self) -> None:
        """None: the distance is the loss's own."""
        return None

    def compute_loss(
        self, embeddings: Tensor, labels: Tensor | None, indices_tuple: Any, ref_emb: Tensor, ref_labels: Tensor | None
    ) -> dict[str, dict[str, Any]]:
        """The loss as PML's `forward` wants it: a dictionary, here of one value that is already reduced."""
        alone = ref_emb is embeddings and ref_labels is labels
        if indices_tuple is None:
            others = {} if alone else {"reference": ref_emb, "reference_labels": ref_labels}
            value = self.loss(embeddings, labels, **others)
        else:
            value = self._of_indices(embeddings, ref_emb, _checked(indices_tuple), alone)
        return {"loss": {"losses": value, "indices": None, "reduction_type": "already_reduced"}}

    def _of_indices(self, embeddings: Tensor, ref_emb: Tensor, indices: Indices, alone: bool) -> Tensor:
        are_triplets = len(indices) == 3
        if are_triplets:
            anchors, positives, negatives = indices
            if isinstance(self.loss, losses.TripletLoss):
                remedy = "take mining='all' with a miner of triplets, or leave the miner out"
                return given_triplets(self.loss, embeddings[anchors], ref_emb[positives], ref_emb[negatives], remedy)
            indices = (anchors, positives, anchors, negatives)
        signs = _signs(embeddings, ref_emb, indices, repeats=are_triplets)
        return self._of_pairs(embeddings, None if alone else ref_emb, signs)

    def _of_pairs(self, embeddings: Tensor, reference: Tensor | None, signs: Tensor) -> Tensor:
        rows, columns = (torch.arange(length, device=signs.device) for length in signs.shape)
        others = {} if reference is None else {"reference": reference, "reference_labels": columns}
        value: Tensor = self.loss(embeddings, rows, relation=lambda a, b: signs[a[:, None], b], **others)
        return value


class TripletMarginLoss(PMLLoss):
    """`PMLLoss` of a `TripletLoss`."""


class ContrastiveLoss(PMLLoss):
    """`PMLLoss` of a `ContrastiveLoss`."""


class NTXentLoss(PMLLoss):
    """`PMLLoss` of an `InfoNCE`."""


class SupConLoss(PMLLoss):
    """`PMLLoss` of a `SupConLoss`."""


_COUNTERPARTS: dict[type[BatchLoss], type[PMLLoss]] = {
    losses.TripletLoss: TripletMarginLoss,
    losses.ContrastiveLoss: ContrastiveLoss,
    losses.InfoNCE: NTXentLoss,
    losses.SupConLoss: SupConLoss,
}


def _checked(indices_tuple: Any) -> Indices:
    if isinstance(indices_tuple, (tuple, list)) and len(indices_tuple) in (3, 4):
        return tuple(indices_tuple)
    given = f"has {len(indices_tuple)} parts" if isinstance(indices_tuple, (tuple, list)) else f"is {indices_tuple!r}"
    raise InputError(
        f"indices_tuple {given}; allowed are the two forms of PML's miners: (anchors, positives, negatives) for "
        f"triplets, and (anchors, positives, anchors, negatives) for pairs."
    )


def _signs(embeddings: Tensor, ref_emb: Tensor, pairs: Indices, repeats: bool) -> Tensor:
    """1 for a positive pair, -1 for a negative one, 0 for neither: int8 of shape (anchors, references).

    With `repeats` pairs may be named again; otherwise that is warned of.
    """
    a1, positives, a2, negatives = pairs
    signs = torch.zeros(len(embeddings), len(ref_emb), dtype=torch.int8, device=embeddings.device)
    signs[a2, negatives] = -1
    signs[a1, positives] = 1
    both = (signs[a2, negatives] == 1).nonzero()[:, 0]
    if len(both):
        anchor, other = int(a2[both[0]]), int(negatives[both[0]])
        raise InputError(
            f"indices_tuple names the pair ({anchor}, {other}) as positive and as negative; let it be one of them."
        )
    named, different = len(a1) + len(a2), int(signs.count_nonzero())
    if different < named and not repeats:
        warnings.warn(
            f"indices_tuple names {named} pairs, of which {different} are different; a pair counts once here, "
            f"and as often as it is named in PyTorch Metric Learning.",
            TercetWarning,
            stacklevel=2,
        )
    return signs

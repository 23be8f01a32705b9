"""Tercet's losses in sentence-transformers' training, for each form of its datasets."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from tercet.errors import InputError
from tercet.integrations.adapted import check_loss, given_triplets
from tercet.integrations.citations import citation_of
from tercet.losses import ContrastiveLoss, TripletLoss
from tercet.losses.base import BatchLoss
from tercet.losses.inputs import check_flag

Features = dict[str, Any]
FORMS = (
    "one column of texts and a label (a class); "
    "two columns (anchor, positive) without a label; "
    "two columns and a label 0 or 1, for ContrastiveLoss; "
    "three columns or more (anchor, positive, negatives) without a label"
)


class STLoss(nn.Module):
    """One of Tercet's losses as a loss of sentence-transformers: SentenceTransformerTrainer(loss=STLoss(model, loss)).

    What is computed follows from the columns of the dataset:

        text, label                    loss(embeddings, label): equal labels are positives. Each batch needs several
                                       items of a class, so train with batch_sampler=BatchSamplers.GROUP_BY_LABEL.
        anchor, positive               loss(anchors, reference=positives): each anchor against all positives of the
                                       batch, its own (of the same row) the only positive. A text that is in two rows
                                       would be its own negative, so train with BatchSamplers.NO_DUPLICATES.
        anchor, positive, negatives    `TripletLoss`: the triplets of each row as they are, `triplet_margin_loss` with
                                       the loss's settings. Other losses, and with `in_batch` this one too: each anchor
                                       against all positives and all negatives of the batch.
        text, text, label              `ContrastiveLoss`: these pairs, similar (1) or not (0), through its `pairs`.

    Any other form is refused: a label that a loss cannot use is not passed over. `InfoNCE` in the second and third form
    is MultipleNegativesRankingLoss with scale 1 / temperature, and `ClipLoss` that of both directions.

    Every column takes a forward pass of the model. Each device compares its own rows; nothing is gathered. Without a
    trainer it works with any model that gives a dictionary with "sentence_embedding", of shape (B, D), so that the
    library itself is not imported here.

    Args:
        model: the `SentenceTransformer` to be trained.
        loss: a loss of Tercet's over a batch. Its parameters, such as a learned temperature, are trained, too.
        in_batch: for `TripletLoss` and columns with negatives: whether triplets are made, and mined, among all rows of
            the batch instead of taken as they are.

    Attributes:
        model: as given.
        loss: as given; `loss.stats` describes its last call, unless that was of given triplets or pairs.

    Raises:
        InputError: something else is given as loss, or `in_batch` for another loss; in a call: columns of another form,
            or settings that given triplets do not go with; and what the loss raises.
    """

    def __init__(self, model: Callable[[Features], Features], loss: BatchLoss, *, in_batch: bool = False) -> None:
        super().__init__()
        check_flag("in_batch", in_batch)
        if not isinstance(check_loss(loss), TripletLoss) and in_batch:
            raise InputError(
                f"in_batch belongs to TripletLoss; {type(loss).__name__} always compares all rows of the batch: "
                f"leave it out."
            )
        self.model = model
        self.loss = loss
        self.in_batch = in_batch

    def forward(self, sentence_features: Iterable[Features], labels: Tensor | None = None) -> Tensor:
        """The loss, 0-d with a graph, of a batch: tokenised texts of each column, and the label column if there is one.

        Args:
            sentence_features: of each column what the model takes.
            labels: of shape (B,) or (B, 1), or (B, C) of marks 0 and 1 for several labels an item; None without a
                label column.
        """
        return self.compute_loss_from_embeddings([self._embed(features) for features in sentence_features], labels)

    def compute_loss_from_embeddings(self, embeddings: list[Tensor], labels: Tensor | None = None) -> Tensor:
        """The same of embeddings, of shape (B, D) for each column."""
        if labels is not None and labels.ndim == 2 and labels.shape[1] == 1:
            labels = labels[:, 0]
        if len(embeddings) == 1 and labels is not None:
            return self._value(embeddings[0], labels)
        if len(embeddings) == 2 and labels is not None and isinstance(self.loss, ContrastiveLoss):
            return self.loss.pairs(embeddings[0], embeddings[1], _whole(labels))
        if len(embeddings) < 2 or labels is not None:
            raise InputError(self._refusal(len(embeddings), labels is not None))
        if isinstance(self.loss, TripletLoss) and len(embeddings) > 2 and not self.in_batch:
            return self._triplets(*embeddings)
        return self._in_batch(*embeddings)

    def get_config_dict(self) -> dict[str, Any]:
        """The settings, for the model card."""
        settings = {name: _plain(value) for name, value in self.loss.settings.items()}
        own = {"in_batch": self.in_batch} if isinstance(self.loss, TripletLoss) else {}
        return {"loss": type(self.loss).__name__, **settings, **own}

    @property
    def citation(self) -> str:
        """Where the loss comes from, in BibTeX, for the model card."""
        return citation_of(self.loss)

    def _embed(self, features: Features) -> Tensor:
        output = self.model(features)
        if "sentence_embedding" not in output:
            listed = ", ".join(repr(name) for name in output)
            raise InputError(
                f"the model gives {listed} and no 'sentence_embedding'; end it with a pooling module that makes one "
                f"vector of each text."
            )
        embedding: Tensor = output["sentence_embedding"]
        return embedding

    def _value(self, *given: Tensor, **others: Tensor) -> Tensor:
        value: Tensor = self.loss(*given, **others)
        return value

    def _triplets(self, anchor: Tensor, positive: Tensor, *negatives: Tensor) -> Tensor:
        assert isinstance(self.loss, TripletLoss)
        remedy = "take mining='all' for the triplets as they are, or in_batch=True to mine among all rows of the batch"
        rows = (anchor.repeat(len(negatives), 1), positive.repeat(len(negatives), 1), torch.cat(negatives))
        return given_triplets(self.loss, *rows, remedy)

    def _in_batch(self, anchors: Tensor, *candidates: Tensor) -> Tensor:
        if isinstance(self.loss, TripletLoss) and self.loss.margins is not None:
            raise InputError("margins per class need a label column with the classes; give one margin for all.")
        reference = torch.cat(candidates)
        numbers = torch.arange(len(reference), device=reference.device)  # the positives' come first
        return self._value(anchors, numbers[: len(anchors)], reference=reference, reference_labels=numbers)

    def _refusal(self, columns: int, labelled: bool) -> str:
        given = f"{columns} column{'s' if columns != 1 else ''} {'and' if labelled else 'without'} a label"
        advice = " Remove the label column if it is not needed: dataset.remove_columns(...)." if columns > 1 else ""
        return f"the dataset has {given}, for {type(self.loss).__name__}; allowed are {FORMS}.{advice}"


def _whole(labels: Tensor) -> Tensor:
    """Marks that came as floats, such as 1.0, as integers; others as they are, for the loss to refuse."""
    whole = labels.long()
    return whole if bool((whole == labels).all()) else labels


def _plain(value: Any) -> Any:
    return value if value is None or isinstance(value, (str, int, float)) else repr(value)

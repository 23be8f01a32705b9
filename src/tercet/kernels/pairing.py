"""Who may be compared with whom: the positives and negatives of every anchor, from labels and ids alone.

Nothing of size A×M is made here: positives come as lists, negatives as the mask of one tile, and their
numbers from counts of equal labels and ids.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor


def _dense(of_anchors: Tensor, of_references: Tensor) -> tuple[Tensor, Tensor]:
    """Equal values get equal numbers from 0 on: int64, of shapes (A,) and (M,)."""
    _, codes = torch.cat([of_anchors, of_references]).unique(return_inverse=True)
    return codes[: len(of_anchors)], codes[len(of_anchors) :]


def _matches(of_anchors: Tensor, of_references: Tensor) -> Tensor:
    """For each anchor, the number of references of equal value, of shape (A,)."""
    of_anchors, of_references = _dense(of_anchors, of_references)
    length = len(of_anchors) + len(of_references)
    return torch.bincount(of_references, minlength=length)[of_anchors]


class Pairing:
    """Positives and negatives of A anchors among M references.

    A positive has the anchor's label and another id; a negative has another label and another id. Without
    ids, no row is the same item as another.

    Args:
        labels, reference_labels: int64 of shapes (A,) and (M,).
        ids, reference_ids: int64 of the same shapes, or None.
    """

    def __init__(
        self, labels: Tensor, reference_labels: Tensor, ids: Tensor | None, reference_ids: Tensor | None
    ) -> None:
        self.labels, self.reference_labels = _dense(labels, reference_labels)
        self.ids, self.reference_ids = ids, reference_ids
        self.order = self.reference_labels.sort(stable=True)[1]  # by class, and by index within a class
        self.class_sizes = torch.bincount(self.reference_labels, minlength=len(labels) + len(reference_labels))
        self.class_starts = self.class_sizes.cumsum(0) - self.class_sizes
        self.largest_class = int(self.class_sizes[self.labels].max()) if len(labels) else 0

    @cached_property
    def counts(self) -> tuple[Tensor, Tensor]:
        """The numbers of positives and of negatives of each anchor, both of shape (A,)."""
        same_label = self.class_sizes[self.labels]
        if self.ids is None or self.reference_ids is None:
            return same_label, len(self.reference_labels) - same_label
        ids, reference_ids = _dense(self.ids, self.reference_ids)
        same_id = _matches(ids, reference_ids)
        span = len(ids) + len(reference_ids)  # above every code, so that the sum below names label and id
        both = _matches(self.labels * span + ids, self.reference_labels * span + reference_ids)
        return same_label - both, len(self.reference_labels) - same_label - same_id + both

    def positives(self, rows: slice) -> tuple[Tensor, Tensor]:
        """Indices of these anchors' positives, ascending, padded to shape (R, K), and which are real."""
        labels = self.labels[rows]
        sizes = self.class_sizes[labels][:, None]
        width = max(1, int(sizes.max()))
        slots = torch.arange(width, device=labels.device).expand(len(labels), width)
        real = slots < sizes
        if not len(self.order):
            return torch.zeros_like(slots), real
        index = self.order[(self.class_starts[labels][:, None] + slots).clamp_(max=len(self.order) - 1)]
        if self.ids is not None and self.reference_ids is not None:
            real &= self.ids[rows, None] != self.reference_ids[index]
        return index, real

    def negatives(self, rows: slice, columns: slice) -> Tensor:
        """Which references of a tile are negatives: a mask of shape (R, C)."""
        mask = self.labels[rows, None] != self.reference_labels[columns]
        if self.ids is not None and self.reference_ids is not None:
            mask &= self.ids[rows, None] != self.reference_ids[columns]
        return mask


@dataclass(frozen=True)
class Batch:
    """Anchors and the references that they are compared with, with their labels and ids.

    Attributes:
        anchors: of shape (A, D).
        references: of shape (M, D); the same object where the anchors are compared among themselves.
        labels: int64 of shape (A,).
        reference_labels: int64 of shape (M,).
        ids: int64 of shape (A,), or None.
        reference_ids: int64 of shape (M,), or None.
    """

    anchors: Tensor
    references: Tensor
    labels: Tensor
    reference_labels: Tensor
    ids: Tensor | None
    reference_ids: Tensor | None

    @property
    def is_alone(self) -> bool:
        """Whether the anchors are compared among themselves, so that both gradients are one."""
        return self.references is self.anchors

    @cached_property
    def pairing(self) -> Pairing:
        """Who is compared with whom."""
        return Pairing(self.labels, self.reference_labels, self.ids, self.reference_ids)

"""What a call of a loss is given, checked and encoded: the one reading that all losses share."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tercet.errors import InputError
from tercet.kernels import UNDIVIDED, Division
from tercet.losses.inputs import check_alike, check_rows, check_weights, working_dtype
from tercet.losses.label_sets import encode_labels
from tercet.losses.labels import Labels, check_length, encode

Relation = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Items:
    """Anchors, what they are compared with, and what is known of both.

    Attributes:
        anchors: of shape (A, D), as given, with its graph.
        references: of shape (M, D); None where the anchors are compared among themselves.
        labels: int64 codes of shape (A,) or (A, L), or with a relation what it is to be given, of first length A.
        reference_labels: the same of the reference.
        ids, reference_ids: int64 codes of shapes (A,) and (M,), or None.
        groups, reference_groups: the same.
        relation: says of two tiles of labels which belong together; None where equal labels do.
        weights: of shape (A,), or None.
        given_labels: as the user gave them; None where the rows of both sides belong together in order.
        division: over which ranks the work is divided, all of which hold these items.
        gradient_elsewhere: whether any rank needs the gradient, which all then form together.
    """

    anchors: Tensor
    references: Tensor | None
    labels: Tensor
    reference_labels: Tensor | None
    ids: Tensor | None
    reference_ids: Tensor | None
    groups: Tensor | None
    reference_groups: Tensor | None
    relation: Relation | None
    weights: Tensor | None
    given_labels: Any
    division: Division = UNDIVIDED
    gradient_elsewhere: bool = False

    @property
    def dtype(self) -> torch.dtype:
        """What is computed in."""
        return working_dtype(self.anchors, *([] if self.references is None else [self.references]))

    @property
    def returned_dtype(self) -> torch.dtype:
        """What the value is returned in: the embeddings' own, or float32 for half precision."""
        return working_dtype(self.anchors)

    def swapped(self) -> Items:
        """The reference as anchors, and the anchors as reference; every pair is related as before."""
        assert self.references is not None
        assert self.reference_labels is not None
        relation = self.relation
        return dataclasses.replace(
            self,
            anchors=self.references, references=self.anchors,
            labels=self.reference_labels, reference_labels=self.labels,
            ids=self.reference_ids, reference_ids=self.ids,
            groups=self.reference_groups, reference_groups=self.groups,
            division=self.division.swapped(),
            relation=None if relation is None else lambda a, b: relation(b, a).T,
        )  # fmt: skip


def read_items(
    embeddings: Tensor,
    labels: Labels | None,
    *,
    reference: Tensor | None,
    reference_labels: Labels | None,
    groups: Labels | None,
    reference_groups: Labels | None,
    ids: Labels | None,
    reference_ids: Labels | None,
    relation: Relation | None,
    weights: object,
) -> Items:
    """Check and encode the arguments of a call, which are described in `BatchLoss.forward`.

    Raises:
        InputError: shapes, lengths, dtypes or devices do not fit, or something is missing.
    """
    anchors, references = check_rows("embeddings", embeddings), None
    if reference is not None:
        references = check_rows("reference", reference)
        check_alike("reference", references, "embeddings", anchors, rows=False)
    lengths = len(anchors), len(anchors) if references is None else len(references)
    _check_given_together("ids", ids, reference_ids, references)
    _check_given_together("groups", groups, reference_groups, references)
    codes = _read_labels(labels, reference_labels, references is not None, relation, lengths)
    id_codes = _codes("ids", ids, reference_ids, lengths)
    group_codes = _codes("groups", groups, reference_groups, lengths)
    device = anchors.device

    def placed(part: Tensor | None) -> Tensor | None:
        return None if part is None else part.to(device)

    items = Items(
        anchors=anchors, references=references,
        labels=codes[0].to(device), reference_labels=placed(codes[1]),
        ids=placed(id_codes[0]), reference_ids=placed(id_codes[1]),
        groups=placed(group_codes[0]), reference_groups=placed(group_codes[1]),
        relation=relation, weights=None, given_labels=labels,
    )  # fmt: skip
    if weights is None:
        return items
    like = torch.empty(0, dtype=items.dtype, device=device)
    return dataclasses.replace(items, weights=check_weights(weights, len(anchors), like))


def _check_given_together(name: str, own: Any, of_reference: Any, references: Tensor | None) -> None:
    """Raise InputError where ids or groups are given of one side alone, or of a reference that is not there."""
    if references is None and of_reference is not None:
        raise InputError(f"reference_{name} is given without reference; the batch's own {name} are called {name}.")
    if references is not None and (own is None) != (of_reference is None):
        given, missing = (name, f"reference_{name}") if of_reference is None else (f"reference_{name}", name)
        purpose = (
            "then no row of the reference is an item of the batch" if name == "ids" else "then no group is left out"
        )
        raise InputError(f"with a reference, {given} is given without {missing}; give both, or neither ({purpose}).")


def _read_labels(
    labels: Any, reference_labels: Any, has_reference: bool, relation: Relation | None, lengths: tuple[int, int]
) -> tuple[Tensor, Tensor | None]:
    if relation is not None and not callable(relation):
        raise InputError(
            f"relation is {relation!r}; allowed is a function of two tensors of labels, of R anchors and C references, "
            f"that gives (R, C): above 0 for positives, below 0 for negatives, 0 for neither."
        )
    if labels is None:
        return _row_numbers(reference_labels, has_reference, relation, lengths)
    if has_reference != (reference_labels is not None):
        given, missing = ("reference", "reference_labels") if has_reference else ("reference_labels", "reference")
        raise InputError(f"{given} is given without {missing}; give both, or neither.")
    if relation is None:
        return encode_labels(labels, lengths[0], reference_labels, lengths[1])
    second = _for_relation("reference_labels", reference_labels, lengths[1]) if has_reference else None
    return _for_relation("labels", labels, lengths[0]), second


def _row_numbers(
    reference_labels: Any, has_reference: bool, relation: Relation | None, lengths: tuple[int, int]
) -> tuple[Tensor, Tensor | None]:
    """Labels where none are given: the numbers of the rows, which belong together where they are equal."""
    if reference_labels is not None:
        raise InputError("reference_labels is given without labels; give both, or neither.")
    if relation is None and not has_reference:
        raise InputError(
            "labels is None; then row i of the embeddings and row i of the reference belong together, and no "
            "reference is given: give labels, or a reference with a row for each of the embeddings."
        )
    if relation is None and lengths[0] != lengths[1]:
        raise InputError(
            f"labels is None; then row i of the embeddings and row i of the reference belong together, and there are "
            f"{lengths[0]} rows of embeddings and {lengths[1]} of the reference: give as many, or labels of both."
        )
    return torch.arange(lengths[0]), torch.arange(lengths[1]) if has_reference else None


def _for_relation(name: str, given: Any, length: int) -> Tensor:
    """Labels as a tensor of any dtype and shape, of which the relation gets slices."""
    try:
        tensor = given if isinstance(given, Tensor) else torch.as_tensor(np.asarray(given))
    except (TypeError, ValueError):
        raise InputError(
            f"{name} cannot become a tensor, which a relation is given slices of; number them, or leave the labels "
            f"out: the relation is then given the numbers of the rows, and can look up anything by them."
        ) from None
    if tensor.ndim == 0:
        raise InputError(f"{name} has no dimension; allowed with a relation is any tensor with an entry for each row.")
    check_length(name, len(tensor), length)
    return tensor.detach()


def _codes(name: str, own: Any, of_reference: Any, lengths: tuple[int, int]) -> tuple[Tensor | None, Tensor | None]:
    if own is None:
        return None, None
    return encode(name, own, lengths[0], f"reference_{name}", of_reference, lengths[1])

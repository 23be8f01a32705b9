"""Who may be compared with whom: the positives and negatives of every anchor.

Nothing of size A×M is made here: positives come as lists, negatives as the mask of one tile. With one label an
item, positives and all numbers follow from sorted and counted labels (`ClassPairing`); with several, or with a
user's relation, from one tile of labels after another (`RelatedPairing`).
"""

# ruff: noqa: D102  the methods of a pairing are described once, in the base class

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from tercet.distances import blocks
from tercet.errors import InputError

Relation = Callable[[Tensor, Tensor], Tensor]
Keys = tuple[Tensor, Tensor]  # int64 of shapes (A,) and (M,): an anchor and a reference of equal keys
NO_LABEL = -1  # pads the labels of an item that has fewer than others
MOST_COMPARED = 16  # labels of an item times those of another: as many are compared each with each
CODES_AT_A_TIME = 4096  # else marks are multiplied, of so many labels
TILE_ENTRIES = 1 << 18  # of a tile of labels


def _dense(of_anchors: Tensor, of_references: Tensor) -> Keys:
    """Equal values get equal numbers from 0 on: int64, of shapes (A,) and (M,)."""
    _, codes = torch.cat([of_anchors, of_references]).unique(return_inverse=True)
    return codes[: len(of_anchors)], codes[len(of_anchors) :]


def _matches(keys: Sequence[Keys]) -> Tensor:
    """For each anchor, the number of references that equal it in every key, of shape (A,)."""
    of_anchors, of_references = _dense(*keys[0])
    length = len(of_anchors) + len(of_references)  # above every number, so that a sum below names two keys
    for key in keys[1:]:
        more_of_anchors, more_of_references = _dense(*key)
        of_anchors, of_references = _dense(
            of_anchors * length + more_of_anchors, of_references * length + more_of_references
        )
    return torch.bincount(of_references, minlength=length)[of_anchors]


class Pairing:
    """Positives and negatives of A anchors among M references.

    Args:
        exclusions: an anchor and a reference that are equal in any of these keys, such as their ids, are
            neither positive nor negative of each other.
    """

    def __init__(self, exclusions: Sequence[Keys]) -> None:
        self.exclusions = exclusions

    @property
    def counts(self) -> tuple[Tensor, Tensor]:
        """The numbers of positives and of negatives of each anchor, both of shape (A,)."""
        raise NotImplementedError

    @property
    def largest_class(self) -> int:
        """At least the largest number of positives of an anchor."""
        raise NotImplementedError

    def positives(self, rows: slice) -> tuple[Tensor, Tensor]:
        """Indices of these anchors' positives, ascending, padded to shape (R, K), and which are real."""
        raise NotImplementedError

    def negatives(self, rows: slice, columns: slice) -> Tensor:
        """Which references of a tile are negatives: a mask of shape (R, C)."""
        raise NotImplementedError

    def _exclude(self, mask: Tensor, rows: slice, columns: slice | Tensor) -> Tensor:
        """Strike the excluded from a mask of shape (R, C), or (R, K) with indices for columns."""
        for of_anchors, of_references in self.exclusions:
            mask &= of_anchors[rows, None] != of_references[columns]
        return mask


class ClassPairing(Pairing):
    """A positive has the anchor's label, a negative another.

    Args:
        labels, reference_labels: int64 of shapes (A,) and (M,).
        exclusions: see `Pairing`.
    """

    def __init__(self, labels: Tensor, reference_labels: Tensor, exclusions: Sequence[Keys]) -> None:
        super().__init__(exclusions)
        self.labels, self.reference_labels = _dense(labels, reference_labels)
        self.order = self.reference_labels.sort(stable=True)[1]  # by class, and by index within a class
        self.class_sizes = torch.bincount(self.reference_labels, minlength=len(labels) + len(reference_labels))
        self.class_starts = self.class_sizes.cumsum(0) - self.class_sizes

    @cached_property
    def largest_class(self) -> int:
        return int(self.class_sizes[self.labels].max()) if len(self.labels) else 0

    @cached_property
    def counts(self) -> tuple[Tensor, Tensor]:
        # Inclusion and exclusion: what is equal in no key is all, less what is equal in one, plus in two...
        same_label = self.class_sizes[self.labels]
        positives, all_compared = same_label, torch.full_like(same_label, len(self.reference_labels))
        for number in range(1, len(self.exclusions) + 1):
            for keys in itertools.combinations(self.exclusions, number):
                sign = (-1) ** number
                all_compared = all_compared + sign * _matches(keys)
                positives = positives + sign * _matches([(self.labels, self.reference_labels), *keys])
        return positives, all_compared - positives

    def positives(self, rows: slice) -> tuple[Tensor, Tensor]:
        labels = self.labels[rows]
        sizes = self.class_sizes[labels][:, None]
        width = max(1, int(sizes.max()))
        slots = torch.arange(width, device=labels.device).expand(len(labels), width)
        real = slots < sizes
        if not len(self.order):
            return torch.zeros_like(slots), real
        index = self.order[(self.class_starts[labels][:, None] + slots).clamp_(max=len(self.order) - 1)]
        return index, self._exclude(real, rows, index)

    def negatives(self, rows: slice, columns: slice) -> Tensor:
        return self._exclude(self.labels[rows, None] != self.reference_labels[columns], rows, columns)


def share_a_label(labels: Tensor, reference_labels: Tensor) -> Tensor:
    """The relation of items with several labels, of shapes (R, L) and (C, L'): whether they share one, (R, C)."""
    shared = torch.zeros(len(labels), len(reference_labels), dtype=torch.bool, device=labels.device)
    if labels.shape[1] * reference_labels.shape[1] > MOST_COMPARED:
        both = torch.unique(labels[torch.isin(labels, reference_labels) & (labels != NO_LABEL)])
        for codes in both.split(CODES_AT_A_TIME) if len(both) else ():
            shared |= _marks(labels, codes) @ _marks(reference_labels, codes).T > 0
        return shared
    for own in range(labels.shape[1]):
        for other in range(reference_labels.shape[1]):
            shared |= (labels[:, own, None] == reference_labels[:, other]) & (labels[:, own, None] != NO_LABEL)
    return shared


def _marks(labels: Tensor, codes: Tensor) -> Tensor:
    """Which rows of labels (R, L) have each of these codes, rising, as 0 and 1: float32 (R, codes)."""
    places = torch.searchsorted(codes, labels).clamp_(max=len(codes) - 1)
    rows, slots = (codes[places] == labels).nonzero(as_tuple=True)
    marks = torch.zeros(len(labels), len(codes), device=labels.device)
    marks[rows, places[rows, slots]] = 1
    return marks


class RelatedPairing(Pairing):
    """A relation of two tiles of labels says who is positive and who negative.

    It is evaluated several times for every pair: to count, to list the positives, and at each visit of the
    tiles. So it must give the same answer each time.

    Args:
        relation: see `reduce_triplets`.
        labels, reference_labels: of any shapes (A, ...) and (M, ...), and any dtype.
        exclusions: see `Pairing`.
    """

    def __init__(
        self, relation: Relation, labels: Tensor, reference_labels: Tensor, exclusions: Sequence[Keys]
    ) -> None:
        super().__init__(exclusions)
        self.relation, self.labels, self.reference_labels = relation, labels, reference_labels

    @cached_property
    def largest_class(self) -> int:
        return int(self.counts[0].max()) if len(self.labels) else 0

    @cached_property
    def counts(self) -> tuple[Tensor, Tensor]:
        found = torch.zeros(2, len(self.labels), dtype=torch.int64, device=self.labels.device)
        for rows in blocks(len(self.labels), max(1, TILE_ENTRIES // 1024)):
            for columns in blocks(len(self.reference_labels), 1024):
                related = self._related(rows, columns)
                if related.is_floating_point() and related.isnan().any():
                    raise InputError("the relation gave NaN; it must give a number for every two items, or booleans.")
                found[0, rows] += self._exclude(related > 0, rows, columns).sum(1)
                found[1, rows] += self._exclude(self._negative(related), rows, columns).sum(1)
        return found[0], found[1]

    def positives(self, rows: slice) -> tuple[Tensor, Tensor]:
        length = rows.stop - rows.start
        sizes = self.counts[0][rows]
        width = max(1, int(sizes.max()))
        index = torch.zeros(length, width, dtype=torch.int64, device=self.labels.device)
        filled = torch.zeros(length, dtype=torch.int64, device=self.labels.device)  # slots of each row
        for columns in blocks(len(self.reference_labels), max(1, TILE_ENTRIES // length)):
            found = self._exclude(self._related(rows, columns) > 0, rows, columns)
            i, j = found.nonzero(as_tuple=True)
            slots = filled[:, None] + found.cumsum(1) - 1
            index[i, slots[i, j]] = j + columns.start
            filled += found.sum(1)
        return index, torch.arange(width, device=index.device) < sizes[:, None]

    def negatives(self, rows: slice, columns: slice) -> Tensor:
        return self._exclude(self._negative(self._related(rows, columns)), rows, columns)

    @staticmethod
    def _negative(related: Tensor) -> Tensor:
        return ~related if related.dtype == torch.bool else related < 0

    def _related(self, rows: slice, columns: slice) -> Tensor:
        """What the relation says of a tile, of shape (R, C): above 0, or True, for positives."""
        labels, others = self.labels[rows], self.reference_labels[columns]
        found = self.relation(labels, others)
        if not isinstance(found, Tensor) or found.shape != (len(labels), len(others)) or found.is_complex():
            given = f"{tuple(found.shape)} of {found.dtype}" if isinstance(found, Tensor) else type(found).__name__
            raise InputError(
                f"the relation gave {given} for labels of shapes {tuple(labels.shape)} and {tuple(others.shape)}; "
                f"it must give booleans or real numbers of shape {(len(labels), len(others))}."
            )
        return found


@dataclass(frozen=True)
class Batch:
    """Anchors and the references that they are compared with, and what says how.

    Attributes:
        anchors: of shape (A, D).
        references: of shape (M, D); the same object where the anchors are compared among themselves.
        labels: int64 of shape (A,), or (A, L) for several labels an item, padded with -1; any with a relation.
        reference_labels: the same of the references.
        ids: int64 of shape (A,), or None.
        reference_ids: int64 of shape (M,), or None.
        groups: int64 of shape (A,), or None.
        reference_groups: int64 of shape (M,), or None.
        relation: says who is positive and who negative; None means by equal labels.
        margins: of shape (A,), of the anchors' dtype, in place of the rule's margin; or None.
        weights: of shape (A,), of the anchors' dtype; or None, which means 1.
        start: the position of the first anchor, where these are `part` of a batch's anchors: what is drawn at random
            depends on positions.
    """

    anchors: Tensor
    references: Tensor
    labels: Tensor
    reference_labels: Tensor
    ids: Tensor | None = None
    reference_ids: Tensor | None = None
    groups: Tensor | None = None
    reference_groups: Tensor | None = None
    relation: Relation | None = None
    margins: Tensor | None = None
    weights: Tensor | None = None
    start: int = 0

    def part(self, rows: slice) -> Batch:
        """The batch with these of its anchors only; the references stay."""
        given: dict[str, Any] = {
            name: None if getattr(self, name) is None else getattr(self, name)[rows]
            for name in ("anchors", "labels", "ids", "groups", "margins", "weights")
        }
        return replace(self, **given, start=self.start + rows.start)

    @property
    def is_alone(self) -> bool:
        """Whether the anchors are compared among themselves, so that both gradients are one."""
        return self.references is self.anchors

    @property
    def is_by_class(self) -> bool:
        """Whether items have one label each, and equal labels make positives."""
        return self.relation is None and self.labels.ndim == 1

    @property
    def exclusions(self) -> list[Keys]:
        """Keys in which an anchor and a reference may be equal that are not to be compared."""
        given = ((self.ids, self.reference_ids), (self.groups, self.reference_groups))
        return [(of_a, of_r) for of_a, of_r in given if of_a is not None and of_r is not None]

    @cached_property
    def pairing(self) -> Pairing:
        """Who is compared with whom."""
        if self.is_by_class:
            return ClassPairing(self.labels, self.reference_labels, self.exclusions)
        relation = self.relation or share_a_label
        return RelatedPairing(relation, self.labels, self.reference_labels, self.exclusions)

"""Who is relevant to whom: labels, one or several an item, groups, and what is left out of a query's candidates.

Shapes: Q queries, G items of the gallery, L labels of an item at most, A queries at a time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from tercet.data.labels import in_words
from tercet.errors import InputError, check_choice
from tercet.evaluation.classes import class_codes
from tercet.losses.label_sets import encode_labels
from tercet.neighbors.lists import Array, Lists

EXCLUSIONS = ("group", "group-and-label")
NONE = -1  # no label, no group


@dataclass(frozen=True, eq=False)
class Members:
    """The items of the gallery that have each code: of code c, items[first[c]:first[c + 1]], ascending."""

    first: Array
    items: Array

    @classmethod
    def of(cls, codes: Array) -> Members:
        """The members of codes (G, L); `NONE` has none."""
        items, _ = np.nonzero(codes != NONE)
        codes = codes[codes != NONE]
        order = np.argsort(codes, kind="stable")
        first = np.concatenate([[0], np.cumsum(np.bincount(codes))]).astype(np.int64)
        return cls(first, items[order])

    def counts(self, codes: Array) -> Array:
        """How many members each code has, of the shape of the codes."""
        known = (codes >= 0) & (codes < len(self.first) - 1)
        safe = np.where(known, codes, 0)
        if len(self.first) < 2:
            return np.zeros_like(codes)
        return np.where(known, self.first[safe + 1] - self.first[safe], 0)

    def pairs(self, codes: Array) -> tuple[Array, Array]:
        """Of codes (A, L) each row and every member of one of its codes, once: two arrays, by row, then member."""
        counts = self.counts(codes)
        owner = np.repeat(np.arange(len(codes)), counts.sum(axis=1))
        starts = np.where(counts > 0, self.first[np.where(counts > 0, codes, 0)], 0).ravel()
        lengths = counts.ravel()
        place = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths - starts, lengths)
        found = self.items[place]
        return (owner, found) if codes.shape[1] == 1 else _once(owner, found)


@dataclass(frozen=True, eq=False)
class Relevance:
    """Which items of the gallery are relevant to a query, and which are no candidates of it.

    Attributes:
        labels: codes of the queries' labels, (Q, L), `NONE` where there are fewer.
        groups: code of each query's group, (Q, 1), or `NONE`; None without groups.
        own: which item of the gallery each query is, (Q,); None with a gallery of its own.
        exclude: see `retrieval`.
        by_label: the gallery's items of each label.
        by_group: of each group.
        gallery_labels: codes of its labels, (G, L).
        gallery_groups: code of each item's group, (G,).
        classes: what is drawn as a whole in a bootstrap: a code for each query, (Q,), the same for the same labels.
        gallery_classes: the same of the gallery, (G,).
        names: of the classes, what was given; a set's labels are joined by commas.
        label_names: what each code of `labels` stands for.
        group_names: of the groups.
        kept: which items of the gallery as given there are, (G,); None if all. Junk is left out.
        n_junk: how many items that was.
    """

    labels: Array
    groups: Array | None
    own: Array | None
    exclude: str | None
    by_label: Members
    by_group: Members | None
    gallery_labels: Array
    gallery_groups: Array | None
    classes: Array
    gallery_classes: Array
    names: list[Any]
    label_names: list[Any]
    group_names: list[Any]
    kept: Array | None = None
    n_junk: int = 0

    @property
    def has_gallery(self) -> bool:
        """Whether the queries are not searched for among themselves."""
        return self.own is None

    @property
    def has_one_label(self) -> bool:
        """Whether no item has several labels."""
        return self.labels.shape[1] == 1

    @property
    def labelled(self) -> Array:
        """Which queries have a label, and are no junk, (Q,) bool."""
        return (self.labels != NONE).any(axis=1)

    @property
    def is_partition(self) -> bool:
        """Whether each item has one label, no more and no less, and no other items are searched."""
        return not self.has_gallery and self.has_one_label and bool(self.labelled.all())

    @property
    def is_plain(self) -> bool:
        """Whether each item has one label and is searched for among all the others."""
        return not self.has_gallery and self.exclude is None and self.has_one_label

    @property
    def reach(self) -> Array:
        """No query has more relevant items than that, (Q,)."""
        return self.by_label.counts(self.labels).sum(axis=1)

    def of(self, queries: Array) -> tuple[Lists, Lists]:
        """The relevant candidates of some queries (A,), and all that is not to be counted as irrelevant.

        The second holds the relevant ones, the query itself, which shares its labels, and what is excluded.
        """
        length = len(queries)
        owner, item = self.by_label.pairs(self.labels[queries])
        relevant = np.ones(len(item), bool) if self.own is None else item != self.own[queries][owner]
        if self.exclude is not None:
            assert self.groups is not None
            assert self.gallery_groups is not None
            group = self.groups[queries, 0][owner]
            relevant &= (group == NONE) | (group != self.gallery_groups[item])
        out = (owner, item)
        if self.exclude == "group":
            assert self.groups is not None
            assert self.by_group is not None
            out = _union(out, self.by_group.pairs(self.groups[queries]))
        return Lists.of(owner[relevant], item[relevant], length), Lists.of(*out, length)


def relevance(
    labels: Any, n_queries: int, gallery_labels: Any, n_gallery: int | None, groups: Any, gallery_groups: Any,
    exclude: str | None,
) -> Relevance:  # fmt: skip
    """What the labels and groups of `retrieval` say; n_gallery is None where the queries are the gallery.

    Raises:
        InputError: labels or groups that do not fit, or an exclusion without groups.
    """
    if exclude is not None:
        check_choice("exclude", exclude, EXCLUSIONS)
    _check_sides(n_gallery, gallery_labels, groups, gallery_groups, exclude)
    codes, of_gallery, names = label_codes(labels, n_queries, gallery_labels, n_gallery)
    group_codes, of_gallery_groups, group_names = _group_codes(groups, n_queries, gallery_groups, n_gallery)
    kept = _without_junk(of_gallery, names) if exclude == "group-and-label" else None
    classes, gallery_classes, class_names = _classes(codes, of_gallery, names)
    own = np.arange(n_queries) if n_gallery is None else None
    n_gallery_given = len(of_gallery)
    if kept is not None:
        of_gallery, gallery_classes = of_gallery[kept], gallery_classes[kept]
        of_gallery_groups = None if of_gallery_groups is None else of_gallery_groups[kept]
        if own is not None:
            own = np.full(n_queries, NONE)
            own[kept] = np.arange(len(kept))
            codes = np.where(own[:, None] == NONE, NONE, codes)  # junk is no query either
    return Relevance(
        labels=codes,
        groups=None if group_codes is None else group_codes[:, None],
        own=own,
        exclude=exclude,
        by_label=Members.of(of_gallery),
        by_group=None if of_gallery_groups is None else Members.of(of_gallery_groups[:, None]),
        gallery_labels=of_gallery,
        gallery_groups=of_gallery_groups,
        classes=classes,
        gallery_classes=gallery_classes,
        names=class_names,
        label_names=names,
        group_names=group_names,
        kept=kept,
        n_junk=0 if kept is None else n_gallery_given - len(kept),
    )


def label_codes(labels: Any, n_queries: int, others: Any, n_others: int | None) -> tuple[Array, Array, list[Any]]:
    """Codes of both sides, (Q, L) and (G, L), and what each code stands for; without others both are one.

    Codes are numbered as labels first appear, so that no seeded sample depends on what they are called.
    """
    sides = [(labels, n_queries, "labels")] + ([] if n_others is None else [(others, n_others, "gallery_labels")])
    if any(are_several(given) for given, _, _ in sides):
        own, other = encode_labels(labels, n_queries, others if n_others is not None else None, n_others or 0)
        found = [own.numpy()] if other is None else [own.numpy(), other.numpy()]
        found = [codes.reshape(len(codes), -1) for codes in found]
        names = _set_names(labels, others, found)
        found = [_each_once(codes) for codes in found]
        return found[0], found[-1], names
    for given, length, name in sides:
        class_codes(given, length, name)  # the checks, and the messages
    codes, names = _joint_codes([_listed(given) for given, _, _ in sides])
    return codes[0][:, None], codes[-1][:, None], names


def _each_once(codes: Array) -> Array:
    """Each label of an item once, (Q, L); `NONE` in place of another mention."""
    order = np.argsort(codes, axis=1, kind="stable")
    rising = np.take_along_axis(codes, order, axis=1)
    again = np.zeros_like(codes, dtype=bool)
    np.put_along_axis(again, order[:, 1:], rising[:, 1:] == rising[:, :-1], axis=1)
    return np.where(again, NONE, codes)


def are_several(labels: Any) -> bool:
    """Whether items may have several labels: multi-hot rows, or collections."""
    if isinstance(labels, (torch.Tensor, np.ndarray)) and labels.ndim == 2:
        return True
    if isinstance(labels, torch.Tensor) or (isinstance(labels, np.ndarray) and labels.dtype.kind != "O"):
        return False
    return any(isinstance(entry, (list, tuple, set, frozenset, np.ndarray)) for entry in labels)


def _listed(given: Any) -> Array:
    return given.detach().cpu().numpy() if isinstance(given, torch.Tensor) else np.asarray(given)


def _joint_codes(sides: list[Array]) -> tuple[list[Array], list[Any]]:
    """One numbering of the values of one or two sides; integers of any width are never made floats."""
    if {side.dtype.kind in "US" for side in sides if len(side)} == {True, False}:
        raise InputError("labels are strings on one side and whole numbers on the other; both must be of one kind.")
    joint = np.concatenate(sides) if len(sides) > 1 else sides[0]
    if joint.dtype.kind == "f" and len(joint):  # int64 beside uint64: numpy knows no integer that holds both
        joint = np.array([value for side in sides for value in side.tolist()], dtype=object)
    values, first, codes = np.unique(joint, return_index=True, return_inverse=True)
    order = np.argsort(first)
    renumbered = np.empty(len(first), dtype=np.int64)
    renumbered[order] = np.arange(len(first))
    found = renumbered[codes.reshape(-1)]
    parts = np.split(found, np.cumsum([len(side) for side in sides])[:-1])
    return parts, values[order].tolist()


def _set_names(labels: Any, others: Any, codes: list[Array]) -> list[Any]:
    """What each code of sets stands for."""
    names: dict[int, Any] = {}
    for given, coded in zip((labels, others), codes, strict=False):
        if isinstance(given, (torch.Tensor, np.ndarray)) and given.ndim == 2:
            return list(range(given.shape[1]))
        for entry, row in zip(given, coded.tolist(), strict=True):
            several = isinstance(entry, (list, tuple, set, frozenset, np.ndarray))
            for label, code in zip(entry if several else [entry], row, strict=False):
                names.setdefault(code, label.item() if isinstance(label, np.generic) else label)
    return [names.get(code) for code in range(max(names, default=-1) + 1)]


def _group_codes(
    groups: Any, n_queries: int, others: Any, n_others: int | None
) -> tuple[Array | None, Array | None, list[Any]]:
    if groups is None:
        return None, None, []
    given = [_group_list("groups", groups, n_queries)]
    if n_others is not None:
        given.append(_group_list("gallery_groups", others, n_others))
    numbers: dict[Any, int] = {}
    codes = [
        np.array([NONE if one is None else numbers.setdefault(one, len(numbers)) for one in side], dtype=np.int64)
        for side in given
    ]
    return codes[0], codes[-1], list(numbers)


def _group_list(name: str, given: Any, length: int) -> list[Any]:
    found = given.tolist() if isinstance(given, (torch.Tensor, np.ndarray)) else list(given)
    if len(found) != length:
        raise InputError(f"{name} must be one per item, {length} in all; given {len(found)}.")
    wrong = [one for one in found if one is not None and not isinstance(one, (str, int))]
    if wrong:
        raise InputError(f"{name} must be whole numbers, strings or None; given {wrong[0]!r}.")
    return found


def _check_sides(
    n_gallery: int | None, gallery_labels: Any, groups: Any, gallery_groups: Any, exclude: str | None
) -> None:
    if n_gallery is None:
        for name, given in (("gallery_labels", gallery_labels), ("gallery_groups", gallery_groups)):
            if given is not None:
                raise InputError(f"{name} belongs to a gallery; give gallery too, or leave it out.")
    elif gallery_labels is None:
        raise InputError("a gallery needs gallery_labels, which say what of it is relevant to a query.")
    if exclude is not None and groups is None:
        raise InputError(f"exclude={exclude!r} leaves out by groups, and there are none; give groups.")
    if (
        n_gallery is not None
        and (groups is None) != (gallery_groups is None)
        and (exclude or gallery_groups is not None)
    ):
        given, missing = ("groups", "gallery_groups") if groups is not None else ("gallery_groups", "groups")
        raise InputError(f"{given} is given and {missing} is not; queries and gallery both need their groups.")


def _without_junk(codes: Array, names: list[Any]) -> Array | None:
    """The rows of the gallery that are not junk, label -1 as in Market-1501; None if there is no junk."""
    junk = [code for code, name in enumerate(names) if name in (-1, "-1")]
    if not junk:
        return None
    return np.flatnonzero(~np.isin(codes, junk).any(axis=1))


def _classes(codes: Array, of_gallery: Array, names: list[Any]) -> tuple[Array, Array, list[Any]]:
    """A code for each distinct set of labels, of queries and of the gallery, and its name."""
    if codes.shape[1] == 1 and not (codes == NONE).any() and not (of_gallery == NONE).any():
        return codes[:, 0], of_gallery[:, 0], names
    both = np.concatenate([codes, of_gallery])
    _, first, inverse = np.unique(np.sort(both, axis=1), axis=0, return_index=True, return_inverse=True)
    joined = [in_words(str(names[code]) for code in both[row] if code != NONE) or "(none)" for row in first]
    found = inverse.reshape(-1).astype(np.int64)
    return found[: len(codes)], found[len(codes) :], joined


def _once(owner: Array, item: Array) -> tuple[Array, Array]:
    """Each pair once, in order."""
    width = int(item.max()) + 1 if len(item) else 1
    keys = np.unique(owner * width + item)
    return keys // width, keys % width


def _union(one: tuple[Array, Array], two: tuple[Array, Array]) -> tuple[Array, Array]:
    return _once(np.concatenate([one[0], two[0]]), np.concatenate([one[1], two[1]]))

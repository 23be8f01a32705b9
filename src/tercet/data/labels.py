"""Labels as codes: one each item, or a set of them."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

NONE = -1  # where an item has fewer labels than another
MOST_COMPARED = 64
"""Labels of one item times those of another: as many are compared each with each."""


@dataclass(frozen=True, eq=False)
class Labels:
    """What the labels of N items say, whatever they were read from: one each, or a set each, or nothing."""

    codes: np.ndarray | None
    """int64 codes into `classes`, of shape (N,); None for items without labels, or with sets of them."""
    classes: Sequence[str]
    """The names of the codes, in order."""
    sets: np.ndarray | None = None
    """int64 codes of each item's labels, rising, of shape (N, L), then `NONE`."""

    @classmethod
    def of(cls, names: Sequence[str], counts: np.ndarray | None = None) -> Labels:
        """The labels of items by their names, item after item, of which item i has counts[i]; one where that is None.

        Where each item has one label in the end, these are labels and no sets.
        """
        return cls.of_codes(*encode_labels(names), counts)

    @classmethod
    def of_codes(cls, codes: np.ndarray, classes: Sequence[str], counts: np.ndarray | None) -> Labels:
        """The same by codes of their names."""
        if counts is None or (counts == 1).all():
            return cls(codes, classes)
        items, codes = _each_once(np.repeat(np.arange(len(counts)), counts), codes, len(classes))
        counts = np.bincount(items, minlength=len(counts))
        if (counts == 1).all():
            return cls(codes, classes)
        sets = np.full((len(counts), counts.max(initial=1)), NONE, dtype=np.int64)
        sets[items, np.arange(len(items)) - np.repeat(np.cumsum(counts) - counts, counts)] = codes
        return cls(None, classes, sets)


NO_LABELS = Labels(None, ())


def encode_labels(names: Sequence[str]) -> tuple[np.ndarray, tuple[str, ...]]:
    """Labels as int64 codes of shape (N,), and the classes in order (of number, if all are numbers)."""
    classes = sorted(set(names))
    if all(is_whole(name) for name in classes):
        classes.sort(key=int)
    code = {name: number for number, name in enumerate(classes)}
    return np.array([code[name] for name in names], dtype=np.int64), tuple(classes)


LONGEST = 1000
"""Digits that a label may have to be a number: Python makes none of 4,301."""


def is_whole(name: str) -> bool:
    """Whether a label is a whole number."""
    return name.removeprefix("-").isdecimal() and len(name) <= LONGEST


def picked_sets(sets: np.ndarray, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The sets of these items, with labels numbered anew, and which labels are left, by their old codes, rising."""
    chosen = sets[positions]
    present = np.unique(chosen[chosen != NONE])
    width = (chosen != NONE).sum(axis=1).max(initial=1)
    chosen = chosen[:, :width]
    return np.where(chosen == NONE, NONE, np.searchsorted(present, chosen)).astype(np.int64), present


def are_alike(one: np.ndarray, other: np.ndarray, ndim: int) -> np.ndarray:
    """Whether labels are the same, or sets of labels share one: of two arrays that broadcast, in so many dimensions.

    Sets have their codes along one dimension more, the last, and `NONE` where they have fewer.
    """
    if one.ndim == ndim:
        return one == other
    if one.shape[-1] * other.shape[-1] > MOST_COMPARED:
        return _share(one, other)
    shared = (one[..., :, None] == other[..., None, :]) & (one != NONE)[..., :, None]
    return shared.any(axis=(-2, -1))


def _share(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """The same of sets of which one may be large, in memory that grows with their labels and not with the products."""
    shape = np.broadcast_shapes(one.shape[:-1], other.shape[:-1])
    number = np.arange(math.prod(shape)).reshape(shape)
    n_codes = int(max(one.max(initial=0), other.max(initial=0))) + 1

    def keys(side: np.ndarray) -> np.ndarray:
        side = np.broadcast_to(side, (*shape, side.shape[-1]))
        known = side != NONE
        return np.repeat(number.ravel(), known.sum(axis=-1).ravel()) * n_codes + side[known]

    shared = np.zeros(math.prod(shape), dtype=bool)
    shared[np.intersect1d(keys(one), keys(other)) // n_codes] = True
    return shared.reshape(shape)


def in_words(names: Iterable[str]) -> str:
    """The labels of an item, joined by commas; one with a comma or a quotation mark in it stands between such marks."""
    return ", ".join(json.dumps(name, ensure_ascii=False) if "," in name or '"' in name else name for name in names)


def fault_of_lists(names: Sequence[str], counts: np.ndarray) -> str | None:
    """What lists hold in place of labels, in words; None where they hold labels.

    Of a mark for each label all items would share 0 and 1, and of lists made equally long all would share -1.
    """
    if not len(counts) or counts[0] < 2 or (counts != counts[0]).any():
        return None
    different = {name.lower() for name in set(names)}
    if "-1" in different:
        return "-1, and are all of one length, which looks like padding. Leave it out of the lists."
    if not (different <= {"0", "1"} or different <= {"false", "true"}):
        return None
    rows = np.array([name.lower() in ("1", "true") for name in names]).reshape(len(counts), -1)
    if rows.shape[1] == 2 and (rows[:, 0] != rows[:, 1]).all():
        return None
    kind = "0 and 1" if different <= {"0", "1"} else "false and true"
    return f"{kind}, all of one length, which look like marks, one for each label. Give the labels that an item has."


def _each_once(items: np.ndarray, codes: np.ndarray, n_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Each label of an item once, by item, then label."""
    keys = np.unique(items * max(n_classes, 1) + codes)
    return keys // max(n_classes, 1), keys % max(n_classes, 1)

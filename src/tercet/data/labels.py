"""Labels as codes: one each item, or a set of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

NONE = -1  # where an item has fewer labels than another


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
    if all(name.lstrip("-").isdecimal() for name in classes):
        classes.sort(key=lambda name: (int(name), name))
    code = {name: number for number, name in enumerate(classes)}
    return np.array([code[name] for name in names], dtype=np.int64), tuple(classes)


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
    shared = (one[..., :, None] == other[..., None, :]) & (one != NONE)[..., :, None]
    return shared.any(axis=(-2, -1))


def look_like_marks(names: Sequence[str], counts: np.ndarray) -> bool:
    """Whether lists hold a mark 0 or 1 for each label in place of labels: then all items would share 0 and 1."""
    if not len(counts) or counts[0] < 2 or (counts != counts[0]).any() or not set(names) <= {"0", "1"}:
        return False
    rows = np.array([name == "1" for name in names]).reshape(len(counts), -1)
    return rows.shape[1] > 2 or bool((rows[:, 0] == rows[:, 1]).any())


def _each_once(items: np.ndarray, codes: np.ndarray, n_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Each label of an item once, by item, then label."""
    keys = np.unique(items * max(n_classes, 1) + codes)
    return keys // max(n_classes, 1), keys % max(n_classes, 1)

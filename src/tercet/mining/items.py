"""Items as codes: the label, the group and the content of each, and who may be compared with whom."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from tercet.errors import InputError


@dataclass(frozen=True, eq=False)
class Items:
    """N items. Equal codes of `groups` exclude each other, equal `contents` are copies of one thing."""

    labels: np.ndarray  # int64 (N,), codes into `classes`
    classes: tuple[Hashable, ...]
    groups: np.ndarray  # int64 (N,)
    contents: np.ndarray  # int64 (N,)

    @classmethod
    def of(cls, n_items: int, labels: Any, groups: Any = None, contents: Any = None) -> Items:
        """Codes of what was given for `n_items` items; without groups or contents each item is its own.

        Raises:
            InputError: lengths that do not fit, a label that is missing, fewer than two classes, no items.
        """
        if n_items == 0:
            raise InputError("there are no items to mine from.")
        names = _plain(labels, "labels", n_items)
        missing = next((place for place, name in enumerate(names) if name is None or name != name), None)
        if missing is not None:
            raise InputError(f"label {missing} is {names[missing]!r}; mining needs a label for every item.")
        code: dict[Hashable, int] = {}
        codes = np.array([code.setdefault(name, len(code)) for name in names], dtype=np.int64)
        if len(code) < 2:
            raise InputError(
                f"all {n_items:,} items have the label {names[0]!r}; negatives are of another class, so at least two "
                "classes are needed."
            )
        return cls(codes, tuple(code), _group_codes(groups, n_items), _content_codes(contents, n_items))

    def __len__(self) -> int:
        return len(self.labels)

    @cached_property
    def class_sizes(self) -> np.ndarray:
        """int64 (C,): how many items each class has."""
        return np.bincount(self.labels, minlength=len(self.classes))

    def are_apart(self, rows: np.ndarray, others: np.ndarray) -> np.ndarray:
        """Whether pairs are neither of one group nor copies of each other; an item is not apart of itself.

        Args:
            rows: positions of items.
            others: as many, or of a shape that broadcasts.
        """
        return (self.groups[rows] != self.groups[others]) & (self.contents[rows] != self.contents[others])


def _plain(values: Any, name: str, n_items: int) -> list[Any]:
    """Values as Python objects, which compare by what they are: ids cast to float32 would collide."""
    listed = values.tolist() if hasattr(values, "tolist") else list(values)
    if len(listed) != n_items:
        raise InputError(f"there are {n_items:,} vectors and {len(listed):,} {name}; each item needs one.")
    odd = next((value for value in listed if not isinstance(value, Hashable)), None)
    if odd is not None:
        raise InputError(f"{name} must be plain, one for each item; given {odd!r}.")
    return listed


def _group_codes(groups: Sequence[Any] | None, n_items: int) -> np.ndarray:
    """Codes of groups; an item without one (None) is a group of its own."""
    if groups is None:
        return np.arange(n_items, dtype=np.int64)
    code: dict[Hashable, int] = {}
    own = [
        ("item", place) if name is None else ("group", name)
        for place, name in enumerate(_plain(groups, "groups", n_items))
    ]
    return np.array([code.setdefault(name, len(code)) for name in own], dtype=np.int64)


def _content_codes(contents: Any, n_items: int) -> np.ndarray:
    if contents is None:
        return np.arange(n_items, dtype=np.int64)
    codes = np.asarray(contents)
    if codes.shape != (n_items,) or codes.dtype.kind not in "iu":
        raise InputError(f"contents must be {n_items} integers; given {codes.dtype} of shape {codes.shape}.")
    return codes.astype(np.int64)

"""A list for each of several queries, end to end."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

Array = np.ndarray[Any, Any]


class Lists(NamedTuple):
    """The list of query a is entries[first[a]:first[a + 1]].

    Attributes:
        first: int64 (A + 1,).
        entries: of shape (E,).
    """

    first: Array
    entries: Array

    @classmethod
    def of(cls, owner: Array, entries: Array, length: int) -> Lists:
        """Lists of entries whose owners ascend."""
        first = np.zeros(length + 1, np.int64)
        np.cumsum(np.bincount(owner, minlength=length), out=first[1:])
        return cls(first, entries)

    @property
    def lengths(self) -> Array:
        """How long each is, (A,)."""
        return np.diff(self.first)

    @property
    def owner(self) -> Array:
        """Of each entry, whose it is, (E,)."""
        return np.repeat(np.arange(len(self.first) - 1), self.lengths)

"""Two sides: items of two kinds that belong together in pairs, such as images and captions, or queries and documents.

Records of two sides hold `Sided` items, all of the left side before all of the right. Shapes: B items of a batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np

from tercet.errors import InputError

SIDES = "sides"
"""The kind of records of two sides."""


class Sided(NamedTuple):
    """An item of one side: 0 left, 1 right."""

    side: int
    kind: str
    value: Any


@dataclass(frozen=True)
class TwoSides:
    """A batch whose first items are of the left side and the others of the right; None where a side has none."""

    left: Any
    right: Any
    n_left: int
    n_right: int

    @property
    def sections(self) -> list[slice]:
        """The rows of each side that has any."""
        both = [slice(0, self.n_left), slice(self.n_left, self.n_left + self.n_right)]
        return [rows for rows in both if rows.stop > rows.start]

    def each(self, change: Callable[[Any], Any]) -> TwoSides:
        """The batch with each side's inputs changed."""
        left, right = (None if part is None else change(part) for part in (self.left, self.right))
        return TwoSides(left, right, self.n_left, self.n_right)

    def cut(self, rows: slice | np.ndarray, take: Callable[[Any, Any, int], Any]) -> TwoSides:
        """These rows of the batch; `take` gives rows of one side's inputs, by their numbers."""
        numbers = np.arange(rows.start, rows.stop) if isinstance(rows, slice) else rows
        left, right = numbers[numbers < self.n_left], numbers[numbers >= self.n_left] - self.n_left
        first, second = (
            take(inputs, part, count) if len(part) else None
            for inputs, part, count in ((self.left, left, self.n_left), (self.right, right, self.n_right))
        )
        return TwoSides(first, second, len(left), len(right))


class _Loader(Protocol):
    def batch(self, positions: Any) -> Any: ...

    def check(self, progress: Any = None) -> list[tuple[int, str]]: ...


class SidesLoader:
    """Batches of two sides, each loaded by its own loader.

    Args:
        items: sided.
        make: makes the loader of one side's values: make(0, values).
    """

    def __init__(self, items: Sequence[Sided], make: Callable[[int, list[Any]], _Loader]) -> None:
        self.sides = np.array([item.side for item in items], dtype=np.int64)
        self.places = np.zeros(len(items), dtype=np.int64)
        self.loaders: dict[int, _Loader] = {}
        for side in (0, 1):
            own = np.flatnonzero(self.sides == side)
            self.places[own] = np.arange(len(own))
            if len(own):
                self.loaders[side] = make(side, [items[int(i)].value for i in own])

    def batch(self, positions: Any) -> TwoSides:
        """The inputs at these positions, those of the left side first.

        Raises:
            InputError: a left item comes after a right one.
        """
        chosen = np.asarray(positions, dtype=np.int64)
        sides = self.sides[chosen]
        if (np.diff(sides) < 0).any():
            raise InputError("A batch of two sides holds a left item after a right one; put the left ones first.")
        left, right = (
            self.loaders[side].batch(self.places[chosen[sides == side]]) if (sides == side).any() else None
            for side in (0, 1)
        )
        return TwoSides(left, right, int((sides == 0).sum()), int((sides == 1).sum()))

    def check(self, progress: Any = None) -> list[tuple[int, str]]:
        """The items of both sides that cannot be used, each with the reason."""
        bad = []
        for side, loader in self.loaders.items():
            own = np.flatnonzero(self.sides == side)
            bad += [(int(own[place]), reason) for place, reason in loader.check(progress)]
        return sorted(bad)

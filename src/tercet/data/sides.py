"""Two sides: items of two kinds that belong together in pairs, such as images and captions, or queries and documents.

Records of two sides hold `SidedItems`. Shapes: B items of a batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np

from tercet.data.lazy import pick_items
from tercet.errors import InputError

SIDES = "sides"
"""The kind of records of two sides."""


class Sided(NamedTuple):
    """An item of one side: 0 left, 1 right."""

    side: int
    kind: str
    value: Any


class SidedItems(Sequence[Sided]):
    """Items of two sides, all of the left one before all of the right one.

    Args:
        kinds: of the left side and of the right one.
        values: of each side; lists, or read when they are asked for.
    """

    def __init__(self, kinds: Sequence[str], values: Sequence[Sequence[Any]]) -> None:
        self.kinds, self.values = tuple(kinds), tuple(values)

    @classmethod
    def of_one(cls, side: int, kind: str, values: Sequence[Any]) -> SidedItems:
        """Items of one side, of a kind."""
        return cls((kind, kind), ([], values) if side else (values, []))

    @property
    def sides(self) -> np.ndarray:
        """int64 (N,): the side of each item."""
        return np.repeat(np.arange(2), [len(own) for own in self.values])

    @property
    def kinds_held(self) -> set[str]:
        """The kinds of the items that there are."""
        return {kind for kind, own in zip(self.kinds, self.values, strict=True) if len(own)}

    def __len__(self) -> int:
        return sum(map(len, self.values))

    def __getitem__(self, place: Any) -> Any:
        found = range(len(self))[place]
        if isinstance(found, range):
            return [self[one] for one in found]
        side, left = int(found >= len(self.values[0])), len(self.values[0])
        return Sided(side, self.kinds[side], self.values[side][found - side * left])

    def __iter__(self) -> Iterator[Sided]:
        for side, (kind, own) in enumerate(zip(self.kinds, self.values, strict=True)):
            yield from (Sided(side, kind, value) for value in own)

    def pick(self, positions: np.ndarray) -> SidedItems:
        """The items at these positions, those of the left side first.

        Raises:
            InputError: a left item comes after a right one.
        """
        edge = len(self.values[0])
        check_left_first(positions >= edge)
        left, right = positions[positions < edge], positions[positions >= edge] - edge
        return SidedItems(self.kinds, (pick_items(self.values[0], left), pick_items(self.values[1], right)))


def check_left_first(sides: np.ndarray) -> None:
    """Raise InputError unless all 0, of the left side, come before all 1."""
    if (np.diff(sides.astype(np.int8)) < 0).any():
        raise InputError("Items of two sides hold a left item after a right one; put the left ones first.")


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

    def __init__(self, items: SidedItems, make: Callable[[int, Sequence[Any]], _Loader]) -> None:
        self.sides = items.sides
        self.places = np.concatenate([np.arange(len(own)) for own in items.values])
        self.loaders = {side: make(side, own) for side, own in enumerate(items.values) if len(own)}

    def batch(self, positions: Any) -> TwoSides:
        """The inputs at these positions, those of the left side first.

        Raises:
            InputError: a left item comes after a right one.
        """
        chosen = np.asarray(positions, dtype=np.int64)
        sides = self.sides[chosen]
        check_left_first(sides)
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

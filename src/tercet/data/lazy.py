"""Lazy items: a column of a large source whose values are read when they are asked for, and not kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np

BLOCK = 1024
"""Values that are read at a time where all are wanted in turn; of images that is some hundred megabytes."""


class ByPosition(Protocol):
    """What gives values by position."""

    def __len__(self) -> int:
        """How many rows there are."""

    def take(self, positions: Sequence[int] | np.ndarray, column: str) -> list[Any]:
        """The values of a column at these rows, as plain Python objects."""


class Rows(ByPosition, Protocol):
    """A source of rows that are read by position."""

    source: str

    @property
    def columns(self) -> Sequence[str]:
        """Names of the columns."""

    def place(self, row: int) -> str:
        """Where a row is, for messages: "row 12"."""

    def batches(self, column: str) -> Iterator[Any]:
        """A whole column in Arrow arrays, one after the other."""


class LazyItems(Sequence[Any]):
    """Values of a column, of all rows or of some.

    Args:
        rows: the source.
        column: of its columns.
        read: what makes an item of a value and the number of its row.
        positions: int64, the rows that count, in this order; all when left open.
    """

    def __init__(
        self, rows: ByPosition, column: str, read: Callable[[Any, int], Any], positions: np.ndarray | None = None
    ) -> None:
        self.rows, self.column, self.read, self.positions = rows, column, read, positions

    def __len__(self) -> int:
        return len(self.rows) if self.positions is None else len(self.positions)

    def __getitem__(self, place: Any) -> Any:
        if isinstance(place, slice):
            return self.take(np.arange(len(self))[place])
        if not -len(self) <= place < len(self):
            raise IndexError(place)
        return self.take([int(place) % len(self)])[0]

    def __iter__(self) -> Iterator[Any]:
        for start in range(0, len(self), BLOCK):
            yield from self.take(np.arange(start, min(start + BLOCK, len(self))))

    def take(self, places: Sequence[int] | np.ndarray) -> list[Any]:
        """The items at these places; the source is read in the order of its rows."""
        wanted = np.asarray(places, dtype=np.int64)
        numbers = wanted if self.positions is None else self.positions[wanted]
        order = np.argsort(numbers, kind="stable")
        values = self.rows.take(numbers[order], self.column)
        found: list[Any] = [None] * len(values)
        for value, place in zip(values, order.tolist(), strict=True):
            found[place] = self.read(value, int(numbers[place]))
        return found

    def pick(self, places: np.ndarray) -> LazyItems:
        """Some of the items, as lazy as these."""
        return LazyItems(
            self.rows, self.column, self.read, places if self.positions is None else self.positions[places]
        )


def pick_items(items: Any, positions: np.ndarray) -> Any:
    """The items of whatever kind of sequence at these positions, as another one."""
    if isinstance(items, np.ndarray):
        return items[positions]
    if hasattr(items, "pick"):
        return items.pick(positions)
    if isinstance(items, list | tuple):
        return [items[i] for i in positions]
    from torch.utils.data import Subset

    return Subset(items, positions.tolist())


def items_at(items: Any, places: Sequence[int] | np.ndarray) -> list[Any]:
    """Items of whatever kind of sequence at these places."""
    return items.take(places) if isinstance(items, LazyItems) else [items[place] for place in places]

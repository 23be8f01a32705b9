"""Batches of items without labels."""

from __future__ import annotations

from tercet.data.records import plural
from tercet.data.samplers import TupleBatches
from tercet.errors import DataError


class ItemBatches(TupleBatches):
    """Batches of items that no label groups: each item once an epoch, batches of almost one size.

    Args:
        count: how many items there are.
        items: items in a batch, at most.
        seed: decides the order.

    Raises:
        DataError: there are fewer than two items.
    """

    def __init__(self, count: int, items: int, seed: int = 0) -> None:
        if count < 2:
            raise DataError(f"Items to train with: {count}; at least two are needed to tell apart.")
        super().__init__(count, items, seed)

    def summary(self) -> str:
        """What an epoch holds, said aloud."""
        return f"{plural(len(self), 'batch')} an epoch, each of up to {self.rows:,} of {plural(self.n_tuples, 'item')}."

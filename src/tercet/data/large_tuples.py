"""Pairs and triplets of a large table, whose items are read when they are asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from tercet.data.cells import Item
from tercet.data.columns import Layout
from tercet.data.lazy import LazyItems, Rows
from tercet.data.records import Records, hash_of, shorten
from tercet.data.tablefiles import Table, as_text, empty_cell
from tercet.data.tables import finish_tuples, read_similarity


class _Cells:
    """The cells of several columns as rows of one: those of the first row, then those of the second, and so on."""

    def __init__(self, rows: Rows, names: Sequence[str]) -> None:
        self.rows, self.names = rows, tuple(names)

    def __len__(self) -> int:
        return len(self.rows) * len(self.names)

    def take(self, positions: Sequence[int] | np.ndarray, column: str) -> list[Any]:
        """The values of these cells, whatever the column is called."""
        row_of, side_of = np.divmod(np.asarray(positions, dtype=np.int64), len(self.names))
        found: list[Any] = [None] * len(row_of)
        for side, name in enumerate(self.names):
            own = np.flatnonzero(side_of == side)
            for place, value in zip(own.tolist(), self.rows.take(row_of[own], name), strict=True):
                found[place] = value
        return found


@dataclass(frozen=True)
class _Filled:
    """Makes an item of a cell, by its column; an empty one is an error."""

    items: tuple[Item, ...]

    def __call__(self, value: Any, number: int) -> str:
        row, side = divmod(number, len(self.items))
        item = self.items[side]
        found = str(item(value, row))
        if not found.strip():
            raise empty_cell(f"{item.rows.source}, {item.rows.place(row)}", item.column)
        return found


@dataclass(frozen=True)
class _Start:
    """Names a text: its start."""

    text: _Filled

    def __call__(self, value: Any, number: int) -> str:
        return shorten(self.text(value, number))


def _written(value: Any, number: int) -> str:
    """Names a file: its path as it is written."""
    return str(as_text(value))


def read_large_tuples(rows: Rows, layout: Layout, folders: Sequence[Path]) -> Records:
    """A row a triplet or a pair. Equal texts, and paths to one file, are one item, known by hashes of 64 bits.

    Time: one pass over the items. Memory: 40 bytes a cell while it is read, and 8 afterwards; the items themselves
    stay where they are.

    Raises:
        DataError: a cell is empty, or a mark or score says nothing.
    """
    cells = _Cells(rows, layout.columns)
    read = _Filled(tuple(Item(rows, column, layout.kind, tuple(folders)) for column in layout.columns))
    hashes, missing = np.empty(len(cells), dtype=np.int64), []
    for number, item in enumerate(LazyItems(cells, "", read)):
        hashes[number] = hash_of(item.encode())
        if layout.kind == "image" and not Path(item).is_file():
            missing.append(number)
    first, codes = _in_order(hashes)
    items = LazyItems(cells, "", read, first)
    names = LazyItems(cells, "", _written if layout.kind == "image" else _Start(read), first)
    similar, scores = read_similarity(_Column.of(rows, layout.label), layout)
    tuples = codes.reshape(-1, len(layout.columns))
    records = Records(layout.kind, items, names, None, (), tuples, similar, (), (), rows.source, "", scores=scores)
    return finish_tuples(records, rows.place, codes[missing])


def _in_order(hashes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where each different one is first, rising, and of each which of these it is."""
    _, first, inverse = np.unique(hashes, return_index=True, return_inverse=True)
    order = np.argsort(first)
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    return first[order].astype(np.int64), rank[inverse].astype(np.int64)


@dataclass(frozen=True, eq=False)
class _Column(Table):
    """A column by itself, as text, whose rows are where they are in the large table."""

    rows: Rows | None = None

    @classmethod
    def of(cls, rows: Rows, name: str | None) -> _Column:
        """The named column, or none."""
        if name is None:
            return cls(rows.source, {}, rows=rows)
        texts = [as_text(value) for batch in rows.batches(name) for value in batch.to_pylist()]
        return cls(rows.source, {name: pa.array(texts, pa.string())}, rows=rows)

    def place(self, row: int) -> str:
        """Where a row is."""
        assert self.rows is not None
        return self.rows.place(row)

"""Pairs and triplets of a large table, whose items are read when they are asked for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from tercet.data.cells import Item, Name, is_picture, spelt, unwrapped
from tercet.data.columns import Layout
from tercet.data.lazy import BLOCK, LazyItems, Rows
from tercet.data.records import Records, content_of, hash_of, shorten
from tercet.data.rows import JsonRows
from tercet.data.sides import SIDES, SidedItems
from tercet.data.tablefiles import Table, as_text, empty_cell
from tercet.data.tables import find_files, finish_tuples, read_similarity, without_missing


class _Cells:
    """The cells of several columns as rows of one: those of the first row, then those of the second, and so on.

    Args:
        rows: where they are.
        names: of the columns.
        kinds: of their items: "text", or "image" for paths and for images themselves.
        folders: where paths start, in the order in which files are looked for.
    """

    def __init__(self, rows: Rows, names: Sequence[str], kinds: Sequence[str], folders: Sequence[Path]) -> None:
        self.rows, self.names, self.kinds, self.folders = rows, tuple(names), tuple(kinds), tuple(folders)

    def __len__(self) -> int:
        return len(self.rows) * len(self.names)

    def take(self, positions: Sequence[int] | np.ndarray, column: str) -> list[Any]:
        """The values of these cells, whatever the column is called."""
        row_of, side_of = np.divmod(np.asarray(positions, dtype=np.int64), len(self.names))
        if isinstance(self.rows, JsonRows):
            return self.rows.cells(row_of.tolist(), [self.names[side] for side in side_of.tolist()])
        found: list[Any] = [None] * len(row_of)
        for side, name in enumerate(self.names):
            own = np.flatnonzero(side_of == side)
            for place, value in zip(own.tolist(), self.rows.take(row_of[own], name), strict=True):
                found[place] = value
        return found

    def text(self, value: Any, number: int) -> str:
        """What is written in a cell; an empty one is an error."""
        if isinstance(value, str) and value.strip():  # as nearly all of millions are
            return value
        row, side = divmod(number, len(self.names))
        found = str(Item(self.rows, self.names[side], "text", ())(value, row))
        if not found.strip():
            raise empty_cell(f"{self.rows.source}, {self.rows.place(row)}", self.names[side])
        return found

    def item(self, value: Any, number: int) -> Any:
        """The item of a cell: its text, the file that it means, or the image that it holds."""
        return self._found(value, number)[0]

    def _found(self, value: Any, number: int) -> tuple[Any, bool]:
        """The item of a cell, and whether it is there."""
        if not self._is_image(number):
            return self.text(value, number), True
        held = unwrapped(value)
        if is_picture(held):
            return held, True
        (path,), missing = find_files([self.text(held, number)], self.folders)
        return path, not missing

    def name(self, value: Any, number: int) -> str:
        """What the item is called: a file by its path as it is written, a text by its start, an image by its row."""
        if is_picture(value):
            return Name(partial(self._place, number % len(self.names)))(value, number // len(self.names))
        text = self.text(unwrapped(value), number)
        return text if self._is_image(number) else shorten(text)

    def _place(self, side: int, row: int) -> str:
        """Where an image is: its row, and its column where there are several of images."""
        place = self.rows.place(row)
        return f"{place}, {self.names[side]}" if self.kinds.count("image") > 1 else place

    def distinct(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Of cells of one kind: where each item is first, which item each cell holds, and which are missing files."""
        hashes, missing = np.empty(len(self), dtype=np.int64), list[int]()
        for number, (item, is_there) in enumerate(LazyItems(self, "", self._found)):
            hashes[number] = hash_of(item.encode() if isinstance(item, str) else content_of("image", item))
            if not is_there:
                missing.append(number)
        first, codes = _in_order(hashes)
        return first, codes, np.unique(codes[missing])

    def _is_image(self, number: int) -> bool:
        return self.kinds[number % len(self.kinds)] == "image"


def read_large_tuples(rows: Rows, layout: Layout, folders: Sequence[Path]) -> Records:
    """A row a triplet or a pair. Equal texts, and paths to one file, are one item, known by hashes of 64 bits.

    Time: one pass over the items. Memory: 40 bytes a cell while it is read; afterwards 8, and 8 an item. The items
    themselves stay where they are.

    Raises:
        DataError: a cell is empty, or a mark or score says nothing.
    """
    cells = _Cells(rows, layout.columns, [layout.kind] * len(layout.columns), folders)
    first, codes, missing = cells.distinct()
    items, names = LazyItems(cells, "", cells.item, first), LazyItems(cells, "", cells.name, first)
    similar, scores = _similarity(rows, layout)
    tuples = codes.reshape(-1, len(layout.columns))
    records = Records(layout.kind, items, names, None, (), tuples, similar, (), (), rows.source, "", scores=scores)
    return finish_tuples(records, rows.place, missing)


def read_large_sides(rows: Rows, layout: Layout, folders: Sequence[Path]) -> Records:
    """A row a pair of two sides. Within a side, equal texts, and paths to one file, are one item.

    Time: one pass over each side. Memory: as `read_large_tuples`.

    Raises:
        DataError: a cell is empty.
    """
    left, right = (
        _Cells(rows, [name], [kind], folders) for name, kind in zip(layout.columns, layout.kinds, strict=True)
    )
    (first, of_left, gone), (first_right, of_right, gone_right) = left.distinct(), right.distinct()
    items = SidedItems(
        layout.kinds, [LazyItems(left, "", left.item, first), LazyItems(right, "", right.item, first_right)]
    )
    both = _Cells(rows, layout.columns, layout.kinds, folders)
    names = LazyItems(both, "", both.name, np.concatenate([2 * first, 2 * first_right + 1]))
    pairs = np.stack([of_left, len(first) + of_right], axis=1)
    records = Records(SIDES, items, names, None, (), pairs, None, layout.columns, (), rows.source, "")
    return without_missing(
        records, [*gone.tolist(), *(len(first) + gone_right).tolist()], "say --root FOLDER for another"
    )


def _in_order(hashes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where each different one is first, rising, and of each which of these it is, in the memory of the hashes."""
    order = np.argsort(hashes, kind="stable")
    hashes.sort()
    is_new = np.concatenate([[True], hashes[1:] != hashes[:-1]])
    firsts = order[is_new]
    is_first = np.zeros(len(hashes), dtype=bool)
    is_first[firsts] = True
    ranks = (np.cumsum(is_first) - 1)[firsts]
    del firsts  # of this size are all arrays here: a copy less at a time
    hashes[order] = ranks[np.cumsum(is_new) - 1]
    return np.flatnonzero(is_first), hashes


def _similarity(rows: Rows, layout: Layout) -> tuple[np.ndarray | None, np.ndarray | None]:
    """As `read_similarity` of the whole table."""
    if layout.label is None:
        return None, None
    marks, scores = zip(*(read_similarity(part, layout) for part in parts(rows, layout.label)), strict=True)
    return _joined(marks), _joined(scores)


def _joined(parts: Sequence[np.ndarray | None]) -> np.ndarray | None:
    found = [part for part in parts if part is not None]
    return np.concatenate(found) if found else None


@dataclass(frozen=True, eq=False, kw_only=True)
class _Part(Table):
    """Some rows of a column, which are where they are in the large table."""

    rows: Rows
    start: int

    def place(self, row: int) -> str:
        """Where a row is."""
        return self.rows.place(self.start + row)


def parts(rows: Rows, column: str) -> Iterator[Table]:
    """A column in tables of some rows, one after the other."""
    for start in range(0, len(rows), BLOCK):
        values = [spelt(value) for value in rows.take(np.arange(start, min(start + BLOCK, len(rows))), column)]
        if all(isinstance(value, bool) or value is None for value in values):
            plain = pa.array(values, pa.bool_())
        else:
            plain = pa.array([as_text(value) for value in values], pa.string())
        yield _Part(rows.source, {column: plain}, rows=rows, start=start)

"""Cells of large tables: what an item is made of that is read when it is asked for, and what it is called."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tercet.data.lazy import Rows
from tercet.data.records import shorten
from tercet.data.tablefiles import as_text
from tercet.data.tables import find_files
from tercet.errors import DataError


def is_picture(value: Any) -> bool:
    """Whether a cell holds an image itself: bytes, as `datasets` writes it, or decoded."""
    if isinstance(value, dict):
        return isinstance(value.get("bytes"), bytes)
    return isinstance(value, bytes) or hasattr(value, "getexif") or (
        isinstance(value, np.ndarray) and value.dtype == np.uint8
    )  # fmt: skip


def holds_picture(value: Any) -> bool:
    """Whether a cell holds an image itself, or what `datasets` writes of one that is in a file: a path and no bytes."""
    return is_picture(value) or (isinstance(value, dict) and {"bytes", "path"} <= value.keys())


def unwrapped(value: Any) -> Any:
    """What `datasets` puts around an image: its bytes, otherwise its path; any other value as it is."""
    return value.get("bytes") or value.get("path") if isinstance(value, dict) else value


def spelt(value: Any) -> Any:
    """What is written in a cell: of an image that is in the table the path beside it, None where it has none."""
    return value.get("path") if isinstance(value, dict) else None if is_picture(value) else value


@dataclass(frozen=True)
class Item:
    """Makes an item of a cell: a text, a path in one of the folders, or an image itself."""

    rows: Rows
    column: str
    kind: str
    folders: tuple[Path, ...]

    def __call__(self, value: Any, row: int) -> Any:
        """The item of a row's cell."""
        if self.kind == "text" and (isinstance(value, (dict, list)) or is_picture(value)):
            raise DataError(
                f"{self.rows.source}, {self.rows.place(row)}: {self.column!r} holds a {type(value).__name__}; allowed "
                "are text and numbers."
            )
        value = unwrapped(value)
        if self.kind == "text" or not isinstance(value, str) or not value.strip():
            return "" if value is None else value if is_picture(value) else str(as_text(value) or "")
        return find_files([value], self.folders)[0][0]


@dataclass(frozen=True)
class Name:
    """Names an item: a path as it is written, the start of a text, or where its row is."""

    place: Any

    def __call__(self, value: Any, row: int) -> str:
        """The name of a row's cell."""
        word = spelt(value)
        return shorten(word) if isinstance(word, str) and word.strip() else self.place(row)


@dataclass(frozen=True)
class RowName:
    """Names an item of a table of numbers: where its row is."""

    place: Any

    def __call__(self, value: Any, row: int) -> str:
        """The name of a row."""
        return self.place(row)

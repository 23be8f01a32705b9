"""Features of a table whose columns are not all plain numbers: kinds of columns, and rows coded as numbers.

A coded row holds, side by side: of a column of numbers the number, of one of dates the seconds since 1970, of one of
categories a code of its word, and of one of texts the counts of its words in buckets; NaN is a value that is missing.
Coding learns nothing: what is learned of training rows (medians, known categories) is the encoder's.

Shapes: N rows, F columns, W numbers of a coded row.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

import numpy as np

from tercet.data.tablefiles import MISSING, Table
from tercet.errors import DataError

BUCKETS = 64  # that the words of a column of texts share
ENOUGH_ROWS = 20  # from here on a column may be told to number its rows
FEW_WORDS = 3  # on average, from which on unlike cells are texts
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}([T ]\d{2}:\d{2}(:\d{2}(\.\d{1,9})?)?\s*(Z|[+-]\d{2}:?\d{2})?)?")
_WORD = re.compile(r"\w+")


@dataclass(frozen=True, eq=False)
class Features:
    """What the numbers of coded rows mean."""

    names: tuple[str, ...]
    kinds: tuple[str, ...]
    """Of each column "number", "category", "date" or "text"."""
    words: Mapping[float, str]
    """What the codes of categories stand for, to show rows to people."""

    def of(self, kind: str) -> tuple[str, ...]:
        """The columns of this kind."""
        return tuple(name for name, own in zip(self.names, self.kinds, strict=True) if own == kind)

    def described(self, row: np.ndarray, at_most: int = 12) -> str:
        """A coded row in words: "weight 3, colour red, day 2026-05-01"; texts are not shown, only counts are left."""
        shown = []
        for name, kind, place in zip(self.names, self.kinds, places(self.kinds), strict=True):
            value = float(row[place.start])
            if kind != "text":
                shown.append(f"{name} {'(missing)' if np.isnan(value) else self._word(kind, value)}")
        return ", ".join(shown[:at_most])

    def _word(self, kind: str, value: float) -> str:
        if kind == "category":
            return self.words.get(value, "(unknown)")
        if kind == "date":
            return datetime.fromtimestamp(value, UTC).strftime("%Y-%m-%d %H:%M").removesuffix(" 00:00")
        return f"{value:.4g}"


def width_of(kind: str) -> int:
    """How many numbers of a coded row a column takes."""
    return BUCKETS if kind == "text" else 1


def places(kinds: Sequence[str]) -> list[slice]:
    """Where the columns lie in a coded row."""
    ends = np.cumsum([width_of(kind) for kind in kinds]).tolist()
    return [slice(end - width_of(kind), end) for kind, end in zip(kinds, ends, strict=True)]


def kind_of(table: Table, name: str) -> str:
    """The kind of a column by its contents, or "empty" or "unique" for one that no model should learn from.

    Unique is a column of words of which at least half are there once, in 20 rows or more: names of rows. Where such
    cells have three words and more they are texts.
    """
    values, wrong = table.numbers(name)
    if not wrong.any():
        return "empty" if np.isnan(values).all() else "number"
    cells = [cell for cell in map(_plain, table.texts(name)) if cell is not None]
    if all(_DATE.fullmatch(cell) for cell in cells):
        return "date"
    if len(table) < ENOUGH_ROWS or len(set(cells)) <= len(cells) / 2:
        return "category"
    return "text" if np.mean([len(cell.split()) for cell in cells]) >= FEW_WORDS else "unique"


def code_rows(table: Table, names: Sequence[str], kinds: Sequence[str]) -> tuple[np.ndarray, Features]:
    """Coded rows, float64 (N, W), and what they mean.

    Raises:
        DataError: a cell is no date or no finite number; the message names it.
    """
    words: dict[float, str] = {}
    coded = [_CODED[kind](table, name, words) for name, kind in zip(names, kinds, strict=True)]
    rows = np.concatenate([column.reshape(len(table), -1) for column in coded], axis=1)
    return rows, Features(tuple(names), tuple(kinds), words)


def table_of(given: Sequence[Any], names: Sequence[str], kinds: Sequence[str]) -> Table:
    """Rows as mappings from columns to values, or as values in the columns' order, as a table of these columns.

    A column that a mapping does not name is missing in its row.

    Raises:
        DataError: a row has an unknown column, or too many or too few values.
    """
    import pyarrow as pa

    rows = [_row_of(row, names, place) for place, row in enumerate(given, start=1)]
    columns = {}
    for place, (name, kind) in enumerate(zip(names, kinds, strict=True)):
        cells = [row[place] for row in rows]
        plain = kind == "number" and not any(isinstance(cell, str) for cell in cells)
        words = [None if cell is None else str(cell).lower() if isinstance(cell, bool) else str(cell) for cell in cells]
        columns[name] = pa.array([None if c is None else float(c) for c in cells] if plain else words,
                                 pa.float64() if plain else pa.string())  # fmt: skip
    return Table("the rows given", columns)


def _row_of(row: Any, names: Sequence[str], place: int) -> list[Any]:
    if isinstance(row, Mapping):
        unknown = [str(name) for name in row if name not in names]
        if unknown or not row:
            what = f"has the column {unknown[0]!r}" if unknown else "is empty"
            raise DataError(f"row {place} {what}; this run was trained on the columns {', '.join(names)}.")
        cells = [row.get(name) for name in names]
    else:
        cells = list(row)
    if len(cells) != len(names):
        raise DataError(f"row {place} has {len(cells)} values; the columns are {', '.join(names)}.")
    cells = [cell.item() if isinstance(cell, np.generic) else cell for cell in cells]
    odd = next((cell for cell in cells if isinstance(cell, (list, tuple, dict))), None)
    if odd is not None:
        raise DataError(f"row {place} holds a {type(odd).__name__}; allowed are text and numbers.")
    return [None if isinstance(cell, float) and np.isnan(cell) else cell for cell in cells]


def missing_of(rows: np.ndarray, features: Features) -> dict[str, int]:
    """How many values each column lacks, for the columns that lack any."""
    counts = {
        name: int(np.isnan(rows[:, place.start]).sum())
        for name, place in zip(features.names, places(features.kinds), strict=True)
    }
    return {name: count for name, count in counts.items() if count}


def _numbers(table: Table, name: str, words: dict[float, str]) -> np.ndarray:
    """The numbers of a column; infinity, and what float32 cannot hold, is an error."""
    values, _ = table.numbers(name)
    wrong = np.abs(np.nan_to_num(values, nan=0.0, posinf=np.inf, neginf=-np.inf)) > np.finfo(np.float32).max
    if wrong.any():
        row = int(np.argmax(wrong))
        raise DataError(
            f"{table.source}, {table.place(row)}, column {name!r}: the value is {values[row]:g}, which float32 cannot "
            "hold. Correct it, remove the row, or leave the column out with --columns."
        )
    return values


def _categories(table: Table, name: str, words: dict[float, str]) -> np.ndarray:
    cells = [_plain(cell) for cell in table.texts(name)]
    words.update({_code(cell): cell for cell in set(cells) if cell is not None})
    return np.array([np.nan if cell is None else _code(cell) for cell in cells], dtype=np.float64)


def _dates(table: Table, name: str, words: dict[float, str]) -> np.ndarray:
    cells = [_plain(cell) for cell in table.texts(name)]
    seconds = np.full(len(cells), np.nan)
    for row, cell in enumerate(cells):
        if cell is None or cell.lower() in MISSING:
            continue
        try:
            seconds[row] = _seconds(cell)
        except ValueError:
            raise DataError(
                f"{table.source}, {table.place(row)}, column {name!r}: {cell!r} is no date; dates are written "
                f"2026-05-31 or 2026-05-31 14:30:00. Correct it, or take the column as words with --categories {name}."
            ) from None
    return seconds


def _seconds(cell: str) -> float:
    if not _DATE.fullmatch(cell):
        raise ValueError(cell)
    date = datetime.fromisoformat(re.sub(r"(\.\d{6})\d+", r"\1", cell).replace(" +", "+"))
    return (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp()


def _texts(table: Table, name: str, words: dict[float, str]) -> np.ndarray:
    """Counts of the words of each text in `BUCKETS` buckets by their hashes, scaled to length 1; (N, BUCKETS)."""
    counts = np.zeros((len(table), BUCKETS))
    for row, cell in enumerate(table.texts(name)):
        for word in _WORD.findall((cell or "").lower()):
            counts[row, int(_code(word)) % BUCKETS] += 1
    lengths = np.linalg.norm(counts, axis=1, keepdims=True)
    return counts / np.where(lengths > 0, lengths, 1)


_CODED = {"number": _numbers, "category": _categories, "date": _dates, "text": _texts}


def _plain(cell: str | None) -> str | None:
    """A cell without spaces around it; None for an empty one."""
    word = (cell or "").strip()
    return word or None


@lru_cache(maxsize=1 << 16)
def _code(word: str) -> float:
    """A hash of 53 bits, which float64 holds exactly."""
    digest = hashlib.blake2b(word.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return float(int.from_bytes(digest, "little") >> 11)

"""Single rows of a table, as they are typed or as Python holds them, for a run that was trained on its columns."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tercet.data.features import code_rows, table_of
from tercet.data.tables import finite
from tercet.errors import DataError, InputError
from tercet.training.config import DataOptions


def parse_row(word: str, columns: Sequence[str]) -> Any:
    """A row that is written as one word: values in the columns' order, or a JSON object from columns to values.

    Raises:
        InputError: it is neither.
    """
    if word.lstrip().startswith("{"):
        try:
            return dict(json.loads(word))
        except ValueError as cause:
            raise InputError(
                f'{word!r} is not a JSON object such as {{"colour": "red", "weight": 3}} ({cause}).'
            ) from None
    cells = next(csv.reader([word], skipinitialspace=True), [])
    if len(cells) != len(columns):
        raise InputError(
            f"{word!r} is not a row of numbers such as 5.1,3.5,1.4,0.2: it has {len(cells)} values, and the columns "
            f"are {', '.join(columns)}. Give a value of each, or a JSON object."
        )
    return cells


def rows_of(items: Any, options: DataOptions, columns: Sequence[str], coded: bool) -> np.ndarray:
    """Rows given by Python as the encoder takes them: float32 (N, F), or coded rows, float64 (N, W).

    Args:
        items: an array (N, F), rows as sequences in the columns' order, or as mappings from columns to values.
        options: of the run, which say what the columns hold.
        columns: of the run.
        coded: whether its encoder takes coded rows.

    Raises:
        InputError: they are no rows of these columns.
        DataError: a value cannot be used.
    """
    if not coded and not any(isinstance(row, Mapping) or _holds_words(row) for row in items):
        return np.asarray(items, dtype=np.float32)
    named = {"category": options.categories, "date": options.dates, "text": options.texts}
    kind_of = {name: kind for kind, names in named.items() for name in names or ()}
    kinds = [kind_of.get(name, "number") for name in columns]
    table = table_of(list(items), columns, kinds)
    for name, kind in zip(columns, kinds, strict=True):
        wrong = table.numbers(name)[1] if kind == "number" else np.zeros(1, dtype=bool)
        if wrong.any():
            row = int(np.argmax(wrong))
            raise DataError(
                f"row {row + 1}: {table.texts(name)[row]!r} is not a number, and column {name!r} holds numbers."
            )
    rows, _ = code_rows(table, columns, kinds)
    if coded:
        return rows
    return finite(rows, columns, "the rows given", [table.place(row) for row in range(len(rows))])


def _holds_words(row: Any) -> bool:
    return isinstance(row, (list, tuple)) and any(isinstance(cell, str) or cell is None for cell in row)

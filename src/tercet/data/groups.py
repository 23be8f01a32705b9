"""A table's further columns: groups, such as the camera or the author that items come from, and scores."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tercet.data.large_tables import is_table, load_columns
from tercet.data.records import Records
from tercet.errors import DataError, InputError


def read_groups(source: Any, column: str, records: Records) -> list[str | None]:
    """The group of each record that was read from this table, None where the cell is empty.

    Args:
        source: the table's path.
        column: its name.
        records: as read from the table, before anything else was left out of them.

    Raises:
        InputError: the source is not a table.
        DataError: there is no such column.
    """
    return [value if (value or "").strip() else None for value in read_column(source, column, records, "--group")]


def read_column(source: Any, column: str, records: Records, option: str) -> list[str | None]:
    """The cell of each record, or pair or triplet, that was read from this table; as `read_groups`.

    Args:
        source: see there.
        column: see there.
        records: see there.
        option: that named the column.
    """
    path = Path(source) if isinstance(source, str | Path) else None
    if path is None or not is_table(path):
        raise InputError(
            f"{option} names a column of a table, and {records.source} is none."
            + (" From Python give groups, a value for each item." if option == "--group" else "")
        )
    gone = {one.name for one in records.skipped}
    table = load_columns(path, str(source), None if gone else [column])
    table.column(column, option)
    values = table.texts(column)
    cells = [table.texts(name) for name in table.columns] if gone else []
    kept = [row for row in range(len(values)) if not any(column[row] in gone for column in cells)]
    held, what = len(records), "items"
    if records.tuples is not None:
        held, what = len(records.tuples), records.form.replace("-", " ")
    if len(kept) != held:
        raise DataError(f"{records.source}: its {held:,} {what} cannot be told apart by their rows, for {option}.")
    return [values[row] for row in kept]

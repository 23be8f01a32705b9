"""A table's column of groups, such as the camera, the author or the film that items come from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tercet.data.records import Records
from tercet.data.tablefiles import load_table
from tercet.data.wishes import TABLE_SUFFIXES
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
    if not isinstance(source, str | Path) or Path(source).suffix.lower() not in TABLE_SUFFIXES:
        raise InputError(
            f"--group names a column of a table, and {records.source} is none. From Python give groups, a value for "
            "each item."
        )
    table = load_table(Path(source), str(source))
    table.column(column, "--group")
    gone = {one.name for one in records.skipped}
    cells = [table.texts(name) for name in table.columns] if gone else []
    kept = [row for row in range(len(table)) if not any(column[row] in gone for column in cells)]
    if len(kept) != len(records):
        raise DataError(f"{records.source}: its {len(records):,} items cannot be told apart by their rows, for groups.")
    values = table.texts(column)
    return [values[row] if (values[row] or "").strip() else None for row in kept]

"""Opens tables: CSV, TSV and Parquet by pyarrow, JSON lines by json (it names a bad line)."""

from __future__ import annotations

import contextlib
import csv
import io
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from tercet.data.folders import decode_utf8
from tercet.data.label_column import is_list
from tercet.errors import DataError, suggest

MISSING = frozenset(("", "na", "n/a", "nan", "null", "none", "?", "-"))  # lower case: no value


@dataclass(frozen=True, eq=False)
class Table:
    """Columns of one length, each a pyarrow array of text, numbers or truth values."""

    source: str
    columns: dict[str, Any]
    lines: Sequence[int] | None = None
    """Line of each row in the file, where it is known (JSON lines)."""
    lists: Mapping[str, Any] = field(default_factory=dict)
    """The columns that hold lists, as Arrow arrays of lists: of labels, as nothing else can be one."""
    held: Mapping[str, str] = field(default_factory=dict)
    """The columns that hold bytes or structures, which are no items here, each with what it holds."""

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def place(self, row: int) -> str:
        """Where a row is, for messages and names: "line 12", or "row 12" counted from 1 below the header."""
        return f"row {row + 1}" if self.lines is None else f"line {self.lines[row]}"

    def column(self, name: str, option: str) -> Any:
        """The named column, or an error that lists the columns there are."""
        if name not in self.columns:
            raise DataError(
                f"{self.source} has no column {name!r} ({option}); its columns are {self.listed()}."
                f"{suggest(name, self.columns)}"
            )
        return self.columns[name]

    def listed(self) -> str:
        """The columns, for messages."""
        return ", ".join(self.columns)

    def check_plain(self, name: str) -> None:
        """Raise DataError where a column that is to hold items holds lists, bytes or structures.

        The message names the first list.
        """
        if name in self.held:
            raise DataError(
                f"{self.source}: {name!r} holds {self.held[name]}; allowed are text and numbers. Images themselves are "
                "read from a Parquet file or a datasets.Dataset."
            )
        if name in self.lists:
            cells = zip(self.lists[name].to_pylist(), self.texts(name), strict=True)  # some may stand alone
            row = next((row for row, (cell, text) in enumerate(cells) if cell not in (None, [text])), 0)
            where = f"{self.source}, {self.place(row)}:" if self.lines is None else f"{self.source}:{self.lines[row]}:"
            raise DataError(f"{where} {name!r} holds a list; allowed are text and numbers.")

    def texts(self, name: str) -> list[str | None]:
        """A column as text; whole numbers lose their ".0"."""
        return [as_text(value) for value in self.columns[name].to_pylist()]

    def filled_texts(self, name: str) -> list[str]:
        """A column as text, where an empty cell is an error."""
        values = self.texts(name)
        for row, value in enumerate(values):
            if value is None or not value.strip():
                raise empty_cell(f"{self.source}, {self.place(row)}", name)
        return [str(value) for value in values]

    @cached_property
    def _numbers(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        return {}

    def numbers(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """A column as float64, NaN for no number; and whether each cell holds text that is no number."""
        if name not in self._numbers:
            self._numbers[name] = _as_numbers(self.columns[name])
        return self._numbers[name]


def empty_cell(place: str, column: str) -> DataError:
    """The error for a cell that is to hold an item and holds nothing."""
    return DataError(f"{place}, column {column!r}: the cell is empty. Fill it in or remove the row.")


def load_table(path: Path, source: str) -> Table:
    """The table in a file, with its columns checked.

    Raises:
        DataError: not readable, no rows, no columns, or columns without a name or with the same name.
    """
    loaders = {".csv": _load_csv, ".tsv": _load_csv, ".jsonl": _load_jsonl, ".parquet": _load_parquet}
    table = loaders[path.suffix.lower()](path, source)
    if not table.columns or len(table) == 0:
        raise DataError(f"{source} holds no rows{', only a header' if table.columns else ''}.")
    return table


def is_frame(source: Any) -> bool:
    """Whether this is a DataFrame or a table of pyarrow: something that gives its columns as Arrow does."""
    return hasattr(source, "__arrow_c_stream__") and hasattr(source, "columns")


def table_of_frame(frame: Any) -> Table:
    """The table in a DataFrame of pandas or polars, or in a table of pyarrow; an index of pandas is left out.

    Raises:
        DataError: it is empty, or a column holds values that Arrow cannot.
    """
    source = f"the {type(frame).__name__}"
    try:
        table = pa.table(frame)
    except (pa.ArrowException, TypeError, ValueError) as cause:
        raise DataError(f"{source} cannot be read: {str(cause).splitlines()[0]}.") from None
    names = [name for name in table.column_names if not name.startswith("__index_level_")]
    check_header(names, source)
    if not names or table.num_rows == 0:
        raise DataError(f"{source} holds no rows.")
    return _arrow_table(source, {name: table[name] for name in names})


def _load_csv(path: Path, source: str) -> Table:
    import pyarrow.csv

    text = decode_utf8(path.read_bytes(), source)
    if not text.strip():
        raise DataError(f"{source} is empty.")
    if "\n" not in text:
        text = text.replace("\r", "\n")  # lines as old spreadsheets end them
    delimiter, header = _header(text, "\t" if path.suffix.lower() == ".tsv" else ",", source)
    check_header(header, source)
    if "\n" not in text.strip("\r\n"):
        raise DataError(f"{source} holds no rows, only a header.")
    try:
        table = pyarrow.csv.read_csv(
            pa.BufferReader(text.encode()),
            read_options=pyarrow.csv.ReadOptions(use_threads=False, block_size=max(1 << 20, len(text.encode()) + 1)),
            parse_options=pyarrow.csv.ParseOptions(delimiter=delimiter, newlines_in_values=True),
            convert_options=pyarrow.csv.ConvertOptions(
                column_types=dict.fromkeys(header, pa.string()), strings_can_be_null=False
            ),
        )
    except pa.ArrowInvalid as cause:
        raise DataError(f"{source} cannot be read: {cause}. (Row 1 is the header.)") from None
    return Table(source, dict(zip(table.column_names, table.columns, strict=True)))


def _header(text: str, usual: str, source: str) -> tuple[str, list[str]]:
    """What separates the columns, and their names; semicolons or tabs only where the usual sign leaves one column."""
    try:
        found = {sign: next(csv.reader(io.StringIO(text, newline=""), delimiter=sign)) for sign in (usual, "\t", ";")}
    except csv.Error as cause:
        raise DataError(f"{source}:1: the header cannot be read: {cause}.") from None
    sign = next((one for one, names in found.items() if len(names) > 1), usual)
    return sign, found[sign]


def check_header(header: Sequence[str], source: str) -> None:
    """Raise DataError for columns without a name, or of the same."""
    twice = [name for name, count in Counter(header).items() if count > 1 and name.strip()]
    if twice:
        raise DataError(f"{source} has several columns of the name {', '.join(map(repr, twice))}; rename them.")
    unnamed = [str(place) for place, name in enumerate(header, start=1) if not name.strip()]
    if unnamed:
        raise DataError(
            f"{source}: column {', '.join(unnamed)} has no name in the header; give it one, or remove it if "
            f"it only counts the rows."
        )


def _load_jsonl(path: Path, source: str) -> Table:
    text = decode_utf8(path.read_bytes(), source)
    rows: list[dict[str, Any]] = []
    lines: list[int] = []
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            rows.append(parse_json(line, partial(_line, source, number)))
            lines.append(number)
    names = dict.fromkeys(name for row in rows for name in row)
    cells = {name: [row.get(name) for row in rows] for name in names}
    columns = {name: _json_column(values, name, lines, source) for name, values in cells.items()}
    lists = {
        name: list_column(values, lambda row: f"{source}:{lines[row]}", name)
        for name, values in cells.items()
        if any(isinstance(value, list) for value in values)
    }
    return Table(source, columns, lines, lists)


def _line(source: str, number: int) -> str:
    return f"{source}:{number}"


def parse_json(line: str, place: Callable[[], str]) -> dict[str, Any]:
    """The object in a line of JSON; `place` says where the line is.

    Raises:
        DataError: it is none, or holds what no text can: half of a surrogate pair.
    """
    try:
        row = _DECODER.decode(line)
        if "\\u" in line:  # the only way in which valid UTF-8 comes to such a half
            json.dumps(row, ensure_ascii=False).encode()
    except json.JSONDecodeError as cause:
        raise DataError(f"{place()}: not valid JSON ({cause.msg}, column {cause.colno}).") from None
    except _NamedTwice as cause:
        raise DataError(f"{place()}: {cause}") from None
    except UnicodeEncodeError:
        raise DataError(f"{place()}: holds half of a surrogate pair (\\ud800 to \\udfff), which is no text.") from None
    except RecursionError:
        raise DataError(f"{place()}: lists or objects are nested too deep to be read.") from None
    except ValueError as cause:  # whole numbers of thousands of digits
        raise DataError(f"{place()}: cannot be read ({str(cause).partition(';')[0]}).") from None
    if not isinstance(row, dict):
        given = f"found {line.strip()[:40]}"
        raise DataError(f'{place()}: expected an object such as {{"text": …, "label": …}}, {given}.')
    return row


class _NamedTwice(ValueError):
    """An object of JSON names something more than once, of which readers take the last."""


def _each_name_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        name = Counter(name for name, _ in pairs).most_common(1)[0][0]
        raise _NamedTwice(f"{name!r} is given more than once, and only one can be meant; remove the others.")
    return found


_DECODER = json.JSONDecoder(object_pairs_hook=_each_name_once)


def _json_column(values: list[Any], name: str, lines: Sequence[int], source: str) -> Any:
    for line, value in zip(lines, values, strict=True):
        if isinstance(value, dict):
            raise DataError(f"{source}:{line}: {name!r} holds a dict; allowed are text and numbers.")
    kinds = {type(value) for value in values if value is not None}
    if kinds <= {int, float}:
        with contextlib.suppress(OverflowError, pa.ArrowInvalid):  # too large, or too exact: then as text
            return pa.array(values, pa.int64() if kinds == {int} else pa.float64())
    if kinds == {bool}:
        return pa.array(values, pa.bool_())
    return pa.array([as_text(value) for value in values], pa.string())


def list_column(values: list[Any], place: Callable[[int], str], name: str) -> Any:
    """A column of lists as lists of text; a value that stands alone is a list of one.

    Raises:
        DataError: a list holds lists, or objects.
    """
    lists = [value if isinstance(value, list) or value is None else [value] for value in values]
    for row, value in enumerate(lists):
        odd = next((one for one in value or () if isinstance(one, list | dict)), None)
        if odd is not None:
            raise DataError(f"{place(row)}: {name!r} holds a {type(odd).__name__} in a list; allowed are text and "
                            "numbers.")  # fmt: skip
    cells = [None if value is None else [as_text(one) for one in value] for value in lists]
    return pa.array(cells, pa.list_(pa.string()))


def _load_parquet(path: Path, source: str) -> Table:
    import pyarrow.parquet

    try:
        check_header(pyarrow.parquet.read_schema(path).names, source)
        table = pyarrow.parquet.read_table(path)
    except (pa.ArrowException, OSError) as cause:
        raise DataError(f"{source} cannot be read as Parquet: {str(cause).rstrip('.')}.") from None
    return _arrow_table(source, {name: table[name] for name in table.column_names})


def _arrow_table(source: str, columns: dict[str, Any]) -> Table:
    lists = {name: column for name, column in columns.items() if is_list(column.type)}
    plain = {name: _plain_column(column, name, source) for name, column in columns.items()}
    held = {name: words for name, column in columns.items() if (words := _held(column.type)) is not None}
    return Table(source, plain, lists=lists, held=held)


def _held(kind: Any) -> str | None:
    """What a column of a type that holds neither words nor numbers nor lists holds."""
    if pa.types.is_struct(kind) or pa.types.is_map(kind):
        return "structures"
    is_bytes = pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind)
    return "bytes" if is_bytes else None


def decoded(values: Any, name: str, source: str) -> Any:
    """A column of Arrow as text, numbers or truth values, as in other tables; bytes and what is nested as they are.

    Raises:
        DataError: a value is none that Python has; the message names the source and the column.
    """
    if pa.types.is_dictionary(values.type):
        values = values.cast(values.type.value_type)
    kind = values.type
    nested = pa.types.is_nested(kind) or pa.types.is_fixed_size_binary(kind)
    if nested or pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        return values
    return _plain_column(values, name, source)


def _plain_column(column: Any, name: str, source: str) -> Any:
    kind = column.type
    if pa.types.is_dictionary(kind):
        return _plain_column(column.cast(kind.value_type), name, source)
    if pa.types.is_decimal(kind):
        return column.cast(pa.float64())
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return column.cast(pa.large_string())
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind):
        return column
    try:
        return pa.array([None if value is None else str(value) for value in column.to_pylist()], pa.string())
    except (OverflowError, ValueError) as cause:  # Python's dates end with the year 9999
        raise unreadable_value(source, name, kind, cause) from None


def unreadable_value(where: str, column: str, kind: Any, cause: Exception) -> DataError:
    """The error of a value that Arrow holds and Python cannot."""
    return DataError(
        f"{where}, column {column!r}: a value of the type {kind} cannot be read: {cause}. Correct it, or write the "
        "file without the column."
    )


def as_text(value: Any) -> str | None:
    """A cell as text; whole numbers lose their ".0"."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if value is None or (isinstance(value, float) and np.isnan(value)):
        return None
    return str(value)


def _as_numbers(column: Any) -> tuple[np.ndarray, np.ndarray]:
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        parsed = [_parse(value) for value in column.to_pylist()]
        values = np.array([np.nan if value is None else value for value, _ in parsed], dtype=np.float64)
        return values, np.array([other for _, other in parsed], dtype=bool)
    values = np.array([np.nan if value is None else value for value in column.to_pylist()], dtype=np.float64)
    return values, np.zeros(len(values), dtype=bool)


def _parse(text: str | None) -> tuple[float | None, bool]:
    """The number in a cell, and whether the cell holds something else."""
    word = "" if text is None else text.strip()
    if word.lower() in MISSING:
        return None, False
    try:
        return float(word), "_" in word  # Python reads 1_000 as a number; a table does not mean one
    except ValueError:
        return None, True

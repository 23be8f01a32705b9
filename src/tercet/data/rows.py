"""Rows of files larger than memory, by position: Parquet by its row groups, JSON lines by where each begins."""

from __future__ import annotations

import codecs
import contextlib
import os
import threading
from array import array
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from tercet.data.arrow import as_arrow
from tercet.data.folders import not_utf8
from tercet.data.kept import folder_of, new_folder, state_of
from tercet.data.tablefiles import as_text, check_header, decoded, list_column, parse_json, unreadable_value
from tercet.errors import DataError

KEPT_BYTES = 256 * 2**20
"""Columns of decoded row groups that are kept, at most; those in use always are."""
TOGETHER = 3
"""Columns of a row group that may be in use together, those of a triplet: they are read in turn, again and again."""
KEPT_FILES = 4
"""Files that are kept open: what opening one reads grows with its row groups, some megabytes for ten thousand."""
BATCH = 1 << 18
"""Rows of a pass over a column."""


class _Guarded:
    """A lock that stays behind when its owner is sent to another process, as open files do."""

    def __init__(self) -> None:
        self.lock = threading.RLock()

    def __reduce__(self) -> Any:
        return _Guarded, ()


class ParquetRows:
    """Rows of Parquet files, one after the other.

    A row costs the reading of its row group's column, unless that was kept; so small row groups make random access
    fast, and large ones scans.

    Args:
        paths: the files.
        source: as the user gave it.

    Raises:
        DataError: a file is not Parquet, its columns are not those of the first, or two have one name.
    """

    def __init__(self, paths: Sequence[Path], source: str) -> None:
        self.paths, self.source = tuple(paths), source
        self._states = [state_of(path.stat()) for path in paths]
        self._guarded = _Guarded()
        self._kept: OrderedDict[tuple[int, str], Any] = OrderedDict()
        self._kept_bytes = 0
        self._files: OrderedDict[int, Any] = OrderedDict()
        self.schema: Any = self._file(0).schema_arrow
        check_header(self.schema.names, source)
        counts, groups = [np.zeros(1, dtype=np.int64)], [0]
        for number, path in enumerate(self.paths):
            file = self._file(number)
            if set(file.schema_arrow.names) != set(self.schema.names):
                raise DataError(
                    f"{path} has the columns {', '.join(file.schema_arrow.names)}, and {self.paths[0].name} has "
                    f"{', '.join(self.schema.names)}; shards of one table have the same."
                )
            own = (file.metadata.row_group(group).num_rows for group in range(file.num_row_groups))
            counts.append(np.fromiter(own, np.int64, file.num_row_groups))
            groups.append(file.num_row_groups)
        self.starts = np.cumsum(np.concatenate(counts))
        """The first row of each row group, of all files, and how many rows there are."""
        self.first_groups = np.cumsum(groups)
        """The first row group of each file, and how many there are."""

    def __len__(self) -> int:
        return int(self.starts[-1])

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_kept": OrderedDict(), "_kept_bytes": 0, "_files": OrderedDict()}

    @property
    def columns(self) -> Sequence[str]:
        """Names of the columns."""
        return self.schema.names

    def place(self, row: int) -> str:
        """Where a row is: "row 12", with the shard where there are several."""
        if len(self.paths) == 1:
            return f"row {row + 1}"
        shards = self.starts[self.first_groups]
        number = int(np.searchsorted(shards, row, side="right")) - 1
        return f"{self.paths[number].name}, row {row - int(shards[number]) + 1}"

    def take(self, positions: Sequence[int] | np.ndarray, column: str) -> list[Any]:
        """The values of a column at these rows, which are fastest in rising order."""
        wanted = np.asarray(positions, dtype=np.int64)
        group_of = np.searchsorted(self.starts, wanted, side="right") - 1
        found: list[Any] = []
        edges = np.flatnonzero(np.diff(group_of)) + 1
        for own in np.split(np.arange(len(wanted)), edges) if len(wanted) else []:
            group = int(group_of[own[0]])
            values = self._column_of(group, column)
            values = values.take(as_arrow(wanted[own] - self.starts[group]))
            where = f"{self.source}, {self.place(int(wanted[own[0]]))} and on"
            try:
                found += decoded(values, column, where).to_pylist()
            except (OverflowError, ValueError) as cause:  # Python's dates end with the year 9999
                raise unreadable_value(where, column, values.type, cause) from None
        return found

    def batches(self, column: str) -> Iterator[Any]:
        """A whole column in Arrow arrays, one after the other."""
        for number, path in enumerate(self.paths):
            with self._guarded.lock:
                known = self._file(number).metadata
            with _reading(path), self._open(number, known) as file:  # of its own: others may read rows meanwhile
                for batch in file.iter_batches(BATCH, columns=[column], use_threads=False):
                    yield decoded(batch.column(column), column, self.source)

    def _column_of(self, group: int, column: str) -> Any:
        """The column of a row group, from what was kept where it is there."""
        with self._guarded.lock:
            if (group, column) in self._kept:
                self._kept.move_to_end((group, column))
                return self._kept[group, column]
            number = int(np.searchsorted(self.first_groups, group, side="right")) - 1
            within = group - int(self.first_groups[number])
            with _reading(self.paths[number]):
                self._check_unchanged(number)
                read = self._file(number).read_row_group(within, columns=[column], use_threads=False)
                values = _takeable(read.column(column))
            self._kept[group, column] = values
            self._kept_bytes += values.nbytes
            while self._kept_bytes > KEPT_BYTES and not self._is_in_use(next(iter(self._kept)), group):
                self._kept_bytes -= self._kept.popitem(last=False)[1].nbytes
            return values

    def _is_in_use(self, oldest: tuple[int, str], group: int) -> bool:
        """Whether what has been kept longest is still used with a row group that was read."""
        return oldest[0] == group and len(self._kept) <= TOGETHER

    def _file(self, number: int) -> Any:
        """One of the files, from those that are open where it is among them."""
        if number not in self._files:
            self._files[number] = self._open(number)
        self._files.move_to_end(number)
        while len(self._files) > KEPT_FILES:
            self._files.popitem(last=False)[1].close()
        return self._files[number]

    def _open(self, number: int, known: Any = None) -> Any:
        import pyarrow.parquet as pq

        with _reading(self.paths[number]):
            self._check_unchanged(number)
            # Arrow's pre_buffer would hold a whole column while it is read in turn
            return pq.ParquetFile(self.paths[number], metadata=known, pre_buffer=False)

    def _check_unchanged(self, number: int) -> None:
        _refuse_changed(self.paths[number], self.paths[number].stat(), self._states[number])


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError) as cause:
        raise DataError(f"{path} cannot be read as Parquet: {str(cause).rstrip('.')}.") from None


def _refuse_changed(path: Path, about: os.stat_result, state: tuple[int, int]) -> None:
    """Raise DataError where a file is no longer what its rows were counted in: they would be those of others."""
    if state_of(about) != state:
        raise DataError(
            f"{path} has changed while it was being read: its rows are no longer where they were. Put the file back "
            "as it was, or begin anew; leave it alone until the work is done."
        )


def _takeable(values: Any) -> Any:
    """A column of which Arrow can take rows, which it cannot of views."""
    views = {pa.string_view(): pa.large_string(), pa.binary_view(): pa.large_binary()}
    return values.cast(views[values.type]) if values.type in views else values


class JsonRows:
    """Rows of a file of JSON lines, found by an index of where each begins, 8 bytes a row, that is kept (`kept.py`).

    Args:
        path: the file.
        source: as the user gave it.
    """

    def __init__(self, path: Path, source: str) -> None:
        self.path, self.source = path, source
        self._state = state_of(path.stat())
        folder = folder_of([path], "lines")
        if not folder.exists():
            with new_folder(folder) as target:
                offsets, blank = _line_offsets(path)
                np.save(target / "offsets.npy", offsets)
                np.save(target / "blank.npy", blank)
        self.offsets = np.load(folder / "offsets.npy", mmap_mode="r")
        self._blank = np.load(folder / "blank.npy")

    def __len__(self) -> int:
        return len(self.offsets)

    @cached_property
    def columns(self) -> Sequence[str]:
        """Names of the columns, those of the first thousand rows."""
        with self._opened() as file:
            return list(dict.fromkeys(name for row in range(min(1000, len(self))) for name in self._row(row, file)))

    def place(self, row: int) -> str:
        """Where a row is: "line 12"."""
        return f"line {self.line(row)}"

    def line(self, row: int) -> int:
        """The number of a row's line, counted from 1."""
        return row + 1 + int(np.searchsorted(self._blank, row, side="right"))

    def take(self, positions: Sequence[int] | np.ndarray, column: str) -> list[Any]:
        """The values of a column at these rows; None where a row has none."""
        return self.cells(positions, [column] * len(positions))

    def cells(self, positions: Sequence[int] | np.ndarray, columns: Sequence[str]) -> list[Any]:
        """The value at each of these rows of a column of its own; a row that comes several times in turn is read once.

        None where a row has none.
        """
        found, last, cells = [], -1, dict[str, Any]()
        with self._opened() as file:
            for row, column in zip(positions, columns, strict=True):
                if row != last:
                    last, cells = int(row), self._row(int(row), file)
                value = cells.get(column)
                if isinstance(value, dict):
                    raise DataError(f"{self._where(0, last)}: {column!r} holds a dict; allowed are text and numbers.")
                found.append(value)
        return found

    def batches(self, column: str) -> Iterator[Any]:
        """A whole column in Arrow arrays, one after the other."""
        for start in range(0, len(self), BATCH):
            values = self.take(range(start, min(start + BATCH, len(self))), column)
            if any(isinstance(value, list) for value in values):
                yield list_column(values, partial(self._where, start), column)
            elif {type(value) for value in values} == {bool}:
                yield pa.array(values, pa.bool_())
            else:
                yield pa.array([as_text(value) for value in values], pa.string())

    def _where(self, first: int, row: int) -> str:
        """Where a row is, counted from another one, with the name of the file."""
        return f"{self.source}, {self.place(first + row)}"

    @contextlib.contextmanager
    def _opened(self) -> Iterator[Any]:
        with self.path.open("rb") as file:
            _refuse_changed(self.path, os.fstat(file.fileno()), self._state)
            yield file

    def _row(self, row: int, file: Any) -> dict[str, Any]:
        start = int(self.offsets[row])
        file.seek(start)
        line = file.readline()
        try:
            text = line.decode("utf-8" if start else "utf-8-sig")
        except UnicodeDecodeError as cause:
            raise not_utf8(self._where(0, row), line[cause.start]) from None
        return parse_json(text, partial(self._where, 0, row))


def _line_offsets(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Where each line that is not blank begins, and before how many of those each blank one is, int64."""
    found, blank, start = array("q"), array("q"), 0
    with path.open("rb") as file:
        for line in file:
            if (line if start else line.removeprefix(codecs.BOM_UTF8)).strip():
                found.append(start)
            else:
                blank.append(len(found))
            start += len(line)
    return np.array(found, dtype=np.int64), np.array(blank, dtype=np.int64)


class DatasetRows:
    """Rows of a Hugging Face `datasets.Dataset`, or of anything with its column_names and its way of indexing.

    Args:
        dataset: it gives a dict of lists for dataset[[2, 5]].
    """

    def __init__(self, dataset: Any) -> None:
        self.dataset, self.source = _unformatted(dataset), type(dataset).__name__

    def __len__(self) -> int:
        return len(self.dataset)

    @property
    def columns(self) -> Sequence[str]:
        """Names of the columns."""
        return list(self.dataset.column_names)

    def place(self, row: int) -> str:
        """Where a row is: "row 12"."""
        return f"row {row + 1}"

    def take(self, positions: Sequence[int] | np.ndarray, column: str) -> list[Any]:
        """The values of a column at these rows; the names of classes where the dataset knows them."""
        narrow = self.dataset.select_columns([column]) if hasattr(self.dataset, "select_columns") else self.dataset
        values = list(narrow[[int(row) for row in positions]][column])
        names = self._class_names(column)
        return values if names is None else [_named(one, names) for one in values]

    def batches(self, column: str) -> Iterator[Any]:
        """A whole column in Arrow arrays, one after the other."""
        for start in range(0, len(self), BATCH):
            values = pa.array(self.take(range(start, min(start + BATCH, len(self))), column))
            yield decoded(values, column, self.source)

    def _class_names(self, column: str) -> Sequence[str] | None:
        feature = (getattr(self.dataset, "features", None) or {}).get(column)
        inner = feature[0] if isinstance(feature, list) and feature else getattr(feature, "feature", None)
        return getattr(feature, "names", None) or getattr(inner, "names", None)


def _unformatted(dataset: Any) -> Any:
    """A `datasets.Dataset` that gives plain Python objects, not tensors or the like; with a transform as it is."""
    form = getattr(dataset, "format", None)
    return dataset.with_format(None) if isinstance(form, dict) and form.get("type") != "custom" else dataset


def _named(code: Any, names: Sequence[str]) -> Any:
    """The name of a code, or of each in a list; None where there is none."""
    if isinstance(code, (list, np.ndarray)):
        return [_named(one, names) for one in code]
    return None if code is None or code < 0 else names[code]

"""Reads sources of rows that are not held in memory into records: labelled items, or items alone."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from tercet.data.cells import Item, Name, RowName, holds_picture
from tercet.data.columns import PATHS, Layout, find_label, find_layout, holds_tuples
from tercet.data.kept import folder_of, new_folder
from tercet.data.label_column import as_labels, joined_counts, read_codes, refuse_odd_lists, shifted, write_codes
from tercet.data.labels import NO_LABELS, Labels
from tercet.data.large_tuples import parts, read_large_sides, read_large_tuples
from tercet.data.lazy import LazyItems, Rows
from tercet.data.records import Records, plural
from tercet.data.rows import DatasetRows, JsonRows, ParquetRows
from tercet.data.sides import SIDES
from tercet.data.tablefiles import Table, as_text, list_column, load_table
from tercet.data.tables import check_several, finite, read_forged, refuse_idle
from tercet.data.wishes import IMAGE_SUFFIXES, TABLE_SUFFIXES, Wishes
from tercet.errors import DataError, InputError

STREAMED_FROM = 512 * 2**20
"""Bytes of a Parquet or JSONL file from which its rows are read when they are needed, and not all at once."""
HEAD = 1000
"""Rows that are looked at to find out what the columns mean."""


def shards_of(path: Path) -> list[Path]:
    """The Parquet files of a folder, in order of their names; not hidden ones, such as those of other systems."""
    return sorted(
        entry
        for entry in path.iterdir()
        if entry.suffix.lower() == ".parquet" and not entry.name.startswith(".") and entry.is_file()
    )


def is_streamed(path: Path) -> bool:
    """Whether a path is read row by row: a folder of Parquet shards, a large file, or one that holds images."""
    if path.is_dir():
        return bool(shards_of(path))
    suffix = path.suffix.lower()
    if suffix not in (".parquet", ".jsonl"):
        return False
    return path.stat().st_size >= STREAMED_FROM or (suffix == ".parquet" and _holds_bytes(path))


def is_table(path: Path) -> bool:
    """Whether a path is a table, in a file or in shards."""
    return path.suffix.lower() in TABLE_SUFFIXES or is_streamed(path)


def read_large_table(path: Path, source: str, wishes: Wishes) -> Records:
    """Records whose items are read when they are asked for.

    Raises:
        DataError: no rows, or columns that cannot be used.
    """
    rows = _rows_of(path, source)
    paths = list(rows.paths) if isinstance(rows, ParquetRows) else [path]
    folders = [wishes.root] if wishes.root is not None else [path if path.is_dir() else path.parent, Path()]
    if len(rows) == 0:
        raise DataError(f"{source} holds no rows.")
    layout = _find_layout(rows, wishes)
    refuse_idle(layout, wishes, source)
    size = sum(one.stat().st_size for one in paths)
    told = f"{size / 1e9:,.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"
    files = plural(len(paths), "Parquet shard") if path.is_dir() else path.suffix[1:].lower()
    how = f"{files}, {told} that are read as they are needed"
    return _records(rows, layout, wishes, folders, paths).described(how + _meaning(rows, layout))


def columns_of(path: Path, source: str) -> Sequence[str]:
    """The names of a table's columns, without the rows of a large one; none of what is no table."""
    if path.exists() and is_streamed(path):
        return _rows_of(path, source).columns
    return list(load_table(path, source).columns) if path.suffix.lower() in TABLE_SUFFIXES and path.is_file() else ()


def load_columns(path: Path, source: str, names: Sequence[str] | None) -> Table:
    """A table in memory; of a large one these columns as text, and nothing in the others. All when left open."""
    if not is_streamed(path):
        return load_table(path, source)
    rows = _rows_of(path, source)
    known = [name for name in rows.columns if names is None or name in names]
    cells = {name: [text for part in parts(rows, name) for text in part.texts(name)] for name in known}
    return Table(source, {name: pa.array(cells.get(name, []), pa.string()) for name in rows.columns})


def _rows_of(path: Path, source: str) -> JsonRows | ParquetRows:
    if path.suffix.lower() == ".jsonl" and not path.is_dir():
        return JsonRows(path, source)
    return ParquetRows(_checked_shards(path, source) if path.is_dir() else [path], source)


def _checked_shards(folder: Path, source: str) -> list[Path]:
    """The shards of a folder, unless it holds other items too, of which nothing says that they are not meant."""
    paths = shards_of(folder)
    others = sorted(
        entry.name
        for entry in folder.iterdir()
        if not entry.name.startswith(".") and (entry.is_dir() or entry.suffix.lower() in IMAGE_SUFFIXES)
    )
    if others:
        raise DataError(
            f"{source} holds {plural(len(paths), 'Parquet file')}, such as {paths[0].name}, and other items, such as "
            f"{others[0]}: which is meant? Give {paths[0]} to read the table, or move it out of the folder."
        )
    return paths


def read_dataset_rows(dataset: Any, wishes: Wishes) -> Records:
    """Records of a `datasets.Dataset`, whose items it reads when they are asked for."""
    rows = DatasetRows(dataset)
    if len(rows) == 0:
        raise DataError(f"The dataset {rows.source} is empty.")
    layout = _find_layout(rows, wishes)
    refuse_idle(layout, wishes, f"the dataset {rows.source}")
    folders = [wishes.root] if wishes.root is not None else [Path()]
    return _records(rows, layout, wishes, folders, None).described("datasets.Dataset" + _meaning(rows, layout))


def _meaning(rows: Rows, layout: Layout) -> str:
    labels = f"labels in {layout.label!r}, " if layout.form == "labels" else ""
    held = "items" if layout.form in ("labels", "items") else layout.form.replace("-", " ")
    meant = layout.pairing() if layout.kind == SIDES else f"{labels}{held} in {', '.join(map(repr, layout.columns))}"
    return f", {meant}{layout.beside(rows.columns)}"


def _holds_bytes(path: Path) -> bool:
    import pyarrow.parquet as pq

    try:
        schema = pq.read_schema(path)
    except (pa.ArrowException, OSError) as cause:
        raise DataError(f"{path} cannot be read as Parquet: {cause}.") from None
    return any(_is_binary(field.type) for field in schema)


def _is_binary(kind: Any) -> bool:
    if pa.types.is_struct(kind):  # how datasets stores an image: {bytes, path}
        return any(kind.field(place).name == "bytes" for place in range(kind.num_fields))
    if pa.types.is_dictionary(kind):
        return _is_binary(kind.value_type)
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind)


def _find_layout(rows: Rows, wishes: Wishes) -> Layout:
    """What the columns mean, from the first rows; a column of images themselves holds the items."""
    head = {name: rows.take(range(min(HEAD, len(rows))), name) for name in rows.columns}
    pictures = [name for name, values in head.items() if any(holds_picture(value) for value in values)]
    plain = {name: _plain_column(values) for name, values in head.items() if name not in pictures}
    lists = {
        name: list_column(head[name], lambda row: f"{rows.source}, {rows.place(row)}", name)
        for name in plain
        if any(isinstance(one, list) for one in head[name])
    }
    lines = [rows.line(row) for row in range(min(HEAD, len(rows)))] if isinstance(rows, JsonRows) else None
    table = Table(rows.source, plain, lines, lists)
    paths = pa.array(["image.png"] * min(HEAD, len(rows)))  # in the place of images themselves
    whole = replace(table, columns={name: plain.get(name, paths) for name in head})
    for name in wishes.columns or ():
        whole.column(name, "--columns")
    if pictures and holds_tuples(whole, wishes):
        return find_layout(whole, wishes)
    wanted = pictures if wishes.columns is None else [name for name in wishes.columns if name in pictures]
    if not wanted or wishes.kind not in (None, "image"):
        return find_layout(table, wishes)
    usual = [name for name in wanted if name.lower() in PATHS]
    if len(wanted) > 1 and len(usual) != 1:
        raise DataError(f"{rows.source}: the columns {', '.join(wanted)} all hold images. Say which with --columns.")
    return Layout("items" if (label := _label_of(whole, wishes)) is None else "labels", "image",
                  tuple(usual or wanted)[:1], label)  # fmt: skip


def _label_of(table: Table, wishes: Wishes) -> str | None:
    if wishes.label is not None:
        table.column(wishes.label, "--label")
    return find_label(table, wishes)


def _plain_column(values: list[Any]) -> Any:
    kinds = {type(value) for value in values if value is not None}
    if kinds == {bool}:
        return pa.array(values, pa.bool_())
    if kinds <= {int, float} and kinds:
        with contextlib.suppress(OverflowError):  # whole numbers of hundreds of digits
            return pa.array([None if value is None else float(value) for value in values], pa.float64())
    return pa.array([as_text(value) for value in values], pa.string())


def _records(rows: Rows, layout: Layout, wishes: Wishes, folders: Sequence[Path], files: list[Path] | None) -> Records:
    if layout.kind == SIDES:
        return read_large_sides(rows, layout, folders)
    if layout.form not in ("labels", "items"):
        return read_large_tuples(rows, layout, folders)
    records = _items(rows, layout, wishes, folders, files)
    if layout.forged is None:
        return records
    marks = [read_forged(part, layout, records.sets is not None) for part in parts(rows, layout.forged)]
    forged = np.concatenate(marks)
    return replace(records, forged=forged) if 0 < forged.sum() < len(forged) else records


def _items(rows: Rows, layout: Layout, wishes: Wishes, folders: Sequence[Path], files: list[Path] | None) -> Records:
    """A row an item, with its label where there is one."""
    labels = NO_LABELS if layout.label is None else _labels(rows, layout.label, wishes, files)
    if layout.label is not None and wishes.labelled:
        check_several(labels.classes, rows.source, str(layout.label))
    if layout.kind == "tabular":
        _refuse_kinds(rows, wishes)
        items: Any = _features(rows, layout.columns, files)
        names: Any = LazyItems(rows, layout.columns[0], RowName(rows.place))
        records = Records("tabular", items, names, None, (), None, None, layout.columns, (), rows.source, "")
        return records.labelled(labels)
    items = LazyItems(rows, layout.columns[0], Item(rows, layout.columns[0], layout.kind, tuple(folders)))
    names = LazyItems(rows, layout.columns[0], Name(rows.place))
    return Records(layout.kind, items, names, None, (), None, None, (), (), rows.source, "").labelled(labels)


def _refuse_kinds(rows: Rows, wishes: Wishes) -> None:
    """Raise InputError where features are said to be something else than numbers."""
    options = {"category": "categories", "date": "dates", "text": "texts"}
    for name, kind in wishes.named.items():
        raise InputError(
            f"--{options[kind]} names {name!r}, and {rows.source} is read as it is needed, with features that are "
            "numbers. Leave the option out, and the column with --columns if it holds no numbers."
        )


def _labels(rows: Rows, column: str, wishes: Wishes, files: list[Path] | None) -> Labels:
    """The labels in a column; of files they are kept for the next time."""
    if files is None:
        read, names = 0, list[str]()
        counts: list[np.ndarray | int] = []
        for batch in rows.batches(column):
            place = shifted(rows.place, read)
            found = as_labels(batch, rows.source, column, place, wishes.label_level, wishes.label_separator)
            read += len(batch)
            names += found.texts.to_pylist()
            counts.append(len(batch) if found.counts is None else found.counts)
        each = joined_counts(counts)
        if each is not None:
            refuse_odd_lists(names, each, rows.source, column)
        return Labels.of(names, each)
    separated = "" if wishes.label_separator is None else f" by {wishes.label_separator!r}"
    folder = folder_of(files, f"labels {column} {wishes.label_level}{separated}")
    if not folder.exists():
        write_codes(
            rows.batches(column), folder, rows.source, column, rows.place, wishes.label_level, wishes.label_separator
        )
    codes, classes, counts_of_rows = read_codes(folder)
    return Labels.of_codes(codes.astype(np.int64), classes, counts_of_rows)


def _features(rows: Rows, columns: Sequence[str], files: list[Path] | None) -> np.ndarray:
    """float32 (N, F); of files it is kept, and mapped."""
    if files is None:
        found = np.empty((len(rows), len(columns)), dtype=np.float32)
        _fill(found, rows, columns)
        return found
    folder = folder_of(files, f"features {columns}")
    if not folder.exists():
        with new_folder(folder) as target:
            mapped = np.lib.format.open_memmap(target / "features.npy", "w+", np.float32, (len(rows), len(columns)))
            _fill(mapped, rows, columns)
            mapped.flush()
    return np.load(folder / "features.npy", mmap_mode="c")  # torch wants memory that it could write to


def _fill(features: np.ndarray, rows: Rows, columns: Sequence[str]) -> None:
    for number, column in enumerate(columns):
        start = 0
        for batch in rows.batches(column):
            if pa.types.is_nested(batch.type):
                raise DataError(
                    f"{rows.source}, column {column!r} holds {batch.type}, and the features of a table that is read as "
                    "it is needed are numbers. Leave the column out with --columns."
                )
            own, other = Table(rows.source, {column: batch}).numbers(column)
            if other.any():
                row = int(other.argmax())
                raise DataError(
                    f"{rows.source}, {rows.place(start + row)}, column {column!r} holds {batch[row].as_py()!r}, and "
                    "the features of a table that is read as it is needed are numbers. Leave the column out with "
                    "--columns."
                )
            places = _Places(rows, start)
            features[start : start + len(own), number] = finite(own[:, None], [column], rows.source, places)[:, 0]
            start += len(own)


class _Places(Sequence[str]):
    """Where the rows from some row on are, told when it is asked for."""

    def __init__(self, rows: Rows, start: int) -> None:
        self.rows, self.start = rows, start

    def __len__(self) -> int:
        return len(self.rows) - self.start

    def __getitem__(self, place: Any) -> Any:
        return self.rows.place(self.start + int(place))

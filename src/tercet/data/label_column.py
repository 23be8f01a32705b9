"""A column of labels as codes, read once in batches: memory grows with the classes, not with the rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tercet.data.kept import new_folder
from tercet.errors import DataError, InputError

Place = Callable[[int], str]
"""Says where a row is: "row 12"."""


class Names(Sequence[str]):
    """Strings in an Arrow array, some bytes each: what a tuple of a million would hold in some hundred megabytes."""

    def __init__(self, values: Any) -> None:
        self.values = values

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, place: Any) -> Any:
        if isinstance(place, slice):
            return tuple(self.values[place].to_pylist())
        return self.values[int(place)].as_py()

    def __iter__(self) -> Iterator[str]:
        for start in range(0, len(self.values), 1 << 16):
            yield from self.values[start : start + (1 << 16)].to_pylist()


def write_codes(
    batches: Iterable[Any], folder: Path, source: str, column: str, place: Place, level: int | None = None
) -> None:
    """Write a column of N labels to `folder`: codes.npy, int32 (N,), and classes.arrow, their names in order.

    The order of the classes is that of `records.encode_labels`: by number where all are whole numbers, otherwise by
    the alphabet. Labels are text, whole numbers, truth values, or lists of one of these.

    Args:
        batches: Arrow arrays, one after the other; of some 100,000 rows, as each costs a look at all classes.
        folder: it appears whole or not at all.
        source: of the labels, for messages.
        column: its name, for messages.
        place: where a row is, for messages.
        level: of labels such as animal/dog/poodle, how many parts count; all when left open.

    Raises:
        DataError: a label is missing, or a list of several; the message names the row.
    """
    known: Any = pa.array([], pa.string())
    with new_folder(folder) as target:
        rows = 0
        with (target / "codes.raw").open("wb") as file:
            for batch in batches:
                texts = as_labels(batch, source, column, _shifted(place, rows), level)
                codes, known = _coded(texts, known)
                file.write(codes.tobytes())
                rows += len(texts)
                pa.default_memory_pool().release_unused()
        order = _order(known)
        rank = np.empty(len(order), dtype=np.int32)
        rank[order] = np.arange(len(order), dtype=np.int32)
        with (target / "codes.npy").open("wb") as file:  # not mapped: its pages would count as memory of this process
            header = {"descr": np.dtype(np.int32).str, "fortran_order": False, "shape": (rows,)}
            np.lib.format.write_array_header_1_0(file, header)
            for start in range(0, rows, 1 << 18):
                file.write(rank[np.fromfile(target / "codes.raw", np.int32, 1 << 18, offset=4 * start)].tobytes())
        (target / "codes.raw").unlink()
        with pa.OSFile(str(target / "classes.arrow"), "wb") as sink:
            names = pa.table({"class": known.take(pa.array(order))})
            with pa.ipc.new_file(sink, names.schema) as writer:
                writer.write_table(names)


def read_codes(folder: Path) -> tuple[np.ndarray, Names]:
    """What `write_codes` wrote, mapped from its files."""
    with pa.memory_map(str(folder / "classes.arrow")) as source:
        names = pa.ipc.open_file(source).read_all()["class"].combine_chunks()
    return np.load(folder / "codes.npy", mmap_mode="r"), Names(names)


def as_labels(values: Any, source: str, column: str, place: Place, level: int | None = None) -> Any:
    """An Arrow array of labels as one of text without space around it.

    Raises:
        DataError: see `write_codes`.
    """
    if isinstance(values, pa.ChunkedArray):
        values = values.combine_chunks()
    if pa.types.is_dictionary(values.type):
        values = values.cast(values.type.value_type)
    if pa.types.is_list(values.type) or pa.types.is_large_list(values.type):
        values = _only_of_lists(values, source, column, place)
    if pa.types.is_floating(values.type):
        values = _of_floats(values)
    try:
        texts = pc.utf8_trim_whitespace(values.cast(pa.string()))
    except pa.ArrowException as cause:
        raise DataError(
            f"{source}, column {column!r}: labels of the type {values.type} are not read: {cause}."
        ) from None
    missing = pc.fill_null(pc.equal(texts, ""), True).to_numpy(zero_copy_only=False)
    if missing.any():
        raise DataError(
            f"{source}, {place(int(np.argmax(missing)))}, column {column!r}: the label is missing. Fill it in or "
            "remove the row."
        )
    return texts if level is None else pa.array([at_level(one, level) for one in texts.to_pylist()], pa.string())


def _shifted(place: Place, before: int) -> Place:
    return lambda row: place(before + row)


def at_level(label: str, level: int) -> str:
    """The first parts of a label such as animal/dog/poodle: at level 2 animal/dog; a shorter one as it is.

    Raises:
        InputError: the level is below 1.
    """
    if level < 1:
        raise InputError(f"label_level is {level}; allowed is a whole number from 1 up.")
    return "/".join(label.split("/")[:level])


def _only_of_lists(values: Any, source: str, column: str, place: Place) -> Any:
    lengths = pc.fill_null(pc.list_value_length(values), 0).to_numpy(zero_copy_only=False)
    several = np.flatnonzero(lengths != 1)
    if len(several):
        row = int(several[0])
        raise DataError(
            f"{source}, {place(row)}, column {column!r}: an item has {int(lengths[row])} labels, and batches are dealt "
            "by one. Make a column of the one that counts, or repeat the row for each."
        )
    return pc.list_flatten(values)


def _of_floats(values: Any) -> Any:
    """Floats as text; whole ones lose their ".0", as in other tables, and a NaN is no label."""
    given = values.to_pylist()
    return pa.array([None if v is None or v != v else str(int(v) if v.is_integer() else v) for v in given], pa.string())


def _coded(texts: Any, known: Any) -> tuple[np.ndarray, Any]:
    """Texts as places among the known ones, int32, and the known ones with those that were not yet."""
    found = pc.index_in(texts, value_set=known)
    codes = pc.fill_null(found, -1).to_numpy(zero_copy_only=False).astype(np.int32)
    if found.null_count:
        unseen = texts.filter(found.is_null())
        fresh = pc.unique(unseen)
        codes[codes < 0] = len(known) + pc.index_in(unseen, value_set=fresh).to_numpy(zero_copy_only=False)
        known = pa.concat_arrays([known, fresh])
    return codes, known


def _order(known: Any) -> np.ndarray:
    """Places of the classes in their order."""
    digits = pc.all(pc.match_substring_regex(known, r"^-*[0-9]+$")).as_py()
    if digits and pc.max(pc.utf8_length(known)).as_py() <= 18:
        numbers = pc.utf8_ltrim(known, "-").cast(pa.int64()).to_numpy(zero_copy_only=False)
        negative = pc.starts_with(known, "-").to_numpy(zero_copy_only=False)
        return np.argsort(np.where(negative, -numbers, numbers), kind="stable")
    return pc.sort_indices(known).to_numpy().astype(np.int64)

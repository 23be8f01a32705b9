"""A column of labels, or of lists of them, as codes, read once in batches: memory grows with the classes alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tercet.data.arrow import as_arrow, as_numpy
from tercet.data.kept import new_folder
from tercet.data.labels import fault_of_lists, is_whole
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
    batches: Iterable[Any], folder: Path, source: str, column: str, place: Place, level: int | None = None,
    separator: str | None = None,
) -> None:  # fmt: skip
    """Write a column of N labels to `folder`: codes.npy, int32 (N,), and classes.arrow, their names in order.

    Where the rows have lists of labels, codes.npy holds these one after the other, and counts.npy, int64 (N,), how many
    each row has.

    The order of the classes is that of `labels.encode_labels`: by number where all are whole numbers, otherwise by
    the alphabet. Labels are text, whole numbers, truth values, or lists of one of these.

    Args:
        batches: Arrow arrays, one after the other; of some 100,000 rows, as each costs a look at all classes.
        folder: it appears whole or not at all.
        source: of the labels, for messages.
        column: its name, for messages.
        place: where a row is, for messages.
        level: of labels such as animal/dog/poodle, how many parts count; all when left open.
        separator: what stands between the labels of a cell; a cell is one label when left open.

    Raises:
        DataError: a label is missing, and the message names its row; or lists hold marks in place of labels.
    """
    known: Any = pa.nulls(0, pa.string())
    with new_folder(folder) as target:
        rows, labels, counts = 0, 0, []
        with (target / "codes.raw").open("wb") as file:
            for batch in batches:
                found = as_labels(batch, source, column, shifted(place, rows), level, separator)
                codes, known = _coded(found.texts, known)
                file.write(codes.tobytes())
                rows, labels = rows + len(batch), labels + len(codes)
                counts.append(len(batch) if found.counts is None else found.counts)
                pa.default_memory_pool().release_unused()
        each = joined_counts(counts)
        if each is not None:
            np.save(target / "counts.npy", each)
            if len(known) <= 4 or pc.index(known, "-1").as_py() >= 0:  # marks are few, and padding is -1
                names = known.take(as_arrow(np.fromfile(target / "codes.raw", np.int32))).to_pylist()
                refuse_odd_lists(names, each, source, column)
        order = _order(known)
        rank = np.empty(len(order), dtype=np.int32)
        rank[order] = np.arange(len(order), dtype=np.int32)
        with (target / "codes.npy").open("wb") as file:  # not mapped: its pages would count as memory of this process
            header = {"descr": np.dtype(np.int32).str, "fortran_order": False, "shape": (labels,)}
            np.lib.format.write_array_header_1_0(file, header)
            for start in range(0, labels, 1 << 18):
                file.write(rank[np.fromfile(target / "codes.raw", np.int32, 1 << 18, offset=4 * start)].tobytes())
        (target / "codes.raw").unlink()
        with pa.OSFile(str(target / "classes.arrow"), "wb") as sink:
            names = pa.Table.from_arrays([known.take(as_arrow(order))], ["class"])
            with pa.ipc.new_file(sink, names.schema) as writer:
                writer.write_table(names)


def joined_counts(counts: Sequence[np.ndarray | int]) -> np.ndarray | None:
    """How many labels each row has, of batches with lists and of so many rows of one each; None without lists."""
    if all(isinstance(one, int) for one in counts):
        return None
    each = [np.ones(one, np.int64) if isinstance(one, int) else one for one in counts]
    return np.concatenate(each)


def read_codes(folder: Path) -> tuple[np.ndarray, Names, np.ndarray | None]:
    """What `write_codes` wrote, mapped from its files: codes, names, and counts where the rows have lists."""
    with pa.memory_map(str(folder / "classes.arrow")) as source:
        names = pa.ipc.open_file(source).read_all()["class"].combine_chunks()
    counts = folder / "counts.npy"
    return (
        np.load(folder / "codes.npy", mmap_mode="r"), Names(names), np.load(counts) if counts.exists() else None
    )  # fmt: skip


@dataclass(frozen=True, eq=False)
class Entries:
    """The labels of some rows, one after the other: an Arrow array of text, and how many each row has."""

    texts: Any
    counts: np.ndarray | None
    """int64 of shape (rows,); None where each has one."""


def as_labels(
    values: Any, source: str, column: str, place: Place, level: int | None = None, separator: str | None = None
) -> Entries:
    """An Arrow array of labels, or of lists of them, as text without space around it.

    With a separator a cell of text is a list, and an empty one a list of nothing; lists are what they are.

    Raises:
        DataError: a label is missing, or the type is none of labels.
        InputError: an empty separator.
    """
    if isinstance(values, pa.ChunkedArray):
        values = values.combine_chunks()
    values = _decoded(values)
    split = separator is not None and not is_list(values.type)
    if split:
        values = _separated(values, str(separator))
    owner, counts = np.arange(len(values)), None
    if is_list(values.type):
        if values.null_count:
            _refuse_missing(values.is_null(), owner, source, column, place)
        counts = pc.list_value_length(values).to_numpy(zero_copy_only=False).astype(np.int64)
        owner, values = np.repeat(owner, counts), _decoded(pc.list_flatten(values))
    texts = _as_texts(values, source, column)
    if texts.null_count or (len(texts) and pc.min(pc.binary_length(texts)).as_py() == 0):
        _refuse_missing(pc.fill_null(pc.equal(texts, ""), True), owner, source, column, place)
    if counts is not None and separator is not None and not split:
        _refuse_unsplit(texts, separator, owner, source, column, place)
    if level is not None:
        texts = pa.array([at_level(one, level) for one in texts.to_pylist()], pa.string())
    return Entries(texts, counts)


def _decoded(values: Any) -> Any:
    """Dictionaries as what they stand for, and views of lists as lists."""
    if _is_view(values.type):  # Arrow 26 casts a view to a list with the last length wrong
        return pa.array(values.to_pylist(), pa.large_list(values.type.value_type))
    return values.cast(values.type.value_type) if pa.types.is_dictionary(values.type) else values


def _separated(values: Any, separator: str) -> Any:
    """Cells of text as lists of text."""
    if not separator:
        raise InputError("label_separator is empty; allowed is what stands between two labels of a cell, such as ;")
    cells = values.cast(pa.string()).to_pylist()
    lists = [None if cell is None else cell.split(separator) if cell.strip() else [] for cell in cells]
    return pa.array(lists, pa.list_(pa.string()))


def _as_texts(values: Any, source: str, column: str) -> Any:
    """Labels of any type as an Arrow array of text without space around it."""
    try:
        floats = pa.types.is_floating(values.type)
        return pc.utf8_trim_whitespace((_of_floats(values) if floats else values).cast(pa.string()))
    except pa.ArrowException as cause:
        raise DataError(
            f"{source}, column {column!r}: labels of the type {values.type} are not read: {cause}."
        ) from None


def refuse_odd_lists(names: Sequence[str], counts: np.ndarray, source: str, column: str) -> None:
    """Raise DataError where the lists of a whole column hold something else than labels."""
    fault = fault_of_lists(names, counts)
    if fault is not None:
        raise DataError(f"{source}, column {column!r}: its lists hold {fault}")


def _refuse_unsplit(
    texts: Any, separator: str, owner: np.ndarray, source: str, column: str, place: Place
) -> None:  # fmt: skip
    """Raise DataError where a label of a list holds the separator: it may be a cell of several among lists."""
    row = pc.index(pc.match_substring(texts, separator), True).as_py()
    if row >= 0:
        raise DataError(
            f"{source}, {place(int(owner[row]))}, column {column!r}: the column holds lists, which are taken as they "
            f"are, and {texts[row].as_py()!r} holds the separator {separator!r}. Write a list of its labels, or leave "
            "the separator out."
        )


def _refuse_missing(missing: Any, owner: np.ndarray, source: str, column: str, place: Place) -> NoReturn:
    """Raise DataError for the first label that is missing, of the row that owns it."""
    row = int(owner[pc.index(missing, True).as_py()])
    raise DataError(f"{source}, {place(row)}, column {column!r}: the label is missing. Fill it in or remove the row.")


def is_list(kind: Any) -> bool:
    """Whether a column of this Arrow type holds lists."""
    plain = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    return plain or _is_view(kind)


def _is_view(kind: Any) -> bool:
    return pa.types.is_list_view(kind) or pa.types.is_large_list_view(kind)


def shifted(place: Place, before: int) -> Place:
    """Where rows are that are counted from another one on."""
    return lambda row: place(before + row)


def at_level(label: str, level: int) -> str:
    """The first parts of a label such as animal/dog/poodle: at level 2 animal/dog; a shorter one as it is.

    Raises:
        InputError: the level is below 1.
    """
    if level < 1:
        raise InputError(f"label_level is {level}; allowed is a whole number from 1 up.")
    return "/".join(label.split("/")[:level])


def _of_floats(values: Any) -> Any:
    """Floats as text; whole ones lose their ".0", as in other tables, and a NaN is no label."""
    given = values.to_pylist()
    return pa.array([None if v is None or v != v else str(int(v) if v.is_integer() else v) for v in given], pa.string())


def _coded(texts: Any, known: Any) -> tuple[np.ndarray, Any]:
    """Texts as places among the known ones, int32, and the known ones with those that were not yet."""
    found = pc.index_in(texts, value_set=known)
    codes = as_numpy(pc.fill_null(found, as_arrow(np.array([-1], dtype=np.int32))[0])).copy()
    if found.null_count:
        unseen = texts.filter(found.is_null())
        fresh = pc.unique(unseen)
        codes[codes < 0] = len(known) + as_numpy(pc.index_in(unseen, value_set=fresh))
        known = pa.concat_arrays([known, fresh])
    return codes, known


def _order(known: Any) -> np.ndarray:
    """Places of the classes in the order of `labels.encode_labels`."""
    order = as_numpy(pc.sort_indices(known)).astype(np.int64)
    if not len(known):
        return order
    names, longest = known.take(as_arrow(order)), pc.max(pc.utf8_length(known)).as_py()
    if pc.all(pc.match_substring_regex(names, r"^-?[0-9]+$")).as_py() and longest <= 18:
        numbers = pc.utf8_ltrim(names, "-").cast(pa.int64())
        numbers = pc.if_else(pc.starts_with(names, "-"), pc.negate(numbers), numbers)
        return order[np.argsort(as_numpy(numbers), kind="stable")]
    if all(is_whole(name) for name in Names(names)):  # the first that is none ends it
        whole = [int(name) for name in Names(names)]
        return order[sorted(range(len(whole)), key=whole.__getitem__)]
    return order

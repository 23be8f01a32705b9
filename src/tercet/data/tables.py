"""Reads tables (.csv, .tsv, .jsonl, .parquet) into records: labelled items, triplets or pairs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from tercet.data.columns import Layout, find_layout
from tercet.data.features import Features, code_rows, missing_of, places, width_of
from tercet.data.label_column import as_labels, refuse_odd_lists
from tercet.data.labels import NO_LABELS, Labels
from tercet.data.records import Records, Skipped, listed, plural, shorten
from tercet.data.sides import SIDES, SidedItems
from tercet.data.tablefiles import Table, load_table
from tercet.data.wishes import Wishes
from tercet.errors import DataError, InputError

NOUNS_OF_KINDS = {"number": "numbers", "category": "categories", "date": "dates", "text": "texts"}
MARKS = {"1": True, "1.0": True, "true": True, "0": False, "0.0": False, "false": False}


def read_table(path: Path, source: str, wishes: Wishes) -> Records:
    """Records of a table; which column means what is found from names and contents, unless the user says."""
    folders = [wishes.root] if wishes.root is not None else [path.parent, Path()]
    return records_of(load_table(path, source), wishes, folders, f"{path.suffix[1:].lower()} table")


def records_of(table: Table, wishes: Wishes, folders: Sequence[Path], how: str) -> Records:
    """Records of a loaded table; paths to images start from these folders, and `how` says what it was given as."""
    layout, source = find_layout(table, wishes), table.source
    refuse_idle(layout, wishes, source)
    if layout.kind == SIDES:
        records = _read_sides(table, layout, folders)
    elif layout.form in ("triplets", "pairs", "marked-pairs", "scored-pairs"):
        records = _read_tuples(table, layout, folders)
    else:
        labels = NO_LABELS if layout.label is None else _read_labels(table, layout.label, wishes)
        if layout.kind == "tabular":
            records = _read_features(table, layout, labels, wishes.missing)
        else:
            records = _read_items(table, layout, folders, labels)
        if layout.forged is not None:
            records = _with_forged(records, read_forged(table, layout, records.sets is not None), table)
    return records.described(f"{how}{_meaning(table, layout)}{_lacking(records)}")


def refuse_idle(layout: Layout, wishes: Wishes, source: str) -> None:
    """Raise InputError for options that say nothing of what this table holds; DataError for towers without pairs."""
    if wishes.towers is not None and layout.form in ("labels", "items"):
        raise DataError(f"{source} holds {layout.form}, and --towers is for two columns of positive pairs.")
    of_features = [
        name
        for name, given in (("categories", wishes.categories), ("dates", wishes.dates), ("texts", wishes.texts))
        if given
    ]
    of_features += ["missing"] if wishes.missing == "error" else []
    idle = [] if layout.kind == "tabular" else [(name, "feature columns") for name in of_features]
    if wishes.root is not None and layout.kind not in ("image", SIDES):
        idle.append(("root", "paths to images"))
    if wishes.label is not None and layout.form == "triplets":
        idle.append(("label", "labels, which triplets do without"))
    for name, of in idle:
        held = layout.form if layout.form != "labels" else f"{layout.kind} items"
        raise InputError(f"--{name} is about {of}; {source} holds {held}. Leave it out.")


def _meaning(table: Table, layout: Layout) -> str:
    """Which columns mean what, said aloud."""
    beside = layout.beside(table.columns)
    if layout.kind == SIDES:
        return f", {layout.pairing()}{beside}"
    named = (layout.label,) if layout.form == "labels" else layout.columns
    meant = f", {layout.form.replace('-', ' ')} in {', '.join(map(repr, named))}"
    if layout.kind == "tabular" and set(layout.kinds) != {"number"}:
        meant += f"; features: {'; '.join(_of_a_kind(layout, kind) for kind in dict.fromkeys(layout.kinds))}"
    elif len(named) > 3:
        meant = f", {len(named)} columns of features"
    return meant + beside


def _of_a_kind(layout: Layout, kind: str) -> str:
    names = [repr(name) for name, own in zip(layout.columns, layout.kinds, strict=True) if own == kind]
    return f"{NOUNS_OF_KINDS[kind]} in {', '.join(names)}"


def _lacking(records: Records) -> str:
    """Which values are missing, said aloud."""
    if records.features is None:
        return ""
    missing = missing_of(records.items, records.features)
    counted = ", ".join(f"{count:,} in {name!r}" for name, count in missing.items())
    return f"; missing and imputed: {counted}" if missing else ""


def _read_labels(table: Table, column: str, wishes: Wishes) -> Labels:
    values = table.lists.get(column)
    values = pa.array(table.texts(column), pa.string()) if values is None else values
    found = as_labels(values, table.source, column, table.place, wishes.label_level, wishes.label_separator)
    names = found.texts.to_pylist()
    if found.counts is not None:
        refuse_odd_lists(names, found.counts, table.source, column)
    labels = Labels.of(names, found.counts)
    if wishes.labelled:
        check_several(labels.classes, table.source, column)
    return labels


def check_several(classes: Sequence[str], source: str, column: str) -> None:
    """Raise DataError for labels that are all the same, or where no item has one."""
    if not len(classes):
        raise DataError(f"{source} holds no label in column {column!r}; at least two are needed to tell apart.")
    if len(classes) < 2:
        raise DataError(
            f"{source} holds a single class, {classes[0]!r} in column {column!r}; at least two are "
            f"needed to tell apart."
        )


def _read_features(table: Table, layout: Layout, labels: Labels, missing: str) -> Records:
    """A row an item: its numbers, coded where some are missing or no numbers. See `data/features.py`."""
    names = [table.place(row) for row in range(len(table))]
    plain = set(layout.kinds) == {"number"}
    if plain:
        numbers = np.stack([table.numbers(column)[0] for column in layout.columns], axis=1)
        if missing == "error" or not np.isnan(numbers).any():
            items = finite(numbers, layout.columns, table.source, names)
            return _rows(table, layout, items, names, labels, None)
    items, features = code_rows(table, layout.columns, layout.kinds)
    if missing == "error":
        _refuse_missing(items, features, table)
    records = _rows(table, layout, items, names, labels, features)
    empty = np.flatnonzero(np.all(np.isnan(items) | (items == 0) & _of_texts(features), axis=1))
    return records.without((int(row), "every value is missing") for row in empty)


def _rows(
    table: Table, layout: Layout, items: np.ndarray, names: list[str], labels: Labels, features: Features | None
) -> Records:
    records = Records("tabular", items, names, None, (), None, None, layout.columns, (), table.source, "", features)
    return records.labelled(labels)


def _of_texts(features: Features) -> np.ndarray:
    """Which numbers of a coded row are counts of words."""
    return np.concatenate([np.full(width_of(kind), kind == "text") for kind in features.kinds])


def _refuse_missing(items: np.ndarray, features: Features, table: Table) -> None:
    for name, place in zip(features.names, places(features.kinds), strict=True):
        gone = np.flatnonzero(np.isnan(items[:, place.start]))
        if len(gone):
            raise DataError(
                f"{table.source}, {table.place(int(gone[0]))}, column {name!r}: the value is missing (--missing "
                "error). Fill it in, remove the row, or leave the column out with --columns."
            )


def finite(features: np.ndarray, columns: Sequence[str], source: str, places: Sequence[str]) -> np.ndarray:
    """Features as float32; a value that is missing or that float32 cannot hold is an error."""
    with np.errstate(over="ignore"):
        items = features.astype(np.float32)
    bad = np.argwhere(~np.isfinite(items))
    if len(bad) == 0:
        return items
    row, column = bad[0]
    value = features[row, column]
    reason = "is missing (NaN)" if np.isnan(value) else f"is {value:g}, which float32 cannot hold"
    more = f" There are {len(bad):,} such values." if len(bad) > 1 else ""
    raise DataError(
        f"{source}, {places[row]}, column {columns[column]!r}: the value {reason}. "
        f"Fill it in, remove the row, or leave the column out with --columns.{more}"
    )


def _read_items(table: Table, layout: Layout, folders: Sequence[Path], labels: Labels) -> Records:
    """A row an item: a text, or a path to an image."""
    values = table.filled_texts(layout.columns[0])
    if layout.kind == "text":
        names = [shorten(value) for value in values]
        return Records("text", values, names, None, (), None, None, (), (), table.source, "").labelled(labels)
    paths, missing = find_files(values, folders)
    records = Records("image", paths, values, None, (), None, None, (), (), table.source, "").labelled(labels)
    return without_missing(records, missing, "say --root FOLDER for another")


def _read_tuples(table: Table, layout: Layout, folders: Sequence[Path]) -> Records:
    """A row a triplet or a pair. Equal texts, and paths to one file, are one item."""
    sides = [table.filled_texts(column) for column in layout.columns]
    values = [value for row in zip(*sides, strict=True) for value in row]
    items, missing = find_files(values, folders) if layout.kind == "image" else (values, [])
    first: dict[str, int] = {}
    codes = np.array([first.setdefault(item, len(first)) for item in items], dtype=np.int64)
    name_of = dict(zip(reversed(items), reversed(values), strict=True))
    names = [name_of[item] if layout.kind == "image" else shorten(item) for item in first]
    similar, scores = read_similarity(table, layout)
    tuples = codes.reshape(-1, len(sides))
    records = Records(
        layout.kind, list(first), names, None, (), tuples, similar, (), (), table.source, "", scores=scores
    )
    return finish_tuples(records, table.place, codes[missing])


def _read_sides(table: Table, layout: Layout, folders: Sequence[Path]) -> Records:
    """A row a pair of two sides. Within a side, equal texts and paths to one file are one item."""
    items: list[list[str]] = []
    names: list[str] = []
    tuples, gone = [], []
    for kind, column in zip(layout.kinds, layout.columns, strict=True):
        given = table.filled_texts(column)
        values, missing = find_files(given, folders) if kind == "image" else (given, [])
        place: dict[str, int] = {}
        for value, word in zip(values, given, strict=True):
            if value not in place:
                place[value] = len(names)
                names.append(word if kind == "image" else shorten(word))
        items.append(list(place))
        tuples.append(np.array([place[value] for value in values], dtype=np.int64))
        gone += [place[values[row]] for row in missing]
    both, pairs = SidedItems(layout.kinds, items), np.stack(tuples, axis=1)
    records = Records(SIDES, both, names, None, (), pairs, None, layout.columns, (), table.source, "")
    return without_missing(records, sorted(set(gone)), "say --root FOLDER for another")


def finish_tuples(records: Records, place: Callable[[int], str], gone: np.ndarray) -> Records:
    """Leave out triplets that nothing can satisfy, and images whose files are missing.

    The negative of such a triplet is the anchor or the positive itself.

    Args:
        records: a row of the table a triplet or a pair.
        place: where a row is.
        gone: positions of the items that are missing.
    """
    assert records.tuples is not None
    wrong = np.zeros(len(records.tuples), dtype=bool)
    if records.form == "triplets":
        wrong = (records.tuples[:, 2:] == records.tuples[:, :2]).any(axis=1)
    if wrong.all():
        raise DataError(f"{records.source}: in every triplet the negative is the anchor or the positive itself.")
    if wrong.any():
        used, reason = np.unique(records.tuples[~wrong]), "the negative is the anchor or the positive itself"
        gone = np.flatnonzero(np.isin(used, gone))  # the items that are left are numbered anew
        skipped = tuple(Skipped(place(int(row)), reason) for row in np.flatnonzero(wrong))
        records = replace(records.take_tuples(np.flatnonzero(~wrong)), skipped=skipped)
    return without_missing(records, np.unique(gone).tolist(), "say --root FOLDER for another")


def read_similarity(table: Table, layout: Layout) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Whether the pairs of a table are similar, and how similar they are: the one, the other, or neither is known."""
    if layout.label is None:
        return None, None
    if layout.form == "scored-pairs":
        return None, _read_scores(table, layout.label)
    return _read_marks(table, layout.label), None


def _read_marks(
    table: Table, column: str, what: str = "the pair is similar",
    remedy: str = "Name another column with --label, or say --form pairs if every pair is similar.",
) -> np.ndarray:  # fmt: skip
    """The marks in a column, bool (N,); DataError where a cell is none."""
    marks = table.texts(column)
    for row, mark in enumerate(marks):
        if (mark or "").strip().lower() not in MARKS:
            raise DataError(
                f"{table.source}, {table.place(row)}, column {column!r}: {mark!r} does not say whether {what}; allowed "
                f"are 1 and 0, or true and false. {remedy}"
            )
    return np.array([MARKS[str(mark).strip().lower()] for mark in marks], dtype=bool)


def _read_scores(table: Table, column: str) -> np.ndarray:
    """The scores in a column, float64 (N,); DataError where one is missing or not finite."""
    scores, _ = table.numbers(column)
    bad = np.flatnonzero(~np.isfinite(scores))
    if len(bad):
        raise DataError(
            f"{table.source}, {table.place(int(bad[0]))}, column {column!r}: the score is missing or not finite. "
            f"Fill it in or remove the row."
        )
    return scores


def read_forged(table: Table, layout: Layout, has_sets: bool) -> np.ndarray:
    """Which rows are forgeries, bool (N,); DataError where a cell does not say, or items have sets of labels."""
    assert layout.forged is not None
    if has_sets:
        raise DataError(
            f"{table.source} marks forgeries in {layout.forged!r}, and its items have several labels in "
            f"{layout.label!r}; a forgery imitates one class. Give one label an item, or rename {layout.forged!r} if "
            "it marks something else."
        )
    return _read_marks(table, layout.forged, "the item is forged", "Correct it.")


def _with_forged(records: Records, forged: np.ndarray, table: Table) -> Records:
    """The records with their forgeries, of rows of which some may have been left out."""
    if not 0 < forged.sum() < len(forged):
        return records
    if len(records) != len(forged):
        gone = {one.name for one in records.skipped}
        cells = [table.texts(name) for name in table.columns]
        left = [row for row in range(len(table)) if table.place(row) not in gone
                and not any(column[row] in gone for column in cells)]  # fmt: skip
        forged = forged[left]
    return replace(records, forged=forged)


def find_files(values: Sequence[str], folders: Sequence[Path]) -> tuple[list[str], list[int]]:
    """The file that each path means, looked for in the folders in turn, and the places not found.

    What is not found would be in the first folder.
    """
    paths, missing = [], []
    for place, value in enumerate(values):
        found = next((folder / value for folder in folders if (folder / value).is_file()), None)
        paths.append(str(found or folders[0] / value))
        if found is None:
            missing.append(place)
    return paths, missing


def without_missing(records: Records, missing: Sequence[int], remedy: str) -> Records:
    """Leave out images whose files are missing; if all are, that is an error."""
    if missing and len(missing) == len(records):
        gone = [Skipped(records.names[place], "no such file") for place in missing]
        raise DataError(
            f"{records.source}: none of the {plural(len(gone), 'image')} was found. {listed(gone)} "
            f"Paths start from the table's folder or the current one; {remedy}."
        )
    return records.without((place, "no such file") for place in missing)

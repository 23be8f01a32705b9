"""Reads whatever the user has into records: a folder, a file, a table, or Python objects."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tercet.data.folders import read_folder, read_image, read_lines
from tercet.data.label_column import at_level
from tercet.data.labels import NONE, Labels, encode_labels
from tercet.data.large_tables import is_streamed, read_dataset_rows, read_large_table
from tercet.data.layouts import LAYOUTS, find_layout, read_part
from tercet.data.layouts import usual_part as usual_part_of
from tercet.data.objects import read_objects
from tercet.data.records import Records, plural
from tercet.data.tablefiles import is_frame, table_of_frame
from tercet.data.tables import read_table, records_of
from tercet.data.wishes import FORMS, IMAGE_SUFFIXES, KINDS, MISSING_VALUES, TABLE_SUFFIXES, TOWERS, Wishes
from tercet.errors import DataError, InputError, check_choice, suggest


def read(
    source: Any,
    *,
    kind: str | None = None,
    form: str | None = None,
    label: str | None = None,
    columns: Sequence[str] | None = None,
    root: str | Path | None = None,
    labelled: bool = True,
    towers: str | None = None,
    layout: str | None = None,
    part: str | None = None,
    usual_part: str = "train",
    missing: str = "impute",
    categories: Sequence[str] | None = None,
    dates: Sequence[str] | None = None,
    texts: Sequence[str] | None = None,
    label_level: int | None = None,
    label_separator: str | None = None,
) -> Records:
    """Records of a folder, a file or Python objects.

    Args:
        source: a folder with a subfolder for each class (of images, or of .txt files); a table (.csv, .tsv,
            .jsonl, .parquet, or a folder of .parquet shards) with labels, triplets or pairs; an image; a .txt file
            with a text a line. From Python also: a DataFrame (pandas, polars, or a table of pyarrow); a list of paths,
            texts or Pillow images; an array of shape (N, F); a tuple of either and its labels; a `datasets.Dataset`; a
            torch Dataset that gives (input, label); or `Records`, which are returned as they are.
        kind: "image", "text" or "tabular", instead of what is found.
        form: "labels", "triplets", "pairs", "marked-pairs", "scored-pairs" or "items" (unlabelled), instead of what is
            found.
        label: the column that holds the labels (for marked or scored pairs: the marks or scores).
        columns: the columns that hold the items: the features, the path or text, or the sides of triplets or
            pairs.
        root: the folder that paths in a table start from; otherwise the table's own folder, then the current
            one.
        labelled: whether labels, triplets or pairs are needed. If not, labels are still taken where they are
            plain.
        towers: whether the two columns of positive pairs are of one kind, whose items are encoded alike ("shared"), or
            two sides with an encoder each ("separate"); otherwise separate where one holds images and one texts.
        layout: the data set that a folder is of, a name of `layouts.LAYOUTS`; otherwise found out where labels are
            needed.
        part: which part of it, such as "train" or "query".
        usual_part: the part when none is named.
        missing: what to do with values that a table of features lacks: "impute" keeps them as missing, for the encoder
            to fill in; "error" names the first one.
        categories: feature columns that hold categories, instead of what is found by their contents.
        dates: feature columns that hold dates.
        texts: feature columns that hold texts.
        label_level: of labels such as animal/dog/poodle, or of folders within folders, how many parts count; no more
            than some label has.
        label_separator: what stands between the labels of an item in a table's cell, such as ";"; otherwise a cell is
            one label. Lists need none.

    Raises:
        DataError: the data cannot be used; the message names the file and the row or line.
        InputError: an argument that is not allowed.
    """
    if isinstance(source, Records):
        return source
    _check_words(kind, form, towers, missing)
    twice = [name for name in dict.fromkeys(columns or ()) if list(columns or ()).count(name) > 1]
    if twice:
        raise InputError(f"--columns names {', '.join(map(repr, twice))} more than once; name each column once.")
    labelled = labelled and form != "items"
    folder = None if root is None else Path(root)
    wishes = Wishes(
        kind, form, label, _tuple(columns), folder, labelled, towers, missing, _tuple(categories), _tuple(dates),
        _tuple(texts), label_level, label_separator,
    )  # fmt: skip
    return _at_level(_read(source, wishes, layout, part, usual_part), wishes)


def _read(source: Any, wishes: Wishes, layout: str | None, part: str | None, usual_part: str) -> Records:
    if isinstance(source, str | os.PathLike):
        found = find_layout(source, layout) if layout or wishes.labelled else None
        if found is not None:
            return _read_layout(found, str(source), usual_part_of(found, part, usual_part), wishes)
    _refuse_layout(source, layout, part)
    if isinstance(source, str | os.PathLike):
        return _read_path(Path(source), str(source), wishes)
    if is_frame(source):
        return records_of(table_of_frame(source), wishes, [wishes.root or Path()], "DataFrame")
    if hasattr(source, "column_names"):
        return read_dataset_rows(_checked_dataset(source), wishes)
    if wishes.towers is not None:
        raise InputError("towers is for a table with two columns of positive pairs; the source is no table.")
    return read_objects(source, wishes)


def _at_level(records: Records, wishes: Wishes) -> Records:
    """The records with labels of as many parts as are wished for, where their reader has not cut them itself.

    Raises:
        InputError: there is nothing to cut: no labels, or none of so many parts.
    """
    level = wishes.label_level
    if level is None:
        return records
    if records.codes is None:
        if wishes.labelled:
            raise InputError(f"label_level is {level}, and {records.source} holds {records.form}; leave it out.")
        return records
    cut = [at_level(name, level) for name in records.classes]
    deepest = max(cut, key=lambda name: name.count("/"))
    if (most := deepest.count("/") + 1) < level:
        raise InputError(
            f"label_level is {level}, and no label of {records.source} has more than {plural(most, 'part')}, such as "
            f"{deepest!r}; allowed is {'1' if most == 1 else f'a whole number from 1 to {most}'}."
        )
    if cut == list(records.classes):
        return records
    codes, classes = encode_labels(cut)
    if wishes.labelled and len(classes) < 2:
        raise DataError(
            f"{records.source} holds a single class at label_level {level}, {classes[0]!r}; at least two are needed to "
            "tell apart."
        )
    if records.sets is None:
        labels = Labels(codes[records.labels], classes)
    else:
        given = records.sets != NONE
        labels = Labels.of_codes(codes[records.sets[given]], classes, given.sum(axis=1))
    return records.labelled(labels).described(f"of {records.source}, by {plural(level, 'part')} of their labels")


def _tuple(names: Sequence[str] | None) -> tuple[str, ...] | None:
    return None if names is None else tuple(names)


def _check_words(kind: str | None, form: str | None, towers: str | None, missing: str) -> None:
    for option, word, allowed in (("--kind", kind, KINDS), ("--form", form, FORMS), ("--towers", towers, TOWERS)):
        if word is not None:
            check_choice(option, word, allowed)
    check_choice("--missing", missing, MISSING_VALUES)


def _refuse_layout(source: Any, layout: str | None, part: str | None) -> None:
    if layout is not None or part is not None:
        raise InputError(
            f"{'part' if layout is None else 'layout'} is {(layout or part)!r}, which is for the folder of a data set; "
            f"{source if isinstance(source, str | os.PathLike) else 'the source'} is none that is known: "
            f"{', '.join(LAYOUTS)}."
        )


def _read_layout(layout: str, source: str, part: str, wishes: Wishes) -> Records:
    """Records of a part of a data set; what the user says of them must be so."""
    _refuse_table_options(source, wishes)
    records = read_part(layout, source, part).records
    for option, wish, given in (("--kind", wishes.kind, records.kind), ("--form", wishes.form, records.form)):
        if wish not in (None, given, "items"):
            raise InputError(f"{option} is {wish!r}, and {records.description} holds {given}; leave it out.")
    return replace(records, labels=None, classes=()) if wishes.form == "items" and records.form == "labels" else records


def check_exists(source: str | Path) -> None:
    """Raise where there is nothing at a path that data is to be read from."""
    if not str(source):
        raise InputError("the data is an empty path; give a folder or a file, and . for the current folder.")
    if not Path(source).exists():
        raise DataError(f"{source} does not exist.{_near(Path(source))}")


def _read_path(path: Path, source: str, wishes: Wishes) -> Records:
    check_exists(source)
    suffix = path.suffix.lower()
    if is_streamed(path):
        return read_large_table(path, source, wishes)
    if suffix in TABLE_SUFFIXES and path.is_file():
        return read_table(path, source, wishes)
    _refuse_table_options(source, wishes)
    if path.is_dir():
        return read_folder(path, source, wishes)
    if suffix in IMAGE_SUFFIXES:
        return read_image(path, source, wishes)
    if suffix == ".txt":
        return read_lines(path, source, wishes)
    raise DataError(
        f"{source} is a file of a type that is not read ({suffix or 'no ending'}). Allowed are a folder, an "
        f"image, a .txt file with a text a line, and the tables {', '.join(TABLE_SUFFIXES)}."
    )


def _checked_dataset(source: Any) -> Any:
    if not (hasattr(source, "__len__") and hasattr(source, "__getitem__")):
        raise DataError(
            f"{type(source).__name__} is a stream without positions, which cannot be dealt by class. Load the dataset "
            "without streaming=True, or write it with to_parquet(FILE) and give that file."
        )
    return source


def _near(path: Path) -> str:
    """The likely name beside a missing path, or what is missing above it."""
    if not path.parent.is_dir():
        return f" Neither does {path.parent}."
    return suggest(path.name, [entry.name for entry in path.parent.iterdir()])


def _refuse_table_options(source: str, wishes: Wishes) -> None:
    given = {"--label": wishes.label, "--columns": wishes.columns, "--root": wishes.root, "--towers": wishes.towers,
             "--label-separator": wishes.label_separator,
             "--categories": wishes.categories, "--dates": wishes.dates, "--texts": wishes.texts}  # fmt: skip
    named = [option for option, value in given.items() if value is not None]
    if named:
        raise InputError(f"{' and '.join(named)} can only be given for a table; {source} is none.")

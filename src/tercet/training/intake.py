"""Intake: what a source holds, said aloud, and what of it is held out."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tercet.data.large_tables import is_table as is_table_at
from tercet.data.layouts import LAYOUTS, find_layout
from tercet.data.readers import read
from tercet.data.records import Records
from tercet.data.split import hold_out
from tercet.data.tablefiles import is_frame
from tercet.data.wishes import ALIKE, LABELLED
from tercet.errors import DataError, InputError
from tercet.training.batches.views import as_items
from tercet.training.config import DataOptions
from tercet.training.reporter import Reporter
from tercet.training.request import Request

OF_TABLES = ("label", "label_separator", "columns", "root", "towers", "categories", "dates", "texts")
"""The options that name columns of a table, or say where its paths start."""


def read_data(request: Request, reporter: Reporter) -> tuple[Records, Records]:
    """Training and validation records, said aloud; part of the source is held out where no validation is given."""
    has_views = request.batch.views > 1
    refuse_idle(request.source, dataclasses.asdict(request.data))
    records = read_source(request.source, request.data, not has_views or request.data.form == "labels")
    _refuse_scores(records)
    if request.data.label_separator is not None and records.form not in (*LABELLED, "items"):
        raise InputError(
            f"label_separator is {request.data.label_separator!r}, and {records.source} holds "
            f"{records.form.replace('-', ' ')}, which have no labels. Leave it out."
        )
    records = as_items(records) if has_views else records
    reporter.say(f"training data: {records.description}")
    for one in records.skipped[:3]:
        reporter.say(f"  skipped {one.name}: {one.reason}")
    if len(records.skipped) > 3:
        reporter.say(f"  and {len(records.skipped) - 3} more")
    if records.form == "items":
        if not has_views:
            raise DataError(
                f"{records.source} has no labels, pairs or triplets. Training needs them, or views of each item, which "
                "take their place: add --views 2."
            )
        reporter.say(f"no labels: what is alike is {request.batch.views} views of an item")
    validation = request.validation if request.validation is not None else request.data.validation
    if validation is None:
        held_back = own_part(request, "validation")
        if held_back is not None:
            reporter.say(f"validation data: {held_back.description}")
            return records, held_back
        train, held, sentence = hold_out(records, request.data.holdout, request.data.holdout_by, request.training.seed)
        reporter.say(f"validation data: {sentence}")
        return train, held
    options = dataclasses.replace(request.data, layout=None, part=None)
    if records.form == "items":
        held = _read_labels_or_items(validation, options)
    else:
        held = read_source(validation, alike(options, records), usual_part="validation")
        _refuse_scores(held)
    if (held.kind, held.columns) != (records.kind, records.columns):
        raise DataError(
            f"the validation data ({held.description}) is not like the training data ({records.description})."
        )
    reporter.say(f"validation data: {held.description}")
    return records, held


def _refuse_scores(records: Records) -> None:
    """Scores order pairs, and no loss here learns an order."""
    if records.form == "scored-pairs":
        raise DataError(
            f"{records.source} scores how alike pairs are ({records.description}), which can be evaluated on but not "
            "trained or validated on. To train on it, decide which pairs are alike: a column similar with 1 and 0 and "
            "--form marked-pairs --label similar; or keep the rows that are alike alone, and say --form pairs."
        )


def own_part(request: Request, part: str) -> Records | None:
    """A part that the data set itself has for this, where SOURCE is the folder of one and no other part is named."""
    data = request.data
    if not isinstance(request.source, (str, Path)) or data.part not in (None, "train") or data.form == "items":
        return None
    layout = find_layout(request.source, data.layout)
    if layout is None or part not in LAYOUTS[layout].parts:
        return None
    return read_source(request.source, dataclasses.replace(data, layout=layout, part=part))


def _read_labels_or_items(source: Any, options: DataOptions) -> Records:
    """Validation data of a training without labels, which may have some."""
    records = as_items(read_source(source, dataclasses.replace(options, form=None), labelled=False))
    if records.form not in (*ALIKE, "items"):
        raise DataError(
            f"{records.source} holds {records.form.replace('-', ' ')}; to validate a training without labels, give "
            "items with labels or without, or positive pairs."
        )
    return records


def alike(options: DataOptions, records: Records) -> DataOptions:
    """The options that read other data of the same columns as these records were found to have."""
    if records.kind != "tabular":
        return options
    if records.features is None:
        return dataclasses.replace(options, columns=records.columns or None, missing="error")
    return dataclasses.replace(options, columns=records.columns, **kinds_of(records))


def kinds_of(records: Records) -> dict[str, Any]:
    """The options that name the kinds of a table's columns; none where all are plain numbers."""
    if records.features is None:
        return {}
    lists = {"categories": "category", "dates": "date", "texts": "text"}
    return {name: records.features.of(kind) for name, kind in lists.items()}


def is_table(source: Any) -> bool:
    """Whether a source has columns: a table in a file, in shards, or of Python."""
    if isinstance(source, (str, Path)):
        return is_table_at(Path(source))
    return is_frame(source) or hasattr(source, "column_names")


def refuse_idle(source: Any, given: Mapping[str, Any]) -> None:
    """Raise InputError where options that say how to read a table are given for a path that is none."""
    if not isinstance(source, (str, Path)) and not is_table(source) and given.get("label_separator") is not None:
        raise InputError(
            "label_separator splits cells of a table; the source is none. Give each item a list of labels."
        )
    if not isinstance(source, (str, Path)) or not Path(source).exists() or is_table(source):
        return
    named = [f"--{name.replace('_', '-')}" for name in OF_TABLES if given.get(name) is not None]
    named += ["--missing"] if given.get("missing") == "error" else []
    if named:
        raise InputError(f"{' and '.join(named)} can only be given for a table; {source} is none.")


def read_source(source: Any, options: DataOptions, labelled: bool = True, usual_part: str = "train") -> Records:
    """Read a source with the options of a configuration, as far as they apply to it; `usual_part` as of `read`."""
    table = options if is_table(source) else DataOptions()
    return read(
        source, kind=options.kind, form=options.form, labelled=labelled,
        label=table.label, columns=table.columns, root=table.root, towers=table.towers, missing=table.missing,
        categories=table.categories, dates=table.dates, texts=table.texts, label_level=options.label_level,
        label_separator=table.label_separator, layout=options.layout, part=options.part, usual_part=usual_part,
    )  # fmt: skip


def warn_of_duplicates(
    known: np.ndarray, records: Records, fingerprints: np.ndarray, name: str, reporter: Reporter
) -> int:
    """Count and name the records whose contents, by their fingerprints, are among those of the training data."""
    ordered = np.sort(known)  # np.isin would take four times the memory
    found = np.searchsorted(ordered, fingerprints)
    rows = np.flatnonzero(ordered[np.minimum(found, len(ordered) - 1)] == fingerprints) if len(known) else found[:0]
    if len(rows):
        first = ", ".join(str(records.names[row]) for row in rows[:3])
        reporter.warn(
            f"{len(rows)} of {len(records)} items of the {name} data are also in the training data ({first}"
            f"{', ...' if len(rows) > 3 else ''}): figures on them flatter the model"
        )
    return len(rows)


def warn_of_copies(known: np.ndarray, reporter: Reporter) -> None:
    """Warn of items with equal contents, which a training on views would push apart."""
    copies = len(known) - len(np.unique(known))
    if copies:
        reporter.warn(
            f"{copies:,} of {len(known):,} items of the training data are copies of others, and count as unlike them; "
            "remove them"
        )

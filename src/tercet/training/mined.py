"""Mining for a run: its embeddings of labelled records -> triplets and suspects, in memory or as files.

The files go beside each other: NAME.parquet with the triplets, which `tercet train` reads, and NAME-suspects.csv.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from tercet.data.records import Records
from tercet.distances import Distance
from tercet.errors import DataError, InputError, RunError
from tercet.mining.options import MiningOptions
from tercet.mining.tables import suspects_csv, triplet_table
from tercet.mining.triplets import Mined, mine_triplets
from tercet.training.folder import files
from tercet.training.folder.embeddings import embed_set
from tercet.training.model import Model
from tercet.training.reporter import Reporter

DEFAULT_MARGIN = 0.2  # that of `tercet train`, where the run's loss has none


@dataclass(frozen=True, eq=False)
class MinedRecords:
    """Triplets of records, as rows of `records`, and where they were written."""

    mined: Mined
    records: Records
    """The labelled items that could be read."""
    margin: float
    """The margin that hard, semi-hard and easy triplets are told apart by."""
    out: Path | None
    """The Parquet file of triplets, if it was asked for."""

    @property
    def suspects(self) -> Path | None:
        """The CSV of likely label errors and near-duplicates, beside `out`."""
        return None if self.out is None else suspects_path(self.out)

    def __len__(self) -> int:
        return len(self.mined)

    def figures(self) -> dict[str, Any]:
        """What was mined, in numbers, as `tercet mine --json` prints it."""
        mined, records = self.mined, self.records
        item, count = mined.busiest_negative()
        return {
            "out": None if self.out is None else str(self.out),
            "suspects": None if self.suspects is None else str(self.suspects),
            "items": len(records),
            "triplets": len(mined),
            "anchors": len(set(mined.anchors.tolist())),
            "margin": self.margin,
            "distance": mined.distance,
            **mined.hardness(self.margin),
            "label_errors": len(mined.label_errors),
            "near_duplicates": len(mined.near_duplicates),
            "without_positive": mined.left_out.without_positive,
            "without_negative": mined.left_out.without_negative,
            "crowded_out": mined.left_out.crowded_out,
            "busiest_negative": None if item < 0 else {"name": str(records.names[item]), "triplets": count},
            "search": mined.search,
            "recall": mined.recall,
            "skipped": [{"name": one.name, "reason": one.reason} for one in records.skipped],
        }


def mine_records(
    model: Model,
    records: Records,
    run: Path,
    weights: str,
    distance: Distance,
    options: MiningOptions,
    reporter: Reporter,
    *,
    groups: Sequence[Any] | None = None,
    out: Path | None = None,
    overwrite: bool = False,
    cache: bool = True,
    margin: float | None = None,
) -> MinedRecords:
    """Embed records, mine triplets of them, and write these where `out` says; see `tercet.mine`."""
    if records.form != "labels":
        held = "several labels an item" if records.sets is not None else records.form
        raise DataError(f"{records.source} holds {held}, and mining needs one label for every item.")
    if groups is not None and len(groups) != len(records):
        raise InputError(f"there are {len(records):,} items and {len(groups):,} groups; each item needs one, or None.")
    if out is not None:
        check_out(out, records, overwrite)
    embedded = embed_set(model, records, run, weights, reporter, cache=cache)
    left = embedded.records
    assert left.labels is not None
    if left.forged is not None:
        raise DataError(f"{left.source} marks forgeries, which mining would take as alike; leave them out of it.")
    with reporter.progress("searching") as advance:
        mined = mine_triplets(
            embedded.vectors, [left.classes[code] for code in left.labels], options, distance=distance,
            groups=None if groups is None else [groups[place] for place in embedded.positions],
            contents=left.fingerprints(), progress=advance,
        )  # fmt: skip
    reporter.say(mined.search)
    found = MinedRecords(mined, left, DEFAULT_MARGIN if margin is None else margin, out)
    found.mined.hardness(found.margin)  # a margin that makes no sense is refused before anything is written
    if out is not None:
        check_some(mined, left.source)
        write_mined(mined, left, out)
    return found


def suspects_path(out: Path) -> Path:
    """Where the suspects go that belong to these triplets."""
    return out.with_name(f"{out.stem}-suspects.csv")


def check_out(out: Path, records: Records, overwrite: bool) -> None:
    """Refuse what cannot be written, before any work is done.

    Raises:
        InputError: another ending, or items that no cell of a table can hold.
        RunError: a file is in the way.
    """
    if out.suffix != ".parquet":
        raise InputError(f"{out} must end in .parquet.")
    if records.kind not in ("image", "text") or not all(isinstance(item, str) for item in records.items):
        what = "rows of numbers" if records.kind == "tabular" else "items that are not files or texts"
        raise InputError(
            f"{records.source} holds {what}, and a table of triplets holds paths or texts, so {out} cannot be written. "
            "From Python, tercet.mine(run, data) without out gives the triplets as positions of the items."
        )
    for path in (out, suspects_path(out)):
        if path.exists() and not overwrite:
            raise RunError(
                f"{path} exists already; choose another name, or replace it with --overwrite (from Python: "
                "overwrite=True)."
            )


def check_some(mined: Mined, source: str) -> None:
    """Refuse to write no triplets at all.

    Raises:
        DataError: there are none; the message says why.
    """
    left = mined.left_out
    if not len(mined):
        raise DataError(
            f"no triplet was mined from {source}: of {len(mined.items):,} items {left.label_errors:,} are likely label "
            f"errors, {left.without_positive:,} have no positive, and {left.without_negative:,} no negative in the "
            "ranks and margins. Widen these, or bring more items of each class."
        )


def write_mined(mined: Mined, records: Records, out: Path) -> None:
    """Write the triplets and, beside them, the suspects; each replaces the file of before as a whole.

    Paths are written from the folder of `out`, where the reader of tables looks first.

    Raises:
        StorageError: a file could not be written.
    """
    cells = records.items if records.kind == "text" else [_path_from(out, Path(item)) for item in records.items]
    table = triplet_table(mined, cells)
    files.write_text(suspects_path(out), suspects_csv(mined, [str(name) for name in records.names]))
    files.write_with(out, lambda temporary: pq.write_table(table, temporary))


def _path_from(out: Path, item: Path) -> str:
    """The way from the folder of `out` to an item; links to folders are followed, as ".." is resolved behind them."""
    here, there = os.path.realpath(out.parent), os.path.join(os.path.realpath(item.parent), item.name)
    try:
        return Path(os.path.relpath(there, here)).as_posix()
    except ValueError:  # another drive, on Windows
        return there

"""Embeddings of millions of items as a folder of Parquet shards, which a run that was stopped goes on with.

    embedding.json           what the shards were made with: the run, its weights, the source, rows of a shard, ...
    shard-00000.parquet      the first rows: name, label (where known; of several labels a list), embedding, and scale
                             (of int8)
    skipped.csv              name and reason of what could not be read; written when all shards are there

A shard is written whole or not at all, and depends on nothing but its rows: so whoever makes it, and in whatever order,
its bytes are the same. What a shard left out is written in its own metadata.
"""

from __future__ import annotations

import csv
import io
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tercet.data.records import Records, Skipped, plural
from tercet.data.sides import SIDES
from tercet.data.wishes import LABELLED
from tercet.errors import DataError, InputError, RunError
from tercet.neighbors.quantised import Quantised, quantised
from tercet.training.folder import files
from tercet.training.model import Model
from tercet.training.reporter import Reporter

FORMAT = 1
MANIFEST = "embedding.json"
Label = str | list[str]
"""What an item is labelled with: one label, or a list of several."""
BLOCK = 2048
"""Items that are read and encoded at a time: with a shard's embeddings, all that is in memory."""


@dataclass(frozen=True)
class Shards:
    """A folder of shards, as its embedding.json describes it."""

    folder: Path
    settings: dict[str, Any]

    @property
    def count(self) -> int:
        """How many shards there are when it is finished."""
        return -(-self.settings["items"] // self.settings["shard_rows"])

    def path(self, number: int) -> Path:
        """The file of a shard."""
        return self.folder / f"shard-{number:05d}.parquet"

    def rows(self, number: int) -> range:
        """Which items of the source a shard is of."""
        size = self.settings["shard_rows"]
        return range(number * size, min((number + 1) * size, self.settings["items"]))

    def done(self) -> int:
        """How many items finished shards are of."""
        return sum(len(self.rows(number)) for number in range(self.count) if self.path(number).exists())

    def check_complete(self) -> None:
        """Raise RunError where a shard is missing."""
        missing = sum(not self.path(number).exists() for number in range(self.count))
        if missing:
            raise RunError(
                f"{self.folder} is not finished: {missing} of {plural(self.count, 'shard')} are missing. Go on with "
                f"tercet embed ... --out {self.folder} --resume."
            )


def begin(folder: Path, settings: dict[str, Any], resume: bool) -> Shards:
    """A folder to write shards to; with `resume` one that was begun with the same settings.

    Raises:
        InputError: no rows in a shard.
        RunError: the folder is in the way, or was begun with other settings.
    """
    settings = {"format": FORMAT, **settings}
    if settings["shard_rows"] < 1:
        raise InputError(f"shard_rows is {settings['shard_rows']}; allowed is a whole number from 1 up.")
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        files.write_json(folder / MANIFEST, settings)
    elif not resume:
        raise RunError(f"{folder} exists already. Go on with it by adding --resume, or choose another name.")
    before = open_shards(folder)
    differing = [
        f"{name} was {before.settings.get(name)!r} and is now {value!r}"
        for name, value in settings.items()
        if before.settings.get(name) != value
    ]
    if differing:
        raise RunError(
            f"{folder} can be gone on with as it was begun only: {'; '.join(differing)}. Bring that back, or choose "
            "another folder."
        )
    return before


def is_shards(path: str | Path) -> bool:
    """Whether a path is a folder of shards."""
    return (Path(path) / MANIFEST).is_file()


def open_shards(folder: Path) -> Shards:
    """The shards in a folder.

    Raises:
        RunError: there are none, or they are of a newer Tercet.
    """
    try:
        settings = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        if settings["format"] > FORMAT:
            raise RunError(f"{folder} was written by a newer Tercet; upgrade with: pip install --upgrade tercet")
    except (FileNotFoundError, NotADirectoryError):
        raise RunError(f"{folder} holds no {MANIFEST}: tercet embed did not write it. Choose another name.") from None
    except (ValueError, KeyError, TypeError) as cause:
        raise RunError(f"{folder / MANIFEST} is damaged ({cause}); embed again into another folder.") from None
    return Shards(folder, settings)


def write_shards(
    shards: Shards, model: Model, records: Records, reporter: Reporter, number: int = 0, of: int = 1
) -> None:
    """Write the shards that are missing; of several processes each takes every so-many-th."""
    own = [one for one in range(shards.count)[number::of] if not shards.path(one).exists()]
    total, done, started = sum(len(shards.rows(one)) for one in own), 0, time.monotonic()
    with reporter.progress("embedding") as advance:
        for one in own:
            parts, skipped = [], []
            for block in _blocks(shards.rows(one)):
                part, left_out = _embedded(model, records, block, shards.settings["vectors"])
                parts.append(part)
                skipped += left_out
                done += len(block)
                advance(done, total, pace(done, total, time.monotonic() - started))
            table = pa.concat_tables([part for part in parts if part is not None] or [_no_rows(records)])
            table = table.replace_schema_metadata({"skipped": json.dumps(skipped, ensure_ascii=False)})
            files.write_with(shards.path(one), lambda path, table=table: pq.write_table(table, path))  # type: ignore[misc]


def pace(done: int, total: int, seconds: float) -> str:
    """`1,234 items/s, 12 min left`."""
    rate = done / max(seconds, 1e-9)
    left = (total - done) / max(rate, 1e-9)
    words = f"{left:.0f} s" if left < 120 else f"{left / 60:.0f} min" if left < 7200 else f"{left / 3600:.1f} h"
    return f"{rate:,.0f} items/s, {words} left"


def conclude(shards: Shards, skipped: Sequence[Skipped] = ()) -> list[Skipped]:
    """Write skipped.csv once all shards are there; what it holds: what was left out before, and what they left out.

    Raises:
        RunError: a shard is missing.
        DataError: nothing of the source could be read.
    """
    shards.check_complete()
    found, rows = list(skipped), 0
    for number in range(shards.count):
        count, left_out = _told_of(shards.path(number))
        rows += count
        found += left_out
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["name", "reason"])
    writer.writerows([one.name, one.reason] for one in found)
    files.write_text(shards.folder / "skipped.csv", text.getvalue())
    if not rows:
        raise DataError(f"nothing of {shards.settings['source']} could be read; {shards.folder}/skipped.csv says why.")
    return found


def _told_of(path: Path) -> tuple[int, list[Skipped]]:
    """How many rows a shard has, and what it left out."""
    try:
        about = pq.read_metadata(path)
        left_out = json.loads((about.metadata or {})[b"skipped"])
    except (KeyError, ValueError, pa.ArrowException, OSError) as cause:
        raise RunError(f"{path} is damaged ({str(cause).rstrip('.')}); remove it and embed with --resume.") from None
    return about.num_rows, [Skipped(name, reason) for name, reason in left_out]


def read_shards(shards: Shards) -> tuple[Quantised, list[str], list[Label] | None]:
    """The embeddings of all shards, names, and labels where they are known.

    Raises:
        RunError: a shard is missing or damaged.
    """
    shards.check_complete()
    kind = shards.settings["vectors"]
    try:
        tables = [pq.read_table(shards.path(number)) for number in range(shards.count)]
        table = pa.concat_tables([one for one in tables if one.num_rows] or tables[:1])
        labels = table["label"].to_pylist() if "label" in table.column_names else None
        scales = table["scale"].to_numpy() if kind == "int8" else None
        codes, dimensions = _codes(table["embedding"].combine_chunks(), kind, shards.settings["dimensions"])
    except (KeyError, ValueError, pa.ArrowException, OSError) as cause:
        raise RunError(f"a shard of {shards.folder} is damaged ({cause}); remove it and embed with --resume.") from None
    return Quantised(kind, codes, scales, dimensions), table["name"].to_pylist(), labels


def columns_of(vectors: Quantised, names: list[str], labels: Sequence[Label | None] | None) -> dict[str, Any]:
    """The columns of a table of embeddings."""
    columns = {"name": pa.array(names, pa.string())}
    if labels is not None:
        columns["label"] = label_column(labels)
    flat = pa.array(np.ascontiguousarray(vectors.codes).reshape(-1))
    if vectors.kind == "binary":
        width = vectors.codes.shape[1]
        columns["embedding"] = pa.Array.from_buffers(pa.binary(width), len(names), [None, flat.buffers()[1]])
    else:
        columns["embedding"] = pa.FixedSizeListArray.from_arrays(flat, vectors.dimensions)
    if vectors.scales is not None:
        columns["scale"] = pa.array(vectors.scales)
    return columns


def label_column(labels: Sequence[Label | None]) -> Any:
    """Labels as an Arrow array of text, or of lists of text where items have several."""
    several = any(isinstance(label, list) for label in labels)
    return pa.array(labels, pa.list_(pa.string()) if several else pa.string())


def _codes(column: Any, kind: str, dimensions: int) -> tuple[np.ndarray, int]:
    if isinstance(column, pa.ChunkedArray):
        column = pa.concat_arrays(column.chunks)
    if kind == "binary":
        flat = np.frombuffer(b"".join(column.to_pylist()), dtype=np.uint8)
    else:
        flat = column.flatten().to_numpy().copy()  # torch wants memory that it could write to
    return flat.reshape(len(column), -1), dimensions


def _blocks(rows: range) -> Iterator[range]:
    for start in range(rows.start, rows.stop, BLOCK):
        yield range(start, min(start + BLOCK, rows.stop))


def _embedded(model: Model, records: Records, rows: range, kind: str) -> tuple[Any, list[tuple[str, str]]]:
    """The table of a block of items, None where none can be read; and those that cannot be, with the reason."""
    part = records.take(np.arange(rows.start, rows.stop))
    names = list(part.names)
    found = model.embed(part.items)
    skipped = [(names[place], reason) for place, reason in found.unreadable]
    if not len(found.positions):
        return None, skipped
    labels = [part.label_of(int(place)) for place in found.positions] if part.form in LABELLED else None
    vectors = quantised(found.vectors, kind)
    return pa.table(columns_of(vectors, [names[place] for place in found.positions], labels)), skipped


def _no_rows(records: Records) -> Any:
    """A table without rows, for a shard of which nothing could be read."""
    return pa.table({"name": pa.array([], pa.string())})


def side_of(records: Records) -> str | None:
    """Of two towers, the name of the side that all of these are of."""
    return records.columns[records.items[0].side] if records.kind == SIDES else None

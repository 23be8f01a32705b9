"""Embeddings in a LanceDB database: a folder that its users search, filter, add to and take from."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from tercet.errors import InputError, RunError, require
from tercet.index.shards import Shards, open_shards
from tercet.training.folder import files

TABLE = "embeddings"
BATCH = 10_000  # rows that are read from a shard at a time


def write_lance(shards: Path, out: Path) -> int:
    """Write what a folder of shards holds to a new database, with the columns name, label and vector; the rows.

    The database is complete or not there. Memory does not grow with the rows.

    Raises:
        InputError: the shards hold bytes or bits.
        RunError: the database exists, or a shard is missing.
        MissingDependency: lancedb is not installed.
    """
    lancedb = require("lancedb", "lance")
    source = open_shards(shards)
    source.check_complete()
    check_new(out, source.settings["vectors"])
    with files.new_folder(out) as partial:
        batches = _batches(source)
        first = next(batches)  # shards without any embedding are not finished
        table = lancedb.connect(partial).create_table(TABLE, data=chain([first], batches), schema=first.schema)
        return int(table.count_rows())


def check_new(out: Path, vectors: str) -> None:
    """Whether embeddings of this kind can be written there: asked before they are made.

    Raises:
        InputError: they are not floats.
        RunError: the database exists.
        MissingDependency: lancedb is not installed.
    """
    require("lancedb", "lance")
    if out.exists():
        raise RunError(f"{out} exists already; choose another name, or remove it first.")
    if vectors != "float32":
        raise InputError(f"vectors is {vectors!r}, and a database is given floats; leave out --vectors, or --lance.")


def _batches(shards: Shards) -> Iterator[Any]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    for number in range(shards.count):
        for batch in pq.ParquetFile(shards.path(number)).iter_batches(BATCH):
            if batch.num_rows:
                columns = {name: batch.column(name) for name in batch.schema.names}
                columns["vector"] = columns.pop("embedding")
                yield pa.RecordBatch.from_pydict(columns)

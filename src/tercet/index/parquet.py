"""Embeddings as a Parquet file, for whatever comes after Tercet."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tercet.errors import InputError, RunError
from tercet.index.shards import Label, columns_of
from tercet.neighbors.quantised import quantised
from tercet.training.folder import files


def check_parquet_path(path: Path) -> None:
    """Refuse a path that is not to be written, before any work is done.

    Raises:
        InputError: it does not end in .parquet.
        RunError: it exists.
    """
    if path.suffix != ".parquet":
        raise InputError(f"{path} must end in .parquet.")
    if path.exists():
        raise RunError(f"{path} exists already; choose another name, or remove it first.")


def write_parquet(
    path: Path, vectors: np.ndarray, names: Sequence[str], labels: Sequence[Label] | None, kind: str = "float32"
) -> None:
    """Write columns name, label (where known) and embedding, a list of D float32, one row an item.

    Of items with several labels, label is a list of text.

    Of int8, embedding is a list of D int8 beside a column of scales; of binary, ceil(D / 8) bytes.
    """
    columns = columns_of(quantised(vectors, kind), list(names), None if labels is None else list(labels))
    table = pa.table(columns)
    files.write_with(path, lambda temporary: pq.write_table(table, temporary))

"""What pairs of texts cost that are read as they are needed: reading them, and the first steps of a training.

    python benchmarks/large_pairs.py --rows 10000000

Writes a folder of Parquet shards with row groups of 1,000, each row a query of three words and a document of six, drawn
by chance, and 500 rows of validation data. Prints seconds and peak memory of reading, and of a training with the bag of
words; each is a process of its own.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

import tercet
from tercet.data.readers import read

SHARD = 1_000_000
WORDS = np.array([f"w{number:04d}" for number in range(5000)])


def texts(draw: np.random.Generator, rows: int, length: int) -> list[str]:
    """Texts of so many words."""
    return [" ".join(words) for words in WORDS[draw.integers(0, len(WORDS), (rows, length))]]


def write(path: Path, rows: int, seed: int) -> None:
    """A file of pairs."""
    draw = np.random.default_rng(seed)
    pairs = pa.table({"query": texts(draw, rows, 3), "document": texts(draw, rows, 6)})
    pq.write_table(pairs, path, row_group_size=1000)


def reading(folder: Path) -> None:
    """Read the shards."""
    print(read(folder / "shards").description, flush=True)


def training(folder: Path) -> None:
    """Train for five steps."""
    tercet.train(
        folder / "shards", out=folder / "run", validation=folder / "validation.parquet", steps=5, rows_per_batch=64,
        loss="infonce", progress=False,
    )  # fmt: skip


def measured(work: Callable[[Path], None], folder: Path) -> tuple[float, float]:
    """Seconds of the work, and the gigabytes of this process at their peak."""
    started = time.perf_counter()
    work(folder)
    return time.perf_counter() - started, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    rows = parser.parse_args().rows
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "shards").mkdir()
        for number, start in enumerate(range(0, rows, SHARD)):
            write(folder / "shards" / f"{number:04d}.parquet", min(SHARD, rows - start), number)
        write(folder / "validation.parquet", 500, -1 % 2**32)
        fresh = multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1)
        for work in (reading, training):
            seconds, gigabytes = fresh.apply(measured, (work, folder))
            print(f"{work.__name__}: {seconds:.0f} s, {gigabytes:.2f} GB at the peak", flush=True)


if __name__ == "__main__":
    main()

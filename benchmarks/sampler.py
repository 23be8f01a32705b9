"""Time and memory of P×K batches over many rows and classes, from a Parquet column of labels.

Each step is taken in a process of its own.

    python benchmarks/sampler.py [ROWS] [CLASSES] [K]

Peak memory is that of the process (VmHWM), Python, NumPy and Arrow included, and the pages of mapped files too.
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

DEFAULTS = ("10000000", "1000000", "4")


def write_labels(path: Path, rows: int, classes: int) -> None:
    """Classes of 1 and more rows each, in random order, in row groups of 100,000; as text."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    generator = np.random.default_rng(0)
    with pq.ParquetWriter(path, pa.schema([("label", pa.string())])) as writer:
        for start in range(0, rows, 100_000):
            own = generator.integers(0, classes, min(100_000, rows - start))
            writer.write_table(pa.table({"label": pa.array(own).cast(pa.string())}))


def read_labels(folder: Path) -> None:
    """Labels as codes, which is done once for a table."""
    from tercet.data.label_column import write_codes
    from tercet.data.rows import ParquetRows

    rows = ParquetRows([folder / "labels.parquet"], "labels")
    write_codes(rows.batches("label"), folder / "codes", "labels", "label", rows.place)


def build(folder: Path) -> None:
    """The index of the codes, which is kept too."""
    from tercet.data.class_index import ClassIndex

    ClassIndex.build(np.load(folder / "codes" / "codes.npy", mmap_mode="r"), folder / "index")


def deal(folder: Path, samples_per_class: int) -> None:
    """Batches for ten seconds."""
    from tercet.data.class_index import ClassIndex
    from tercet.data.indexed import IndexedBatches

    sampler = IndexedBatches(ClassIndex.open(folder / "index"), 32, samples_per_class, seed=0)
    started, dealt = time.perf_counter(), 0
    while time.perf_counter() - started < 10:
        dealt += len(sampler.next())
    print(f"{dealt / (time.perf_counter() - started):,.0f} indices a second, K = {samples_per_class}")


def peak() -> float:
    """Peak memory of this process in MB (10**6 bytes)."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024 / 1e6


STEPS = {"labels": read_labels, "index": build, "deal": deal}


def main() -> None:
    """Write the labels, then take each step in another process."""
    if len(sys.argv) > 1 and sys.argv[1] in STEPS:
        started = time.perf_counter()
        STEPS[sys.argv[1]](Path(sys.argv[2]), *map(int, sys.argv[3:]))
        print(f"{sys.argv[1]}: {time.perf_counter() - started:.1f} s, peak {peak():.0f} MB")
        return
    rows, classes, samples = (int(word) for word in (*sys.argv[1:], *DEFAULTS[len(sys.argv) - 1 :]))
    with tempfile.TemporaryDirectory() as folder:
        write_labels(Path(folder) / "labels.parquet", rows, classes)
        for step, given in (("labels", []), ("index", []), ("deal", [str(samples)])):
            subprocess.run([sys.executable, __file__, step, folder, *given], check=True)


if __name__ == "__main__":
    main()

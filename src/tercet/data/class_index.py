"""An index of classes: the rows of each, in three flat arrays that may be mapped from files.

What a list of an array for each class would hold, in 4 bytes a row instead of some hundred a class. Shapes: N rows,
C classes.
"""

from __future__ import annotations

import mmap
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tercet.data.kept import new_folder

CHUNK = 1 << 18
"""Rows that are sorted at a time."""


@dataclass(frozen=True, eq=False)
class ClassIndex:
    """The rows of class c are rows[offsets[c] : offsets[c + 1]], in their order in the data.

    Attributes:
        rows: int32 of shape (N,), int64 from 2**31 rows on.
        offsets: int64 of shape (C + 1,).
    """

    rows: np.ndarray
    offsets: np.ndarray

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def sizes(self) -> np.ndarray:
        """How many rows each class has, int64 of shape (C,)."""
        return np.diff(self.offsets)

    @classmethod
    def build(cls, labels: np.ndarray, folder: Path | None = None) -> ClassIndex:
        """The index of labels, by a counting sort in chunks: O(N log CHUNK) time, O(C + CHUNK) memory beside the rows.

        Args:
            labels: whole numbers from 0 up of shape (N,), such as a memory-mapped file of them; classes are 0 to the
                largest, and may be empty.
            folder: where the arrays are written to and mapped from; in memory when left open. It appears whole or not
                at all, and what was there is replaced.
        """
        if folder is None:
            offsets = _offsets(labels)
            rows: np.ndarray = np.empty(len(labels), dtype=_dtype(len(labels)))
            _place(labels, offsets, rows)
            return cls(rows, offsets)
        shutil.rmtree(folder, ignore_errors=True)
        with new_folder(folder) as target:
            offsets = _offsets(labels)
            np.save(target / "offsets.npy", offsets)
            mapped: np.ndarray = np.lib.format.open_memmap(
                target / "rows.npy", "w+", _dtype(len(labels)), (len(labels),)
            )
            _place(labels, offsets, mapped)
            mapped.flush()  # type: ignore[attr-defined]
        return cls.open(folder)

    @classmethod
    def open(cls, folder: Path) -> ClassIndex:
        """The index that `build` wrote to a folder, mapped from its files."""
        return cls(*(np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("rows", "offsets")))


def _dtype(count: int) -> type:
    return np.int32 if count < 2**31 else np.int64


def _offsets(labels: np.ndarray) -> np.ndarray:
    counts = np.zeros(0, dtype=np.int64)
    for start in range(0, len(labels), CHUNK):
        own = np.bincount(labels[start : start + CHUNK], minlength=len(counts))
        own[: len(counts)] += counts
        counts = own
        _release(labels)
    return np.concatenate([[0], np.cumsum(counts)])


def _place(labels: np.ndarray, offsets: np.ndarray, rows: np.ndarray) -> None:
    """Fill `rows`, chunk by chunk: within one, a class's rows go side by side behind those of earlier chunks."""
    free = offsets[:-1].copy()
    for start in range(0, len(labels), CHUNK):
        chunk = np.asarray(labels[start : start + CHUNK])
        order = np.argsort(chunk, kind="stable")
        ordered = chunk[order]
        first = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
        counts = np.diff(np.append(first, len(ordered)))
        within = np.arange(len(ordered)) - np.repeat(first, counts)
        rows[free[ordered] + within] = order + start
        free[ordered[first]] += counts
        _release(labels)


def _release(array: np.ndarray) -> None:
    """Give back the memory of a mapped file's pages that were read; they come again from the file."""
    mapped = getattr(array, "_mmap", None)
    if mapped is not None and hasattr(mapped, "madvise"):
        mapped.madvise(mmap.MADV_DONTNEED)

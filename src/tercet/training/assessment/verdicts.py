"""Verdicts: same or different, of one pair or of a table of them, and how sure."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tercet.data.records import Records, Skipped
from tercet.errors import InputError
from tercet.training.folder import files

COLUMNS = ("left", "right", "distance", "verdict", "probability")


@dataclass(frozen=True)
class Verdict:
    """Whether two items are the same: their distance against the run's threshold.

    Attributes:
        same: distance <= threshold.
        distance: between both embeddings.
        threshold: the calibrated one.
        probability: that they are the same; None for a run that no probability was fitted for.
        prior: the share of all pairs that are the same, for which the probability holds.
    """

    same: bool
    distance: float
    threshold: float
    probability: float | None = None
    prior: float = 0.5


@dataclass(frozen=True, eq=False)
class Verdicts:
    """The verdicts of T pairs.

    Attributes:
        left: what the left items are: paths as given, or texts, T of them.
        right: the right ones.
        distance: float64 (T,).
        same: bool (T,).
        probability: float64 (T,), or None; see `Verdict`.
        threshold: the calibrated one.
        prior: see `Verdict`.
        skipped: items that could not be read; the pairs with them are left out.
    """

    left: list[str]
    right: list[str]
    distance: np.ndarray
    same: np.ndarray
    probability: np.ndarray | None
    threshold: float
    prior: float
    skipped: tuple[Skipped, ...]

    def write(self, path: Path) -> None:
        """Write a CSV with the columns left, right, distance, verdict and probability, atomically."""
        text = io.StringIO()
        rows = csv.writer(text, lineterminator="\n")
        rows.writerow(COLUMNS)
        sure = [""] * len(self.left) if self.probability is None else [f"{value:.6g}" for value in self.probability]
        words = np.where(self.same, "same", "different")
        distances = [f"{value:.9g}" for value in self.distance]  # as many digits as tell float32 numbers apart
        rows.writerows(zip(self.left, self.right, distances, words, sure, strict=True))
        files.write_text(path, text.getvalue())


def check_verdicts_path(path: Path) -> None:
    """Raise InputError unless verdicts can go to a new CSV at `path`."""
    if path.suffix.lower() != ".csv":
        raise InputError(f"verdicts are written as a CSV; {path} does not end in .csv.")
    if path.exists():
        raise InputError(f"{path} exists already. Choose another name, or remove it.")


def names_of(records: Records) -> tuple[list[str], list[str]]:
    """What the left and the right items of pairs are called: whole texts, and paths as they were given."""
    assert records.tuples is not None
    values = [getattr(item, "value", item) for item in records.items]
    kinds = [getattr(item, "kind", records.kind) for item in records.items]
    words = [
        str(value) if kind == "text" else str(name)
        for value, kind, name in zip(values, kinds, records.names, strict=True)
    ]
    left, right = ([words[item] for item in records.tuples[:, side]] for side in (0, 1))
    return left, right

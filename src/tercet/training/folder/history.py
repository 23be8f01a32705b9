"""The history of a run, a JSON object a line: what each step measured, and each evaluation."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tercet.errors import StorageError
from tercet.training.folder import files
from tercet.training.folder.trackers import Tracker


class History:
    """Appends to history.jsonl; a resumed run first drops what its checkpoint does not know of.

    Args:
        path: of the file.
        resumed_step: what the checkpoint knows of.
        trackers: called with each new row.
        interim: whether the last evaluation was one of an interruption, and is dropped.
    """

    def __init__(
        self, path: Path, resumed_step: int, trackers: Sequence[Tracker] = (), interim: bool = False
    ) -> None:  # fmt: skip
        self.path, self.trackers = path, trackers
        self.rows = [row for row in read_history(path) if row["step"] <= resumed_step]
        if interim:
            self.rows = [row for row in self.rows if row["step"] < resumed_step or not _is_evaluation(row)]
        files.write_text(path, "".join(_line(row) for row in self.rows))

    def add(self, step: int, figures: dict[str, Any]) -> None:
        """Append the figures of a step; one that is not finite is written as null."""
        row = _finite({"step": step, **figures})
        self.rows.append(row)
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(_line(row))
        except OSError as cause:
            raise StorageError(f"could not write {self.path}: {cause.strerror or cause}.") from cause
        figures = {name: value for name, value in row.items() if name != "step"}
        for tracker in self.trackers:
            tracker(step, figures)


class NoHistory(History):
    """Writes nothing: rank 0 does."""

    def __init__(self) -> None:
        self.rows = []

    def add(self, step: int, figures: dict[str, Any]) -> None:
        """Leave it to rank 0."""


def read_history(path: Path) -> list[dict[str, Any]]:
    """The rows of a history.jsonl; a last line that a killed process left half-written is not one of them."""
    if not path.exists():
        return []
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


def _is_evaluation(row: dict[str, Any]) -> bool:
    return any(name.startswith("validation.") for name in row)


def _finite(row: dict[str, Any]) -> dict[str, Any]:
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in row.items()
    }


def _line(row: dict[str, Any]) -> str:
    return json.dumps(row) + "\n"

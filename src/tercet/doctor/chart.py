"""Charts: the history of a run as a doctor reads it, over spans of steps that are long enough to mean something.

Healthy runs shrink too before they spread (Hermans et al. 2017, supplement D: all is pulled to the centre of gravity,
items must pass each other, and only then are pushed apart). So no sign counts before a time of grace, and none that
does not persist.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

Row = Mapping[str, Any]

GRACE_SHARE, GRACE_STEPS = 0.1, (20, 1000)
"""Steps without a verdict: this share of the run, within these ends, for the packed phase of a healthy run."""
PERSISTENCE_SHARE, PERSISTENCE_STEPS = 0.1, (20, 500)
"""How long a sign must last: this share of the run, within these ends."""
QUALITIES = ("map_at_r", "triplet_accuracy", "auc", "recall_at_1")


@dataclass(frozen=True)
class Case:
    """What is known of a run besides its history; what is left open is not known.

    Attributes:
        steps: how many the run was to make.
        loss: "triplet", "contrastive", "infonce", "supcon"; None for a loss of the user's own.
        margin: of the loss, or the largest of several.
        distance: its name.
        largest: the largest value of that distance between any two embeddings of this run; infinity if it has none.
        dim: numbers in an embedding.
        batch: items in a batch, at most.
        mining: of the triplet loss.
        since: the step that the time of grace starts from: later than 0 where something was done against an illness.
    """

    steps: int
    loss: str | None = None
    margin: float | None = None
    distance: str = "euclidean"
    largest: float = math.inf
    dim: int | None = None
    batch: int | None = None
    mining: str | None = None
    since: int = 0

    @property
    def grace(self) -> int:
        """The last step that no verdict is given of."""
        return self.since + _within(GRACE_SHARE * self.steps, GRACE_STEPS)

    @property
    def persistence(self) -> int:
        """How many steps a sign must last."""
        return _within(PERSISTENCE_SHARE * self.steps, PERSISTENCE_STEPS)


def _within(count: float, ends: tuple[int, int]) -> int:
    return math.ceil(min(max(count, ends[0]), ends[1]))


class Chart:
    """The rows of a history, those of steps apart from those of evaluations; and the case."""

    def __init__(self, rows: Sequence[Row], case: Case) -> None:
        self.case = case
        self.rows = [row for row in rows if "loss" in row]
        self.evaluations = [row for row in rows if any(name.startswith("validation.") for name in row)]

    @property
    def last(self) -> int:
        """The last step that was recorded; 0 if none was."""
        return int(self.rows[-1]["step"]) if self.rows else 0

    def has(self, *names: str) -> bool:
        """Whether the history holds each of these figures somewhere."""
        return all(name in self._names for name in names)

    @cached_property
    def _names(self) -> set[str]:
        return {name for row in self.rows for name, value in row.items() if value is not None}

    def start(self, name: str) -> float | None:
        """A figure of the first row that holds it: of the untrained network, as a row is measured before its update."""
        return next((row[name] for row in self.rows if row.get(name) is not None), None)

    def window(self, steps: int) -> list[Row]:
        """The rows of the last so many steps; empty until these all lie behind the time of grace."""
        first = self.last - steps
        return [] if first < self.case.grace else [row for row in self.rows if row["step"] > first]

    def quality(self) -> tuple[str, float] | None:
        """The name and the best value of the validation metric that says most; larger is better."""
        for name in QUALITIES:
            found = [row[f"validation.{name}"] for row in self.evaluations if row.get(f"validation.{name}") is not None]
            if found:
                return name, max(found)
        return None


def median(rows: Sequence[Row], name: str) -> float | None:
    """The median of a figure over the rows that hold it; None if none does."""
    found = [row[name] for row in rows if row.get(name) is not None]
    return statistics.median(found) if found else None


def mean(rows: Sequence[Row], name: str) -> float | None:
    """The mean of a figure over the rows that hold it; None if none does."""
    found = [row[name] for row in rows if row.get(name) is not None]
    return statistics.fmean(found) if found else None

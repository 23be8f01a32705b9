"""Curriculum: its options, and how much of the data is in use at each step (Wu et al. 2021). Imports no torch."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any, Literal


@dataclass(frozen=True)
class CurriculumOptions:
    """Train on a part of the data that grows (labelled data): scoring, pacing and order are independent."""

    pacing: Literal["log", "root", "linear", "quadratic", "exponential", "step"] | None = None
    """How the part grows, from fast to slow; step is start until full_at, then all. All data from the start when left \
open."""

    order: Literal["curriculum", "anti", "random"] = "curriculum"
    """Which items come first: easy ones, hard ones, or any; random and anti are the controls that a curriculum has to \
beat."""

    scoring: Literal["loss", "learned", "column"] | None = None
    """What says how hard an item is: its loss by the reference run; the step from which on that run had learned it, \
which is recorded by --record-learned; or a column of the table, in which larger is harder. Not looked at with order \
random."""

    reference: str | None = None
    """scoring loss and learned: the run that scores."""

    column: str | None = None
    """scoring column: its name."""

    full_at: float = 0.8
    """The share of the steps at which all data is in use, a in the paper; beyond 1, it never is."""

    start: float = 0.2
    """The share of the data that is in use at the first step, b in the paper."""

    levels: int = 20
    """In how many steps, at most, the part grows."""

    def faults(self) -> list[str]:
        """Every value that is out of range, or does nothing beside the others, in words."""
        if self.pacing is None:
            idle = [f"curriculum.{entry.name}" for entry in fields(self) if getattr(self, entry.name) != entry.default]
            return [f"{', '.join(idle)}: nothing is paced without curriculum.pacing; give it too"] if idle else []
        rules: list[tuple[str, Any, bool, str]] = [
            ("full_at", self.full_at, 0 < self.full_at < math.inf, "a finite number above 0"),
            ("start", self.start, 0 < self.start < 1, "between 0 and 1"),
            ("levels", self.levels, self.levels >= 1, "1 or more"),
        ]
        found = [
            f"curriculum.{name} is {given!r}, it must be {allowed}" for name, given, ok, allowed in rules if not ok
        ]
        return found + self._unscored()

    def _unscored(self) -> list[str]:
        """What scoring needs and does not have, or has and does not need."""
        found = []
        if self.scoring is None and self.order != "random":
            found.append(f"curriculum.order is {self.order!r}, which needs curriculum.scoring: loss, learned or column")
        for name, owners in (("reference", ("loss", "learned")), ("column", ("column",))):
            given = getattr(self, name)
            if self.scoring in owners and given is None:
                found.append(f"curriculum.scoring is {self.scoring!r}, which needs curriculum.{name}")
            if self.scoring not in owners and given is not None:
                listed = " or ".join(map(repr, owners))
                found.append(f"curriculum.{name} is {given!r}, but it belongs to curriculum.scoring={listed}")
        return found


def pool_size(options: CurriculumOptions, step: int, steps: int, items: int) -> float:
    """g(t) of N items at step t of T, counted from 0, with a = full_at and b = start; N from t = aT on.

        linear, quadratic, root    N b + N (1 - b) (t / aT)^p, p = 1, 2, 1/2
        step                       N b + N (1 - b) floor(t / aT)
        exponential                N b + N (1 - b) (exp(10 t / aT) - 1) / (exp(10) - 1)
        log                        N b + N (1 - b) (1 + ln(t / aT + exp(-10)) / 10)

    Source: Wu et al., When Do Curricula Work? (ICLR 2021), the pacing functions. There the step adds N instead of
    N (1 - b), and all are cut off at N, which is the same.
    """
    return items * (options.start + (1 - options.start) * _growth(options, step, steps))


def stages(options: CurriculumOptions, steps: int, items: int) -> list[tuple[int, int]]:
    """Each step at which the part grows, and to how many items: g(t) rounded down to one of so many levels, at least 1.

    The first is of step 0. Time O(steps).
    """
    found: list[tuple[int, int]] = []
    for step in range(steps):
        level = math.floor(options.levels * _growth(options, step, steps) + 1e-9)
        share = options.start + (1 - options.start) * level / options.levels
        count = max(1, math.floor(items * share + 1e-9))
        if not found or count > found[-1][1]:
            found.append((step, count))
    return found


def _growth(options: CurriculumOptions, step: int, steps: int) -> float:
    """How far the part has grown from its start, 0, to the whole, 1."""
    passed = step / (options.full_at * steps)
    if passed >= 1:
        return 1.0
    if options.pacing == "exponential":
        return math.expm1(10 * passed) / math.expm1(10)
    if options.pacing == "log":
        return 1 + math.log(passed + math.exp(-10)) / 10
    if options.pacing == "step":
        return 0.0
    return float(passed ** {"linear": 1, "quadratic": 2, "root": 0.5}[options.pacing or "linear"])

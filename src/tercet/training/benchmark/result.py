"""What a benchmark found, and the tables that say it."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tercet.training.benchmark.comparison import Difference, Estimate, differences_of, sentence_of
from tercet.training.benchmark.testing import KINDS, METRICS
from tercet.training.tuning.comparison import Interval
from tercet.training.tuning.space import Settings, listed


@dataclass(frozen=True)
class Tried:
    """Settings that were tried on every fold.

    Attributes:
        number: of the trial.
        settings: what was tried.
        steps: for how many each fold was trained.
        values: the validation MAP@R of each fold, as far as they were trained.
        failure: why it failed, if it did on a fold.
    """

    number: int
    settings: Settings
    steps: int
    values: tuple[float, ...]
    failure: str | None

    @property
    def mean(self) -> float | None:
        """Of the folds; None if one failed."""
        return None if self.failure else sum(self.values) / len(self.values)

    def to_json(self) -> dict[str, Any]:
        """All of it as plain values."""
        return {
            "number": self.number, "settings": self.settings, "steps": self.steps, "values": list(self.values),
            "mean": self.mean, "failure": self.failure,
        }  # fmt: skip


@dataclass(frozen=True)
class Scored:
    """One method: what was chosen for it, and what came of it.

    Attributes:
        name: of the method.
        chosen: the number of its best trial; None if all failed.
        settings: of that trial.
        trials: what was tried, in order; nothing where there was nothing to choose.
        validation: MAP@R on the classes held out, mean over the folds; None if no seed is whole.
        test: by kind and metric, as `validation`.
        failures: by seed, why a fold failed; such a seed has no figures.
    """

    name: str
    chosen: int | None
    settings: Settings
    trials: tuple[Tried, ...]
    validation: Estimate | None
    test: dict[str, dict[str, Estimate]]
    failures: dict[int, str]

    def to_json(self) -> dict[str, Any]:
        """All of it as plain values."""
        return {
            "name": self.name, "chosen": self.chosen, "settings": self.settings,
            "trials": [one.to_json() for one in self.trials],
            "validation": None if self.validation is None else {"map_at_r": self.validation.to_json()},
            "test": {kind: {name: one.to_json() for name, one in found.items()} for kind, found in self.test.items()},
            "failures": {str(seed): reason for seed, reason in self.failures.items()},
        }  # fmt: skip


@dataclass(frozen=True)
class Benchmark:
    """What was compared, and what came of it.

    Attributes:
        path: the folder.
        data: what was trained on, validated and tested, in words.
        steps: of each training.
        folds: how many.
        seeds: of the trainings that were tested.
        methods: in the order they were given.
        differences: of all pairs, for each kind and metric.
        sentence: what is significant.
    """

    path: Path
    data: dict[str, str]
    steps: int
    folds: int
    seeds: tuple[int, ...]
    methods: tuple[Scored, ...]
    differences: tuple[Difference, ...]
    sentence: str

    @classmethod
    def of(
        cls, path: Path, data: dict[str, str], steps: int, folds: int, seeds: Sequence[int], methods: Sequence[Scored]
    ) -> Benchmark:
        """The benchmark, with the comparisons that follow from the figures."""
        found = {
            (kind, metric): differences_of(
                kind, metric, {one.name: one.test[kind][metric] for one in methods if one.test}
            )
            for kind in KINDS
            for metric in METRICS
        }
        said = [sentence_of(found[kind, "map_at_r"], f"MAP@R, {kind},") for kind in KINDS]
        differences = tuple(one for several in found.values() for one in several)
        return cls(path, data, steps, folds, tuple(seeds), tuple(methods), differences, "; ".join(said) + ".")

    def to_json(self) -> dict[str, Any]:
        """All of it as plain values, as benchmark.json holds it."""
        return {
            "data": self.data, "steps": self.steps, "folds": self.folds, "seeds": list(self.seeds),
            "methods": [one.to_json() for one in self.methods],
            "differences": [one.to_json() for one in self.differences], "sentence": self.sentence,
        }  # fmt: skip

    def to_markdown(self) -> str:
        """The tables for reading: the test, what was chosen, and the differences in MAP@R."""
        parts = [
            f"{self.data['test']}: {len(self.seeds)} seeds of {self.folds} folds, {self.steps:,} steps each; 95 % "
            "intervals over the seeds.",
            *(_table([f"{kind}", *METRICS.values()], self._rows(kind)) for kind in KINDS),
            _table(["chosen on validation", "settings", "MAP@R there"], map(_chosen, self.methods)),
            _table(["difference in MAP@R", "separate", "concatenated"], self._compared()),
            self.sentence[:1].upper() + self.sentence[1:],
        ]
        return "\n\n".join(part for part in parts if part) + "\n"

    def to_csv(self) -> str:
        """A line for each method, kind and metric: mean, interval, and how many seeds."""
        text = io.StringIO()
        rows = csv.writer(text, lineterminator="\n")
        rows.writerow(["method", "evaluation", "metric", "mean", "low", "high", "seeds"])
        for one in self.methods:
            for kind, found in one.test.items():
                for metric, estimate in found.items():
                    ends = estimate.interval or ("", "")
                    rows.writerow([one.name, kind, metric, estimate.mean, *ends, len(estimate.values)])
        return text.getvalue()

    def _rows(self, kind: str) -> list[list[str]]:
        return [[one.name, *(_shown(one.test.get(kind, {}).get(metric)) for metric in METRICS)] for one in self.methods]

    def _compared(self) -> list[list[str]]:
        of = {(one.better, one.worse, one.kind): one for one in self.differences if one.metric == "map_at_r"}
        rows = []
        for better, worse, kind in of:
            if kind == "separate":
                joined = of.get((better, worse, "concatenated")) or of[worse, better, "concatenated"]
                sign = 1 if joined.better == better else -1
                rows.append([f"{better} - {worse}", _signed(of[better, worse, kind], 1), _signed(joined, sign)])
        return rows


def _chosen(one: Scored) -> list[str]:
    if one.chosen is None:
        return [one.name, "every trial failed", "-"]
    failed = f"; failed: {len(one.failures)} seeds" if one.failures else ""
    return [one.name, (listed(one.settings) or "as given") + failed, _shown(one.validation)]


def _signed(one: Difference, sign: int) -> str:
    ends = None if one.interval is None else sorted(sign * end for end in one.interval)
    mark = " *" if one.significant else ""
    return _figure(sign * one.mean, None if ends is None else (ends[0], ends[1])) + mark


def _shown(estimate: Estimate | None) -> str:
    return "-" if estimate is None else _figure(estimate.mean, estimate.interval)


def _figure(value: float, interval: Interval | None) -> str:
    return f"{value:.3f}" + ("" if interval is None else f" [{interval[0]:.3f}, {interval[1]:.3f}]")


def _table(heading: Sequence[str], rows: Any) -> str:
    """A table in Markdown; nothing of no rows."""
    listed_rows = [list(row) for row in rows]
    lines = [list(heading), ["---"] * len(heading), *listed_rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines) if listed_rows else ""

"""What the figures of trials tell: which finalist is best, whether that is more than luck, and what each value did."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tercet.training.assessment.selection import LARGER_IS_BETTER
from tercet.training.tuning.space import Settings, Space
from tercet.training.tuning.trials import Trial

LEVEL = 0.95
Interval = tuple[float, float]


@dataclass(frozen=True)
class Finalist:
    """A trial of the last rung, over seeds.

    Attributes:
        number: which trial it is.
        settings: what was tried.
        runs: the run of each seed, the tuning's own seed first.
        mean: of the metric over the seeds that did not fail; None if all did.
        interval: of the mean, by Student's t over the seeds, cut to [0, 1]; None of fewer than two.
        difference: how much better the best finalist is, on the average over the seeds that both have; None for itself.
        difference_interval: of that, by Student's t over the pairs; None of fewer than two.
    """

    number: int
    settings: Settings
    runs: tuple[Trial, ...]
    mean: float | None
    interval: Interval | None
    difference: float | None = None
    difference_interval: Interval | None = None

    @property
    def values(self) -> dict[int, float]:
        """The metric by seed, of the runs that did not fail."""
        return {run.seed: run.value for run in self.runs if run.value is not None}

    @property
    def distinguishable(self) -> bool:
        """Whether the interval of the difference to the best leaves out zero."""
        return self.difference_interval is not None and self.difference_interval[0] > 0

    def to_json(self) -> dict[str, Any]:
        """All of it as plain values."""
        return {
            "trial": self.number, "settings": self.settings, "mean": self.mean, "interval": _listed(self.interval),
            "difference": self.difference, "difference_interval": _listed(self.difference_interval),
            "distinguishable": self.distinguishable,
            "runs": [{name: getattr(run, name) for name in ("seed", "value", "failure", "run")} for run in self.runs],
        }  # fmt: skip


@dataclass(frozen=True)
class Effect:
    """What the trials of the first rung with one value of a setting came to.

    Attributes:
        value: of the setting.
        trials: how many had it.
        failed: how many of these failed.
        mean: of the metric over the others; None if all failed.
        best: of the metric; None if all failed.
    """

    value: Any
    trials: int
    failed: int
    mean: float | None
    best: float | None


def ranked(trials: Sequence[Trial], metric: str) -> list[Trial]:
    """The trials that did not fail, the best first, and of equals the one drawn first."""
    sign = -1 if LARGER_IS_BETTER[metric] else 1
    return sorted((one for one in trials if one.value is not None), key=lambda one: (sign * _value(one), one.number))


def effects_of(trials: Sequence[Trial], space: Space, metric: str) -> dict[str, tuple[Effect, ...]]:
    """By setting, what each of its values came to; settings with a single value are left out."""
    return {
        name: tuple(_effect([one for one in trials if one.settings[name] == value], value, metric) for value in values)
        for name, values in space.items()
        if len(values) > 1
    }


def finalists_of(runs: Sequence[Sequence[Trial]], metric: str) -> tuple[Finalist, ...]:
    """The finalists, the best first: fewest failed seeds, then the best mean.

    Args:
        runs: for each finalist its runs, one a seed, the same seeds for all.
        metric: by which they are compared.
    """
    found = sorted(map(_finalist, runs), key=lambda one: _order(one, metric))
    return (found[0], *(_against(found[0], one, metric) for one in found[1:]))


def mean_interval(values: Sequence[float]) -> Interval | None:
    """The 95 % interval of the mean of independent values by Student's t; None of fewer than two values."""
    if len(values) < 2:
        return None
    from scipy.stats import t  # type: ignore[import-untyped, unused-ignore]

    quantile = float(t.ppf((1 + LEVEL) / 2, len(values) - 1))
    half = quantile * statistics.stdev(values) / math.sqrt(len(values))
    mean = statistics.fmean(values)
    return mean - half, mean + half


def verdict_of(finalists: Sequence[Finalist]) -> str:
    """In a sentence: which is best, and whether the seeds tell it from the runner-up."""
    best = finalists[0]
    if len(finalists) == 1:
        return f"trial {best.number} is what was left, so there is nothing to compare it with"
    second = finalists[1]
    if second.difference is None:
        return f"trial {best.number} is best; of the runner-up, trial {second.number}, no seed is left to compare"
    if second.difference_interval is None:
        return (
            f"trial {best.number} is best by {second.difference:.3f} on one seed, which does not tell it from the "
            f"runner-up, trial {second.number}; give more seeds"
        )
    by = f"{second.difference:.3f} [{second.difference_interval[0]:.3f}, {second.difference_interval[1]:.3f}]"
    pairs = len(best.values.keys() & second.values.keys())
    if second.distinguishable:
        return f"trial {best.number} is better than the runner-up, trial {second.number}, by {by} over {pairs} seeds"
    return (
        f"trial {best.number} cannot be told from the runner-up, trial {second.number}: the difference is {by} over "
        f"{pairs} seeds, so either may be taken"
    )


def _value(trial: Trial) -> float:
    assert trial.value is not None
    return trial.value


def _effect(trials: Sequence[Trial], value: Any, metric: str) -> Effect:
    values = [_value(one) for one in ranked(trials, metric)]
    mean, best = (statistics.fmean(values), values[0]) if values else (None, None)
    return Effect(value, len(trials), len(trials) - len(values), mean, best)


def _finalist(runs: Sequence[Trial]) -> Finalist:
    values = [run.value for run in runs if run.value is not None]
    ends = mean_interval(values)
    return Finalist(
        runs[0].number, runs[0].settings, tuple(runs),
        mean=statistics.fmean(values) if values else None,
        interval=None if ends is None else (max(ends[0], 0.0), min(ends[1], 1.0)),
    )  # fmt: skip


def _order(finalist: Finalist, metric: str) -> tuple[int, float, int]:
    sign = -1 if LARGER_IS_BETTER[metric] else 1
    mean = math.inf if finalist.mean is None else sign * finalist.mean
    return len(finalist.runs) - len(finalist.values), mean, finalist.number


def _against(best: Finalist, other: Finalist, metric: str) -> Finalist:
    """The finalist with its difference to the best, paired by seed."""
    sign = 1 if LARGER_IS_BETTER[metric] else -1
    mine, theirs = best.values, other.values
    differences = [sign * (mine[seed] - theirs[seed]) for seed in mine if seed in theirs]
    if not differences:
        return other
    return dataclasses.replace(
        other, difference=statistics.fmean(differences), difference_interval=mean_interval(differences)
    )


def _listed(interval: Interval | None) -> list[float] | None:
    return None if interval is None else list(interval)

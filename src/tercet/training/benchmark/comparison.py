"""What the figures of the test tell: means over seeds, paired differences, and which of them are more than luck."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tercet.training.tuning.comparison import Interval, mean_interval

SIGNIFICANT = 0.05
BySeed = Mapping[int, float]


@dataclass(frozen=True)
class Estimate:
    """A figure over seeds.

    Attributes:
        mean: over the seeds.
        interval: of the mean, 95 %, by Student's t over the seeds, cut to [0, 1]; None of fewer than two.
        values: by seed.
    """

    mean: float
    interval: Interval | None
    values: dict[int, float]

    @classmethod
    def of(cls, values: BySeed) -> Estimate:
        """The estimate of at least one value."""
        ends = mean_interval(list(values.values()))
        cut = None if ends is None else (max(ends[0], 0.0), min(ends[1], 1.0))
        return cls(statistics.fmean(values.values()), cut, dict(values))

    def to_json(self) -> dict[str, Any]:
        """All of it as plain values."""
        return {
            "mean": self.mean, "interval": None if self.interval is None else list(self.interval),
            "values": {str(seed): value for seed, value in self.values.items()},
        }  # fmt: skip


@dataclass(frozen=True)
class Difference:
    """How much better one method is than another, paired by seed: the same folds, the same seed, the same test.

    Attributes:
        better: the method with the larger mean.
        worse: the other.
        kind: "separate" or "concatenated".
        metric: by its key.
        mean: of the differences.
        interval: of their mean, 95 %, by Student's t; None of fewer than two seeds.
        p: of the paired t-test, two-sided; None of fewer than two seeds.
        adjusted: p after Holm's correction for all pairs of methods, of this kind and metric.
        seeds: how many both methods have.
    """

    better: str
    worse: str
    kind: str
    metric: str
    mean: float
    interval: Interval | None
    p: float | None
    adjusted: float | None
    seeds: int

    @property
    def significant(self) -> bool:
        """Whether chance alone would do that less than once in twenty benchmarks, for any of the pairs."""
        return self.adjusted is not None and self.adjusted < SIGNIFICANT

    def to_json(self) -> dict[str, Any]:
        """All of it as plain values."""
        return {
            "better": self.better, "worse": self.worse, "kind": self.kind, "metric": self.metric, "mean": self.mean,
            "interval": None if self.interval is None else list(self.interval), "p": self.p, "adjusted": self.adjusted,
            "seeds": self.seeds, "significant": self.significant,
        }  # fmt: skip


def differences_of(kind: str, metric: str, methods: Mapping[str, Estimate]) -> list[Difference]:
    """Each pair of methods compared, the best methods first, with p-values corrected for there being several pairs.

    Holm's correction (1979): of m p-values in ascending order the i-th is multiplied by m - i + 1, and none is less
    than the one before it.
    """
    order = sorted(methods, key=lambda name: (-methods[name].mean, name))
    found = [_difference(kind, metric, a, b, methods) for a, b in itertools.combinations(order, 2)]
    tested = sorted((one for one in found if one.p is not None), key=lambda one: one.p or 0.0)
    least, adjusted = 0.0, {}
    for place, one in enumerate(tested):
        least = max(least, min(1.0, (one.p or 0.0) * (len(tested) - place)))
        adjusted[one.better, one.worse] = least
    return [replace(one, adjusted=adjusted.get((one.better, one.worse))) for one in found]


def paired_p(differences: Sequence[float]) -> float | None:
    """The p-value of a paired t-test, two-sided; None of fewer than two differences.

    t = mean / (s / √n) with n - 1 degrees of freedom. Differences that are all the same have no deviation: p is then 1
    if they are zero, and 0 otherwise.
    """
    if len(differences) < 2:
        return None
    from scipy.stats import t  # type: ignore[import-untyped, unused-ignore]

    mean, error = statistics.fmean(differences), statistics.stdev(differences) / math.sqrt(len(differences))
    if error == 0:
        return 1.0 if mean == 0 else 0.0
    return float(2 * t.sf(abs(mean) / error, len(differences) - 1))


def sentence_of(differences: Sequence[Difference], called: str) -> str:
    """What the pairs of one kind and metric tell, in a sentence; `called` is what was measured."""
    if not differences:
        return f"on {called} there is one method, and nothing to compare it with"
    seeds = min(one.seeds for one in differences)
    if all(one.p is None for one in differences):
        return f"on {called} {seeds} seed tells no method from another; give more --seeds"
    found = [
        f"{one.better} is better than {one.worse} by {one.mean:.3f} [{one.interval[0]:.3f}, {one.interval[1]:.3f}]"
        for one in differences
        if one.significant and one.interval is not None
    ]
    alike = [f"{one.better} and {one.worse}" for one in differences if not one.significant]
    pairs = f"{len(differences)} pairs" if len(differences) > 1 else "1 pair"
    said = "; ".join(found) if found else "no method can be told from another"
    if found and alike:
        said += f"; not told apart are {', '.join(alike)}"
    return f"on {called} {said} ({seeds} seeds, paired t-tests at 5 %, corrected for {pairs})"


def _difference(kind: str, metric: str, a: str, b: str, methods: Mapping[str, Estimate]) -> Difference:
    mine, theirs = methods[a].values, methods[b].values
    values = [mine[seed] - theirs[seed] for seed in mine if seed in theirs]
    mean = statistics.fmean(values) if values else methods[a].mean - methods[b].mean
    better, worse, sign = (a, b, 1) if mean >= 0 else (b, a, -1)
    values = [sign * value for value in values]
    return Difference(better, worse, kind, metric, sign * mean, mean_interval(values), paired_p(values), None,
                      len(values))  # fmt: skip

"""Is one better than another? Differences between figures of the same items, embedded by several runs.

Both runs meet the same classes, so a class that is hard for one is mostly hard for the other, and the variance of the
difference is that of the differences of what each class contributes: far less than that of two figures apart. The test
is Student's on that difference. Of groups of runs, a method with several seeds each, the variance between the seeds is
added, so that what is said holds for methods and not for single trainings.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np

from tercet.evaluation.classes import class_codes
from tercet.evaluation.contributions import Contributions
from tercet.evaluation.intervals import FEWEST_UNITS, LEVEL, SHARED, Interval, interval_of, mean_contributions
from tercet.evaluation.operating import pair_contributions
from tercet.evaluation.pairs import Pairs, all_pairs, given_pairs
from tercet.evaluation.retrieval import retrieval
from tercet.evaluation.rivals import rivals_of

OF_RETRIEVAL = {"recall_at_1": "recall@1", "map_at_r": "MAP@R", "r_precision": "R-precision"}
OF_PAIRS = {"auc": "AUC", "eer": "EER"}
OF_TRIPLETS = {"triplet_accuracy": "triplet accuracy"}
TITLES = OF_RETRIEVAL | OF_TRIPLETS | OF_PAIRS
"""The figures that are compared, by key; the first that both have is the one that a verdict is about."""
FOREMOST = ("map_at_r", "triplet_accuracy", "auc")
SMALLER_IS_BETTER = ("eer",)
SIGNIFICANT = 0.05
UNSEEN = 0.0005  # a difference that three digits do not show


@dataclass(frozen=True, eq=False)
class Measured:
    """One run on the items: by the name of a figure its value and what each unit contributes to it.

    Attributes:
        figures: name -> (value, contributions); of all runs the units are numbered alike.
        n_units: how many units there are.
        unit: what they are: "class", "item", "pair" or "triplet".
    """

    figures: Mapping[str, tuple[float, Contributions]]
    n_units: int
    unit: str

    def interval(self, name: str) -> Interval | None:
        """Of a figure; None of fewer than three units."""
        value, own = self.figures[name]
        if self.n_units < FEWEST_UNITS:
            return None
        return interval_of(value, own.variance(self.n_units, _shared(name)), self.n_units)


@dataclass(frozen=True)
class Difference:
    """How much larger a figure is for the second of two groups than for the first.

    Attributes:
        metric: the figure.
        one: the name of the first group.
        other: the name of the second.
        values: of both, means over their runs.
        difference: second less first.
        interval: of the difference, 95 %.
        p: of a difference at least so large where there is none, two-sided.
        p_holm: the same, held against all pairs of groups at once (Holm 1979); p itself for two groups.
    """

    metric: str
    one: str
    other: str
    values: tuple[float, float]
    difference: float
    interval: Interval
    p: float
    p_holm: float

    @property
    def significant(self) -> bool:
        """Whether chance seldom makes a difference so large: `p_holm` is below 0.05."""
        return self.p_holm < SIGNIFICANT

    def to_json(self) -> dict[str, Any]:
        """All of it as plain values."""
        plain = {name: getattr(self, name) for name in ("metric", "one", "other", "difference", "p", "p_holm")}
        return plain | {"values": list(self.values), "interval": list(self.interval), "significant": self.significant}

    def in_words(self) -> str:
        """One sentence: which is better, by how much, and whether chance explains it."""
        if abs(self.difference) < UNSEEN:
            return f"{self.one} and {self.other} have the same {TITLES[self.metric]} to three digits."
        larger, smaller = (self.other, self.one) if self.difference >= 0 else (self.one, self.other)
        low, high = sorted(end if self.difference >= 0 else -end for end in self.interval)
        lower = self.metric in SMALLER_IS_BETTER
        first, second = (smaller, larger) if lower else (larger, smaller)
        tells = "more than chance explains" if self.significant else "which chance may explain"
        return (
            f"{first} has {_article(self.metric)} {TITLES[self.metric]} {abs(self.difference):.3f} "
            f"{'lower' if lower else 'higher'} than {second} ({low:.3f} to {high:.3f}), {tells} "
            f"(p = {_rounded(self.p_holm)})."
        )


def measure_labelled(
    embeddings: np.ndarray, labels: Any, distance: Any, seed: int = 0, units: np.ndarray | None = None
) -> Measured:
    """Retrieval, leave one out, and verification of all pairs (or a seeded sample, the same for every run).

    What each class contributes to verification is taken from the pairs that `all_pairs` lists, also where it counts
    more of them. Items with several labels are measured by verification alone, whose units are then items: what each of
    these contributes to the searches of others is not known.

    Args:
        embeddings: of shape (N, D).
        labels: (N,), or several an item, see `retrieval`.
        distance: any distance of `tercet.distances`.
        seed: of samples.
        units: what is held to account for an item where that is no label: of a forgery its writer, (N,).
    """
    pairs = all_pairs(embeddings, labels, distance, seed=seed)
    figures = dict(_of_pairs(pairs))
    if pairs.unit == "item":
        return Measured(figures, len(embeddings), pairs.unit)
    found = retrieval(embeddings, labels, (1,), distance)
    if len(found.query_rows):
        rivals = rivals_of(found, embeddings, distance=distance, seed=seed)
        for name, values in found.figures().items():
            if name in OF_RETRIEVAL:
                own = mean_contributions(name, values, found.query_classes, rivals)
                figures[name] = (float(values.mean()), own)
    if units is not None:
        owner = np.zeros(len(labels), dtype=np.int64)
        owner[class_codes(labels, len(labels))] = class_codes(units, len(units))
        figures = {
            name: (value, replace(own, left=owner[own.left], right=owner[own.right]))
            for name, (value, own) in figures.items()
        }
    return Measured(figures, len(np.unique(found.relevance.classes if units is None else units)), "class")


def measure_tuples(embeddings: np.ndarray, tuples: np.ndarray, similar: Any, distance: Any) -> Measured:
    """Verification of given pairs or of those of triplets, and of triplets also their accuracy.

    Args:
        embeddings: of shape (N, D).
        tuples: (T, 2) or (T, 3).
        similar: with pairs, whether each is the same, (T,).
        distance: any distance of `tercet.distances`.
    """
    pairs = given_pairs(embeddings, tuples, similar, distance)
    figures = dict(_of_pairs(pairs))
    if pairs.unit == "triplet":
        positive, negative = pairs.distance.reshape(2, -1)
        right = (positive < negative).astype(np.float64)
        own = mean_contributions("triplet_accuracy", right, np.arange(len(right)))
        figures["triplet_accuracy"] = (float(right.mean()), own)
    return Measured(figures, len(tuples), pairs.unit)


def compare_groups(groups: Mapping[str, Sequence[Measured]]) -> list[Difference]:
    """The differences between every two groups, for each figure that all have; empty with fewer than three units.

    With one run in each group, T = Δ / sqrt(V of classes) has C - 1 degrees of freedom. With several, V is that of the
    mean of the group's runs over classes, plus the variance between its runs over their number, and the degrees of
    freedom are Welch and Satterthwaite's.

    Args:
        groups: by name the runs of each, all with one run or all with two and more.
    """
    everyone = [one for runs in groups.values() for one in runs]
    if everyone[0].n_units < FEWEST_UNITS:
        return []
    named = [name for name in TITLES if all(name in one.figures for one in everyone)]
    found = []
    for name in named:
        pairs = [_difference(name, one, groups[one], other, groups[other]) for one, other in combinations(groups, 2)]
        corrected = holm([pair.p for pair in pairs])
        found += [replace(pair, p_holm=p_holm) for pair, p_holm in zip(pairs, corrected, strict=True)]
    return found


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction: the k-th smallest of m times m - k + 1, at least that of a smaller, at most 1."""
    order = np.argsort(p_values, kind="stable")
    steps = np.asarray(p_values, dtype=np.float64)[order] * np.arange(len(order), 0, -1)
    corrected = np.empty(len(order))
    corrected[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return [float(value) for value in corrected]


def verdicts(differences: Sequence[Difference]) -> list[str]:
    """A sentence for each two groups, on the foremost figure that there is."""
    for name in FOREMOST:
        told = [one.in_words() for one in differences if one.metric == name]
        if told:
            return told
    return []


def _of_pairs(pairs: Pairs) -> Mapping[str, tuple[float, Contributions]]:
    if pairs.same.all() or not pairs.same.any():
        return {}
    ordered = pairs.part(np.argsort(pairs.distance, kind="stable"))
    contributions = pair_contributions(ordered)
    figures = {"auc": pairs.curve.auc(), "eer": pairs.curve.eer()}  # of all pairs, where more were counted than listed
    return {name: (figures[name], contributions[name][1]) for name in OF_PAIRS}


def _difference(metric: str, one: str, first: Sequence[Measured], other: str, second: Sequence[Measured]) -> Difference:
    from scipy.stats import t

    n_units = first[0].n_units
    of_both = [[run.figures[metric][0] for run in runs] for runs in (first, second)]
    means = float(np.mean(of_both[0])), float(np.mean(of_both[1]))
    parts = [run.figures[metric][1] for run in (*first, *second)]
    signs = [-1 / len(first)] * len(first) + [1 / len(second)] * len(second)
    variances = [Contributions.joined(parts, signs).variance(n_units, _shared(metric))]
    degrees = [n_units - 1]
    for values in of_both:
        if len(values) > 1:
            variances.append(float(np.var(values, ddof=1)) / len(values))
            degrees.append(len(values) - 1)
    total, difference = sum(variances), means[1] - means[0]
    if total <= 0:  # every unit fares alike with both, or equally much better with one
        p = 1.0 if difference == 0 else 0.0
        return Difference(metric, one, other, means, difference, (difference, difference), p, p)
    freedom = total**2 / sum(part**2 / of for part, of in zip(variances, degrees, strict=True))
    error = math.sqrt(total)
    half = float(t.ppf((1 + LEVEL) / 2, freedom)) * error
    p = 2 * float(t.sf(abs(difference) / error, freedom))
    return Difference(metric, one, other, means, difference, (difference - half, difference + half), p, p)


def _shared(metric: str) -> float:
    return SHARED if metric in OF_RETRIEVAL else 0.0


def _article(metric: str) -> str:
    return "an" if metric in ("r_precision", "auc", "eer") else "a"


def _rounded(p: float) -> str:
    return "0.001 or less" if p <= 0.001 else f"{p:.2g}"

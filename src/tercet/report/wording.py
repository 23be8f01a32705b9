"""Figures in words: what each metric is called, which way it is better, and how its value is written."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

THIN = "\u202f"  # a narrow space that does not break: between a number and its %


@dataclass(frozen=True)
class Metric:
    """A metric as a reader sees it; `better` is "lower" or "higher"."""

    name: str
    title: str
    meaning: str
    better: str = "higher"
    rate: bool = True

    @property
    def explained(self) -> str:
        """What it is, and which way it is better."""
        return f"{self.meaning}; {self.better} is better"

    def write(self, value: float | None) -> str:
        """The value for reading, or a dash."""
        if value is None:
            return "–"
        return percent(value) if self.rate else f"{value:.4f}".replace("-", "−")

    def write_interval(self, ends: list[float] | None) -> str:
        """Such as "11.4 to 18.8 %", or nothing without an interval."""
        if not ends:
            return ""
        low, high = (self.write(end) for end in ends)
        return f"{low.removesuffix(f'{THIN}%')} to {high}"


SIMILARITY = [
    Metric("spearman", "Spearman correlation", "of nearness with the given score, by ranks", rate=False),
    Metric("pearson", "Pearson correlation", "the same by values, which asks for a straight line", rate=False),
]
VERIFICATION = [
    Metric("eer", "Equal error rate", "errors where false accepts and false rejects are equal", "lower"),
    Metric("auc", "AUC", "chance that a same pair is nearer than a different one", rate=False),
    Metric("tar_at_far_0.1", "True accepts at 10 % false accepts", "same pairs accepted"),
    Metric("tar_at_far_0.01", "True accepts at 1 % false accepts", "same pairs accepted"),
    Metric("tar_at_far_0.001", "True accepts at 0.1 % false accepts", "same pairs accepted"),
]
RETRIEVAL = [
    Metric("r_precision", "R-precision", "share of the class among the R nearest, R = others of the class"),
    Metric("map_at_r", "MAP@R", "the same, where early hits count more"),
]
TRIPLETS = [
    Metric("triplet_accuracy", "Triplet accuracy", "positive nearer than negative"),
    Metric("triplet_accuracy_margin", "Triplet accuracy with margin", "positive nearer by more than the margin"),
]
CLUSTERS = [
    Metric(
        "nmi", "NMI of clusters", "agreement of k-means with the classes, which rises with their number", rate=False
    ),
    Metric("ami", "AMI of clusters", "the same, corrected for chance", rate=False),
    Metric("ari", "ARI of clusters", "pairs that are together in both, corrected for chance", rate=False),
]
AT_THRESHOLD = [
    Metric("accuracy", "Accuracy", "right decisions, over all pairs"),
    Metric("balanced_accuracy", "Balanced accuracy", "right decisions, same and different pairs weighed equally"),
    Metric("far", "False accepts", "different pairs taken for the same", "lower"),
    Metric("frr", "False rejects", "same pairs taken for different", "lower"),
    Metric("f1", "F1", "of the pairs taken for the same, and of the same pairs", rate=False),
]


def compared_metrics(names: set[str]) -> list[Metric]:
    """The metrics of these that tell before from after, in the order of the table."""
    ks = sorted(int(found[1]) for name in names if (found := re.fullmatch(r"recall_at_(\d+)", name)))
    recall = [Metric(f"recall_at_{k}", f"Recall@{k}", _nearest(k)) for k in ks]
    every = (*SIMILARITY, *TRIPLETS, *VERIFICATION, *recall, *RETRIEVAL, *CLUSTERS)
    listed = [metric for metric in every if metric.name in names]
    directions = sorted({name.rpartition(".")[0] for name in names if "_to_" in name.rpartition(".")[0]})
    if not directions:
        return listed
    searched = {metric.name for metric in (*recall, *RETRIEVAL)}
    both = [replace(one, title=f"{one.title}, mean of both") if one.name in searched else one for one in listed]
    return both + [metric for direction in directions for metric in _of_direction(direction, names)]


def _of_direction(direction: str, names: set[str]) -> list[Metric]:
    """The metrics of one side searched for in the other, such as "image_to_text.map_at_r": of images among texts."""
    before, words = f"{direction}.", direction.replace("_", " ")
    own = compared_metrics({name.removeprefix(before) for name in names if name.startswith(before)})
    return [replace(one, name=before + one.name, title=f"{one.title}, {words}") for one in own]


def metric_of(name: str) -> Metric:
    """The metric of that name, or a plain one for a name from elsewhere."""
    known = {metric.name: metric for metric in (*compared_metrics({name}), *AT_THRESHOLD)}
    return known.get(name, Metric(name, name, "", rate=False))


def percent(value: float) -> str:
    """0.0831 as "8.3 %", and 0.00831 as "0.83 %"."""
    digits = 2 if 0 < abs(value) < 0.00995 else 1
    return f"{100 * value:.{digits}f}{THIN}%"


def number(value: object) -> str:
    """A count with separators, another number with four digits that count, a dash for none."""
    if value is None:
        return "–"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if isinstance(value, int) or (value.is_integer() and abs(value) < 1e15):
        return f"{int(value):,}"
    return f"{value:.4g}"


def _nearest(k: int) -> str:
    return "the nearest is of the class" if k == 1 else f"one of the {k} nearest is of the class"

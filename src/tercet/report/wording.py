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

    def write(self, value: float | None) -> str:
        """The value for reading, or a dash."""
        if value is None:
            return "–"
        return percent(value) if self.rate else f"{value:.4f}"

    def write_interval(self, ends: list[float] | None) -> str:
        """Such as "11.4 to 18.8 %", or nothing without an interval."""
        if not ends:
            return ""
        low, high = (self.write(end) for end in ends)
        return f"{low.removesuffix(f'{THIN}%')} to {high}"


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
TRIPLETS = [Metric("triplet_accuracy", "Triplet accuracy", "positive nearer than negative")]
AT_THRESHOLD = [
    Metric("accuracy", "Accuracy", "right decisions, over all pairs"),
    Metric("balanced_accuracy", "Balanced accuracy", "right decisions, same and different pairs weighed equally"),
    Metric("far", "False accepts", "different pairs taken for the same", "lower"),
    Metric("frr", "False rejects", "same pairs taken for different", "lower"),
]


def compared_metrics(names: set[str]) -> list[Metric]:
    """The metrics of these that tell before from after, in the order of the table."""
    ks = sorted(int(found[1]) for name in names if (found := re.fullmatch(r"recall_at_(\d+)", name)))
    recall = [Metric(f"recall_at_{k}", f"Recall@{k}", _nearest(k)) for k in ks]
    listed = [metric for metric in (*TRIPLETS, *VERIFICATION, *recall, *RETRIEVAL) if metric.name in names]
    return listed + _of_directions(names)


def _of_directions(names: set[str]) -> list[Metric]:
    """The metrics of two sides, such as "image_to_text.map_at_r": of images as queries among texts."""
    found = []
    for name in sorted(names):
        direction, dot, metric = name.rpartition(".")
        if dot and "_to_" in direction:
            words = direction.replace("_", " ")
            found += [replace(one, name=name, title=f"{one.title}, {words}") for one in compared_metrics({metric})]
    return found


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

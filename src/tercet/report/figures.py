"""The charts of one run: how training went, and how well same and different are told apart."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import isfinite
from statistics import NormalDist
from typing import Any

from tercet.report.chart import BEFORE, FIRST, GREY, SECOND, THIRD, Chart, Figure, Series, Style
from tercet.report.folder import RunFolder
from tercet.report.wording import metric_of, number, percent

MOST_POINTS = 500
REGIONS = (("hard", "hard"), ("semihard", "semi-hard"), ("easy", "easy"))
REGION_STYLES = (
    Style(SECOND.colour, "solid", "triangle"),
    Style(FIRST.colour, "dashed", "square"),
    Style(THIRD.colour, "dotted", "circle"),
)
DET_RATES = (0.0001, 0.001, 0.005, 0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 0.95)
MOST_TICKS = 9  # of the DET, that none covers another on a phone
PROBIT = NormalDist().inv_cdf
MOST_SIZES = 24

CURVES = (
    ("loss", "Loss", "loss", (("loss", "loss"),)),
    ("active", "Active share of the triplets", "share", (("active_share", "active share"),)),
    ("distances", "Mean distance in the batch", "distance",
     (("mean_positive", "to positives"), ("mean_negative", "to negatives"))),
    ("rate", "Learning rate", "learning rate", (("learning_rate", "learning rate"),)),
    ("gradient", "Gradient norm", "norm", (("gradient_norm", "gradient norm"),)),
)  # fmt: skip
"""Name, title, what the axis says, and the fields of history.jsonl with what they are called."""


def training_figures(run: RunFolder) -> list[Figure]:
    """The curves of training that the history has the fields for."""
    figures = []
    for name, title, y_label, fields in CURVES:
        styles = (FIRST, SECOND)
        curves = [Series(label, look, *curve(run, key)) for (key, label), look in zip(fields, styles, strict=False)]
        lines = [line for line in curves if line.x]
        if lines:
            figures.append(Chart(name, title, told(run, lines), lines, "step", y_label).figure())
    return [*figures, *_validation_figure(run)]


def _validation_figure(run: RunFolder) -> list[Figure]:
    selection = str(run.summary.get("selection") or "map_at_r")
    lines = []
    for key, look in zip(dict.fromkeys((selection, "eer")), (FIRST, SECOND), strict=False):
        steps, values = curve(run, f"validation.{key}")
        if steps:
            lines.append(Series(metric_of(key).title, look, steps, values))
    if not lines:
        return []
    caption = told(run, lines)
    best = run.summary.get("best_step")
    if best is not None:
        caption += f" The weights of step {number(best)} were kept (the vertical line)."
    marks = [] if best is None else [best]
    return [Chart("validation", "Validation", caption, lines, "step", "figure", marks=marks).figure()]


def region_figures(run: RunFolder) -> list[Figure]:
    """Where the triplets lay while training went on, and what the loss made of those of a batch."""
    return [*_regions(run), *_penalty(run)]


def _regions(run: RunFolder) -> list[Figure]:
    counted = any(row.get("n_hard") is not None for row in run.history)
    lines = []
    for (key, label), look in zip(REGIONS, REGION_STYLES, strict=True):
        steps, values = _share(run, key) if counted else curve(run, f"{key}_share")
        if steps:
            lines.append(Series(label, look, steps, values))
    if not lines:
        return []
    of = "every triplet of a batch" if counted else "the triplets among up to 128 items of a batch"
    caption = (
        f"{told(run, lines)} Shares of {of}, before mining: hard, the negative is no farther than the positive; "
        "semi-hard, farther by less than the margin; easy, the rest."
    )
    return [Chart("regions", "Triplet regions", caption, lines, "step", "share of the triplets").figure()]


def _share(run: RunFolder, kind: str) -> tuple[list[float], list[float]]:
    """The share of a kind, where the whole batch was counted."""
    rows = []
    for row in run.history:
        if row.get("n_hard") is not None:
            total = row["n_hard"] + row["n_semihard"] + row["n_easy"]
            rows.append((row["step"], row[f"n_{kind}"] / total if total else None))
    return thinned(rows)


def _penalty(run: RunFolder) -> list[Figure]:
    found = run.triplets
    if not found:
        return []
    margin = found.get("margin") or 0.0
    rows = [(near - far, far, near, cost)
            for near, far, cost in zip(found["d_ap"], found["d_an"], found["loss"], strict=True)]  # fmt: skip
    parts: dict[str, list[tuple[float, float, float, float]]] = {label: [] for _, label in REGIONS}
    for row in rows:
        parts["hard" if row[0] >= 0 else "easy" if row[1] >= row[2] + margin else "semi-hard"].append(row)
    points = [
        Series(label, look, [row[0] for row in own], [row[3] for row in own])
        for (label, own), look in zip(parts.items(), REGION_STYLES, strict=True)
        if own
    ]
    shares = ", ".join(f"{percent(len(own) / len(rows))} {label}" for label, own in parts.items() if own)
    drawn = f"{number(len(rows))} of {number(found['of'])}" if found["of"] > len(rows) else f"All {number(len(rows))}"
    costing = sum(row[3] > 0 for row in rows) / len(rows)
    told_costs = f" {percent(costing)} cost something." if costing < 1 else ""  # a softplus never ends
    said = f"margin {number(margin)} (the left vertical line)" if margin else "which has no margin"
    caption = (
        f"The loss of one triplet ({found['penalty']}, {said}) by d_ap - d_an, and {drawn.lower()} triplets of the "
        f"batch of step {number(found['step'])}: {shares}.{told_costs} To the right of 0 the "
        "negative is nearer than the positive."
    )
    line = Series("loss of a triplet", Style(GREY), found["curve"]["difference"], found["curve"]["loss"])
    table: tuple[list[str], list[list[Any]]] = (
        ["region", "d_ap", "d_an", "loss"],
        [[label, near, far, cost] for label, own in parts.items() for _, far, near, cost in own],
    )
    marks = [-margin, 0.0] if margin else [0.0]
    return [
        Chart("penalty", "The loss and a batch's triplets", caption, [line], "d_ap - d_an", "loss", points, marks,
              table=table).figure()
    ]  # fmt: skip


def distance_figures(run: RunFolder, name: str) -> list[Figure]:
    """The distances of same and of different pairs, each as a share of its kind, and the threshold."""
    histogram = run.outcome(name).get("histogram", {})
    if not histogram or not sum(histogram["same"]) + sum(histogram["different"]):
        return []
    series = []
    for key, label, look in (("same", "same pairs", FIRST), ("different", "different pairs", SECOND)):
        total = sum(histogram[key])
        if total:
            series.append(Series(label, look, histogram["edges"], [count / total for count in histogram[key]]))
    caption = (
        f"Distances of {number(sum(histogram['same']))} same and "
        f"{number(sum(histogram['different']))} different pairs, each as a share of its kind."
    )
    threshold, far, frr = (run.figure(name, key) for key in ("threshold", "far", "frr"))
    if threshold is None:
        caption += " There is no calibrated threshold."
    elif far is not None and frr is not None:
        caption += (
            f" The threshold {number(threshold)} (the vertical line) accepts {percent(1 - frr)} of the same "
            f"and {percent(far)} of the different ones."
        )
    marks = [] if threshold is None else [threshold]
    return [Chart("histogram", "Distances", caption, series, "distance", "share", marks=marks, bars=True).figure()]


def operating_figures(run: RunFolder, name: str) -> list[Figure]:
    """ROC and DET, after training and before."""
    pairs = [(name, "after training", FIRST), (run.before.get(name), "before training", BEFORE)]
    curves = [(label, look, run, which) for which, label, look in pairs if which]
    return [*roc_figures(curves), *det_figures(curves)]


Operating = Sequence[tuple[str, Style, RunFolder, str]]
"""What is drawn: a label, its style, and an evaluation of a run."""


def roc_figures(curves: Operating) -> list[Figure]:
    """True accepts over false accepts (logarithmic)."""
    lines, parts = [], []
    for label, look, run, which in curves:
        roc = run.outcome(which).get("roc")
        if roc:
            points = [(far, tar) for far, tar in zip(roc["far"], roc["tar"], strict=True) if far > 0]
            lines.append(Series(label, look, [far for far, _ in points], [tar for _, tar in points]))
            rate = run.figure(which, "tar_at_far_0.01")
            part = f"{label}, AUC {metric_of('auc').write(run.figure(which, 'auc'))}"
            parts.append(part if rate is None else f"{part} and {percent(rate)} true accepts at 1 % false accepts")
    if not lines:
        return []
    return [Chart("roc", "ROC", sentence(parts), lines, "false accepts", "true accepts", logarithmic=True).figure()]


def det_figures(curves: Operating) -> list[Figure]:
    """False rejects over false accepts, both on the scale of normal deviates (Martin et al. 1997).

    Where the distances of same and of different pairs are normal, the curve is a straight line.
    """
    lines, parts, rows = [], [], []
    for label, look, run, which in curves:
        roc = run.outcome(which).get("roc")
        points = [
            (far, 1 - tar) for far, tar in zip(roc["far"], roc["tar"], strict=True) if 0 < far < 1 and 0 < 1 - tar < 1
        ] if roc else []  # fmt: skip
        if points:
            lines.append(Series(label, look, *zip(*((PROBIT(far), PROBIT(frr)) for far, frr in points), strict=True)))
            parts.append(f"{label}, equal error rate {metric_of('eer').write(run.figure(which, 'eer'))}")
            rows += [[label, far, frr] for far, frr in points]
    if not lines:
        return []
    everything = [value for line in lines for value in (*line.x, *line.y)]
    across = [value for line in lines for value in line.x]
    apart = (max(across) - min(across)) / MOST_TICKS
    ticks: dict[float, str] = {}
    for at, rate in ((PROBIT(rate), rate) for rate in DET_RATES):
        inside = min(everything) - 0.5 < at < max(everything) + 0.5
        if inside and (not ticks or at - max(ticks) > apart):
            ticks[at] = f"{100 * rate:g} %"
    caption = f"{sentence(parts)} Both errors on a scale of normal deviates; nearer to the lower left corner is better."
    table: Any = (["of", "false accepts", "false rejects"], rows)
    return [Chart("det", "DET", caption, lines, "false accepts", "false rejects", ticks=ticks, table=table).figure()]


def class_size_figures(run: RunFolder) -> list[Figure]:
    """How many classes there are of which size, in the training data."""
    sizes = sorted(run.class_sizes.values())
    if not sizes or sizes[0] == sizes[-1]:  # which a sentence says better
        return []
    width = max(1, -(-(sizes[-1] - sizes[0] + 1) // MOST_SIZES))
    edges = [sizes[0] + width * place for place in range((sizes[-1] - sizes[0]) // width + 2)]
    counts = [sum(low <= size < high for size in sizes) for low, high in pairwise(edges)]
    middle = sizes[len(sizes) // 2] if len(sizes) % 2 else (sizes[len(sizes) // 2 - 1] + sizes[len(sizes) // 2]) / 2
    several = run.summary.get("several_labels", False)
    kind = "labels" if several else "classes"
    caption = (
        f"{number(len(sizes))} {kind} of {number(sizes[0])} to {number(sizes[-1])} items, half of them of at most "
        f"{number(middle)}{'' if several else f'; {number(sum(sizes))} items in all'}."
    )
    alone = sum(size == 1 for size in sizes)
    if alone and not several:
        caption += f" {number(alone)} of the classes hold a single item, which has no positive."
    centred = [edge - 0.5 for edge in edges]
    rows: list[list[Any]] = [[low, high - 1, count] for (low, high), count in zip(pairwise(edges), counts, strict=True)]
    table: Any = (["items from", "to", kind], rows)
    of_one = "items of a label" if several else "items of a class"
    return [
        Chart("classes", f"Sizes of the {kind} trained on", caption, [Series(kind, FIRST, centred, counts)],
              of_one, kind, bars=True, table=table).figure()
    ]  # fmt: skip


def curve(run: RunFolder, key: str) -> tuple[list[float], list[float]]:
    """Steps and values of a field, at most 500: of more, the means of equal runs of rows."""
    return thinned([(row["step"], row.get(key)) for row in run.history])


def thinned(found: Sequence[tuple[float, Any]]) -> tuple[list[float], list[float]]:
    """Those of the points that have a value, at most 500: of more, the means of equal runs of them."""
    rows = [(step, value) for step, value in found if isinstance(value, int | float) and isfinite(value)]
    each = _rows_a_point(len(rows))
    if each == 1:
        return [step for step, _ in rows], [value for _, value in rows]
    groups = [rows[start : start + each] for start in range(0, len(rows), each)]
    means = [tuple(sum(column) / len(group) for column in zip(*group, strict=True)) for group in groups]
    return [step for step, _ in means], [value for _, value in means]


def _rows_a_point(n_rows: int) -> int:
    return max(1, -(-n_rows // MOST_POINTS))


def told(run: RunFolder, lines: Sequence[Series]) -> str:
    """Where each curve starts and ends, in words."""
    parts = [
        f"{one.label} {number(float(one.y[0]))} at step {number(float(one.x[0]))}"
        + (f" and {number(float(one.y[-1]))} at step {number(float(one.x[-1]))}" if len(one.x) > 1 else "")
        for one in lines
    ]
    each = _rows_a_point(sum("loss" in row for row in run.history))
    smoothed = f" A point is the mean of {each} logged steps." if each > 1 and len(lines[0].x) > 50 else ""
    return sentence(parts) + smoothed


def sentence(parts: Sequence[str]) -> str:
    """Parts as one sentence."""
    joined = "; ".join(parts)
    return f"{joined[:1].upper()}{joined[1:]}."

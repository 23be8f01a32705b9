"""Figures: each one a Bokeh plot as JSON, with a caption that says its numbers to those who cannot see it."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite

from tercet.report.folder import RunFolder
from tercet.report.wording import metric_of, number, percent

# Apart for the colour-blind too, and legible on white as on black.
BLUE, ORANGE, GREY = "#2f7fc1", "#d9731f", "#87909c"
MOST_POINTS = 500
MOST_POINTS_MARKED = 40  # on longer curves the points would hide the line
HEIGHT_PIXELS = 260

Line = tuple[str, str, Sequence[float], Sequence[float]]  # label, colour, x, y


@dataclass(frozen=True)
class Figure:
    """A plot: `item` is what Bokeh's embed_item takes; `legend` pairs labels with colours."""

    name: str
    title: str
    caption: str
    legend: list[tuple[str, str]]
    item: str


def training_figures(run: RunFolder) -> list[Figure]:
    """The curves of training that the history has the fields for."""
    both = [("mean_positive", "to positives", BLUE), ("mean_negative", "to negatives", ORANGE)]
    wanted = [
        ("loss", "Loss", "loss", [("loss", "loss", BLUE)]),
        ("active", "Active share of the triplets", "share", [("active_share", "active share", BLUE)]),
        ("distances", "Mean distance in the batch", "distance", both),
        ("gradient", "Gradient norm", "norm", [("gradient_norm", "gradient norm", BLUE)]),
    ]
    figures = []
    for name, title, y_label, fields in wanted:
        curves = [(label, colour, *_curve(run, key)) for key, label, colour in fields]
        lines = [curve for curve in curves if len(curve[2])]
        if lines:
            figures.append(_figure(name, title, _told(run, lines), lines, "step", y_label))
    return [*figures, *_validation_figure(run)]


def _validation_figure(run: RunFolder) -> list[Figure]:
    selection = str(run.summary.get("selection") or "map_at_r")
    lines: list[Line] = []
    for key, colour in zip(dict.fromkeys((selection, "eer")), (BLUE, ORANGE), strict=False):
        steps, values = _curve(run, f"validation.{key}")
        if steps:
            lines.append((metric_of(key).title, colour, steps, values))
    if not lines:
        return []
    caption = _told(run, lines)
    best = run.summary.get("best_step")
    if best is not None:
        caption += f" The weights of step {number(best)} were kept (the vertical line)."
    return [_figure("validation", "Validation", caption, lines, "step", "", mark=best)]


def distance_figures(run: RunFolder, name: str) -> list[Figure]:
    """The distances of same and of different pairs, each as a share of its kind, and the threshold."""
    histogram = run.outcome(name).get("histogram", {})
    if not histogram or not sum(histogram["same"]) + sum(histogram["different"]):
        return []
    lines: list[Line] = []
    for key, label, colour in (("same", "same pairs", BLUE), ("different", "different pairs", ORANGE)):
        total = sum(histogram[key])
        if total:
            shares = [count / total for count in histogram[key]]
            lines.append((label, colour, histogram["edges"], shares))
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
    return [_figure("histogram", "Distances", caption, lines, "distance", "share", mark=threshold, steps=True)]


def roc_figures(run: RunFolder, name: str) -> list[Figure]:
    """True accepts over false accepts (logarithmic), after training and before."""
    lines: list[Line] = []
    told = []
    labels = ((name, "after training", BLUE), (run.before.get(name), "before training", GREY))
    for which, label, colour in labels:
        roc = run.outcome(which).get("roc")
        if which and roc:
            points = [(far, tar) for far, tar in zip(roc["far"], roc["tar"], strict=True) if far > 0]
            lines.append((label, colour, [far for far, _ in points], [tar for _, tar in points]))
            rate = run.figure(which, "tar_at_far_0.01")
            part = f"{label}, AUC {metric_of('auc').write(run.figure(which, 'auc'))}"
            told.append(part if rate is None else f"{part} and {percent(rate)} true accepts at 1 % false accepts")
    if not lines:
        return []
    caption = _sentence(told)
    return [_figure("roc", "ROC", caption, lines, "false accepts", "true accepts", logarithmic=True)]


def _curve(run: RunFolder, key: str) -> tuple[list[float], list[float]]:
    """Steps and values of a field, at most 500: of more, the means of equal runs of rows."""
    found = [(row["step"], row.get(key)) for row in run.history]
    rows = [(step, value) for step, value in found if isinstance(value, int | float) and isfinite(value)]
    each = _rows_a_point(len(rows))
    groups = [rows[start : start + each] for start in range(0, len(rows), each)]
    means = [tuple(sum(column) / len(group) for column in zip(*group, strict=True)) for group in groups]
    return [step for step, _ in means], [value for _, value in means]


def _rows_a_point(n_rows: int) -> int:
    return max(1, -(-n_rows // MOST_POINTS))


def _told(run: RunFolder, lines: Sequence[Line]) -> str:
    """Where each curve starts and ends, in words."""
    parts = [
        f"{label} {number(float(values[0]))} at step {number(float(steps[0]))}"
        + (f" and {number(float(values[-1]))} at step {number(float(steps[-1]))}" if len(steps) > 1 else "")
        for label, _, steps, values in lines
    ]
    each = _rows_a_point(sum("loss" in row for row in run.history))
    smoothed = f" A point is the mean of {each} logged steps." if each > 1 and len(lines[0][2]) > 50 else ""
    return _sentence(parts) + smoothed


def _sentence(parts: Sequence[str]) -> str:
    joined = "; ".join(parts)
    return f"{joined[:1].upper()}{joined[1:]}."


def _figure(
    name: str,
    title: str,
    caption: str,
    lines: Sequence[Line],
    x_label: str,
    y_label: str,
    *,
    mark: float | None = None,
    steps: bool = False,
    logarithmic: bool = False,
) -> Figure:
    """The plot: no toolbar and nothing to drag, so that a finger scrolls the page."""
    from bokeh.core.types import ID
    from bokeh.embed import json_item
    from bokeh.models import HoverTool, VSpan
    from bokeh.models.renderers import DataRenderer
    from bokeh.plotting import figure

    plot = figure(
        height=HEIGHT_PIXELS,
        sizing_mode="stretch_width",
        toolbar_location=None,
        tools=[],
        x_axis_label=x_label,
        y_axis_label=y_label,
        x_axis_type="log" if logarithmic else "linear",
        background_fill_color=None,
        border_fill_color=None,
        outline_line_color=None,
        min_border_right=12,
    )
    drawn: list[DataRenderer] = []
    for _, colour, x, y in lines:
        if steps:
            bars = plot.quad(left=x[:-1], right=x[1:], top=y, bottom=0, color=colour, alpha=0.5, line_width=0)
            drawn.append(bars)
        else:
            drawn.append(plot.line(x, y, color=colour, line_width=2))
        if len(x) <= MOST_POINTS_MARKED:
            plot.scatter(x, y, color=colour, size=5)
    if steps:
        tips = [(x_label, "@left{0.000} to @right{0.000}"), (y_label, "@top{0.0%}")]
    else:
        tips = [(x_label, "@x{0.[0000]}"), (y_label or "value", "@y{0.[0000]}")]
    plot.add_tools(HoverTool(renderers=drawn, tooltips=tips, mode="mouse" if steps else "vline"))
    if mark is not None:
        plot.add_glyph(VSpan(x=mark, line_color=GREY, line_width=2, line_dash="dashed"))
    for axis in plot.axis:
        axis.axis_label_text_font_style = "normal"
        axis.minor_tick_line_color = None
    # Keys keep their order: Bokeh reads front to back, and a model must be there before it is referred to.
    content = json.dumps(json_item(plot, ID(f"chart-{name}")), allow_nan=False)
    legend = [(label, colour) for label, colour, _, _ in lines] if len(lines) > 1 else []
    return Figure(name, title, caption, legend, _own_ids(content, name))


def _own_ids(content: str, name: str) -> str:
    """Bokeh numbers its models per process; numbered per figure, equal runs give equal files."""
    ids: dict[str, str] = {}
    numbered = re.sub(r'"p(\d+)"', lambda found: f'"{ids.setdefault(found[1], f"{name}-{len(ids)}")}"', content)
    return numbered.replace("<", "\\u003c")  # inside a script element no text may close it

"""A chart: a Bokeh plot as JSON, and its numbers in words, in a short table and as CSV for those who need them."""

from __future__ import annotations

import base64
import csv
import io
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tercet.report.wording import number

# Okabe and Ito's colours (2008), which differ for the colour-blind too; each goes with a dash and a marker of its own,
# so that nothing is told by colour alone. These six are legible on white as on black.
BLUE, VERMILLION, GREEN, PURPLE, SKY, ORANGE = "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00"
GREY = "#87909c"
COLOURS = (BLUE, VERMILLION, GREEN, PURPLE, SKY, ORANGE)
DASHES = {"solid": (), "dashed": (7, 4), "dotted": (2, 3), "dotdash": (8, 3, 2, 3)}
MARKERS = ("circle", "square", "triangle", "diamond")
MOST_POINTS_MARKED = 40  # on longer curves the points would hide the line
MOST_TABLE_ROWS = 12
HEIGHT_PIXELS = 260

Cell = str | int | float


@dataclass(frozen=True)
class Style:
    """How a series is drawn: by colour, and by something else as well."""

    colour: str
    dash: str = "solid"
    marker: str = "circle"

    @property
    def dashes(self) -> str:
        """The dash as SVG has it, for the legend."""
        return " ".join(map(str, DASHES[self.dash]))


FIRST, SECOND, THIRD = (Style(COLOURS[i], list(DASHES)[i], MARKERS[i]) for i in range(3))
BEFORE = Style(GREY, "dashed", "square")


def style(place: int) -> Style:
    """The style of one of many series: 24 differ."""
    dashes = list(DASHES)
    return Style(COLOURS[place % 6], dashes[(place + place // 6) % 4], MARKERS[place % 4])


@dataclass(frozen=True)
class Series:
    """A curve, or with `Chart.bars` the tops of bars, whose edges are then one more than its values."""

    label: str
    style: Style
    x: Sequence[float]
    y: Sequence[float]


@dataclass(frozen=True)
class Figure:
    """A plot: `item` is what Bokeh's embed_item takes; `legend` pairs labels with styles; `csv` is a data URI."""

    name: str
    title: str
    caption: str
    legend: list[tuple[str, Style]]
    item: str
    csv: str
    header: list[str]
    rows: list[list[str]]
    n_rows: int


@dataclass(frozen=True)
class Chart:
    """What is to be drawn.

    Attributes:
        name: unique on a page, of letters.
        title: above it.
        caption: its numbers, for those who cannot see it.
        series: what it shows.
        x_label: of the axis.
        y_label: of the axis.
        points: series that are drawn as points alone, over the curves.
        marks: where vertical lines stand.
        bars: draw bars.
        logarithmic: the x axis.
        diagonal: draw the line on which y is x.
        ticks: where both axes have their ticks, and what these are called; for axes that are scaled by hand.
    """

    name: str
    title: str
    caption: str
    series: Sequence[Series]
    x_label: str
    y_label: str
    points: Sequence[Series] = ()
    marks: Sequence[float] = ()
    bars: bool = False
    logarithmic: bool = False
    diagonal: bool = False
    ticks: Mapping[float, str] = field(default_factory=dict)
    table: tuple[list[str], list[list[Cell]]] | None = None
    """Header and rows for CSV and table; by default a row for each point."""

    def figure(self) -> Figure:
        """The chart as it goes into the page."""
        header, rows = self.table or self._table()
        all_series = [*self.series, *self.points]
        legend = [(one.label, one.style) for one in all_series] if len(all_series) > 1 else []
        shown = _spread(rows)
        return Figure(
            self.name, self.title, self.caption, legend, self._item(), csv_uri(header, rows), header,
            [[cell if isinstance(cell, str) else number(cell) for cell in row] for row in shown], len(rows),
        )  # fmt: skip

    def _table(self) -> tuple[list[str], list[list[Cell]]]:
        value = self.y_label or "value"
        if self.bars:
            rows: list[list[Cell]] = [
                [one.label, low, high, y]
                for one in self.series
                for low, high, y in zip(one.x[:-1], one.x[1:], one.y, strict=True)
            ]
            return ["of", f"{self.x_label} from", "to", value], rows
        listed = [[one.label, x, y] for one in (*self.series, *self.points) for x, y in zip(one.x, one.y, strict=True)]
        return ["of", self.x_label, value], listed  # type: ignore[return-value]

    def _item(self) -> str:
        """The plot as Bokeh's JSON: no toolbar and nothing to drag, so that a finger scrolls the page."""
        from bokeh.core.types import ID
        from bokeh.embed import json_item
        from bokeh.models import FixedTicker, HoverTool, VSpan
        from bokeh.models.annotations import Slope
        from bokeh.plotting import figure

        plot = figure(
            height=HEIGHT_PIXELS,
            sizing_mode="stretch_width",
            toolbar_location=None,
            tools=[],
            x_axis_label=self.x_label,
            y_axis_label=self.y_label,
            x_axis_type="log" if self.logarithmic else "linear",
            background_fill_color=None,
            border_fill_color=None,
            outline_line_color=None,
            min_border_right=12,
        )
        drawn = [self._bars(plot, one) if self.bars else self._line(plot, one) for one in self.series]
        for one in self.points:
            plot.scatter(one.x, one.y, color=one.style.colour, marker=one.style.marker, size=8, fill_alpha=0.3)
        if self.bars:
            tips = [(self.x_label, "@left{0.[000]} to @right{0.[000]}"), (self.y_label, "@top{0.[000]}")]
        else:
            tips = [(self.x_label, "@x{0.[0000]}"), (self.y_label or "value", "@y{0.[0000]}")]
        if not self.ticks:  # a scale by hand has other numbers than its ticks say
            plot.add_tools(HoverTool(renderers=drawn, tooltips=tips, mode="mouse" if self.bars else "vline"))
        for mark in self.marks:
            plot.add_glyph(VSpan(x=mark, line_color=GREY, line_width=2, line_dash="dashed"))
        if self.diagonal:
            plot.add_layout(Slope(gradient=1, y_intercept=0, line_color=GREY, line_width=2, line_dash="dashed"))
        for axis in plot.axis:
            axis.axis_label_text_font_style = "normal"
            axis.minor_tick_line_color = None
            if self.ticks:
                axis.ticker = FixedTicker(ticks=list(self.ticks))
                overrides: dict[Any, Any] = dict(self.ticks)
                axis.major_label_overrides = overrides
        if self.ticks:
            plot.grid.ticker = FixedTicker(ticks=list(self.ticks))
        # Keys keep their order: Bokeh reads front to back, and a model must be there before it is referred to.
        return _own_ids(json.dumps(json_item(plot, ID(f"chart-{self.name}")), allow_nan=False), self.name)

    def _line(self, plot: Any, one: Series) -> Any:
        line = plot.line(one.x, one.y, color=one.style.colour, line_width=2, line_dash=list(DASHES[one.style.dash]))
        if len(one.x) <= MOST_POINTS_MARKED:
            plot.scatter(one.x, one.y, color=one.style.colour, marker=one.style.marker, size=6)
        return line

    def _bars(self, plot: Any, one: Series) -> Any:
        hatched = {} if one.style.dash == "solid" else {"hatch_pattern": "/", "hatch_color": one.style.colour}
        return plot.quad(
            left=list(one.x[:-1]), right=list(one.x[1:]), top=list(one.y), bottom=0, fill_color=one.style.colour,
            fill_alpha=0.25 if hatched else 0.5, hatch_alpha=0.7, line_color=one.style.colour, line_width=0.5,
            **hatched,
        )  # fmt: skip


def csv_uri(header: Sequence[str], rows: Sequence[Sequence[Cell]]) -> str:
    """A table as CSV in an address that a link can offer without a network."""
    content = io.StringIO()
    writer = csv.writer(content, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return "data:text/csv;charset=utf-8;base64," + base64.b64encode(content.getvalue().encode()).decode()


def as_script(content: str) -> str:
    """JSON that no text in it can end the script element of."""
    return content.replace("<", "\\u003c")


def _spread(rows: list[list[Cell]]) -> list[list[Cell]]:
    """At most 12 rows, evenly spread, of each of the series that the first column names."""
    kept: list[list[Cell]] = []
    by_name: dict[Cell, list[list[Cell]]] = {}
    for row in rows:
        by_name.setdefault(row[0] if isinstance(row[0], str) else "", []).append(row)
    for own in by_name.values():
        most = max(2, MOST_TABLE_ROWS // len(by_name))
        places = range(len(own)) if len(own) <= most else (round(i * (len(own) - 1) / (most - 1)) for i in range(most))
        kept += [own[place] for place in places]
    return kept


def _own_ids(content: str, name: str) -> str:
    """Bokeh numbers its models per process; numbered per figure, equal runs give equal files."""
    ids: dict[str, str] = {}
    numbered = re.sub(r'"p(\d+)"', lambda found: f'"{ids.setdefault(found[1], f"{name}-{len(ids)}")}"', content)
    return as_script(numbered)

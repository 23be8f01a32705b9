"""The page: the tables and figures of a run folder in one HTML file, with all that draws them inside."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tercet.errors import InputError, check_choice
from tercet.report import comparison, figures, items, operating, problems, tables
from tercet.report.breakdown import breakdowns
from tercet.report.certainty import certainty_figures
from tercet.report.chart import as_script
from tercet.report.conditions import conditions
from tercet.report.folder import RunFolder, read_folder
from tercet.report.layouts import LAYOUTS, layouts
from tercet.report.wording import number
from tercet.training.folder.files import write_text

if TYPE_CHECKING:
    import jinja2

DRAWN = ("training", "regions", "sizes", "distances", "operating", "certainty", "curves")
OF_AN_EVALUATION: dict[str, Callable[[RunFolder, str], Any]] = {
    "rows": tables.comparison,
    "conditions": conditions,
    "thirds": tables.thirds,
    "breakdowns": breakdowns,
    "distances": figures.distance_figures,
    "operating": figures.operating_figures,
    "points": operating.points,
    "threshold_rows": tables.at_threshold,
    "folds": operating.folds,
    "forgeries": operating.forgeries,
    "certainty": certainty_figures,
    "mistaken": items.mistaken_queries,
    "mistakes": items.hardest_pairs,
}


def write(folder: str | Path, out: str | Path | None = None, layout: str = "pca") -> Path:
    """Write the report of a run, atomically; its path.

    Args:
        folder: the run.
        out: the file; report.html in the run folder by default.
        layout: how the map of the embedding is laid out: "pca", "tsne" or "umap".

    Raises:
        InputError: no such layout, or `out` does not end in .html.
        RunError: the folder is not a run, a file of it is damaged, or there is no map to lay out.
        MissingDependency: UMAP without umap-learn.
        StorageError: the file could not be written.
    """
    path = Path(folder) / "report.html" if out is None else _checked(out)
    write_text(path, render(folder, layout))
    return path


def write_comparison(folders: Sequence[str | Path], out: str | Path) -> Path:
    """Write the comparison of several runs, atomically; its path.

    Raises:
        InputError: fewer than two runs, a run twice, or `out` does not end in .html.
        RunError: a folder is not a run, or a file of it is damaged.
        StorageError: the file could not be written.
    """
    path = _checked(out)
    write_text(path, render_comparison(folders))
    return path


def render(folder: str | Path, layout: str = "pca") -> str:
    """The report as HTML. It names no address outside itself, and equal folders give equal pages; see `write`."""
    check_choice("map", layout, LAYOUTS)
    return _rendered("run.html", _content(read_folder(folder), layout))


def render_comparison(folders: Sequence[str | Path]) -> str:
    """The comparison as HTML; see `write_comparison`."""
    paths = [Path(folder) for folder in folders]
    twice = next((path for path in paths if paths.count(path) > 1), None)
    if len(paths) < 2 or twice is not None:
        what = f"{twice} is named twice" if twice is not None else f"given is {len(paths)}"
        raise InputError(f"a comparison takes two or more runs, each once; {what}.")
    return _rendered("comparison.html", comparison.content([read_folder(path) for path in paths]))


def _checked(out: str | Path) -> Path:
    path = Path(out)
    if path.suffix.lower() not in (".html", ".htm"):
        raise InputError(f"the report is a page, and {path} does not end in .html.")
    return path


def _rendered(template: str, content: dict[str, Any]) -> str:
    from bokeh.resources import Resources
    from markupsafe import Markup

    drawn = any(content.get(part) for part in DRAWN)
    bokeh = Markup("\n".join(Resources(mode="inline", components=["bokeh"]).js_raw)) if drawn else ""
    return _templates().get_template(template).render(content, bokeh=bokeh)


@cache
def _templates() -> jinja2.Environment:
    """The templates, which are compiled once in a process and not for every page."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,  # names and texts are the user's
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update(markup=Markup, number=number)
    return environment


def _content(run: RunFolder, layout: str) -> dict[str, Any]:
    name = run.main
    found = {part: make(run, name) if name else [] for part, make in OF_AN_EVALUATION.items()}
    cards = tables.cards(found["rows"])
    before = run.before.get(name or "")
    return found | {
        "title": str(run.summary.get("title") or run.path.resolve().name),
        "headline": tables.headline(run, name, cards),
        "cards": cards,
        "name": name,
        "data": run.evaluations[name].get("data", "") if name else "",
        "before_data": run.evaluations[before].get("data", "") if before else "",
        "has_before": before is not None,
        "threshold": run.figure(name, "threshold") if name else None,
        "facts": tables.facts(run),
        "training": figures.training_figures(run),
        "regions": figures.region_figures(run),
        "doctor": tables.doctor(run),
        "map": _map(run, name, layout) if name else None,
        "sizes": figures.class_size_figures(run),
        "problems": problems.problems(run, name),
        "everything": tables.everything(run),
        "config": run.config_text,
        "warnings": tables.warnings(run),
    }


def _map(run: RunFolder, name: str, layout: str) -> dict[str, Any] | None:
    """What the script draws, as JSON, and what the page says of it; None where the folder holds no map."""
    found = layouts(run, name, layout)
    if not found:
        return None
    content = run.maps[name]
    shown = [items.shown(one) for one in content["items"]]
    drawn = {
        "layouts": list(found.values()),
        "items": shown,
        "neighbours": content["neighbours"],
        "distances": content["distances"],
        "right": content.get("right"),
    }
    return {
        "json": as_script(json.dumps(drawn, ensure_ascii=False, allow_nan=False)),
        "points": content["points"],
        "of": content["of"],
        "pictures": sum(bool(one["picture"]) for one in shown[: content["points"]]),
        "has_pictures": any(one["picture"] for one in shown),
        "layouts": list(found.values()),
        "has_classes": any(one["class"] for one in shown),
        "knows_right": content.get("right") is not None,
    }

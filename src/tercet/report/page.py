"""The page: the tables and figures of a run folder in one HTML file, with all that draws them inside."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tercet.report import figures, tables
from tercet.report.folder import RunFolder, read_folder
from tercet.report.wording import number
from tercet.training.folder.files import write_text

MOST_SKIPPED_SHOWN = 50


def write(folder: str | Path) -> Path:
    """Write report.html into the run folder, atomically; its path.

    Raises:
        RunError: the folder is not a run, or a file of it is damaged.
        StorageError: the file could not be written.
    """
    path = Path(folder) / "report.html"
    write_text(path, render(folder))
    return path


def render(folder: str | Path) -> str:
    """The report as HTML. It names no address outside itself, and equal folders give equal pages.

    Raises:
        RunError: the folder is not a run, or a file of it is damaged.
    """
    from bokeh.resources import Resources
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,  # names and texts are the user's
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    content = _content(read_folder(folder))
    drawn = any(content[part] for part in ("training", "distances", "roc"))
    bokeh = Markup("\n".join(Resources(mode="inline", components=["bokeh"]).js_raw)) if drawn else ""
    return environment.get_template("template.html").render(content, bokeh=bokeh, markup=Markup, number=number)


def _content(run: RunFolder) -> dict[str, Any]:
    name = run.main
    rows = tables.comparison(run, name) if name else []
    cards = tables.cards(rows)
    left_out = tables.skipped(run)
    before = run.before.get(name or "")
    return {
        "title": str(run.summary.get("title") or run.path.resolve().name),
        "headline": tables.headline(run, name, cards),
        "cards": cards,
        "name": name,
        "data": run.evaluations[name].get("data", "") if name else "",
        "before_data": run.evaluations[before].get("data", "") if before else "",
        "has_before": before is not None,
        "rows": rows,
        "threshold": run.figure(name, "threshold") if name else None,
        "threshold_rows": tables.at_threshold(run, name) if name else [],
        "thirds": tables.thirds(run, name) if name else [],
        "facts": tables.facts(run),
        "training": figures.training_figures(run),
        "doctor": tables.doctor(run),
        "distances": figures.distance_figures(run, name) if name else [],
        "roc": figures.roc_figures(run, name) if name else [],
        "mistakes": tables.mistakes(run, name) if name else [],
        "everything": tables.everything(run),
        "config": run.config_text,
        "skipped": left_out[:MOST_SKIPPED_SHOWN],
        "n_skipped": len(left_out),
        "warnings": tables.warnings(run),
    }

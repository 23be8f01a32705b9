"""Several runs on one page: figures side by side, curves over each other, and where their settings differ."""

from __future__ import annotations

import tomllib
from typing import Any

from tercet.report.chart import Chart, Figure, Series, style
from tercet.report.conditions import search, unit
from tercet.report.figures import CURVES, curve, det_figures, roc_figures, told
from tercet.report.folder import RunFolder
from tercet.report.tables import command
from tercet.report.wording import compared_metrics, metric_of, number

HEADLINES = ("spearman", "map_at_r", "triplet_accuracy", "auc", "eer")


def content(runs: list[RunFolder]) -> dict[str, Any]:
    """What the template of the comparison takes."""
    names = _names(runs)
    evaluation = _common(runs)
    rows = _rows(runs, evaluation) if evaluation else []
    units = {unit(run, evaluation) for run in runs} if evaluation else set()
    called = [f"“{name}”" for name in names]  # in a sentence
    looks = [style(place) for place in range(len(runs))]
    operating = [
        (name, look, run, evaluation) for name, look, run in zip(called, looks, runs, strict=True) if evaluation
    ]
    return {
        "title": f"{len(runs)} runs compared",
        "headline": _headline(names, rows, evaluation),
        "names": names,
        "name": evaluation,
        "rows": rows,
        "unit": units.pop() if len(units) == 1 else "",
        "facts": _facts(runs, names, evaluation),
        "warnings": _warnings(runs, names, evaluation),
        "curves": _curves(runs, called),
        "operating": [*roc_figures(operating), *det_figures(operating)] if operating else [],
        "differences": _differences(runs),
    }


def _names(runs: list[RunFolder]) -> list[str]:
    """The folders' names, with as many of the folders above them as tells them apart."""
    parts = [run.path.resolve().parts for run in runs]
    for depth in range(1, max(map(len, parts)) + 1):
        found = ["/".join(own[-depth:]) for own in parts]
        if len(set(found)) == len(runs):
            return found
    return [str(run.path) for run in runs]


def _common(runs: list[RunFolder]) -> str | None:
    """The evaluation that all runs have: the first one's main, else another, validation last."""
    shared = set.intersection(*(set(run.evaluations) for run in runs))
    names = sorted(name for name in shared if not name.endswith("baseline"))
    order = [runs[0].main, *(name for name in names if name != "validation"), "validation"]
    return next((name for name in order if name in names), None)


def _rows(runs: list[RunFolder], name: str) -> list[dict[str, Any]]:
    """A row for each metric that any run has, with the best marked."""
    known = {metric for run in runs for metric in run.outcome(name).get("metrics", {})}
    known |= {key.removeprefix(f"{name}.") for run in runs for key in run.metrics if key.startswith(f"{name}.")}
    rows = []
    for metric in compared_metrics(known):
        values = [run.figure(name, metric.name) for run in runs]
        present = [value for value in values if value is not None]
        best = metric.write((min if metric.better == "lower" else max)(present, default=None))
        texts = [metric.write(value) for value in values]
        differ = len({metric.write(value) for value in present}) > 1  # as they are read
        cells = [
            {"text": text, "interval": metric.write_interval(run.interval(name, metric.name)), "reason": "",
             "verdict": "best" if differ and text == best else "", "colour": "good"}
            for run, text in zip(runs, texts, strict=True)
        ]  # fmt: skip
        rows.append({"metric": metric, "title": metric.title, "meaning": metric.explained, "cells": cells})
    return rows


def _headline(names: list[str], rows: list[dict[str, Any]], evaluation: str | None) -> str:
    by_name = {row["metric"].name: row for row in rows}
    row = next((by_name[name] for name in HEADLINES if name in by_name), None)
    if row is None:
        return "These runs have no evaluation in common."
    parts = []
    for name, cell in zip(names, row["cells"], strict=True):
        parts.append(f"{name} {cell['text']}" + (f" ({cell['interval']})" if cell["interval"] else ""))
    return f"{row['metric'].title} on {evaluation}: {'; '.join(parts)}."


def _facts(runs: list[RunFolder], names: list[str], evaluation: str | None) -> list[tuple[str, list[str]]]:
    """What each run is, a row for each question."""
    asked: list[tuple[str, list[Any]]] = [
        ("Trained on", [run.summary.get("train") for run in runs]),
        ("Evaluated on", [run.evaluations.get(evaluation or "", {}).get("data") for run in runs]),
        ("Steps", [number(run.summary.get("steps")) for run in runs]),
        ("Weights kept from step", [number(run.summary.get("best_step")) for run in runs]),
        ("Ended because", [run.summary.get("reason") for run in runs]),
        ("Parameters", [number(run.summary.get("parameters")) for run in runs]),
        ("Versions", [_versions(run) for run in runs]),
        ("Command", [run.summary.get("command") or command(run) for run in runs]),
    ]
    return [(word, [str(value or "–") for value in values]) for word, values in asked if any(values)]


def _versions(run: RunFolder) -> str:
    return ", ".join(f"{name} {version}" for name, version in run.summary.get("versions", {}).items())


def _warnings(runs: list[RunFolder], names: list[str], evaluation: str | None) -> list[str]:
    if evaluation is None:
        return ["No evaluation is there in all runs. Evaluate each on the same data: tercet evaluate RUN --data DATA."]
    found = []
    data = [(run.evaluations[evaluation].get("data"), run.evaluations[evaluation].get("source")) for run in runs]
    if len(set(data)) > 1:
        found.append(f"The evaluations called “{evaluation}” are of different data, so their figures do not compare.")
    if len({tuple(search(run, evaluation)) for run in runs}) > 1:
        found.append(f"The evaluations called “{evaluation}” did not search alike, so their figures do not compare.")
    if evaluation == "validation":
        found.append("The validation data chose each run's checkpoint and threshold: its figures flatter.")
    losses = [tomllib.loads(run.config_text).get("loss", {}).get("loss") for run in runs]
    if len(set(losses)) > 1:
        found.append("The runs were trained with different losses: the values of one say nothing about another's.")
    return found + [f"{name}: {line}" for name, run in zip(names, runs, strict=True) for line in run.absent]


def _curves(runs: list[RunFolder], names: list[str]) -> list[Figure]:
    """One chart for each field, with a curve for each run."""
    wanted = [(f"{key}", f"{title}: {label}" if len(fields) > 1 else title, y_label)
              for _, title, y_label, fields in CURVES for key, label in fields]  # fmt: skip
    wanted.append(("hard_share", "Share of hard triplets", "share"))
    selection = next((str(run.summary["selection"]) for run in runs if run.summary.get("selection")), "map_at_r")
    wanted += [(f"validation.{key}", f"Validation: {metric_of(key).title}", "figure")
               for key in dict.fromkeys((selection, "eer"))]  # fmt: skip
    figures = []
    for place, (key, title, y_label) in enumerate(wanted):
        lines = [
            Series(name, style(i), *curve(run, key)) for i, (name, run) in enumerate(zip(names, runs, strict=True))
        ]
        lines = [line for line in lines if line.x]
        if lines:
            figures.append(Chart(f"curve{place}", title, told(runs[0], lines), lines, "step", y_label).figure())
    return figures


def _differences(runs: list[RunFolder]) -> list[tuple[str, list[str]]]:
    """The settings in which the runs differ, each with its value in every run."""
    flat = [_flat(tomllib.loads(run.config_text)) for run in runs]
    keys = sorted({key for one in flat for key in one})
    rows = [(key, [str(one.get(key, "–")) for one in flat]) for key in keys]
    return [(key, values) for key, values in rows if len(set(values)) > 1]


def _flat(settings: dict[str, Any], before: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in settings.items():
        found |= _flat(value, f"{before}{key}.") if isinstance(value, dict) else {f"{before}{key}": value}
    return found

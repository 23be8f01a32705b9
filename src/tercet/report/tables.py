"""The tables of the report, as plain values for the template."""

from __future__ import annotations

import tomllib
from dataclasses import replace
from typing import Any

from tercet.errors import TercetError
from tercet.report.folder import RunFolder
from tercet.report.wording import AT_THRESHOLD, Metric, compared_metrics, metric_of, number
from tercet.training.health.watch import diagnose_folder

BY_THIRDS = ("recall_at_1", "map_at_r")
BESIDE_THE_ROC = ("tar_at_far_0.1", "tar_at_far_0.001")  # see `operating.points`
CARDS = ("spearman", "triplet_accuracy", "eer", "auc", "recall_at_1", "map_at_r")


def comparison(run: RunFolder, name: str) -> list[dict[str, Any]]:
    """A row for each metric: before training (the raw inputs), after it, and the change."""
    known = set(run.outcome(name).get("metrics", {}))
    known |= {key.removeprefix(f"{name}.") for key in run.metrics if key.startswith(f"{name}.")}
    before = run.before.get(name)
    rows = []
    for metric in compared_metrics(known):
        if metric.name in BESIDE_THE_ROC:
            continue
        cells: dict[str, Any] = {"after": cell(run, name, metric)}
        if before:
            cells = {"before": cell(run, before, metric), **cells, "change": _change(run, before, name, metric)}
        row = {"metric": metric, "title": metric.title, "meaning": metric.explained}
        rows.append(row | cells | {"cells": list(cells.values())})
    return rows


def at_threshold(run: RunFolder, name: str) -> list[dict[str, Any]]:
    """A row for each figure at the calibrated threshold; empty without one."""
    if run.figure(name, "threshold") is None:
        return []
    return [
        {"title": metric.title, "meaning": metric.meaning, "cells": [cell(run, name, metric)]}
        for metric in AT_THRESHOLD
        if metric.name in run.outcome(name).get("metrics", {})
    ]


def thirds(run: RunFolder, name: str) -> list[dict[str, Any]]:
    """A row for each third of the classes by size; empty where they are of like sizes."""
    rows = []
    for part in run.outcome(name).get("thirds", []):
        sizes = f"{number(part['smallest'])} to {number(part['largest'])}"
        cells = [{"text": text} for text in (sizes, number(part["classes"]), number(part["queries"]))]
        cells += [cell(run, name, replace(metric_of(figure), name=f"{figure}_{part['name']}")) for figure in BY_THIRDS]
        rows.append({"title": part["name"], "meaning": "", "cells": cells})
    return rows


def cards(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The three figures that open the page."""
    by_name = {row["metric"].name: row for row in rows if row["after"]["value"] is not None}
    return [by_name[name] for name in CARDS if name in by_name][:3]


def headline(run: RunFolder, name: str | None, shown: list[dict[str, Any]]) -> str:
    """The sentence of the summary, or one made from the first figure."""
    if run.summary.get("sentence"):
        return str(run.summary["sentence"])
    if not name or not shown:
        return "This run has no evaluation yet."
    row = shown[0]
    sentence = f"{row['metric'].title} {row['after']['text']}"
    if row["after"]["interval"]:
        sentence += f" ({row['after']['interval']})"
    where = run.evaluations[name].get("data")
    sentence += f" on {where}" if where else f" on the {name} data"
    if "before" in row:
        sentence += f"; without training {row['before']['text']}"
    return sentence + "."


def everything(run: RunFolder) -> list[dict[str, Any]]:
    """Every number of every evaluation, by the evaluation's name."""
    keys = {key: value for key, value in run.metrics.items() if not key.endswith("_interval")}
    for name in run.evaluations:
        keys |= {f"{name}.{metric}": run.figure(name, metric) for metric in run.outcome(name).get("metrics", {})}
    rows = []
    for key, value in sorted(keys.items()):
        name, _, metric = key.partition(".")
        ends = run.interval(name, metric)
        reason = run.outcome(name).get("missing", {}).get(metric, "") if value is None else ""
        rows.append(
            {
                "key": key,
                "value": number(value),
                "interval": " to ".join(map(number, ends or [])),
                "reason": reason,
            }
        )
    return rows


def facts(run: RunFolder) -> list[tuple[str, str]]:
    """What was trained on what, as pairs of a word and its value."""
    summary = run.summary
    versions = ", ".join(f"{name} {version}" for name, version in summary.get("versions", {}).items())
    classes = ", ".join(f"{number(count)} {name}" for name, count in summary.get("classes", {}).items())
    measured = sorted(run.evaluations.items(), key=lambda named: (named[0] != run.main, named[0]))
    measured = [(name, found) for name, found in measured if name != "validation"]
    best = summary.get("best_step")
    selection = summary.get("selection")
    kept = f"{number(best)}, the best by validation {metric_of(selection).title}" if selection else number(best)
    rows = [
        ("Trained on", summary.get("train")),
        ("Validated on", summary.get("validation")),
        *((f"Evaluated on ({name})", _with_source(found)) for name, found in measured),
        ("Writers", _writers(run)),
        ("Source", summary.get("source")),
        ("Classes", classes),
        ("Steps", number(summary["steps"]) if "steps" in summary else None),
        ("Weights kept from step", kept if best is not None else None),
        ("Ended because", summary.get("reason")),
        ("Parameters", number(summary["parameters"]) if "parameters" in summary else None),
        ("Versions", versions),
        ("Command", summary.get("command") or command(run)),
    ]  # fmt: skip
    return [(word, str(value)) for word, value in rows if value]


def command(run: RunFolder) -> str | None:
    """What trains the same again, given the config.toml that the page shows; None where config.toml cannot tell.

    The words that were typed are not kept: a run started from Python, or resumed, is the same to the byte.
    """
    config = tomllib.loads(run.config_text)
    source = str(config.get("source", ""))
    data = config.get("data", {})
    typed = source and not source.startswith(("a ", "an ")) and (data.get("kind") or data.get("towers") == "separate")
    known = typed and "custom_loss" not in config and config.get("encoder", {}).get("kind") != "custom"
    return "tercet train --config config.toml --out RUN" if known else None


def _writers(run: RunFolder) -> str | None:
    """How many there are in the evaluation that the report is about, and how many forgeries of them."""
    metrics = run.outcome(run.main).get("metrics", {})
    if "n_writers" not in metrics:
        return None
    return f"{number(metrics['n_writers'])} evaluated ({run.main}), with {number(metrics['n_forged'])} forgeries"


def _with_source(found: dict[str, Any]) -> str | None:
    source = found.get("source")
    return (
        f"{found.get('data')}, from {source}"
        if source and not found["name"].endswith("baseline")
        else found.get("data")
    )


def warnings(run: RunFolder) -> list[str]:
    """What to know before trusting a figure."""
    found = [str(warning) for warning in run.summary.get("warnings", [])]
    of: dict[str, list[str]] = {}
    for name, content in run.evaluations.items():
        count = content.get("duplicates")
        notes = [f"{number(count)} items are in the training data too."] if count else []
        for note in [*notes, *content.get("evaluation", {}).get("notes", [])]:
            of.setdefault(note, []).append(name)
    found += [f"{', '.join(names)}: {note}" for note, names in of.items()]
    return list(dict.fromkeys(found)) + run.absent


def doctor(run: RunFolder) -> dict[str, Any] | None:
    """What the doctor says of the training: findings with remedies, what was looked for, and what could not be."""
    if not run.history:
        return None
    try:
        diagnosis = diagnose_folder(run.path)
    except TercetError as cause:  # config.toml of another Tercet: the rest of the page is worth having
        return {"findings": [], "looked_for": [], "not_looked_for": [("all of it", str(cause))]}
    return {
        "findings": [{"sentence": one.sentence, "remedies": one.remedies} for one in diagnosis.findings],
        "looked_for": diagnosis.looked_for,
        "not_looked_for": diagnosis.not_looked_for,
    }


def cell(run: RunFolder, name: str, metric: Metric) -> dict[str, Any]:
    """A figure as a table shows it: its text, its interval, and the reason where it is missing."""
    value = run.figure(name, metric.name)
    reason = run.outcome(name).get("missing", {}).get(metric.name, "not measured") if value is None else ""
    ends = None if value is None else run.interval(name, metric.name)
    return {
        "value": value,
        "text": metric.write(value),
        "interval": metric.write_interval(ends),
        "reason": reason,
    }


def _change(run: RunFolder, before: str, name: str, metric: Metric) -> dict[str, str]:
    """The change in words; a colour only where the two intervals lie apart."""
    was, now = run.figure(before, metric.name), run.figure(name, metric.name)
    if was is None or now is None:
        return {"text": "–", "verdict": "", "colour": ""}
    change = now - was
    text = f"{100 * change:+.1f} points" if metric.rate else f"{change:+.4f}"
    better = (change < 0) == (metric.better == "lower")
    verdict = "the same" if change == 0 else "better" if better else "worse"
    ends, others = run.interval(before, metric.name), run.interval(name, metric.name)
    apart = bool(ends and others and (ends[1] < others[0] or others[1] < ends[0]))
    if change and ends and others and not apart:
        verdict += ", intervals overlap"
    colour = ("good" if better else "bad") if apart else ""
    return {"text": text.replace("-", "−"), "verdict": verdict, "colour": colour}

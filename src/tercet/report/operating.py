"""Operating points in figures: true accepts at rates of false accepts, folds, and forgeries."""

from __future__ import annotations

from typing import Any

from tercet.evaluation.verification import FARS, tar_name
from tercet.report.folder import RunFolder
from tercet.report.tables import cell
from tercet.report.wording import Metric, number, percent

SEPARATION = Metric(
    "d_prime", "d′", "how far apart the mean distances of same and of different pairs lie, in standard deviations",
    rate=False,
)  # fmt: skip
FOLDS = [
    Metric("accuracy_folds", "Accuracy", "right decisions"),
    Metric("val_at_far_0.001_folds", "True accepts at 0.1 % false accepts", "VAL, by a threshold for that rate"),
    Metric("far_at_far_0.001_folds", "False accepts that came of it", "aimed at were 0.1 %", "lower"),
    Metric("threshold_folds", "Threshold", "of the accuracy", rate=False),
]
FORGERIES = [
    ("eer", "Equal error rate, by one threshold", "for all writers"),
    ("eer_by_writer", "Equal error rate, by writer", "mean, each by the threshold that suits it best, which flatters"),
    ("far", "False accepts at the run's threshold", "which other data chose"),
]
KINDS = ("skilled", "random")

Table = dict[str, Any]
"""columns, and rows of a title, a meaning and cells; empty where there is nothing to show."""


def points(run: RunFolder, name: str) -> Table:
    """True accepts at each rate of false accepts that the pairs can tell, and d'; which they cannot, in `note`."""
    evaluations = _evaluations(run, name)
    rows = []
    untold: list[float] = []
    for rate in FARS:
        metric = Metric(tar_name(rate), f"True accepts at {100 * rate:g} % false accepts", "")
        cells = [cell(run, which, metric) for which in evaluations]
        if any(one["value"] is not None for one in cells):
            rows.append({"title": metric.title, "meaning": "", "cells": cells})
        elif metric.name in run.outcome(name).get("metrics", {}):
            untold.append(rate)
    cells = [cell(run, which, SEPARATION) for which in evaluations]
    if any(one["value"] is not None for one in cells):
        rows.append({"title": SEPARATION.title, "meaning": SEPARATION.meaning, "cells": cells})
    return {"columns": _columns(evaluations), "rows": rows, "note": _untold(run, name, untold)} if rows else {}


def _untold(run: RunFolder, name: str, rates: list[float]) -> str:
    if not rates:
        return ""
    reason = run.outcome(name).get("missing", {}).get(tar_name(rates[0]), "not measured")
    below = " and less" if len(rates) > 1 else ""
    return f"At {100 * rates[0]:g} % false accepts{below} they cannot be told: {reason}."


def folds(run: RunFolder, name: str) -> Table:
    """Accuracy and VAL over folds with their standard errors."""
    count = run.figure(name, "n_folds")
    if count is None:
        return {}
    evaluations = [which for which in _evaluations(run, name) if run.figure(which, "n_folds") is not None]
    rows = []
    for metric in FOLDS:
        cells = [_of_folds(run, which, metric) for which in evaluations]
        rows.append({"title": metric.title, "meaning": metric.meaning, "cells": cells})
    return {"columns": _columns(evaluations), "rows": rows, "count": number(count)}


def _of_folds(run: RunFolder, name: str, metric: Metric) -> dict[str, Any]:
    error = run.figure(name, f"{metric.name}_error")
    return cell(run, name, metric) | {"interval": "" if error is None else f"standard error {metric.write(error)}"}


def forgeries(run: RunFolder, name: str) -> Table:
    """Errors against forgeries of the writer, and against the genuine items of others."""
    if "n_writers" not in run.outcome(name).get("metrics", {}):
        return {}
    before = run.before.get(name)
    rows = []
    for key, title, meaning in FORGERIES:
        metrics = [Metric(f"{kind}_{key}", title, meaning, "lower") for kind in KINDS]
        cells = [cell(run, name, metric) for metric in metrics]
        for one, metric in zip(cells, metrics, strict=True):
            was = run.figure(before, metric.name) if before else None
            one["interval"] = "" if was is None else f"before training {percent(was)}"
        rows.append({"title": title, "meaning": meaning, "cells": cells})
    return {"columns": ["Skilled forgeries", "Random forgeries"], "rows": rows}


def _evaluations(run: RunFolder, name: str) -> list[str]:
    """That of the raw inputs, where there is one, and the evaluation itself."""
    before = run.before.get(name)
    return [before, name] if before else [name]


def _columns(evaluations: list[str]) -> list[str]:
    return ["Before training", "After training"] if len(evaluations) > 1 else ["After training"]

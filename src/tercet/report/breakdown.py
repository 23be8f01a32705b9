"""Which classes and which groups do worst and best."""

from __future__ import annotations

from typing import Any

from tercet.report.chart import Cell, csv_uri
from tercet.report.folder import RunFolder
from tercet.report.items import short
from tercet.report.wording import Metric, metric_of, number

MOST_SHOWN = 20  # of the worst, and of the best
MOST_BYTES = 500_000  # of the CSV of all
FIGURES = ("map_at_r", "recall_at_1")
PLURALS = {"class": "classes", "group": "groups", "writer": "writers"}

Row = dict[str, Any]


def breakdowns(run: RunFolder, name: str) -> list[dict[str, Any]]:
    """Of the classes (or writers), and of the groups, the worst and the best, and all of them as CSV."""
    outcome = run.outcome(name)
    classes, groups = outcome.get("classes") or [], outcome.get("groups") or []
    metrics = outcome.get("metrics", {})
    if "n_views" in metrics:
        return []  # of items without labels, each in a class of its own
    if "n_writers" in metrics:  # where each forgery is in a class of its own
        of_classes = breakdown("writer", [row | {"writer": row["class"]} for row in classes if row["queries"]])
    else:
        of_classes = breakdown("class", classes)
    return [found for found in (of_classes, breakdown("group", groups)) if found]


def breakdown(word: str, rows: list[Row]) -> dict[str, Any]:
    """The worst and the best of those rows that have queries, at most 20 each; empty with fewer than two.

    They go by MAP@R, or by Recall@1 where that was not to be had; of equal ones, more queries come first, and then what
    comes first in the data. Up to 20 are one list. Of more, half at most are among the worst, and only those that are
    not perfect; none is in both.
    """
    asked = [row for row in rows if row["queries"]]
    ranked_by = next((name for name in FIGURES if any(row[name] is not None for row in asked)), None)
    if ranked_by is None or len(asked) < 2:
        return {}
    ranked = sorted(asked, key=lambda row: (row[ranked_by], -row["queries"]))
    figures = [metric_of(name) for name in FIGURES if asked[0][name] is not None]
    columns = ["Queries", *(metric.title for metric in figures)]
    lists = [{"title": title, "rows": [_shown(word, row, figures) for row in own]}
             for title, own in _lists(ranked, ranked_by).items() if own]  # fmt: skip
    plural = PLURALS[word]
    told = _told(plural, rows, asked, metric_of(ranked_by))
    title = f"{word.capitalize()} by {word}"
    return {"title": title, "word": word, "words": plural, "told": told, "columns": columns, "lists": lists,
            "csv": _csv(word, rows)}  # fmt: skip


def _lists(ranked: list[Row], by: str) -> dict[str, list[Row]]:
    if ranked[0][by] == 1:
        return {}
    if len(ranked) <= MOST_SHOWN:
        return {"All, worst first": ranked}
    worst = [row for row in ranked[: min(MOST_SHOWN, len(ranked) // 2)] if row[by] < 1]
    best = sorted(ranked[len(worst) :], key=lambda row: (-row[by], -row["queries"]))
    return {"The worst": worst, "The best": best[: min(MOST_SHOWN, len(ranked) // 2)]}


def _told(plural: str, rows: list[Row], asked: list[Row], by: Metric) -> str:
    perfect = sum(row[by.name] == 1 for row in asked)
    without = len(rows) - len(asked)
    said = f"{number(len(asked))} {plural} by {by.title}; of equal ones, those with more queries come first."
    if perfect:
        said += f" {number(perfect)} {'is' if perfect == 1 else 'are'} without a mistake."
    if without:
        said += f" {number(without)} more {'has' if without == 1 else 'have'} no queries."
    return said


def _shown(word: str, row: Row, figures: list[Metric]) -> dict[str, Any]:
    texts = [number(row["queries"]), *(metric.write(row[metric.name]) for metric in figures)]
    return {"title": short(str(row[word])), "meaning": "", "cells": [{"text": text} for text in texts]}


def _csv(word: str, rows: list[Row]) -> str:
    """All rows in an address; nothing where they would take too much of the page."""
    header = [word, "items", "queries", "recall_at_1", "map_at_r"]
    cells: list[list[Cell]] = [
        [str(row[word]), *("" if row[key] is None else row[key] for key in header[1:])] for row in rows
    ]
    if sum(len(str(cell).encode()) + 1 for row in cells for cell in row) > MOST_BYTES:
        return ""
    return csv_uri(header, cells)

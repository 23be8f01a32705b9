"""What the data is made of, and what is wrong with it: sizes, copies, labels that may be wrong, files left out."""

from __future__ import annotations

from typing import Any

from tercet.report.folder import RunFolder
from tercet.report.items import item_of, short
from tercet.report.wording import number

MOST_SKIPPED_SHOWN = 50


def problems(run: RunFolder, name: str | None) -> dict[str, Any]:
    """Sentences on sizes and copies, and lists of suspects and of skipped files, for the template."""
    left_out = skipped(run)
    return {
        "told": _told(run, name),
        "contradictory": _contradictory(run),
        "suspects": suspected_labels(run, name) if name else {},
        "near": near_duplicates(run, name) if name else {},
        "skipped": left_out[:MOST_SKIPPED_SHOWN],
        "n_skipped": len(left_out),
    }


def _told(run: RunFolder, name: str | None) -> list[str]:
    said = []
    sizes, several = set(run.class_sizes.values()), run.summary.get("several_labels", False)
    if len(sizes) == 1:
        kind = "labels" if several else "classes"
        said.append(f"It was trained on {number(len(run.class_sizes))} {kind} of {number(sizes.pop())} items each.")
    found = run.copies
    if found:
        words = _counted(found["n_copies"], "item of the training data is a copy of another",
                         "items of the training data are copies of others")  # fmt: skip
        said.append(f"{words}, byte for byte.")
        if found["n_contradictory"]:
            words = _counted(found["n_contradictory"], "thing is", "things are")
            said.append(
                f"{words} there with different labels." if several
                else f"{words} in several classes at once; at most one of them can be right."
            )  # fmt: skip
    if name:
        n_known = run.evaluations[name].get("duplicates", 0)
        words = _counted(n_known, f"item of “{name}” is", f"items of “{name}” are")
        said.append(f"{words} in the training data too.")
    return said


def _counted(count: int, one: str, several: str) -> str:
    return f"No {one}" if not count else f"1 {one}" if count == 1 else f"{number(count)} {several}"


def _contradictory(run: RunFolder) -> list[list[dict[str, str]]]:
    """Copies that are in several classes, each a list of names and classes."""
    groups = run.copies.get("contradictory", [])
    return [[{key: short(str(text)) for key, text in one.items()} for one in group] for group in groups]


def suspected_labels(run: RunFolder, name: str) -> dict[str, Any]:
    """Items that nearly all of their neighbours contradict; empty where nothing was looked for."""
    found = run.evaluations[name].get("suspects") or {}
    if not found:
        return {}
    items = run.evaluations[name].get("items", {})
    listed = [
        {
            "item": item_of(items, one["item"]),
            "other": item_of(items, one["other"]),
            "evidence": f"{number(round(one['share'] * one['n_neighbors']))} of its {number(one['n_neighbors'])} "
            f"nearest are labelled {short(one['other_label'])}",
        }
        for one in found["label_errors"]
    ]
    return {"asked": found["asked"], "of": found["n_label_errors"], "listed": listed}


def near_duplicates(run: RunFolder, name: str) -> dict[str, Any]:
    """Pairs of items that are next to the same, and labelled differently."""
    found = run.evaluations[name].get("suspects") or {}
    items = run.evaluations[name].get("items", {})
    listed = [
        {
            "item": item_of(items, one["item"]),
            "other": item_of(items, one["other"]),
            "distance": number(one["distance"]),
        }
        for one in found.get("near_duplicates", [])
    ]
    return {"of": found.get("n_near_duplicates", 0), "listed": listed}


def skipped(run: RunFolder) -> list[dict[str, str]]:
    """Files that could not be used, each once."""
    lists = [
        run.summary.get("skipped", []),
        *(found.get("skipped", []) for found in run.evaluations.values()),
    ]
    by_name = {str(one.get("name")): str(one.get("reason", "")) for each in lists for one in each}
    return [{"name": name, "reason": reason} for name, reason in by_name.items()]

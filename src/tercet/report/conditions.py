"""What an evaluation was asked for, and what its intervals are over, in words."""

from __future__ import annotations

from typing import Any

from tercet.report.folder import RunFolder
from tercet.report.wording import number, percent

LEFT_OUT = {
    "group": "What is of an item's own group is left out of its search.",
    "group-and-label": "What shares both the group and the label of an item is left out of its search.",
}


def conditions(run: RunFolder, name: str) -> list[str]:
    """A sentence each on distance, search, margin and the unit of the intervals, as far as these are kept."""
    settings: dict[str, Any] = run.outcome(name).get("settings", {})
    said = [f"Distances are {settings['distance']}."] if settings.get("distance") else []
    said += search(run, name)
    recall = run.outcome(name).get("metrics", {}).get("search_recall")
    if recall is not None:
        said.append(f"It finds {percent(recall)} of the exact nearest.")
    if "margin" in settings:
        said.append(f"The margin of the triplets is {number(settings['margin'])}.")
    if run.outcome(name).get("intervals"):
        said.append(f"Small figures are 95 % intervals over {unit(run, name)}.")
    return said


def search(run: RunFolder, name: str) -> list[str]:
    """Where each item is searched for, what is left out, and whether by an approximation; nothing without a search."""
    outcome = run.outcome(name)
    settings, metrics = outcome.get("settings", {}), outcome.get("metrics", {})
    said = []
    if settings.get("sides"):
        left, right = settings["sides"]
        said.append(f"Each item of “{left}” is searched for among those of “{right}”, and the other way round.")
    elif "n_gallery_items" in metrics:
        said.append(f"Each item is searched for in a gallery of {number(metrics['n_gallery_items'])} items.")
    elif "n_queries" in metrics:
        said.append("Each item is searched for among all the others.")
    if settings.get("exclude"):
        said.append(LEFT_OUT[settings["exclude"]])
    if settings.get("approximate"):
        said.append("The search is approximate.")
    return said


def unit(run: RunFolder, name: str) -> str:
    """What the intervals of an evaluation are over."""
    outcome = run.outcome(name)
    metrics = outcome.get("metrics", {})
    if "spearman" in metrics:
        return "rows, and over items where these are in several rows"
    if "n_triplets" in metrics:
        return "triplets"
    if outcome.get("settings", {}).get("sides"):
        return "what belongs together in the search, and over pairs elsewhere"
    if "n_queries" not in metrics:
        return "pairs"
    if "n_writers" in metrics:
        return "writers, each forgery counting by itself"
    if "n_views" in metrics or outcome.get("settings", {}).get("several_labels"):
        return "items"
    return "classes" if outcome.get("classes", True) else "pairs that belong together"

"""Items as the page shows them, and the mistakes that they occur in."""

from __future__ import annotations

import re
from typing import Any

from tercet.report.folder import RunFolder
from tercet.report.wording import number

PICTURE = re.compile(r"data:image/(png|jpeg|gif|webp);base64,[A-Za-z0-9+/=]+")
LONGEST_NAME = 200  # of what earlier versions wrote; a page of one name helps nobody
VERDICTS = {
    ("false_matches", True): "taken for the same, wrongly",
    ("false_matches", False): "told apart, rightly",
    ("false_non_matches", True): "taken for different, wrongly",
    ("false_non_matches", False): "recognised, rightly",
}


def hardest_pairs(run: RunFolder, name: str) -> list[dict[str, Any]]:
    """The two lists of hardest pairs, each item with its name, class, and picture or text."""
    items = run.evaluations[name].get("items", {})
    titles = {
        "false_matches": ("Different, but near", "Pairs of two classes, nearest first."),
        "false_non_matches": ("Same, but far", "Pairs of one class, farthest first."),
    }
    lists = []
    for kind, (title, meaning) in titles.items():
        pairs = [
            {
                "items": [item_of(items, pair[side]) for side in ("left", "right")],
                "distance": number(pair["distance"]),
                "wrong": pair["wrong"],
                "verdict": VERDICTS.get((kind, pair["wrong"]), "no threshold to judge by"),
            }
            for pair in run.outcome(name).get("mistakes", {}).get(kind, [])
        ]
        lists.append({"title": title, "meaning": meaning, "pairs": pairs})
    return lists if any(each["pairs"] for each in lists) else []


def mistaken_queries(run: RunFolder, name: str) -> list[dict[str, Any]]:
    """The queries that go most wrong, each with its nearest items and whether they are right."""
    items = run.evaluations[name].get("items", {})
    return [
        {
            "query": item_of(items, one["query"]),
            "neighbours": [
                {"item": item_of(items, near["item"]), "distance": number(near["distance"]), "right": near["right"]}
                for near in one["neighbours"]
            ],
        }
        for one in run.evaluations[name].get("mistaken", [])
    ]


def item_of(items: dict[str, Any], position: int) -> dict[str, str]:
    """Name, class, picture and text of an item; nothing but pictures that are in the file count as such."""
    return shown({"name": f"item {position}"} | items.get(str(position), {}))


def shown(item: dict[str, Any]) -> dict[str, str]:
    """What a run folder holds of an item as the page shows it; a text that is its own name is said once."""
    name, text = short(str(item.get("name", ""))), str(item.get("text") or "")
    return {
        "name": name,
        "class": short(str(item.get("class", ""))),
        "picture": picture_of(item),
        "text": "" if text == name else text,
    }


def picture_of(item: dict[str, Any]) -> str:
    """The picture of an item, if it is one that the page itself holds."""
    picture = str(item.get("thumbnail") or "")
    return picture if PICTURE.fullmatch(picture) else ""


def short(text: str) -> str:
    """A name that leaves room for others."""
    return text if len(text) <= LONGEST_NAME else text[: LONGEST_NAME - 1] + "…"

"""copies.json: what of the data that a run was trained on is there more than once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from tercet.data.records import Records
from tercet.training.folder import files

COPIES_FILE = "copies.json"
MOST_LISTED = 20


def write_copies(folder: Path, records: Records, contents: np.ndarray) -> None:
    """Write copies.json, see `copies`."""
    files.write_json(folder / COPIES_FILE, copies(records, contents))


def copies(records: Records, contents: np.ndarray) -> dict[str, Any]:
    """How many items are copies of an earlier one, and which copies are in several classes (up to 20, with how many).

    {"n_copies", "n_contradictory", "contradictory": [[{"name", "class"}, ...], ...]}.

    Args:
        records: the training data.
        contents: a hash of each item's content, (N,), such as `Records.fingerprints()`.
    """
    order = np.argsort(contents, kind="stable")
    groups = np.split(order, np.flatnonzero(np.diff(contents[order])) + 1) if len(order) else []
    several = [group for group in groups if len(group) > 1]
    differing = [group for group in several if _contradict(records, group)]
    differing.sort(key=lambda group: int(group[0]))
    listed = [
        [{"name": str(records.names[item]), "class": records.label_name(item)} for item in group[:MOST_LISTED]]
        for group in differing[:MOST_LISTED]
    ]
    return {
        "n_copies": sum(len(group) - 1 for group in several),
        "n_contradictory": len(differing),
        "contradictory": listed,
    }


def _contradict(records: Records, copies: np.ndarray) -> bool:
    """Whether copies are in several classes; of items with several labels, whether any two have others."""
    codes = records.labels if records.sets is None else records.sets
    return codes is not None and bool((codes[copies] != codes[copies[0]]).any())

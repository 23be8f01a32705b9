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
    ordered, labels = contents[order], records.codes
    copied = np.flatnonzero(ordered[1:] == ordered[:-1])  # each copy comes right behind what it is a copy of
    unlike = copied[:0] if labels is None else copied[_differ(labels[order[copied]], labels[order[copied + 1]])]
    differing = np.unique(ordered[unlike])
    starts, ends = (np.searchsorted(ordered, differing, side) for side in ("left", "right"))
    groups = sorted((order[start:end] for start, end in zip(starts, ends, strict=True)), key=lambda group: group[0])
    listed = [
        [{"name": str(records.names[item]), "class": records.label_name(item)} for item in group[:MOST_LISTED]]
        for group in groups[:MOST_LISTED]
    ]
    return {
        "n_copies": len(copied),
        "n_contradictory": len(groups),
        "contradictory": listed,
    }


def _differ(labels: np.ndarray, others: np.ndarray) -> np.ndarray:
    """In which rows two arrays of labels, (N,), or of sets of them, (N, L), are not the same."""
    unlike = labels != others
    return unlike if unlike.ndim == 1 else unlike.any(axis=1)

"""Offline mining: embeddings of a whole set, and labels -> triplets worth training on, and likely label errors.

    options.py     MiningOptions: the rules, which are also the command line's flags
    items.py       labels, groups and contents as codes: who may be compared with whom
    search.py      the nearest of every item: exact, or through faiss; grown until enough of them are eligible
    suspects.py    likely label errors, copies under two labels, near-duplicates of another label
    positives.py   easy, random or hard mates of every anchor
    selection.py   which candidates are taken: ranks, margins, caps
    triplets.py    mine_triplets: all of it, in order
    tables.py      what was mined as a table, and what is suspect as CSV

Nothing here knows runs, encoders or files; names are imported when they are first used, so that help stays fast.
"""

from __future__ import annotations

import importlib
from typing import Any

_HOME = {
    "MiningOptions": "options",
    "mine_triplets": "triplets",
    "Mined": "triplets",
    "LabelError": "suspects",
    "NearDuplicate": "suspects",
    "suspects_csv": "tables",
    "triplet_table": "tables",
}
__all__ = list(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)

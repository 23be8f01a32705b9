"""Adapters that put Tercet's losses into other libraries' training, each thin.

    pml.py                     PMLLoss, for PyTorch Metric Learning
    sentence_transformers.py   STLoss, for sentence-transformers
    adapted.py                 what both ask of a loss, and a triplet loss on triplets that are given

Importing this package imports nothing; a name is imported when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

_HOME = {
    "PMLLoss": "tercet.integrations.pml",
    "STLoss": "tercet.integrations.sentence_transformers",
}

__all__ = ["PMLLoss", "STLoss"]

if TYPE_CHECKING:
    from tercet.integrations.pml import PMLLoss
    from tercet.integrations.sentence_transformers import STLoss


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'tercet.integrations' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))

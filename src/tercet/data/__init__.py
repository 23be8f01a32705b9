"""Data: files -> records -> batches. Nothing here imports torch before it is needed."""

from __future__ import annotations

import importlib
from typing import Any

_HOME = {
    "Augmentation": "options",
    "Records": "records",
    "Skipped": "records",
    "read": "readers",
    "ClassBatches": "samplers",
    "TupleBatches": "samplers",
    "hold_out": "split",
    "ImageCache": "images",
    "decode": "images",
    "describe_images": "images",
    "draw": "augmentation",
    "augment": "augmentation",
    "make_loader": "loaders",
}
__all__ = list(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)

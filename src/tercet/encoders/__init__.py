"""Encoders: a batch of images, texts or rows of numbers -> embeddings. `build` has the functions."""

from __future__ import annotations

import importlib
from typing import Any

_HOME = {
    "ImageOptions": "options",
    "TextOptions": "options",
    "TabularOptions": "options",
    "CustomOptions": "options",
    "TowersOptions": "options",
    "EncoderOptions": "options",
    "Encoder": "base",
    "CustomEncoder": "custom",
    "pretrained_texts": "texts",
}
__all__ = list(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)

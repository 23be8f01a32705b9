"""What a reader sees of an item: its name, its class, and a small picture or the beginning of its text."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable
from typing import Any

from tercet.data.records import Records
from tercet.data.sides import SIDES

THUMBNAIL_PIXELS = 96
LONGEST_NAME = 200
LONGEST_TEXT = 400
MOST_COLUMNS = 12

Shown = dict[str, str]


def show_all(records: Records, positions: Iterable[int]) -> dict[str, Shown]:
    """What is shown of these items, by their position as a string, as JSON has it."""
    return {str(position): show(records, position) for position in sorted(set(positions))}


def show(records: Records, position: int) -> Shown:
    """Name, class, and picture ("thumbnail") or text of an item, as far as it has them."""
    return named(records, position) | contents(records, position)


def contents(
    records: Records, position: int, pixels: int = THUMBNAIL_PIXELS, quality: int = 80, length: int = LONGEST_TEXT
) -> Shown:
    """The picture of an item, or the beginning of its text, or the first columns of a row of numbers."""
    item = records.items[position]
    kind, value = (item.kind, item.value) if records.kind == SIDES else (records.kind, item)
    if kind == "image":
        return {"thumbnail": thumbnail(value, pixels, quality)}
    if kind == "text":
        return {"text": _cut(str(value), length)}
    if records.features is not None:
        return {"text": _cut(records.features.described(value), length)}
    if kind == "tabular":
        values = list(zip(records.columns, value, strict=True))[:MOST_COLUMNS]
        return {"text": _cut(", ".join(f"{name} {number:.4g}" for name, number in values), length)}
    return {}


def named(records: Records, position: int) -> Shown:
    """Name and class of an item; where it is of one of two sides, that side's name stands for its class."""
    shown = {"name": _cut(str(records.names[position]), LONGEST_NAME)}
    label = records.label_name(position)
    if label is not None:
        shown["class"] = _cut(label, LONGEST_NAME)
    elif records.kind == SIDES:
        shown["class"] = records.columns[records.items[position].side]
    return shown


def thumbnail(image: Any, pixels: int = THUMBNAIL_PIXELS, quality: int = 80) -> str:
    """A small JPEG of an image as a data URI, of at most so many pixels a side."""
    from tercet.data.images import open_image

    picture = open_image(image, draft=2 * pixels).convert("RGB")
    picture.thumbnail((pixels, pixels))
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=quality)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"

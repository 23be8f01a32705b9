"""What the user may say about a source, and which files are read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

KINDS = ("image", "text", "tabular")
FORMS = ("labels", "triplets", "pairs", "marked-pairs", "scored-pairs", "items")
READING = ("kind", "form", "label", "label_level", "label_separator", "columns", "root", "layout", "part")
"""What may be said of data that a run is to read, which knows the rest from its training."""

LABELLED = ("labels", "label-sets")
"""The forms of records whose items have labels: one each, or a set each. They are asked for by the first."""

ALIKE = (*LABELLED, "pairs")
"""The forms of records that say of any two items whether they are alike."""

IMAGE_SUFFIXES = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm",
    ".pgm", ".pbm", ".pnm", ".jp2", ".avif", ".tga",
)  # fmt: skip
TOWERS = ("shared", "separate")
LayoutName = Literal[
    "cub200", "cars196", "sop", "inshop", "market1501", "lfw", "omniglot", "stsb", "wikipedia-sections"
]  # fmt: skip
"""The names of `layouts.LAYOUTS`."""

MISSING_VALUES = ("impute", "error")
TABLE_SUFFIXES = (".csv", ".tsv", ".jsonl", ".parquet")


@dataclass(frozen=True)
class Wishes:
    """What the user said about the source, which overrules what is found there."""

    kind: str | None = None
    form: str | None = None
    label: str | None = None
    columns: tuple[str, ...] | None = None
    root: Path | None = None
    labelled: bool = True
    towers: str | None = None
    missing: str = "impute"
    categories: tuple[str, ...] | None = None
    dates: tuple[str, ...] | None = None
    texts: tuple[str, ...] | None = None
    label_level: int | None = None
    label_separator: str | None = None

    @property
    def named(self) -> dict[str, str]:
        """The kind of each feature column that is named with one."""
        lists = {"category": self.categories, "date": self.dates, "text": self.texts}
        return {name: kind for kind, names in lists.items() for name in names or ()}

    @property
    def knows_kinds(self) -> bool:
        """Whether the kinds of all columns are said, as a run says them: what is not named is a number."""
        return None not in (self.categories, self.dates, self.texts)

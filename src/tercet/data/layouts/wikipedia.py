"""Wikipedia sections (Dor et al. 2018): triplets of sentences, two of one section and one of another."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from tercet.data.folders import decode_utf8
from tercet.data.layouts.base import Files, FolderLayout, Part, tuples_part
from tercet.data.records import Skipped

LISTS = {"train": "train.csv", "validation": "validation.csv", "test": "test.csv"}
HEADING = ["Sentence1", "Sentence2", "Sentence3"]


def is_at(folder: Path) -> bool:
    """Whether the folder looks like it: other tables are called by such names too."""
    for name in LISTS.values():
        if not (folder / name).is_file():
            return False
        with (folder / name).open(encoding="utf-8-sig", errors="replace") as file:
            if file.readline(200).strip().replace('"', "").split(",") != HEADING:
                return False
    return True


def read(files: Files, part: str) -> Part:
    """A part of it."""
    listing = files.find(LISTS[part])
    table = csv.reader(io.StringIO(decode_utf8(listing.read_bytes(), files.named(listing))))
    rows: list[list[str]] = []
    skipped: list[Skipped] = []
    for place, row in enumerate(table):
        if place == 0 and row != HEADING:
            raise files.wrong(listing, 1, ",".join(row), f"the heading {','.join(HEADING)}")
        if place == 0 or not row:
            continue
        texts = [text.strip() for text in row]
        if len(texts) != 3 or not all(texts):
            raise files.wrong(listing, table.line_num, ",".join(row), "three sentences")
        if texts[2] in texts[:2]:
            skipped.append(Skipped(f"line {table.line_num}", "the negative is the anchor or the positive itself"))
            continue
        rows.append(texts)
    return tuples_part(files, "text", rows, f"Wikipedia sections, {part}", skipped=skipped)


LAYOUT = FolderLayout(
    "Wikipedia sections", "the folder that wikipedia-sections-triplets.zip unpacks to", tuple(LISTS), is_at, read
)

"""The STS benchmark (Cer et al. 2017): 8,628 pairs of sentences with scores of their likeness, 0 to 5."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator
from pathlib import Path

from tercet.data.layouts.base import Files, FolderLayout, Part, UsualTest, tuples_part

LISTS = {"train": "sts-train", "validation": "sts-dev", "test": "sts-test"}
ENDINGS = (".csv", ".tsv")
SCORE, LEFT, RIGHT = 4, 5, 6  # columns of the files as they are published, which have no heading
SIMILAR = 4.0
"""The score from which a pair counts as similar: "mostly equivalent, some unimportant details differ"."""
LARGEST = 5.0


def is_at(folder: Path) -> bool:
    """Whether the folder looks like it."""
    return all(any((folder / (name + ending)).is_file() for ending in ENDINGS) for name in LISTS.values())


def read(files: Files, part: str) -> Part:
    """A part of it: pairs marked similar or not, and their scores."""
    listing = files.find(*(LISTS[part] + ending for ending in ENDINGS))
    rows, scores = [], []
    for line, score, left, right in _rows(files, listing):
        value = _number(score)
        if not 0 <= value <= LARGEST or not left.strip() or not right.strip():
            raise files.wrong(listing, line, f"{score} {left} {right}", "a score from 0 to 5 and two sentences")
        rows.append([left.strip(), right.strip()])
        scores.append(value)
    what = f"STS benchmark, {part}; similar from a score of {SIMILAR:g}"
    return tuples_part(files, "text", rows, what, similar=[score >= SIMILAR for score in scores], scores=scores)


def _rows(files: Files, listing: Path) -> Iterator[tuple[int, str, str, str]]:
    """Line, score and sentences: by a heading that names them, or as published, tab after tab and without quotes."""
    lines = list(files.lines(listing))
    heading = lines[0][1].lower() if lines else ""
    if "sentence1" in heading and "score" in heading:
        tabs = "\t" in heading
        texts = [text for _, text in lines]
        table = csv.reader(texts, delimiter="\t", quoting=csv.QUOTE_NONE) if tabs else csv.reader(texts)
        names = [name.strip().lower() for name in next(table)]
        places = [names.index(name) for name in ("score", "sentence1", "sentence2") if name in names]
        cells = ((line, row) for (line, _), row in zip(lines[1:], table, strict=False))
    else:
        places, cells = [SCORE, LEFT, RIGHT], ((line, text.split("\t")) for line, text in lines)
    for line, row in cells:
        if len(places) < 3 or len(row) <= max(places):
            raise files.wrong(listing, line, " ".join(row), "a score and two sentences, with tabs between")
        yield line, row[places[0]], row[places[1]], row[places[2]]


def _number(word: str) -> float:
    try:
        return float(word)
    except ValueError:
        return math.nan


LAYOUT = FolderLayout(
    "STS benchmark", "the folder that Stsbenchmark.tar.gz unpacks to", tuple(LISTS), is_at, read,
    UsualTest("test", said="distances are ranked beside the scores"),
)  # fmt: skip

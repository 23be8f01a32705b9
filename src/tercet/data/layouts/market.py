"""Market-1501 (Zheng et al. 2015): 32,668 pictures of 1,501 people by six cameras; DukeMTMC-reID lies alike."""

from __future__ import annotations

import re
from pathlib import Path

from tercet.data.layouts.base import Files, FolderLayout, Part, Picture, UsualTest, labelled_part
from tercet.data.records import Skipped
from tercet.data.wishes import IMAGE_SUFFIXES
from tercet.errors import DataError

FOLDERS = {"train": "bounding_box_train", "query": "query", "gallery": "bounding_box_test"}
NAME = re.compile(r"(-1|\d+)_c(\d+)")
JUNK, DISTRACTOR = "-1", 0


def is_at(folder: Path) -> bool:
    """Whether the folder looks like it."""
    return all((folder / name).is_dir() for name in FOLDERS.values())


def read(files: Files, part: str) -> Part:
    """A part of it, the camera as the group of each picture.

    Junk (-1), which counts neither as found nor as missed, is left out. A distractor (0) is nobody whom a query looks
    for, and no two of them are the same: each is a class of its own.
    """
    folder = files.find(FOLDERS[part])
    pictures, junk = [], []
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() not in IMAGE_SUFFIXES:
            continue
        found = NAME.match(path.name)
        if found is None:
            raise DataError(
                f"{files.named(path)}: the name does not begin with a person and a camera, such as 0002_c1s1_000451."
            )
        person, camera = found.groups()
        name = f"{FOLDERS[part]}/{path.name}"
        if person == JUNK:
            junk.append(Skipped(name, "junk, which neither counts as found nor as missed"))
            continue
        label = path.stem if int(person) == DISTRACTOR else person
        pictures.append(Picture(path, name, label, f"camera {camera}"))
    return labelled_part(files, pictures, f"Market-1501, {part}", junk)


LAYOUT = FolderLayout(
    "Market-1501", "the folder that Market-1501-v15.09.15.zip unpacks to", tuple(FOLDERS), is_at, read,
    UsualTest("query", "gallery", "group-and-label",
              "queries are searched for in the gallery, without pictures of the same person by the same camera"),
)  # fmt: skip

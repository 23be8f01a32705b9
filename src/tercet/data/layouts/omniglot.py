"""Omniglot (Lake et al. 2015): 1,623 characters of 50 alphabets, each drawn by 20 people."""

from __future__ import annotations

import re
from pathlib import Path

from tercet.data.layouts.base import Files, FolderLayout, Part, Picture, labelled_part
from tercet.errors import DataError

FOLDERS = {"train": "images_background", "test": "images_evaluation"}
NAME = re.compile(r"\d+_(\d+)")


def is_at(folder: Path) -> bool:
    """Whether the folder looks like it."""
    return all((folder / name).is_dir() for name in FOLDERS.values())


def read(files: Files, part: str) -> Part:
    """A part of it, whose alphabets are not in the other; who drew it is the group of each picture."""
    folder = files.find(FOLDERS[part])
    pictures = []
    for path in sorted(folder.glob("*/*/*.png")):
        found = NAME.fullmatch(path.stem)
        if found is None:
            raise DataError(
                f"{files.named(path)}: the name is not that of a character and of who drew it: 0001_01.png."
            )
        name = path.relative_to(folder).as_posix()
        pictures.append(Picture(path, name, name.rsplit("/", 1)[0], f"drawer {found.group(1)}"))
    return labelled_part(files, pictures, f"Omniglot, {part}")


LAYOUT = FolderLayout(
    "Omniglot", "the folder that images_background.zip and images_evaluation.zip unpack to", tuple(FOLDERS), is_at, read
)

"""Stanford Online Products (Song et al. 2016): 120,053 photographs of 22,634 products."""

from __future__ import annotations

from pathlib import Path

from tercet.data.layouts.base import Files, FolderLayout, Part, Picture, labelled_part

LISTS = {"train": "Ebay_train.txt", "test": "Ebay_test.txt"}
HEADING = ["image_id", "class_id", "super_class_id", "path"]


def is_at(folder: Path) -> bool:
    """Whether the folder looks like it."""
    return all((folder / name).is_file() for name in LISTS.values())


def read(files: Files, part: str) -> Part:
    """A part of it; no class is in both."""
    listing = files.find(LISTS[part])
    pictures = []
    for line, text in files.lines(listing):
        words = text.split()
        if line == 1 and words == HEADING:
            continue
        if len(words) != len(HEADING) or not words[1].isdecimal():
            raise files.wrong(listing, line, text, f"{', '.join(HEADING)}")
        pictures.append(Picture(files.folder / words[3], words[3], words[1]))
    return labelled_part(files, pictures, f"Stanford Online Products, {part}")


LAYOUT = FolderLayout(
    "Stanford Online Products", "the folder that Stanford_Online_Products.zip unpacks to", tuple(LISTS), is_at, read
)

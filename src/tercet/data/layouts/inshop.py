"""In-shop Clothes Retrieval of DeepFashion (Liu et al. 2016): 52,712 photographs of 7,982 pieces."""

from __future__ import annotations

from pathlib import Path

from tercet.data.layouts.base import Files, FolderLayout, Part, Picture, UsualTest, labelled_part
from tercet.errors import DataError

LISTINGS = ("list_eval_partition.txt", "Eval/list_eval_partition.txt")
IMAGES = ("img", "Img/img")
PARTS = ("train", "query", "gallery")


def is_at(folder: Path) -> bool:
    """Whether the folder looks like it."""
    return any((folder / name).is_file() for name in LISTINGS)


def read(files: Files, part: str) -> Part:
    """A part of it; what queries look for is in the gallery."""
    listing = files.find(*LISTINGS)
    home = files.find(*IMAGES).parent
    pictures, count, expected = [], None, 0
    for line, text in files.lines(listing):
        words = text.split()
        if line == 1 and len(words) == 1 and words[0].isdecimal():
            count = int(words[0])
        elif words[0] != "image_name":
            if len(words) != 3 or words[2] not in PARTS:
                raise files.wrong(listing, line, text, f"a path, an item and one of {', '.join(PARTS)}")
            expected += 1
            if words[2] == part:
                pictures.append(Picture(home / words[0], words[0], words[1]))
    if count is not None and count != expected:
        raise DataError(
            f"{files.named(listing)}:1: the file says that it lists {count:,} images, and it lists {expected:,}; it "
            "was cut short."
        )
    return labelled_part(files, pictures, f"In-shop Clothes Retrieval, {part}")


LAYOUT = FolderLayout(
    "In-shop Clothes Retrieval",
    "the folder of the In-shop benchmark of DeepFashion, with its images unpacked from img.zip", PARTS, is_at, read,
    UsualTest("query", "gallery", said="queries are searched for in the gallery"),
)  # fmt: skip

"""CUB-200-2011 (Wah et al. 2011): 11,788 photographs of 200 species of birds."""

from __future__ import annotations

from pathlib import Path

from tercet.data.layouts.base import Files, FolderLayout, Part, Picture, labelled_part
from tercet.errors import DataError

LAST_TRAINED = 100  # classes 1 to 100 train and 101 to 200 test, as papers on metric learning have it
WITHIN = {"split-train": "1", "split-test": "0"}
"""The data set's own split within each class, which classification uses."""


def is_at(folder: Path) -> bool:
    """Whether the folder looks like it."""
    return all((folder / name).is_file() for name in ("images.txt", "image_class_labels.txt"))


def read(files: Files, part: str) -> Part:
    """A part of it."""
    paths = _numbered(files, "images.txt", "the number of an image and its path")
    labels = _numbered(files, "image_class_labels.txt", "the number of an image and that of its class")
    images = files.find("images")
    split = _numbered(files, "train_test_split.txt", "the number of an image and 1 or 0") if part in WITHIN else {}
    pictures = []
    for number, (line, path) in paths.items():
        place, label = labels.get(number, (0, ""))
        if not label.isdecimal():
            listing = files.folder / "image_class_labels.txt"
            if number in labels:
                raise files.wrong(listing, place, label, "the number of a class")
            raise DataError(f"{files.named(listing)} says nothing of image {number} ({path}, images.txt:{line}).")
        if part in WITHIN:
            wanted = split.get(number, (0, ""))[1] == WITHIN[part]
        else:
            wanted = (int(label) <= LAST_TRAINED) == (part == "train")
        if wanted:
            pictures.append(Picture(images / path, path, path.split("/")[0]))
    return labelled_part(files, pictures, f"CUB-200-2011, {part}")


def _numbered(files: Files, name: str, expected: str) -> dict[str, tuple[int, str]]:
    """By the number of the image, the line and what stands there."""
    path = files.find(name)
    found = {}
    for line, text in files.lines(path):
        number, _, value = text.strip().partition(" ")
        if not number.isdecimal() or not value.strip():
            raise files.wrong(path, line, text, expected)
        found[number] = line, value.strip()
    return found


LAYOUT = FolderLayout(
    "CUB-200-2011", "the folder that CUB_200_2011.tgz unpacks to", ("train", "test", *WITHIN), is_at, read
)

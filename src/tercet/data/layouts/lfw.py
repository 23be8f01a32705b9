"""Labeled Faces in the Wild (Huang et al. 2007): 13,233 photographs of 5,749 people, and pairs to verify."""

from __future__ import annotations

from pathlib import Path

from tercet.data.layouts.base import Files, FolderLayout, Part, Picture, UsualTest, labelled_part, tuples_part
from tercet.data.records import Skipped
from tercet.errors import DataError

IMAGES = ("lfw", "lfw_funneled", "lfw-deepfunneled")
PAIRS = {"train": "pairsDevTrain.txt", "validation": "pairsDevTest.txt", "test": "pairs.txt"}
PEOPLE = "people"


def is_at(folder: Path) -> bool:
    """Whether the folder looks like it."""
    has_pairs = any((folder / name).is_file() for name in PAIRS.values())
    return has_pairs and any((folder / name).is_dir() for name in IMAGES)


def read(files: Files, part: str) -> Part:
    """A part of it: all photographs by person, or pairs marked same or different; those of the test in ten folds."""
    images = files.find(*IMAGES)
    if part == PEOPLE:
        found = sorted(images.glob("*/*.jpg"))
        pictures = [Picture(path, path.relative_to(images).as_posix(), path.parent.name) for path in found]
        return labelled_part(files, pictures, "LFW, all people")
    return _pairs(files, images, files.find(PAIRS[part]), f"LFW, {part}: {PAIRS[part]}")


def _pairs(files: Files, images: Path, listing: Path, what: str) -> Part:
    """The pairs of a list: a line says how many, then as many same as different ones, fold after fold."""
    lines = list(files.lines(listing))
    folds, size = _sizes(files, listing, lines)
    rows, names, similar, fold_of, gone = [], [], [], [], []
    for place, (line, text) in enumerate(lines[1:]):
        same = place % (2 * size) < size
        sides = _sides(files, listing, line, text, same)
        missing = [side for side in sides if not (images / side).is_file()]
        if missing:
            gone.append(Skipped(f"line {line}", f"no such file: {missing[0]}"))
            continue
        rows.append([str(images / side) for side in sides])
        names.append(sides)
        similar.append(same)
        fold_of.append(place // (2 * size) + 1)
    return tuples_part(
        files, "image", rows, what, names=names, similar=similar, skipped=gone, folds=fold_of if folds > 1 else None
    )


def _sizes(files: Files, listing: Path, lines: list[tuple[int, str]]) -> tuple[int, int]:
    """How many folds there are, and how many pairs of each kind in one."""
    words = lines[0][1].split() if lines else []
    if len(words) not in (1, 2) or not all(word.isdecimal() and int(word) > 0 for word in words):
        raise files.wrong(listing, 1, " ".join(words), "the number of folds, and of pairs of each kind in one")
    folds, size = (1, int(words[0])) if len(words) == 1 else (int(words[0]), int(words[1]))
    if len(lines) - 1 != 2 * folds * size:
        raise DataError(
            f"{files.named(listing)}:1: {folds} × {size} pairs of each kind are {2 * folds * size:,} lines, and "
            f"there are {len(lines) - 1:,}; the file was cut short, or is of another kind."
        )
    return folds, size


def _sides(files: Files, listing: Path, line: int, text: str, same: bool) -> list[str]:
    """The two photographs of a line."""
    words = text.split()
    if same and len(words) == 3 and words[1].isdecimal() and words[2].isdecimal():
        return [_photograph(words[0], number) for number in words[1:]]
    if not same and len(words) == 4 and words[1].isdecimal() and words[3].isdecimal():
        return [_photograph(words[0], words[1]), _photograph(words[2], words[3])]
    expected = "a name and two numbers (the same person)" if same else "a name, a number, another name and a number"
    raise files.wrong(listing, line, text, expected)


def _photograph(name: str, number: str) -> str:
    return f"{name}/{name}_{int(number):04d}.jpg"


LAYOUT = FolderLayout(
    "Labeled Faces in the Wild",
    "a folder that holds lfw/, as lfw.tgz unpacks to it, and the lists of pairs beside it",
    (*PAIRS, PEOPLE), is_at, read, UsualTest("test", said="each fold is judged by the threshold of the others"),
)  # fmt: skip

"""Cars-196 (Krause et al. 2013): 16,185 photographs of 196 models of cars."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from tercet.data.layouts.base import Files, FolderLayout, Part, Picture, labelled_part
from tercet.errors import DataError

LAST_TRAINED = 98  # classes 1 to 98 train and 99 to 196 test, as papers on metric learning have it
WHOLE = "cars_annos.mat"
DEVKIT = {"cars_train": ("devkit/cars_train_annos.mat", "cars_train_annos.mat"),
          "cars_test": ("devkit/cars_test_annos_withlabels.mat", "cars_test_annos_withlabels.mat")}  # fmt: skip
"""Where the development kit names the images of each folder; classes are divided anew, so both are needed."""


def is_at(folder: Path) -> bool:
    """Whether the folder looks like it."""
    return (folder / WHOLE).is_file() or any((folder / names[0]).is_file() for names in DEVKIT.values())


def read(files: Files, part: str) -> Part:
    """A part of it."""
    if (files.folder / WHOLE).exists():
        files.find("car_ims")
        listings = [(files.folder / WHOLE, files.folder, "relative_im_path")]
    elif not any((files.folder / name).exists() for names in DEVKIT.values() for name in names):
        files.find(WHOLE, *(names[0] for names in DEVKIT.values()))
    else:
        listings = [(files.find(*names), files.find(images), "fname") for images, names in DEVKIT.items()]
    pictures = []
    for listing, images, column in listings:
        for path, number in _annotations(files, listing, column):
            if (number <= LAST_TRAINED) == (part == "train"):
                name = (images / path).relative_to(files.folder).as_posix()
                pictures.append(Picture(images / path, name, f"{number:03d}"))
    return labelled_part(files, pictures, f"Cars-196, {part}")


def _annotations(files: Files, listing: Path, column: str) -> list[tuple[str, int]]:
    """The path and the number of the class of each annotation."""
    rows = _load(files, listing)
    missing = [name for name in (column, "class") if name not in (rows.dtype.names or ())]
    if missing:
        raise DataError(
            f"{files.named(listing)}: its annotations have no field {missing[0]!r}; the fields are "
            f"{', '.join(rows.dtype.names or ('none',))}."
        )
    found = []
    for place, row in enumerate(rows.ravel(), start=1):
        path, number = str(row[column]), row["class"]
        try:
            found.append((path, int(number)))
        except (TypeError, ValueError):
            raise DataError(
                f"{files.named(listing)}: annotation {place} ({path}) has the class {number!r}, which is no number."
            ) from None
    return found


def _load(files: Files, listing: Path) -> Any:
    from scipy.io import loadmat  # type: ignore[import-untyped, unused-ignore]

    try:
        content = loadmat(listing, squeeze_me=True)
    except Exception as cause:  # scipy raises many kinds for a file that is no MATLAB file, or is cut short
        raise DataError(f"{files.named(listing)} cannot be read as a MATLAB file: {cause}.") from None
    if "annotations" not in content:
        raise DataError(f"{files.named(listing)} holds no 'annotations'; download it again.")
    return np.atleast_1d(content["annotations"])


LAYOUT = FolderLayout(
    "Cars-196",
    "the folder that holds cars_annos.mat and car_ims/, or devkit/, cars_train/ and cars_test/",
    ("train", "test"), is_at, read,
)  # fmt: skip

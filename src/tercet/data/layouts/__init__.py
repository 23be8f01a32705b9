"""Layouts of the usual data sets, as their archives unpack: one small reader each, in one table."""

from __future__ import annotations

import os
from pathlib import Path
from typing import cast

from tercet.data.layouts import cars, cub, inshop, lfw, market, omniglot, products, stsb, wikipedia
from tercet.data.layouts.base import Files, FolderLayout, Part
from tercet.data.wishes import LayoutName
from tercet.errors import DataError, InputError, check_choice

__all__ = ["LAYOUTS", "FolderLayout", "Part", "find_layout", "parts", "read_part"]

LAYOUTS: dict[LayoutName, FolderLayout] = {
    "cub200": cub.LAYOUT,
    "cars196": cars.LAYOUT,
    "sop": products.LAYOUT,
    "inshop": inshop.LAYOUT,
    "market1501": market.LAYOUT,
    "lfw": lfw.LAYOUT,
    "omniglot": omniglot.LAYOUT,
    "stsb": stsb.LAYOUT,
    "wikipedia-sections": wikipedia.LAYOUT,
}


def find_layout(folder: str | os.PathLike[str], asked: str | None = None) -> LayoutName | None:
    """The name of the layout that is asked for, or that the folder looks like; None if it looks like none.

    Raises:
        InputError: there is no such layout.
    """
    if asked is not None:
        return _checked(asked)
    home = Path(folder)
    return next((name for name, layout in LAYOUTS.items() if home.is_dir() and layout.is_at(home)), None)


def read_part(layout: str, folder: str | Path, part: str) -> Part:
    """One part of a data set.

    Args:
        layout: a name of `LAYOUTS`.
        folder: where it lies.
        part: a name among its parts.

    Raises:
        InputError: there is no such layout or part.
        DataError: a file is missing, or a line is not as expected; the message says which.
    """
    found = LAYOUTS[_checked(layout)]
    check_choice(f"part of {found.title}", part, found.parts)
    home = Path(folder)
    if not home.is_dir():
        wrong = "is no folder" if home.exists() else "does not exist"
        raise DataError(f"{folder} {wrong}; {found.title} is read from {found.home}.")
    return found.read(Files(home, str(folder), found.home), part)


def parts(layout: str, folder: str | Path) -> dict[str, Part]:
    """All parts of a data set by name, with records and, where it has them, groups, folds and scores.

    Raises:
        InputError: there is no such layout.
        DataError: see `read_part`.
    """
    return {part: read_part(layout, folder, part) for part in LAYOUTS[_checked(layout)].parts}


def _checked(layout: str) -> LayoutName:
    check_choice("layout", layout, LAYOUTS)
    return cast(LayoutName, layout)


def usual_part(layout: LayoutName, part: str | None, usual: str) -> str:
    """The part that is asked for, or the usual one, or InputError where the data set has no such part."""
    chosen = part or usual
    if chosen not in LAYOUTS[layout].parts:
        known = ", ".join(LAYOUTS[layout].parts)
        raise InputError(f"{LAYOUTS[layout].title} has no part {chosen!r}, it has {known}; say which with --part.")
    return chosen

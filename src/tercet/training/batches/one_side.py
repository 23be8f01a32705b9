"""One side of two towers: items that come without their pairs, to be embedded, indexed or searched with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tercet.data.large_tables import columns_of
from tercet.data.records import Records
from tercet.data.sides import SIDES, SidedItems
from tercet.data.wishes import IMAGE_SUFFIXES, READING
from tercet.encoders.options import TowersOptions
from tercet.errors import DataError, InputError, check_choice
from tercet.training.config import DataOptions
from tercet.training.intake import read_source, refuse_idle


def read_side(data: Any, side: str | None, options: TowersOptions, given: Mapping[str, Any]) -> Records:
    """Records of one side of a source.

    Args:
        data: a path, or anything that training takes; a table may hold both sides.
        side: its name; found from what the data holds when left open, where the sides are of two kinds.
        options: of the towers.
        given: how to read the data: kind, label, columns, root.

    Raises:
        DataError: the data is not of that side's kind.
        InputError: it cannot be told which side is meant.
    """
    if isinstance(data, Records) and data.kind == SIDES:
        number = side_number(options, side)
        return data.of_side(number).as_side(number, options.sides)
    for word in given:
        check_choice("option", word, READING)
    wanted: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
    refuse_idle(data, given)
    columns = _columns(data)
    if side is not None:
        number = side_number(options, side)
        wanted = {"kind": options.towers[number].kind} | wanted
        wanted |= {"columns": (side,)} if side in columns and "columns" not in wanted else {}
    elif set(options.sides) <= columns and "columns" not in wanted:
        raise InputError(f"{data} holds both sides; say which is meant: {_named(options)}.")
    records = read_source(data, DataOptions(**({"form": "items"} if columns else {}) | wanted), False)
    number = side_number(options, side, records.kind)
    if records.kind != options.towers[number].kind:
        raise DataError(
            f"{records.source} holds {records.kind} data, and {options.sides[number]} is {options.towers[number].kind}."
        )
    return records.as_side(number, options.sides)


def of_side(items: Sequence[Any], side: str | None, options: TowersOptions) -> SidedItems:
    """Items as one side of two towers takes them; paths of images are told from texts by their endings.

    Raises:
        InputError: it cannot be told which side is meant.
    """
    values = [str(item) if isinstance(item, Path) else item for item in items]
    are_images = all(not isinstance(one, str) or Path(one).suffix.lower() in IMAGE_SUFFIXES for one in values)
    number = side_number(options, side, "image" if are_images else "text")
    return SidedItems.of_one(number, options.towers[number].kind, values)


def side_number(options: TowersOptions, side: str | None, kind: str | None = None) -> int:
    """Which side is meant: 0 left, 1 right; by its name, or by the kind of the items where only one side has that.

    Raises:
        InputError: no such side, or it cannot be told.
    """
    if side is not None:
        check_choice("side", side, options.sides)
        return options.sides.index(side)
    fitting = [number for number, tower in enumerate(options.towers) if tower.kind == kind]
    if len(fitting) == 1:
        return fitting[0]
    raise InputError(
        f"this run has an encoder for each of {' and '.join(options.sides)}; say which is meant: {_named(options)}."
    )


def _named(options: TowersOptions) -> str:
    return " or ".join(f"--side {name}" for name in options.sides)


def _columns(data: Any) -> set[str]:
    """The columns of a table; none of anything else."""
    return set(columns_of(Path(data), str(data))) if isinstance(data, (str, Path)) else set()

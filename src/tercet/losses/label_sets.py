"""Several labels an item, as lists of sets or as multi-hot rows -> int64 codes of shape (rows, L), padded with -1.

Two items share a label exactly where their rows share a code that is not -1. Lists of sets keep what was given; a
multi-hot row stands for the columns that it marks.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tercet.errors import InputError
from tercet.losses.labels import (
    Labels,
    check_length,
    check_none_missing,
    encode,
    entries_of,
    flat,
    is_missing,
    plain,
    words_beside_numbers,
)

PADDING = -1
_LABELS, _REFERENCE_LABELS = "labels", "reference_labels"


def encode_labels(given: Labels, length: int, other: Labels | None, other_length: int) -> tuple[Tensor, Tensor | None]:
    """Codes of the labels and of the reference's labels: int64, both (rows,), or both (rows, L).

    Raises:
        InputError: as `encode`; or one side is multi-hot and the other not, or of another number of columns.
    """
    sides = [(_LABELS, given, length)] + ([] if other is None else [(_REFERENCE_LABELS, other, other_length)])
    hot = [_is_multi_hot(name, side) for name, side, _ in sides]
    several = [_are_sets(side) for _, side, _ in sides]
    if any(hot):
        codes = _of_multi_hot([_marks(name, side, rows) for name, side, rows in sides])
    elif any(several):
        codes = _of_sets([_sets(name, side, rows) for name, side, rows in sides])
    else:
        return encode(_LABELS, given, length, _REFERENCE_LABELS, other, other_length)
    return codes[0], codes[1] if len(codes) > 1 else None


def plain_labels(name: str, given: Labels, length: int) -> Tensor | list[Any]:
    """Labels checked and not yet encoded: int64 (rows,), marks (rows, labels), strings, or lists of either.

    Raises:
        InputError: as `encode_labels`.
    """
    if _is_multi_hot(name, given):
        return _marks(name, given, length)[1]
    return _sets(name, given, length)[1] if _are_sets(given) else flat(name, given, length)


def _is_multi_hot(name: str, given: Any) -> bool:
    if not isinstance(given, (Tensor, np.ndarray)) or given.ndim < 2:
        return False
    shape = tuple(given.shape)
    if given.ndim > 2:
        raise InputError(f"{name} has shape {shape}; allowed is (rows,), or (rows, labels) of marks 0 and 1.")
    if shape[1] < 2:
        raise InputError(f"{name} has shape {shape}; allowed is one dimension, one entry a row: {name}.flatten().")
    return True


def _are_sets(given: Any) -> bool:
    """Whether these are collections of labels; an array of arrays would have been two-dimensional."""
    if isinstance(given, (str, Tensor)) or not hasattr(given, "__len__"):
        return False
    if isinstance(given, np.ndarray) and given.dtype.kind != "O":
        return False
    return any(_is_set(entry) for entry in given)


def _is_set(entry: Any) -> bool:
    if isinstance(entry, (Tensor, np.ndarray)):
        return entry.ndim == 1
    return isinstance(entry, Collection) and not isinstance(entry, (str, bytes))


def _marks(name: str, given: Any, length: int) -> tuple[str, Tensor]:
    """Multi-hot marks as booleans of shape (length, labels), with their name."""
    if not _is_multi_hot(name, given):
        other = _REFERENCE_LABELS if name == _LABELS else _LABELS
        raise InputError(f"{other} is multi-hot and {name} is not; give both alike.")
    marks = torch.as_tensor(given).detach()
    check_length(name, len(marks), length)
    wrong = marks[(marks != 0) & (marks != 1)]
    if len(wrong):
        raise InputError(
            f"{name} has shape {tuple(marks.shape)} and holds {wrong[0].item():g}; allowed in two dimensions are marks "
            f"0 and 1, a column for each label. To give each row its labels, give a list of lists."
        )
    return name, marks.bool()


def _of_multi_hot(sides: list[tuple[str, Tensor]]) -> list[Tensor]:
    columns = {marks.shape[1] for _, marks in sides}
    if len(columns) > 1:
        (first, a), (second, b) = sides
        raise InputError(
            f"{first} has shape {tuple(a.shape)} and {second} {tuple(b.shape)}; they must have the same columns, one "
            f"for each label."
        )
    width = max([1, *(int(marks.sum(1).max()) for _, marks in sides if len(marks))])
    return [_columns_of(marks, width) for _, marks in sides]


def _columns_of(marks: Tensor, width: int) -> Tensor:
    """The marked columns of each row, of shape (rows, width)."""
    codes = torch.full((len(marks), width), PADDING, dtype=torch.int64, device=marks.device)
    rows, columns = marks.nonzero(as_tuple=True)
    per_row = marks.sum(1)
    starts = per_row.cumsum(0) - per_row
    codes[rows, torch.arange(len(rows), device=marks.device) - starts[rows]] = columns
    return codes


def _sets(name: str, given: Any, length: int) -> tuple[str, list[list[Any]]]:
    """The labels of each row as a list of Python's integers or strings; a single label is a list of one."""
    if not _are_sets(given):
        entries = entries_of(name, given)
        rows = [[entry] for entry in (entries.tolist() if isinstance(entries, Tensor) else entries)]
    else:
        rows = [_one_set(name, row, entry) for row, entry in enumerate(given)]
    check_length(name, len(rows), length)
    check_none_missing(name, [row for row, entry in enumerate(rows) if any(is_missing(label) for label in entry)])
    _check_no_marks(name, rows)
    return name, rows


def _check_no_marks(name: str, rows: list[list[Any]]) -> None:
    """Raise InputError where lists hold marks instead of labels: then all items would share the labels 0 and 1."""
    marks = len({len(row) for row in rows}) == 1 and all(label in (0, 1) for row in rows for label in row)
    if marks and any(len(set(row)) < len(row) for row in rows):
        raise InputError(
            f"{name} holds lists of 0 and 1, all of one length, which look like marks, a column for each label; give "
            f"marks as a tensor, torch.tensor({name}), or the labels of each row once."
        )


def _one_set(name: str, row: int, entry: Any) -> list[Any]:
    if not _is_set(entry):
        raise InputError(
            f"{name} holds collections of labels, and {entry!r} at row {row}; give each row a collection, such as "
            f"[{entry!r}]."
        )
    labels = [plain(label) for label in (entry.tolist() if isinstance(entry, (Tensor, np.ndarray)) else entry)]
    wrong = [label for label in labels if not _is_label(label) and not is_missing(label)]
    if wrong:
        raise InputError(
            f"{name} holds {wrong[0]!r} among the labels of row {row}; allowed are integers or strings, all of one "
            f"kind."
        )
    return labels


def _is_label(entry: Any) -> bool:
    """Whether it is an integer or a string; among several labels, True would be a mark."""
    return isinstance(entry, (int, str)) and not isinstance(entry, bool)


def _of_sets(sides: list[tuple[str, list[list[Any]]]]) -> list[Tensor]:
    words = {name: {isinstance(label, str) for row in rows for label in row} for name, rows in sides}
    for name, kinds in words.items():
        if len(kinds) > 1:
            raise InputError(f"{name} holds labels of type int, str; allowed are integers or strings, all of one kind.")
    if len(set().union(*words.values())) > 1:
        strings = next(name for name, kinds in words.items() if kinds == {True})
        raise InputError(words_beside_numbers(strings, next(name for name in words if name != strings)))
    numbers: dict[Any, int] = {}
    coded = [[[numbers.setdefault(label, len(numbers)) for label in row] for row in rows] for _, rows in sides]
    width = max([1, *(len(row) for rows in coded for row in rows)])
    padded = [[row + [PADDING] * (width - len(row)) for row in rows] for rows in coded]
    return [torch.tensor(rows, dtype=torch.int64).reshape(-1, width) for rows in padded]

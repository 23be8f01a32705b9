"""Reads Python objects into records: lists, arrays, either with labels, and torch datasets."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tercet.data.labels import NO_LABELS, Labels, fault_of_lists
from tercet.data.randomness import keyed_draws
from tercet.data.records import Records, shorten
from tercet.data.tables import find_files, finite, without_missing
from tercet.data.wishes import IMAGE_SUFFIXES, Wishes
from tercet.errors import DataError, InputError


def read_objects(source: Any, wishes: Wishes) -> Records:
    """Records of a list or an array, either with labels in a tuple, or of a torch Dataset."""
    if isinstance(source, tuple) and len(source) == 2:
        items, given = source
        if len(items) != len(given):
            raise DataError(f"There are {len(items):,} items and {len(given):,} labels; each item needs one label.")
        return _read_items(items, list(given), wishes)
    if isinstance(source, list | np.ndarray):
        if wishes.labelled:
            raise DataError("The items have no labels: give a tuple (items, labels).")
        return _read_items(source, None, wishes)
    if is_iterable_dataset(source):
        raise DataError(
            f"{type(source).__name__} is an iterable dataset, which cannot be dealt by class. Give a "
            f"map-style Dataset, with __len__ and __getitem__, that gives (input, label)."
        )
    if hasattr(source, "__getitem__") and hasattr(source, "__len__"):
        return _read_dataset(source, wishes)
    raise InputError(
        f"Data cannot be a {type(source).__name__}; allowed are a path, a list, an array of shape (N, F), a "
        f"tuple (items, labels), a map-style torch Dataset, and Records."
    )


def is_iterable_dataset(source: Any) -> bool:
    """Whether this is a torch IterableDataset, which has no item i."""
    from torch.utils.data import IterableDataset

    return isinstance(source, IterableDataset)


def _read_items(items: Any, given: list[Any] | None, wishes: Wishes) -> Records:
    if len(items) == 0:
        raise DataError("There are no items.")
    labels = NO_LABELS if given is None else read_labels(given, wishes.labelled)
    if hasattr(items, "detach"):  # a tensor
        items = items.detach().cpu().numpy()
    if isinstance(items, np.ndarray) and items.dtype.kind in "iufb" and not _are_images(items):
        return _read_array(items, labels)
    items = list(items)
    if all(isinstance(item, str | os.PathLike) for item in items):
        values = [os.fspath(item) for item in items]
        return _read_strings(values, labels, wishes.kind)
    odd = next((item for item in items if not _is_image(item)), None)
    if odd is not None:
        raise InputError(f"An item is a {type(odd).__name__}; allowed are paths, texts, Pillow images and arrays.")
    names = [f"item {place + 1}" for place in range(len(items))]
    records = Records("image", items, names, None, (), None, None, (), (), "a list", "")
    return records.labelled(labels).described("list")


def _read_array(array: np.ndarray, labels: Labels) -> Records:
    if array.ndim != 2:
        raise InputError(f"An array of shape {array.shape} was given; allowed is (N, F), a row an item.")
    columns = tuple(f"feature {place + 1}" for place in range(array.shape[1]))
    names = [f"row {row + 1}" for row in range(len(array))]
    items = finite(array, columns, "the array", names)
    records = Records("tabular", items, names, None, (), None, None, columns, (), "an array", "")
    return records.labelled(labels).described("array")


def _read_strings(values: list[str], labels: Labels, kind: str | None) -> Records:
    images = all(Path(value).suffix.lower() in IMAGE_SUFFIXES for value in values)
    if kind == "tabular":
        raise InputError("--kind is 'tabular', but the items are strings; give an array of shape (N, F).")
    if (kind or ("image" if images else "text")) == "image":
        paths, missing = find_files(values, [Path()])
        records = Records("image", paths, values, None, (), None, None, (), (), "a list", "").labelled(labels)
        return without_missing(records.described("list of paths"), missing, "give whole paths")
    for place, value in enumerate(values):
        if not value.strip():
            raise DataError(f"Text {place} of the list is empty; remove it.")
    names = [shorten(value) for value in values]
    records = Records("text", values, names, None, (), None, None, (), (), "a list", "")
    return records.labelled(labels).described("list of texts")


def _are_images(array: np.ndarray) -> bool:
    return array.dtype == np.uint8 and array.ndim in (3, 4)


def _is_image(item: Any) -> bool:
    if isinstance(item, np.ndarray):
        return item.dtype == np.uint8 and item.ndim in (2, 3)
    return hasattr(item, "getexif")  # a Pillow image, without importing Pillow


def read_labels(given: Sequence[Any], labelled: bool) -> Labels:
    """Labels of any plain kind (numbers, strings, 0-d tensors), or collections of them, or rows of marks 0 and 1."""
    if not any(_is_collection(value) for value in given):
        labels = Labels.of([_name(value, place) for place, value in enumerate(given)])
    else:
        rows = _marked(given) or [list(value) if _is_collection(value) else [value] for value in given]
        names = [_name(value, place) for place, row in enumerate(rows) for value in row]
        counts = np.array([len(row) for row in rows], dtype=np.int64)
        fault = fault_of_lists(names, counts)
        if fault is not None:
            as_array = " Marks are given as an array: np.array(labels)." if "marks" in fault else ""
            raise DataError(f"The lists of labels hold {fault}{as_array}")
        labels = Labels.of(names, counts)
    if not len(labels.classes):
        raise DataError("No item has a label.")
    if labelled and len(labels.classes) < 2:
        raise DataError(f"There is a single class, {labels.classes[0]!r}; at least two are needed to tell apart.")
    return labels


def _is_collection(value: Any) -> bool:
    return isinstance(value, list | tuple | set | frozenset) or getattr(value, "ndim", 0) == 1


def _marked(given: Sequence[Any]) -> list[list[int]] | None:
    """The marked columns of each row, where all are arrays of one length that hold 0 and 1; None otherwise."""
    rows = [np.asarray(value) for value in given if getattr(value, "ndim", 0) == 1]
    if len(rows) < len(given) or len({len(row) for row in rows}) != 1 or len(rows[0]) < 2:
        return None
    marks = np.stack(rows)
    return [np.flatnonzero(row).tolist() for row in marks] if np.isin(marks, (0, 1)).all() else None


def _name(value: Any, place: int) -> str:
    """A label as text; whole numbers lose their ".0"."""
    value = value.item() if hasattr(value, "item") and getattr(value, "ndim", 0) == 0 else value
    if not isinstance(value, str | int | float | bool) or value != value or value == "":
        raise DataError(f"Label {place} is {value!r}; allowed are numbers and strings.")
    return str(int(value) if isinstance(value, float) and value.is_integer() else value)


class Inputs:
    """A map-style dataset that gives the input alone of another one that gives (input, label).

    Where that one draws, an item read by itself is always the same; see `keyed_draws`.
    """

    def __init__(self, dataset: Any, paired: bool) -> None:
        self.dataset = dataset
        self.paired = paired

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, place: int) -> Any:
        with keyed_draws(0, 0, int(place)):
            item = self.dataset[int(place)]
        return item[0] if self.paired else item


def _read_dataset(dataset: Any, wishes: Wishes) -> Records:
    source = type(dataset).__name__
    if len(dataset) == 0:
        raise DataError(f"The dataset {source} is empty.")
    first = dataset[0]
    paired = isinstance(first, tuple | list) and len(first) == 2
    if wishes.labelled and not paired:
        raise DataError(f"The dataset {source} gives a {type(first).__name__}; expected is (input, label).")
    labels = NO_LABELS
    if paired and wishes.form != "items":
        labels = read_labels(_labels_of(dataset), wishes.labelled)
    items: Any = Inputs(dataset, paired)
    kind = "image" if _is_image(items[0]) else "tensor"
    names = [f"item {place + 1}" for place in range(len(dataset))]
    records = Records(kind, items, names, None, (), None, None, (), (), source, "")
    return records.labelled(labels).described("torch dataset")


def _labels_of(dataset: Any) -> list[Any]:
    """The dataset's own list of labels if it has one of the right length, otherwise one pass over it."""
    for name in ("targets", "labels"):
        held = getattr(dataset, name, None)
        if held is not None and hasattr(held, "__len__") and len(held) == len(dataset):
            return list(held)
    return [dataset[place][1] for place in range(len(dataset))]

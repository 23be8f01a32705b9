"""What X may be: a table of numbers, which scikit-learn checks, or a list of texts, of paths or of images.

Shapes: N items, F features.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import column_or_1d, validate_data

from tercet.data.records import Records
from tercet.data.tables import finite
from tercet.errors import InputError

FLOATS = (np.float64, np.float32)


def listed(X: Any) -> list[Any] | None:
    """The texts, paths or images that X holds, one each; None where X holds numbers, or nothing that is known.

    Args:
        X: a list, a Series, an array of strings, of shape (N,) or (N, 1), a data frame with one column of them, or an
            array of images, uint8 of shape (N, H, W) or (N, H, W, 3).

    Raises:
        InputError: a single item, or a list of which some are texts or images and others are not.
    """
    if isinstance(X, str | bytes | os.PathLike):
        raise InputError(f"X must hold items; {X!r} is a single one. Write [{X!r}].")
    if isinstance(X, np.ndarray) and X.dtype == np.uint8 and X.ndim in (3, 4):
        return list(X)
    items = _column(X)
    known = [_is_item(item) for item in items]
    if not any(known):
        return None
    if not all(known):
        place = known.index(False)
        raise InputError(
            f"item {place} of X is {items[place]!r}, and others are texts, paths or images; fill it in or leave it out."
        )
    return [os.fspath(item) if isinstance(item, os.PathLike) else _plain(item) for item in items]


def _column(X: Any) -> Sequence[Any]:
    """The values of something that has one a row; empty where it has several."""
    if isinstance(X, list | tuple):
        return X
    shape: tuple[int, ...] = getattr(X, "shape", ())
    if len(shape) == 1 and hasattr(X, "__array__"):
        return list(np.asarray(X, dtype=object))
    if len(shape) == 2 and shape[1] == 1 and hasattr(X, "__array__") and not _is_numeric(X):
        return list(np.asarray(X, dtype=object)[:, 0])
    return []


def _is_numeric(X: Any) -> bool:
    return isinstance(X, np.ndarray) and X.dtype.kind in "biufc"


def _is_item(item: Any) -> bool:
    if isinstance(item, np.ndarray):
        return item.dtype == np.uint8 and item.ndim in (2, 3)
    return isinstance(item, str | os.PathLike) or hasattr(item, "getexif")  # a Pillow image, without importing Pillow


def _plain(item: Any) -> Any:
    return str(item) if isinstance(item, str) else item


def numbers(estimator: BaseEstimator, X: Any, *, reset: bool, **checks: Any) -> np.ndarray:
    """X as float32 (N, F), checked as scikit-learn does.

    Raises:
        DataError: a value that float32 cannot hold.
    """
    checked = validate_data(estimator, X, dtype=FLOATS, reset=reset, **checks)
    checked = checked[0] if "y" in checks else checked
    columns = getattr(estimator, "feature_names_in_", range(checked.shape[1]))
    return finite(checked, columns, "X", range(len(checked)))  # type: ignore[arg-type]


def classes_of(y: Any, n_items: int) -> np.ndarray:
    """The labels y, of shape (N,).

    Raises:
        InputError: none, or another number of them than of items.
        ValueError: scikit-learn's, of labels that are no classes.
    """
    if y is None:
        raise InputError("y is None, and requires y to be passed, but the target y is None: give each item's label.")
    labels = column_or_1d(y, warn=True)
    check_classification_targets(labels)
    if len(labels) != n_items:
        raise InputError(f"X holds {n_items} items and y {len(labels)} labels; give each item one.")
    return labels


def few(records: Records, n_classes: int = 32, n_samples: int = 4) -> Records:
    """A few items of a few classes, of which the first have several if any class has."""
    assert records.labels is not None
    counts = np.bincount(records.labels)
    classes = np.argsort(-counts, kind="stable")[:n_classes]
    places = [np.flatnonzero(records.labels == code)[:n_samples] for code in classes]
    return records.take(np.sort(np.concatenate(places)))

"""Which classes are for training and validation, which for the test, and the folds of the former."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tercet.data.randomness import keyed
from tercet.data.records import Records, plural
from tercet.errors import DataError


@dataclass(frozen=True, eq=False)
class Fold:
    """What is trained on, and what validates it: no class is in both."""

    train: Records
    held: Records


def halves(records: Records) -> tuple[Records, Records]:
    """The first half of the classes in their order, for training and validation, and the others, for the test.

    Of an odd number the test has one more. Source: Musgrave et al. 2020, section 4.
    """
    check_labels(records)
    assert records.labels is not None
    first = records.labels < len(records.classes) // 2
    if not first.any():
        raise DataError(f"{records.source} has one class; a benchmark needs some to train on and others to test.")
    return records.take(np.flatnonzero(first)), records.take(np.flatnonzero(~first))


def check_labels(records: Records) -> None:
    """Raise DataError unless the records have labels."""
    if records.labels is None:
        raise DataError(
            f"{records.source} holds {records.form.replace('-', ' ')}, and a benchmark needs items with labels: its "
            "folds and its test set have classes of their own."
        )


def check_test(records: Records) -> None:
    """Raise DataError unless the test set has something to find, and something else."""
    check_labels(records)
    several = int((np.bincount(records.labels) > 1).sum()) if len(records) else 0  # type: ignore[arg-type]
    if several < 1 or len(records.classes) < 2:
        raise DataError(
            f"the test set ({records.count()}) has {plural(several, 'class')} with two items; it needs one, and two "
            "classes. Give another with --test."
        )


def folds_of(records: Records, number: int, seed: int) -> tuple[Fold, ...]:
    """The folds: classes dealt at random into parts, each of which validates what the others train.

    Args:
        records: for training and validation.
        number: of folds.
        seed: of the deal.

    Raises:
        DataError: there are too few classes for each fold to hold two with two items.
    """
    assert records.labels is not None
    counts = np.bincount(records.labels, minlength=len(records.classes))
    several, single = np.flatnonzero(counts > 1), np.flatnonzero(counts == 1)
    if len(several) < 2 * number:
        raise DataError(
            f"{records.source}: {plural(len(several), 'class')} with two items are for training and validation; "
            f"{number} folds need at least {2 * number}, two each. Give fewer --folds, or data with more classes."
        )
    generator = keyed(seed, "benchmark")
    parts = zip(_dealt(several, number, generator), _dealt(single, number, generator), strict=True)
    held = [np.isin(records.labels, np.concatenate(part)) for part in parts]
    return tuple(Fold(records.take(np.flatnonzero(~one)), records.take(np.flatnonzero(one))) for one in held)


def _dealt(classes: np.ndarray, number: int, generator: np.random.Generator) -> Sequence[np.ndarray]:
    return np.array_split(generator.permutation(classes), number)

"""How an evaluation searches: in what gallery, what it leaves out, and how far down it looks."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tercet.data.groups import read_groups
from tercet.data.records import Records
from tercet.errors import DataError, InputError
from tercet.evaluation import Evaluation
from tercet.training.model import Readable

USUAL_KS = (1, 5, 10)


@dataclass(frozen=True, eq=False)
class Searched:
    """Settings of the retrieval of an evaluation, see `tercet.evaluation.retrieval`.

    Attributes:
        ks: the k of recall@k and the like.
        exclude: "group", "group-and-label" or None.
        approximate: search through faiss.
        groups: of the items, one each; None without groups.
        gallery: what is searched, read whole; None where the items are searched for among themselves.
        gallery_groups: of these.
        gallery_vectors: their embeddings, (G, D).
        progress: called with how many queries are done, and of how many.
    """

    ks: tuple[int, ...] = USUAL_KS
    exclude: str | None = None
    approximate: bool = False
    groups: Sequence[Any] | None = None
    gallery: Readable | None = None
    gallery_groups: Sequence[Any] | None = None
    gallery_vectors: np.ndarray | None = None
    progress: Callable[[int, int], None] | None = field(default=None, repr=False)

    @property
    def is_default(self) -> bool:
        """Whether nothing but ks was asked for."""
        return self.gallery is None and self.groups is None and self.exclude is None and not self.approximate

    def settings(self) -> dict[str, Any]:
        """As `evaluate_embeddings` takes them."""
        found: dict[str, Any] = {"ks": self.ks, "exclude": self.exclude, "approximate": self.approximate}
        found |= {"groups": self.groups, "gallery_groups": self.gallery_groups, "progress": self.progress}
        if self.gallery is not None:
            found |= {"gallery": self.gallery_vectors, "gallery_labels": written_labels(self.gallery.records)}
        return found


def written_labels(records: Records) -> np.ndarray | list[list[str]]:
    """Each item's label as the data writes it, strings (N,); a forgery, which is like nothing, has its own.

    Of several labels an item a list of lists.
    """
    if records.sets is not None:
        return records.label_lists()
    names = np.array(records.label_names())
    if records.forged is not None:
        return np.array([f"{name} {i}" if records.forged[i] else name for i, name in enumerate(names)])
    return names


def groups_of(source: Any, records: Records, column: str | None, pattern: str | None) -> list[str | None] | None:
    """The group of each item as read: from a column of the table, or by a pattern from its name; None without either.

    Raises:
        InputError: both are given, or the pattern is none, or has no group.
        DataError: no such column, or a name that the pattern does not fit.
    """
    if column is not None and pattern is not None:
        raise InputError("--group names a column and --group-from a pattern of file names; give one of them.")
    if column is not None:
        return read_groups(source, column, records)
    if pattern is None:
        return None
    try:
        compiled = re.compile(pattern)
    except re.error as cause:
        raise InputError(f"--group-from {pattern!r} is not a regular expression: {cause}.") from None
    if compiled.groups < 1:
        raise InputError(f"--group-from {pattern!r} has no parentheses around what the group is, such as _c(\\d).")
    found = [compiled.search(str(name)) for name in records.names]
    unfit = [name for name, match in zip(records.names, found, strict=True) if match is None]
    if unfit:
        raise DataError(
            f"{records.source}: {len(unfit):,} of {len(records):,} names do not fit --group-from {pattern!r}, "
            f"the first is {unfit[0]}."
        )
    return [match[1] for match in found if match is not None]


def kept_groups(groups: Sequence[Any] | None, records: Records, left: Records) -> Sequence[Any] | None:
    """The groups of those records that could be read."""
    if groups is None:
        return None
    if len(groups) != len(records):
        of_rows = "" if records.tuples is None else f" A column of {records.source} says nothing of the items of a row."
        raise InputError(
            f"there are {len(records):,} items and {len(groups):,} groups; each item needs one, or None.{of_rows}"
        )
    gone = {one.name for one in left.skipped} if len(left) < len(records) else set()
    return [group for group, name in zip(groups, records.names, strict=True) if name not in gone]


def kept_rows(values: Sequence[Any], records: Records, left: Records) -> Any:
    """What belongs to those rows of pairs or triplets whose items could all be read."""
    assert records.tuples is not None
    if len(left) == len(records) or len(values) != len(records.tuples):
        return values
    gone = {one.name for one in left.skipped}
    is_gone = np.array([name in gone for name in records.names])
    return np.asarray(values)[~is_gone[records.tuples].any(axis=1)]


def class_table(evaluation: Evaluation) -> str:
    """The figures of each class, and of each group, as CSV."""
    buffer = io.StringIO()
    rows = csv.writer(buffer, lineterminator="\n")
    rows.writerow(["of", "name", "items", "queries", "recall_at_1", "map_at_r"])
    for word, table in (("class", evaluation.classes), ("group", evaluation.groups)):
        rows.writerows([word, row[word], *list(row.values())[1:]] for row in table)
    return buffer.getvalue()

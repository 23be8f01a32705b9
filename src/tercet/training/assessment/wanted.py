"""What is wanted of an evaluation beside its data: by the user, or by the custom of a known data set."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tercet.data.groups import read_column
from tercet.data.layouts import LAYOUTS, find_layout, read_part
from tercet.data.layouts.base import UsualTest
from tercet.data.records import Records
from tercet.data.wishes import ALIKE
from tercet.errors import DataError, InputError
from tercet.evaluation import in_order
from tercet.training.assessment.searched import groups_of, kept_groups, kept_rows


@dataclass(frozen=True, eq=False)
class Wanted:
    """How to search and what to judge by, as sources and names; `Run.evaluate` says what each is.

    Attributes:
        scores: of each pair, (T,), by which distances are ranked.
        part: which part of the folder of a data set is evaluated on, unless the user says.
        gallery_part: and which is the gallery.
        said: in words, what the custom is that all this follows.
    """

    gallery: Any = None
    exclude: str | None = None
    group: str | None = None
    group_from: str | None = None
    groups: Sequence[Any] | None = None
    gallery_groups: Sequence[Any] | None = None
    folds: Any = None
    scores: np.ndarray | None = None
    part: str = "test"
    gallery_part: str | None = None
    said: str = ""

    def or_usual(self, source: Any, options: Mapping[str, Any]) -> Wanted:
        """Where nothing is wanted in particular, what the authors of a known data set do.

        Args:
            source: what is evaluated on.
            options: how the user says that it is read.
        """
        found = _usual_test(source, options)
        if found is None:
            return self
        name, test = found
        asked = (self.gallery, self.exclude, self.group, self.group_from, self.groups, self.gallery_groups, self.folds)
        if any(one is not None for one in asked) or not _applies(test, options):
            return replace(self, part=test.part)
        return _as_usual(source, name, test)

    def check(self, records: Records) -> None:
        """Refuse groups for data that is not searched.

        Raises:
            DataError: there are some.
        """
        if (self.group or self.group_from) and records.form not in ALIKE:
            raise DataError(
                f"{records.source} holds {records.form.replace('-', ' ')}; groups are for data with labels."
            )

    def groups_of(
        self, source: Any, records: Records, left: Records, of_gallery: bool = False
    ) -> Sequence[Any] | None:  # fmt: skip
        """The groups of the records that are left: as they are given, from a column, or by a pattern.

        Args:
            source: what the records were read from.
            records: as they were read.
            left: those of them that could be decoded.
            of_gallery: whether they are the gallery.
        """
        given = self.gallery_groups if of_gallery else self.groups
        found = given if given is not None else groups_of(source, records, self.group, self.group_from)
        return kept_groups(found, records, left)

    def folds_of(self, source: Any, records: Records, left: Records) -> Any:
        """The fold of each pair that is left, (T,); None without folds. The arguments are those of `groups_of`.

        Raises:
            InputError: these are no marked pairs.
            DataError: the column names no fold for a pair.
        """
        if self.folds is None:
            return None
        if isinstance(self.folds, bool) or left.form != "marked-pairs":
            raise InputError(
                f"folds belong to pairs that are marked as the same or not; {left.source} holds "
                f"{left.form.replace('-', ' ')}."
            )
        assert left.tuples is not None
        if isinstance(self.folds, int):
            return in_order(len(left.tuples), self.folds)
        if not isinstance(self.folds, str):
            return kept_rows(self.folds, records, left)
        named = read_column(source, self.folds, left, "--folds")
        empty = sum(not (name or "").strip() for name in named)
        if empty:
            raise DataError(
                f"{left.source}: column {self.folds!r} names no fold for {empty:,} of its {len(named):,} pairs."
            )
        return np.array(named)


def _usual_test(source: Any, options: Mapping[str, Any]) -> tuple[str, UsualTest] | None:
    """The name of the data set whose folder it is, and how it is tested."""
    if not isinstance(source, (str, os.PathLike)) or not os.path.isdir(source):
        return None
    name = find_layout(source, options.get("layout"))
    return None if name is None else (name, LAYOUTS[name].test)


def _applies(test: UsualTest, options: Mapping[str, Any]) -> bool:
    """Whether the user wants the part that is tested so, as it is."""
    return bool(test.said) and options.get("part") in (None, test.part) and options.get("form") is None


def _as_usual(source: Any, name: str, test: UsualTest) -> Wanted:
    part = read_part(name, source, test.part)
    wanted = Wanted(exclude=test.exclude, folds=part.folds, scores=part.scores, part=test.part, said=test.said)
    if test.exclude is not None:
        wanted = replace(wanted, groups=part.groups)
    if test.gallery is None:
        return wanted
    of_gallery = read_part(name, source, test.gallery).groups if test.exclude is not None else None
    return replace(wanted, gallery=source, gallery_part=test.gallery, gallery_groups=of_gallery)

"""What is wanted of an evaluation beside its data: by the user, or by the custom of a known data set."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tercet.data.layouts import LAYOUTS, find_layout, read_part
from tercet.data.layouts.base import UsualTest


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

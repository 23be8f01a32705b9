"""What a layout is, and what its readers share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tercet.data.folders import decode_utf8
from tercet.data.labels import Labels
from tercet.data.records import Records, Skipped, listed, shorten
from tercet.errors import DataError


@dataclass(frozen=True, eq=False)
class Part:
    """One part of a data set.

    Attributes:
        records: its items with labels, triplets or pairs.
        groups: of each item, such as the camera; None where the data set has none.
        folds: of each pair, from 1, int64 (T,); None where the data set has none.
        scores: of each pair, as they are given, float64 (T,); None where the data set has none.
    """

    records: Records
    groups: tuple[str | None, ...] | None = None
    folds: np.ndarray | None = None
    scores: np.ndarray | None = None


@dataclass(frozen=True)
class UsualTest:
    """How those test who report figures of a data set; folds and scores of pairs come with the part.

    Attributes:
        part: which part is evaluated on.
        gallery: the part that its items are searched for in; None for among each other.
        exclude: what is left out of the search of an item, of the groups of both parts; see `evaluation.retrieval`.
        said: the same in words.
    """

    part: str
    gallery: str | None = None
    exclude: str | None = None
    said: str = ""


@dataclass(frozen=True)
class FolderLayout:
    """How a data set lies in its folder.

    Attributes:
        title: what the data set is called.
        home: the folder that is expected, in words.
        parts: their names.
        is_at: whether a folder looks like it.
        read: a part of it, from the folder, the source as the user gave it, and the name of the part.
        test: how it is tested.
    """

    title: str
    home: str
    parts: tuple[str, ...]
    is_at: Callable[[Path], bool]
    read: Callable[[Files, str], Part]
    test: UsualTest = UsualTest("test")


@dataclass(frozen=True)
class Files:
    """The folder of a layout, with the words for what is missing there."""

    folder: Path
    source: str
    home: str

    def find(self, *names: str) -> Path:
        """The first of these that is there.

        Raises:
            DataError: none is; the message says which is expected, and where.
        """
        found = next((self.folder / name for name in names if (self.folder / name).exists()), None)
        if found is None:
            raise DataError(f"{self.source.rstrip('/')}/: {' or '.join(names)} is missing; expected in {self.home}.")
        return found

    def lines(self, path: Path) -> Iterator[tuple[int, str]]:
        """The lines of a file that are not blank, with their numbers."""
        text = decode_utf8(path.read_bytes(), self.named(path))
        return ((number, line) for number, line in enumerate(text.splitlines(), start=1) if line.strip())

    def named(self, path: Path) -> str:
        """A path below the folder, as the user would write it."""
        return f"{self.source.rstrip('/')}/{path.relative_to(self.folder).as_posix()}"

    def wrong(self, path: Path, line: int, given: str, expected: str) -> DataError:
        """The error of a line that is not as expected."""
        return DataError(f"{self.named(path)}:{line}: {shorten(given)!r} is not {expected}.")


@dataclass(frozen=True)
class Picture:
    """An image of a data set: its path, its name there, its label and its group."""

    path: Path
    name: str
    label: str
    group: str | None = None


def labelled_part(files: Files, pictures: Sequence[Picture], what: str, skipped: Sequence[Skipped] = ()) -> Part:
    """A part of labelled images; those whose files are missing are left out.

    Raises:
        DataError: none is there.
    """
    there = [one for one in pictures if one.path.is_file()]
    gone = [Skipped(one.name, "no such file") for one in pictures if not one.path.is_file()]
    if not there:
        raise DataError(f"{files.source}: none of the {len(pictures):,} images of {what} is there. {listed(gone)}"
                        if gone else f"{files.source}: {what} has no images.")  # fmt: skip
    records = Records(
        "image", [str(one.path) for one in there], [one.name for one in there], None, (), None, None, (),
        (*skipped, *gone), files.source, "",
    ).labelled(Labels.of([one.label for one in there]))  # fmt: skip
    groups = tuple(one.group for one in there) if any(one.group for one in there) else None
    return Part(records.described(what), groups)


def tuples_part(
    files: Files, kind: str, rows: Sequence[Sequence[str]], what: str, *, names: Sequence[Sequence[str]] | None = None,
    similar: Sequence[bool] | None = None, skipped: Sequence[Skipped] = (), folds: Sequence[int] | None = None,
    scores: Sequence[float] | None = None,
) -> Part:  # fmt: skip
    """A part of pairs or triplets, a row each; equal texts, or paths, are one item.

    Args:
        files: where it was read.
        kind: "text" or "image".
        rows: texts or paths, (T, 2) or (T, 3).
        what: the part, in words.
        names: of the items, as `rows`; texts are named by themselves.
        similar: for pairs that are marked, whether each is.
        skipped: what was left out.
        folds: of each pair.
        scores: of each pair.
    """
    if not rows:
        raise DataError(f"{files.source}: {what} is empty.{' ' + listed(skipped) if skipped else ''}")
    first: dict[str, int] = {}
    codes = np.array([[first.setdefault(item, len(first)) for item in row] for row in rows], dtype=np.int64)
    called = [shorten(item) for item in first]
    if names is not None:
        name_of = {
            item: name for row, own in zip(rows, names, strict=True) for item, name in zip(row, own, strict=True)
        }
        called = [name_of[item] for item in first]
    records = Records(
        kind, list(first), called, None, (), codes, None if similar is None else np.array(similar, dtype=bool), (),
        tuple(skipped), files.source, "",
    )  # fmt: skip
    return Part(
        records.described(what), folds=None if folds is None else np.array(folds, dtype=np.int64),
        scores=None if scores is None else np.array(scores, dtype=np.float64),
    )  # fmt: skip

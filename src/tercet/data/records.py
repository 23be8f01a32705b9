"""Records: the items of a data set with their labels, triplets or pairs, whatever they were read from."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tercet.data.labels import NONE, Labels, in_words, picked_sets
from tercet.data.lazy import pick_items
from tercet.data.sides import SIDES, Sided, SidedItems
from tercet.errors import DataError

if TYPE_CHECKING:
    from tercet.data.features import Features

NOUNS = {SIDES: "item", "image": "image", "text": "text", "tabular": "row", "tensor": "item"}
NAME_LENGTH = 60  # characters of a text that name it in reports


@dataclass(frozen=True)
class Skipped:
    """Something that was left out, and why."""

    name: str
    reason: str


@dataclass(frozen=True, eq=False)
class Records:
    """Items of one kind with their labels, triplets or pairs (N items, F features, T triplets or pairs)."""

    kind: str
    """"image", "text", "tabular", "tensor", or "sides": positive pairs of two sides with an encoder each."""
    items: Any
    """Image: paths (or Pillow images, or uint8 arrays). Text: str. Tabular: float32 array of shape (N, F).
    Tensor: a torch Dataset that gives the input of item i. Sides: `SidedItems`."""
    names: Sequence[str]
    """What to call item i in reports and indexes."""
    labels: np.ndarray | None
    """int64 codes into `classes`, of shape (N,); None for sets of labels, unlabelled items, triplets and pairs."""
    classes: Sequence[str]
    tuples: np.ndarray | None
    """int64 positions in `items`, of shape (T, 3): anchor, positive, negative; or (T, 2): pairs."""
    similar: np.ndarray | None
    """bool of shape (T,), for pairs marked similar or not."""
    columns: tuple[str, ...]
    """Names of the F feature columns of a table of numbers; of two sides their names."""
    skipped: tuple[Skipped, ...]
    source: str
    """As the user gave it."""
    description: str
    """One sentence, said aloud before training."""
    features: Features | None = None
    """Of a table with missing values or with other columns than numbers: what its coded rows mean, whose items are
    float64 of shape (N, W)."""
    forged: np.ndarray | None = None
    """bool of shape (N,): which items imitate others of their class, and so are like none; a class is a writer."""

    scores: np.ndarray | None = None
    """float64 of shape (T,), for pairs scored by how alike they are."""
    sets: np.ndarray | None = None
    """Where items have several labels, or none: int64 codes into `classes`, of shape (N, L), then -1. Two items belong
    together where they share one."""

    @property
    def form(self) -> str:
        """One of "labels", "label-sets", "triplets", "pairs", "marked-pairs", "scored-pairs" and "items"."""
        if self.labels is not None:
            return "labels"
        if self.sets is not None:
            return "label-sets"
        if self.tuples is None:
            return "items"
        if self.tuples.shape[1] == 3:
            return "triplets"
        if self.scores is not None:
            return "scored-pairs"
        return "pairs" if self.similar is None else "marked-pairs"

    @property
    def codes(self) -> np.ndarray | None:
        """The `labels`, or the `sets` of items with several; None where nothing is labelled."""
        return self.labels if self.sets is None else self.sets

    def __len__(self) -> int:
        return len(self.names)

    def labelled(self, labels: Labels) -> Records:
        """The same items with these labels, which are in their order."""
        return replace(self, labels=labels.codes, classes=labels.classes, sets=labels.sets)

    def take(self, indices: Iterable[int]) -> Records:
        """The items at these positions, in this order; classes that are no longer present are dropped.

        Raises:
            DataError: the records hold triplets or pairs (see `take_tuples`).
        """
        if self.tuples is not None:
            raise DataError(f"{self.source} holds {self.form}: take rows of them with take_tuples().")
        chosen = self._pick(_whole(indices))
        return chosen.described(f"taken from {self.source}")

    def take_tuples(self, rows: Iterable[int]) -> Records:
        """These rows of triplets or pairs, with the items that they use.

        Raises:
            DataError: the records hold neither.
        """
        if self.tuples is None:
            raise DataError(f"{self.source} holds neither triplets nor pairs: take items with take().")
        chosen = self._pick_tuples(_whole(rows))
        return chosen.described(f"taken from {self.source}")

    def of_side(self, side: int) -> Records:
        """The items of one of two sides, as records of its own kind without pairs."""
        names = pick_items(self.names, np.flatnonzero(self.items.sides == side))
        items = self.items
        return replace(self, kind=items.kinds[side], items=items.values[side], names=names, tuples=None, columns=())

    def as_side(self, side: int, names: tuple[str, ...]) -> Records:
        """Items of one kind as those of one of two sides of these names."""
        return replace(self, kind=SIDES, items=SidedItems.of_one(side, self.kind, self.items), columns=names)

    def without(self, bad: Iterable[tuple[int, str]]) -> Records:
        """The records without these items (position, reason) and without any triplet or pair that uses them.

        Raises:
            DataError: nothing is left.
        """
        reasons = dict(bad)
        if not reasons:
            return self
        kept = np.setdiff1d(np.arange(len(self), dtype=np.int64), list(reasons))
        if self.tuples is None:
            left = self._pick(kept)
        else:
            left = self._pick_tuples(np.flatnonzero(np.isin(self.tuples, kept).all(axis=1)))
        skipped = self.skipped + tuple(Skipped(self.names[i], reason) for i, reason in reasons.items())
        if len(left) == 0:
            raise DataError(f"{self.source}: nothing is left of {self.count()}. {listed(skipped)}")
        return replace(left, skipped=skipped).described(f"left of {self.count()} in {self.source}")

    def fingerprints(self) -> np.ndarray:
        """int64 hashes of the items' content, of shape (N,): equal content, equal hash, whatever the name."""
        items = (self.items[i] for i in range(len(self))) if self.kind == "tensor" else self.items  # not iterable
        return np.fromiter((hash_of(content_of(self.kind, item)) for item in items), dtype=np.int64, count=len(self))

    def label_names(self) -> list[str] | list[list[str]] | None:
        """The class of each item, in words; of a forgery that it is one; of several labels a list of all."""
        if self.sets is not None:
            return self.label_lists()
        if self.labels is None:
            return None
        names = [self.classes[code] for code in self.labels]
        if self.forged is None:
            return names
        return [f"{name} (forged)" if forged else name for name, forged in zip(names, self.forged, strict=True)]

    def label_lists(self) -> list[list[str]]:
        """The labels of each item of a table of sets of them."""
        assert self.sets is not None
        return [self._named(row) for row in self.sets.tolist()]

    def label_name(self, position: int) -> str | None:
        """The class of an item, or all of its labels, in words; None where nothing is labelled."""
        found = self.label_of(position)
        return in_words(found) if isinstance(found, list) else found

    def label_of(self, position: int) -> str | list[str] | None:
        """The class of an item, or the list of its labels; None where nothing is labelled."""
        if self.sets is not None:
            return self._named(self.sets[position])
        return None if self.labels is None else self.classes[self.labels[position]]

    def _named(self, codes: Iterable[int]) -> list[str]:
        return [self.classes[code] for code in codes if code != NONE]

    def image_shape(self) -> tuple[tuple[int, int], int]:
        """The automatic ((height, width), channels) of these images; see `images.describe_images`."""
        from tercet.data.images import describe_images

        return describe_images(self.items)

    def count(self) -> str:
        """How much there is, in words: "400 images in 40 classes"."""
        words = plural(len(self), NOUNS[self.kind])
        if self.labels is not None:
            imitations = "" if self.forged is None else f", {int(self.forged.sum()):,} of them forged"
            return f"{words} in {plural(len(self.classes), 'class')}{imitations}"
        if self.sets is not None:
            bare = int((self.sets[:, 0] == NONE).sum())
            without = f", {bare:,} of them without a label" if bare else ""
            return f"{words} with {plural(len(self.classes), 'label')}, up to {self.sets.shape[1]} an item{without}"
        if self.tuples is None:
            return words
        what = {"triplets": "triplet", "pairs": "pair", "marked-pairs": "marked pair", "scored-pairs": "scored pair"}[
            self.form
        ]
        return f"{plural(len(self.tuples), what)} of {words}"

    def described(self, how: str) -> Records:
        """The records with their description: how much there is, and how it was given."""
        return replace(self, description=f"{self.count()} ({how})")

    def _pick(self, positions: np.ndarray) -> Records:
        labels, classes, sets = self.labels, self.classes, self.sets
        if labels is not None:
            present, labels = np.unique(labels[positions], return_inverse=True)
            labels, classes = labels.astype(np.int64), tuple(classes[code] for code in present)
        elif sets is not None:
            sets, present = picked_sets(sets, positions)
            classes = tuple(classes[code] for code in present)
        items, names = pick_items(self.items, positions), pick_items(self.names, positions)
        forged = None if self.forged is None else self.forged[positions]
        return replace(self, items=items, names=names, labels=labels, classes=classes, forged=forged, sets=sets)

    def _pick_tuples(self, rows: np.ndarray) -> Records:
        assert self.tuples is not None
        used, tuples = np.unique(self.tuples[rows], return_inverse=True)
        tuples = tuples.reshape(-1, self.tuples.shape[1]).astype(np.int64)
        similar = None if self.similar is None else self.similar[rows]
        scores = None if self.scores is None else self.scores[rows]
        return replace(self._pick(used.astype(np.int64)), tuples=tuples, similar=similar, scores=scores)


def plural(count: int, noun: str) -> str:
    """A count in words: "1 class", "1,200 classes"."""
    ending = "" if count == 1 else "es" if noun.endswith(("s", "ch")) else "s"
    return f"{count:,} {noun}{ending}"


def shorten(text: str) -> str:
    """A text on one line, cut to `NAME_LENGTH` characters to serve as a name."""
    line = " ".join(text.split())
    return line if len(line) <= NAME_LENGTH else line[: NAME_LENGTH - 1] + "…"


def listed(skipped: Sequence[Skipped], at_most: int = 3) -> str:
    """The first few of what was skipped, with reasons, and how many more there are."""
    shown = "; ".join(f"{one.name}: {one.reason}" for one in skipped[:at_most])
    more = len(skipped) - at_most
    return f"{shown}; and {more:,} more." if more > 0 else f"{shown}."


def _whole(places: Iterable[int]) -> np.ndarray:
    return np.asarray(places if isinstance(places, np.ndarray) else list(places), dtype=np.int64)


def hash_of(content: bytes) -> int:
    """A hash of 64 bits, as int64 holds it: of 10 million that differ, two have the same once in 370,000 times."""
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little", signed=True)


def content_of(kind: str, item: Any) -> bytes:
    """What tells an item from others: of a file its bytes, of an array its type and shape too."""
    if isinstance(item, Sided):
        return content_of(item.kind, item.value)
    if isinstance(item, str):
        return Path(item).read_bytes() if kind == "image" else item.encode()
    if isinstance(item, bytes):
        return item
    if getattr(item, "mode", None) in ("P", "PA"):
        item = item.convert("RGBA")  # of Pillow's palettes the pixels are only the numbers of colours
    array = np.ascontiguousarray(np.asarray(item))
    return f"{array.dtype.str}{array.shape}".encode() + array.tobytes()

"""Indexed batches: those of `ClassBatches` in kind, over so many rows that an epoch's are not dealt at once."""

from __future__ import annotations

import math
from fractions import Fraction
from functools import cached_property

import numpy as np

from tercet.data.class_index import ClassIndex
from tercet.data.permutation import keys, permuted
from tercet.data.randomness import keyed
from tercet.data.records import plural
from tercet.data.samplers import SAMPLINGS, _Batches, rates_of, told_of_small_classes
from tercet.errors import ConfigError, DataError, InputError, check_choice

INDEXED_FROM = 1_000_000
"""Rows from which training deals its batches so."""
BLOCK = 8192
"""Indices that are computed at a time, about: NumPy's cost of a call is spread over them."""


class IndexedBatches(_Batches):
    """Batches of P groups, each of K samples of one class, where each batch is computed from its number alone.

    What `ClassBatches` says of an epoch holds here too: the classes' groups, rates and leftovers, classes that are
    topped up, groups of one class in different batches. The draws are others: the order within a class follows from
    keyed permutations that are computed value by value, so that no batch needs another to have been dealt.

    The rounds of a class of n >= K samples form cycles of K / gcd(n, K), after which the deal comes out even. Within a
    cycle, round t's order is order_t(i) = order_(t-1)(s_t(i)), s_t a permutation of n that is drawn anew, but whose
    first values avoid the last l places: these were left over in round t - 1, and open the group that it completes. So
    no group has a sample twice, and each round holds every sample once.

    Memory: the index, 24 bytes a class, and 4 bytes a batch of the epoch. Time of an epoch's start: O(C); of an index
    dealt, O(K log C), a microsecond or two.

    Args:
        index: of the rows by class.
        classes_per_batch: P, at least 2.
        samples_per_class: K, at least 2.
        seed: decides every draw.
        singletons: see `ClassBatches`.
        class_sampling: see `ClassBatches`.

    Raises:
        InputError: P or K is too small, or a word is unknown.
        DataError: there are fewer than two classes, or none has two samples.
    """

    def __init__(
        self, index: ClassIndex, classes_per_batch: int, samples_per_class: int, seed: int = 0,
        singletons: str = "negatives", class_sampling: str = "size",
    ) -> None:  # fmt: skip
        super().__init__(seed)
        if min(classes_per_batch, samples_per_class) < 2:
            raise InputError(
                f"classes_per_batch is {classes_per_batch} and samples_per_class {samples_per_class}; allowed are "
                "whole numbers from 2 up."
            )
        check_choice("singletons", singletons, ("negatives", "drop"))
        check_choice("class_sampling", class_sampling, SAMPLINGS)
        self.index = index
        self.classes_per_batch, self.samples_per_class = classes_per_batch, samples_per_class
        self.singletons, self.class_sampling = singletons, class_sampling
        self._sizes = index.sizes.astype(np.int32 if len(index.rows) < 2**31 else np.int64)
        self._used = np.greater(self._sizes, singletons == "drop")
        self._epoch_of: tuple[int, _Epoch] | None = None
        self._block: tuple[int, int, list[np.ndarray]] | None = None
        if int(self._used.sum()) < 2:
            raise DataError(f"Classes to train with: {int(self._used.sum())}; at least two are needed to tell apart.")
        if self._sizes.max() < 2:
            raise DataError(f"None of the {len(index):,} classes has two samples, so nothing is like anything else.")

    def __len__(self) -> int:
        return self._laid_out(self.epoch).count

    def deal(self, epoch: int) -> list[np.ndarray]:
        """All batches of an epoch, each int64 rows of shape (up to P * K,): for tests; `next` deals a few."""
        return self._batches(epoch, 0, self._laid_out(epoch).count)

    def next(self) -> np.ndarray:
        """The next batch; after an epoch's last one, `epoch` is one more and `cursor` is 0."""
        per_block = max(1, BLOCK // (self.classes_per_batch * self.samples_per_class))
        number = self.cursor // per_block
        if self._block is None or self._block[:2] != (self.epoch, number):
            end = min((number + 1) * per_block, len(self))
            self._block = self.epoch, number, self._batches(self.epoch, number * per_block, end)
        batch = self._block[2][self.cursor - number * per_block]
        self.cursor += 1
        if self.cursor == len(self):
            self.epoch, self.cursor = self.epoch + 1, 0
        return batch

    def restore(self, state: dict[str, int | str]) -> None:
        """Go on where `state` was taken; see `ClassBatches`."""
        self._check_kind(state)
        epoch, cursor = int(state["epoch"]), int(state["cursor"])
        if not (epoch >= 0 and 0 <= cursor < self.count(epoch)):
            raise ConfigError(f"The state is at batch {cursor}, which epoch {epoch} of these data does not have.")
        self.epoch, self.cursor = epoch, cursor

    def count(self, epoch: int) -> int:
        """How many batches an epoch has; nothing is dealt."""
        return math.ceil(int(self._counts(epoch).sum()) / self.classes_per_batch)

    def _laid_out(self, epoch: int) -> _Epoch:
        if self._epoch_of is None or self._epoch_of[0] != epoch:
            self._epoch_of = None  # frees the former one first
            self._epoch_of = epoch, _Epoch(self, epoch)
        return self._epoch_of[1]

    def _counts(self, epoch: int) -> np.ndarray:
        """Groups of each class in an epoch, of shape (C,)."""
        before, after = self._of_size(epoch), self._of_size(epoch + 1)
        found = (after - before).astype(np.int32)[self._size_code]
        found[~self._used] = 0
        return found

    @cached_property
    def _different(self) -> np.ndarray:
        """The sizes that classes have, each once."""
        return np.unique(self._sizes)

    @cached_property
    def _size_code(self) -> np.ndarray:
        """Which of the different sizes each class has, int32 of shape (C,)."""
        return np.searchsorted(self._different, self._sizes).astype(np.int32)

    @cached_property
    def _rates(self) -> list[Fraction]:
        """Groups of a class of each size in an epoch, on average; exact, so that floors are."""
        many = np.bincount(self._size_code, minlength=len(self._different))
        return rates_of(self._different, many, self.samples_per_class, self.class_sampling)

    def _of_size(self, epoch: int) -> np.ndarray:
        """How many groups a class of each size has had before an epoch."""
        return np.array([math.floor(epoch * rate) for rate in self._rates], dtype=np.int64)

    def _batches(self, epoch: int, start: int, end: int) -> list[np.ndarray]:
        """The batches of these numbers of an epoch."""
        laid_out = self._laid_out(epoch)
        slots = [np.arange(first, laid_out.total, laid_out.count) for first in laid_out.shuffled[start:end]]
        classes, groups = laid_out.groups_at(np.concatenate(slots))
        members, owner = self._members(classes, groups)
        batch_of = np.repeat(np.arange(len(slots)), [len(one) for one in slots])[owner]
        return np.split(members, np.searchsorted(batch_of, np.arange(1, len(slots))))

    def _members(self, classes: np.ndarray, groups: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The rows of groups, one after the other, and which group each row is of."""
        lengths = np.where(self._sizes[classes] == 1, 1, self.samples_per_class)
        owner = np.repeat(np.arange(len(classes)), lengths)
        within = np.arange(len(owner)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        c = classes[owner]
        place = _places(self.seed, c, self._sizes[c].astype(np.int64), groups[owner], within, self.samples_per_class)
        return np.asarray(self.index.rows[self.index.offsets[c] + place], dtype=np.int64), owner

    def summary(self) -> str:
        """What this epoch's batches hold, said aloud: what is topped up, left out, or comes twice."""
        size, per_batch, sizes = self.samples_per_class, self.classes_per_batch, self._sizes
        used = sizes[self._used]
        crowded = int((self._counts(self.epoch) > len(self)).sum())
        said = [
            f"{plural(len(self), 'batch')} an epoch, each of up to {per_batch} classes × {size} samples, from "
            f"{plural(int(used.sum()), 'sample')} in {plural(len(used), 'class')}; dealt from an index of classes, "
            "batch by batch, as the data is large."
        ]
        if self.class_sampling != "size":
            by = "the root of their size" if self.class_sampling == "root" else "class"
            said.append(f"Classes are sampled by {by}.")
        said += told_of_small_classes(sizes, used, size)
        if crowded:
            said.append(f"Too large to be in a batch only once: {plural(crowded, 'class')}.")
        return " ".join(said)


class _Epoch:
    """Where the groups of an epoch are: those of a class in a row, the classes in a random order.

    Batch b holds slots b, b + count, b + 2 count, ..., so a class's groups are in different batches.
    """

    def __init__(self, batches: IndexedBatches, epoch: int) -> None:
        counts = batches._counts(epoch)
        self.order = np.flatnonzero(batches._used).astype(np.int32)
        keyed(batches.seed, "order", epoch).shuffle(self.order)
        self.ends = np.cumsum(counts[self.order], dtype=np.int64)
        self.before = batches._of_size(epoch)
        self.size_code = batches._size_code
        self.total = int(self.ends[-1])
        self.count = math.ceil(self.total / batches.classes_per_batch)
        self.shuffled = keyed(batches.seed, "batches", epoch).permutation(self.count).astype(np.int32)

    def groups_at(self, slots: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The class of each slot, and the number of its group among all that the class ever has."""
        where = np.searchsorted(self.ends, slots, side="right")
        classes = self.order[where]
        starts = np.where(where > 0, self.ends[where - 1], 0)
        return classes, self.before[self.size_code[classes]] + slots - starts


def _places(seed: int, c: np.ndarray, n: np.ndarray, group: np.ndarray, within: np.ndarray, size: int) -> np.ndarray:
    """Which sample of its class each index is: all arguments of shape (R,), `within` the place in the group."""
    large = n >= size
    in_cycle = np.where(large, n // np.gcd(n, size), 1)  # groups
    cycle = group // in_cycle
    stream = (group - cycle * in_cycle) * size + within
    turn, place = stream // n, stream % n
    key = keys(seed, c, cycle)
    places = place.copy()
    for number in range(int(turn.max(initial=0)), -1, -1):
        own = np.flatnonzero((turn >= number) & (large | (turn == number)))
        left = np.where(large[own], number * n[own] % size, 0)
        places[own] = _avoiding(places[own], n[own], left, size, keys(number, key[own]))
    return places


def _avoiding(place: np.ndarray, n: np.ndarray, left: np.ndarray, size: int, key: np.ndarray) -> np.ndarray:
    """A permutation of n whose first size - left values are below n - left; any, where nothing is left over.

    The head is the start of a permutation of n - left; what that leaves, with the last places, is permuted again.
    """
    head = np.where(left > 0, size - left, 0)
    free, found = n - left, place.copy()
    rest = np.flatnonzero((left > 0) & (place >= head))
    if len(rest):
        found[rest] = head[rest] + permuted(place[rest] - head[rest], (n - head)[rest], keys(0, key[rest]))
    below = np.flatnonzero(found < free)
    found[below] = permuted(found[below], free[below], key[below])
    return found

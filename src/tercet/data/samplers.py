"""Samplers: batches of P classes × K samples, and of triplets or pairs, dealt so that an epoch is exact.

Both run on for ever. (epoch, cursor) says which batch comes next, and with the seed it decides all that
follows: that is the whole state.
"""

from __future__ import annotations

import math
from collections import Counter
from fractions import Fraction
from functools import cached_property

import numpy as np

from tercet.data.labels import NONE
from tercet.data.randomness import keyed
from tercet.data.records import plural
from tercet.errors import ConfigError, DataError, InputError, check_choice

SAMPLINGS = ("size", "root", "class")


class _Batches:
    """Runs through epochs of batches; a subclass deals the batches of an epoch."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.epoch = 0
        self.cursor = 0
        self._dealt: tuple[int, list[np.ndarray]] | None = None

    def deal(self, epoch: int) -> list[np.ndarray]:
        """The batches of an epoch, each int64 positions: a pure function of the settings and the epoch."""
        raise NotImplementedError

    def __len__(self) -> int:
        return len(self._current())

    def next(self) -> np.ndarray:
        """The next batch; after an epoch's last one, `epoch` is one more and `cursor` is 0."""
        batches = self._current()
        batch = batches[self.cursor]
        self.cursor += 1
        if self.cursor == len(batches):
            self.epoch, self.cursor = self.epoch + 1, 0
        return batch

    def state(self) -> dict[str, int | str]:
        """What `restore` needs to go on with the same batches, as plain JSON."""
        return {"sampler": type(self).__name__, "seed": self.seed, "epoch": self.epoch, "cursor": self.cursor}

    def restore(self, state: dict[str, int | str]) -> None:
        """Go on where `state` was taken.

        Raises:
            ConfigError: it was taken from another kind of sampler, with another seed, or from other data.
        """
        self._check_kind(state)
        epoch, cursor = int(state["epoch"]), int(state["cursor"])
        if not 0 <= cursor < len(self.deal(epoch)):
            raise ConfigError(f"The state is at batch {cursor}, which epoch {epoch} of these data does not have.")
        self.epoch, self.cursor = epoch, cursor

    def _check_kind(self, state: dict[str, int | str]) -> None:
        own = self.state()
        for name in ("sampler", "seed"):
            if state[name] != own[name]:
                raise ConfigError(f"The state is of {name} {state[name]!r}; this is {own[name]!r}.")

    def _current(self) -> list[np.ndarray]:
        if self._dealt is None or self._dealt[0] != self.epoch:
            self._dealt = self.epoch, self.deal(self.epoch)
        return self._dealt[1]


class ClassBatches(_Batches):
    """Batches of P groups, each of K samples of one class (n is the number of samples of a class).

    A class's samples are dealt in groups of K; the n mod K that are left over open its next deal, so that over
    epochs all of its samples are used equally often. A class smaller than K is topped up: every sample once, then
    some again. An epoch's groups, G in all, go to ceil(G / P) batches, which differ by at most one group; groups of
    one class go to different batches as far as there are enough.

    How many groups a class has in epoch e, counted from 0, is floor((e + 1) r) - floor(e r), with a rate r of groups
    an epoch that `class_sampling` decides. Let s = max(n / K, 1) and S the sum of s over the classes of two samples
    and more:

        size: r = s, each sample once an epoch but for topping up
        root: r = max(1, S √n / sum of √n over these classes)
        class: r = S / (number of these classes), the same for all

    So an epoch has as many groups whatever the sampling, but for rounding and, with root, for the classes that are
    brought up to one group. A class of one sample has one group an epoch.

    Time of an epoch: O(N K) at worst, O(N) where K divides the classes' sizes; a small class that is dealt many times
    over adds what it is dealt.

    Args:
        labels: int64 codes of shape (N,).
        classes_per_batch: P, at least 2.
        samples_per_class: K, at least 2.
        seed: decides every draw.
        singletons: classes of one sample are "negatives" (a group of one) or are left out ("drop").
        class_sampling: "size", "root" or "class"; see above.

    Raises:
        InputError: P or K is too small, or a word is unknown.
        DataError: there are fewer than two classes, or none has two samples.
    """

    def __init__(
        self,
        labels: np.ndarray,
        classes_per_batch: int,
        samples_per_class: int,
        seed: int = 0,
        singletons: str = "negatives",
        class_sampling: str = "size",
    ) -> None:
        super().__init__(seed)
        for name, value in (
            ("classes_per_batch", classes_per_batch),
            ("samples_per_class", samples_per_class),
        ):
            if value < 2:
                raise InputError(f"{name} is {value}; allowed is a whole number from 2 up.")
        check_choice("singletons", singletons, ("negatives", "drop"))
        check_choice("class_sampling", class_sampling, SAMPLINGS)
        self.classes_per_batch = classes_per_batch
        self.samples_per_class = samples_per_class
        self.singletons = singletons
        self.class_sampling = class_sampling
        self._members = self._members_of(np.asarray(labels, dtype=np.int64))
        self._used = [c for c, own in enumerate(self._members) if len(own) > (singletons == "drop")]
        self._check()

    def _members_of(self, labels: np.ndarray) -> list[np.ndarray]:
        """Positions of the samples of each class."""
        return _members(labels)

    def _check(self) -> None:
        """Raise DataError where no batch could have a positive and a negative."""
        _check_classes(self._members, self._used)

    def deal(self, epoch: int) -> list[np.ndarray]:
        """The batches of an epoch, each int64 positions of shape (up to P * K,), group after group."""
        order = keyed(self.seed, "order", epoch).permutation(self._used)
        groups = [group for c in order.tolist() for group in self.groups(c, epoch)]
        count = math.ceil(len(groups) / self.classes_per_batch)
        batches = [np.concatenate(groups[start::count]) for start in range(count)]
        shuffled = keyed(self.seed, "batches", epoch).permutation(count)
        return [batches[place] for place in shuffled]

    def groups(self, c: int, epoch: int) -> list[np.ndarray]:
        """The groups of one class in an epoch, each int64 positions."""
        own, size = self._members[c], self.samples_per_class
        first, end = self._groups_before(c, epoch), self._groups_before(c, epoch + 1)
        if len(own) == 1:
            return [own] * (end - first)
        if len(own) < size:
            draws = (keyed(self.seed, "deal", group, c) for group in range(first, end))
            return [own[_topped_up(len(own), size, generator)] for generator in draws]
        return list(own[self._dealt_groups(c, first, end)])

    def _dealt_groups(self, c: int, first: int, end: int) -> np.ndarray:
        """Groups `first` to `end` - 1, counted over all epochs, of a class of K samples and more, of shape (., K).

        The deal comes out even after K / gcd(n, K) rounds of all samples; from there it is dealt again up to these
        groups, so that nothing but the epoch needs to be remembered.
        """
        n, size = len(self._members[c]), self.samples_per_class
        shared = math.gcd(n, size)
        cycle = first // (n // shared)
        dealt, number = cycle * (n // shared), cycle * (size // shared)
        left, found = np.empty(0, dtype=np.int64), []
        while dealt < end:
            order = keyed(self.seed, "deal", number, c).permutation(n)
            stream = _continued(left, order, size)
            used = len(stream) // size * size
            groups, left = stream[:used].reshape(-1, size), stream[used:]
            found.append(groups[max(first - dealt, 0) :])
            dealt, number = dealt + len(groups), number + 1
        return np.concatenate(found)[: end - first]

    def _groups_before(self, c: int, epoch: int) -> int:
        """How many groups of a class all epochs before this one have."""
        return math.floor(epoch * self._rates[c])

    @cached_property
    def _rates(self) -> list[Fraction]:
        """Groups of each class in an epoch, on average; exact, so that floors are."""
        return rates_of(self._sizes, np.ones_like(self._sizes), self.samples_per_class, self.class_sampling)

    @cached_property
    def _sizes(self) -> np.ndarray:
        return np.array([len(own) for own in self._members], dtype=np.int64)

    def summary(self) -> str:
        """What this epoch's batches hold, said aloud: what is topped up, left out, or comes twice."""
        size, per_batch = self.samples_per_class, self.classes_per_batch
        used = self._sizes[self._used]
        said = [
            f"{plural(len(self), 'batch')} an epoch, each of up to {per_batch} classes × {size} samples, "
            f"from {plural(int(used.sum()), 'sample')} in {plural(len(used), 'class')}."
        ]
        if self.class_sampling != "size":
            said.append(self._sampling())
        said += told_of_small_classes(self._sizes, used, size)
        if len(used) < per_batch:
            said.append(f"There are fewer than {per_batch} classes, so a batch holds some of them more than once.")
        said += self._crowding(len(used) < per_batch)
        return " ".join(said)

    def _sampling(self) -> str:
        """Words about how unlike the classes' sizes their shares of the batches are."""
        several = np.flatnonzero(self._sizes > 1)
        small, large = (several[pick(self._sizes[several])] for pick in (np.argmin, np.argmax))
        parts = [
            f"{float(self._rates[c] * self.samples_per_class / int(self._sizes[c])):.3g} times" for c in (small, large)
        ]
        return (
            f"Classes are sampled by {'the root of their size' if self.class_sampling == 'root' else 'class'}: in an "
            f"epoch a sample of the smallest class is drawn {parts[0]} and one of the largest {parts[1]}, on average."
        )

    def _crowding(self, expected: bool) -> list[str]:
        """Words about batches that hold several groups of a class, or nothing but one class."""
        count = len(self)
        groups = Counter(c for c in self._used for _ in self.groups(c, self.epoch))
        crowded = sum(1 for number in groups.values() if number > count)
        said = []
        if crowded and not expected:
            said.append(f"Too large to be in a batch only once: {plural(crowded, 'class')}.")
        class_of = np.empty(int(self._sizes.sum()), dtype=np.int64)
        for c, own in enumerate(self._members):
            class_of[own] = c
        alone = sum(1 for batch in self._current() if (class_of[batch] == class_of[batch[0]]).all())
        if alone:
            said.append(f"Without a negative, of a single class: {alone} of {plural(count, 'batch')}.")
        return said


class SetBatches(ClassBatches):
    """The same of items with several labels each: P groups, each of up to K samples that share a label.

    Each label is dealt as a class would be, so an item of two labels is drawn under both. In a batch it is once, as it
    is like all that share either: a second row of it would only count its pairs twice. So a batch may hold fewer than
    P * K items, and of a label of fewer than K samples all of them, none twice.

    An item that shares no label with any other is dealt by itself, as a class of one sample is. A label of one sample
    is not dealt besides.

    Args:
        labels: int64 codes of shape (N, L), -1 where an item has fewer; each label of an item once.
        classes_per_batch: P, at least 2.
        samples_per_class: K, at least 2.
        seed: see `ClassBatches`.
        singletons: items that share no label are "negatives" or are left out ("drop").
        class_sampling: see `ClassBatches`; an item that shares no label has one group an epoch.

    Raises:
        InputError: see `ClassBatches`.
        DataError: no two items share a label, or nothing is left to tell them from.
    """

    def _members_of(self, labels: np.ndarray) -> list[np.ndarray]:
        """Positions of the samples of each label of several, in order of its code; then each item of none, alone."""
        items, places = np.nonzero(labels != NONE)
        codes = labels[items, places]
        of_labels = np.split(items[np.argsort(codes, kind="stable")], np.cumsum(np.bincount(codes))[:-1])
        shared = [own for own in of_labels if len(own) > 1]
        alone = np.setdiff1d(np.arange(len(labels)), np.concatenate([items[:0], *shared]))
        return [*shared, *alone[:, None]]

    def _check(self) -> None:
        if not any(len(own) > 1 for own in self._members):
            raise DataError("No two items share a label, so nothing is like anything else.")
        if len(self._used) < 2:
            raise DataError("The items of the training data share a single label, and there is none to tell them from.")

    def deal(self, epoch: int) -> list[np.ndarray]:
        """The batches of an epoch, each int64 positions of shape (up to P * K,), every item once."""
        return [_firsts(batch) for batch in super().deal(epoch)]

    def summary(self) -> str:
        """What this epoch's batches hold, said aloud."""
        shared, alone = (self._sizes > 1).sum(), int((self._sizes == 1).sum())
        items = np.unique(np.concatenate([self._members[c] for c in self._used]))
        said = [
            f"{plural(len(self), 'batch')} an epoch, each of up to {self.classes_per_batch} labels × "
            f"{self.samples_per_class} samples, every sample once, from {plural(len(items), 'sample')} with "
            f"{plural(int(shared), 'label')} that they share."
        ]
        if self.class_sampling != "size":
            said.append(self._sampling())
        if alone:
            kept = "Negatives only" if self.singletons == "negatives" else "Left out"
            said.append(f"{kept}: {plural(alone, 'sample')} that share no label with another.")
        if len(self._used) < self.classes_per_batch:
            said.append(f"There are fewer than {self.classes_per_batch} labels, so a batch takes some more than once.")
        return " ".join(said)


class MinedBatches(ClassBatches):
    """The same, until it is given triplets; from then on a batch holds the items of some of them.

    An epoch has as many batches as before, each of the items of P·K / 3 triplets, every item once. The triplets come in
    random order, again and again if they are fewer than an epoch takes.

    Args:
        labels: see `ClassBatches`.
        classes_per_batch: P.
        samples_per_class: K.
        seed: decides every draw.
        singletons: see `ClassBatches`.
        every: triplets are due each time so many epochs have passed.
        at_once: and before the first.
        class_sampling: see `ClassBatches`.
    """

    def __init__(
        self,
        labels: np.ndarray,
        classes_per_batch: int,
        samples_per_class: int,
        seed: int = 0,
        singletons: str = "negatives",
        every: int = 1,
        at_once: bool = False,
        class_sampling: str = "size",
    ) -> None:
        super().__init__(labels, classes_per_batch, samples_per_class, seed, singletons, class_sampling)
        self.every, self.at_once = every, at_once
        self.triplets, self.given_in = np.zeros((0, 3), dtype=np.int64), -1

    @property
    def is_due(self) -> bool:
        """Whether triplets are to be given before the next batch."""
        begins = self.cursor == 0 and self.epoch % self.every == 0
        return begins and self.given_in != self.epoch and (self.epoch > 0 or self.at_once)

    def give(self, triplets: np.ndarray, epoch: int) -> None:
        """Take these positions, int64 (T, 3), as the triplets from an epoch on; with none, batches are of classes."""
        self.triplets, self.given_in, self._dealt = triplets, epoch, None

    def deal(self, epoch: int) -> list[np.ndarray]:
        """The batches of an epoch, each int64 positions."""
        by_class = super().deal(epoch)
        if not len(self.triplets):
            return by_class
        rows = max(1, self.classes_per_batch * self.samples_per_class // 3)
        order = keyed(self.seed, "tuples", epoch).permutation(len(self.triplets))
        chosen = np.resize(order, (len(by_class), rows))
        return [np.unique(self.triplets[some]) for some in chosen]


class TupleBatches(_Batches):
    """Batches of rows of a table of triplets or pairs: each row once an epoch, batches of almost one size.

    Args:
        n_tuples: how many rows there are.
        rows: rows in a batch, at most.
        seed: decides the order.

    Raises:
        InputError: there are no rows, or none in a batch.
    """

    def __init__(self, n_tuples: int, rows: int, seed: int = 0) -> None:
        super().__init__(seed)
        if n_tuples < 1 or rows < 1:
            raise InputError(f"{n_tuples} triplets or pairs in batches of {rows}; both must be at least 1.")
        self.n_tuples = n_tuples
        self.rows = rows

    def deal(self, epoch: int) -> list[np.ndarray]:
        """The batches of an epoch, each int64 rows."""
        order = keyed(self.seed, "tuples", epoch).permutation(self.n_tuples)
        return np.array_split(order, math.ceil(self.n_tuples / self.rows))

    def summary(self) -> str:
        """What an epoch holds, said aloud."""
        count = plural(len(self), "batch")
        return f"{count} an epoch, each of up to {self.rows} of {plural(self.n_tuples, 'row')}."


def told_of_small_classes(sizes: np.ndarray, used: np.ndarray, wanted: int) -> list[str]:
    """What becomes of classes with fewer samples than a batch takes of each, aloud.

    Args:
        sizes: how many samples each class has.
        used: those of the classes that batches hold.
        wanted: samples of each class in a batch.
    """
    small, single = int(((used > 1) & (used < wanted)).sum()), int((used == 1).sum())
    dropped = int((sizes == 1).sum()) - single
    said = []
    if small:
        said.append(f"Drawn again to fill up {wanted} samples: {plural(small, 'class')} with fewer.")
    if single:
        said.append(f"Negatives only: {plural(single, 'class')} of one sample.")
    if dropped:
        said.append(f"Left out: {plural(dropped, 'class')} of one sample.")
    return said


def rates_of(sizes: np.ndarray, many: np.ndarray, per_group: int, class_sampling: str) -> list[Fraction]:
    """Groups an epoch of classes of these sizes, of each of which there are so many; see `ClassBatches`."""
    by_size = [max(Fraction(int(n), per_group), Fraction(1)) for n in sizes]
    if class_sampling == "size":
        return by_size
    weights = [Fraction(math.sqrt(n) if class_sampling == "root" else 1) for n in sizes]
    several = [(s, int(many[s])) for s, n in enumerate(sizes) if n > 1]
    total = sum((by_size[s] * count for s, count in several), Fraction())
    each = total / sum((weights[s] * count for s, count in several), Fraction())
    return [max(each * weights[s], Fraction(1)) if n > 1 else Fraction(1) for s, n in enumerate(sizes)]


def _members(labels: np.ndarray) -> list[np.ndarray]:
    """Positions of each class's samples, class after class in order of its code."""
    order = np.argsort(labels, kind="stable").astype(np.int64)
    starts = np.flatnonzero(np.diff(labels[order])) + 1
    return np.split(order, starts) if len(labels) else []


def _check_classes(members: list[np.ndarray], used: list[int]) -> None:
    if len(used) < 2:
        dropped = len(members) - len(used)
        aside = f" (left out: {dropped} of one sample)" if dropped else ""
        raise DataError(f"Classes to train with: {len(used)}{aside}; at least two are needed to tell apart.")
    if max(len(own) for own in members) < 2:
        raise DataError(f"None of the {len(members):,} classes has two samples, so nothing is like anything else.")


def _topped_up(n: int, size: int, generator: np.random.Generator) -> np.ndarray:
    """`size` draws from n < size samples, whole permutations in turn: counts differ by at most one."""
    rounds = math.ceil(size / n)
    return np.concatenate([generator.permutation(n) for _ in range(rounds)])[:size]


def _firsts(batch: np.ndarray) -> np.ndarray:
    """Each position once, in order."""
    return batch[np.sort(np.unique(batch, return_index=True)[1])]


def _continued(left: np.ndarray, order: np.ndarray, size: int) -> np.ndarray:
    """`left`, then a permutation, rearranged so that the group of both has no sample twice."""
    fresh = np.flatnonzero(~np.isin(order, left))[: size - len(left)]
    return np.concatenate([left, order[fresh], np.delete(order, fresh)])

"""Samplers: batches of P classes × K samples, and of triplets or pairs, dealt so that an epoch is exact.

Both run on for ever. (epoch, cursor) says which batch comes next, and with the seed it decides all that
follows: that is the whole state.
"""

from __future__ import annotations

import math
from collections import Counter
from functools import cached_property

import numpy as np

from tercet.data.randomness import keyed
from tercet.data.records import plural
from tercet.errors import ConfigError, DataError, InputError, check_choice


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
        own = self.state()
        for name in ("sampler", "seed"):
            if state[name] != own[name]:
                raise ConfigError(f"The state is of {name} {state[name]!r}; this is {own[name]!r}.")
        epoch, cursor = int(state["epoch"]), int(state["cursor"])
        if not 0 <= cursor < len(self.deal(epoch)):
            raise ConfigError(f"The state is at batch {cursor}, which epoch {epoch} of these data does not have.")
        self.epoch, self.cursor = epoch, cursor

    def _current(self) -> list[np.ndarray]:
        if self._dealt is None or self._dealt[0] != self.epoch:
            self._dealt = self.epoch, self.deal(self.epoch)
        return self._dealt[1]


class ClassBatches(_Batches):
    """Batches of P groups, each of K samples of one class (n is the number of samples of a class).

    A class's samples are dealt in groups of K; the n mod K that are left over open its next epoch's deal, so
    that over epochs all of its samples are used equally often. A class smaller than K is topped up: every
    sample once, then some again. The epoch's G groups go to ceil(G / P) batches, which differ by at most one
    group; groups of one class go to different batches as far as there are enough.

    Time of an epoch: O(N K) at worst, O(N) where K divides the classes' sizes.

    Args:
        labels: int64 codes of shape (N,).
        classes_per_batch: P, at least 2.
        samples_per_class: K, at least 2.
        seed: decides every draw.
        singletons: classes of one sample are "negatives" (a group of one) or are left out ("drop").

    Raises:
        InputError: P or K is too small.
        DataError: there are fewer than two classes, or none has two samples.
    """

    def __init__(
        self,
        labels: np.ndarray,
        classes_per_batch: int,
        samples_per_class: int,
        seed: int = 0,
        singletons: str = "negatives",
    ) -> None:
        super().__init__(seed)
        for name, value in (
            ("classes_per_batch", classes_per_batch),
            ("samples_per_class", samples_per_class),
        ):
            if value < 2:
                raise InputError(f"{name} is {value}; allowed is a whole number from 2 up.")
        check_choice("singletons", singletons, ("negatives", "drop"))
        self.classes_per_batch = classes_per_batch
        self.samples_per_class = samples_per_class
        self.singletons = singletons
        self._members = _members(np.asarray(labels, dtype=np.int64))
        self._used = [c for c, own in enumerate(self._members) if len(own) > (singletons == "drop")]
        _check_classes(self._members, self._used)

    def deal(self, epoch: int) -> list[np.ndarray]:
        """The batches of an epoch, each int64 positions of shape (up to P * K,), group after group."""
        order = keyed(self.seed, "order", epoch).permutation(self._used)
        groups = [group for c in order for group in self._deal_class(int(c), epoch)]
        count = math.ceil(len(groups) / self.classes_per_batch)
        batches = [np.concatenate(groups[start::count]) for start in range(count)]
        shuffled = keyed(self.seed, "batches", epoch).permutation(count)
        return [batches[place] for place in shuffled]

    def _deal_class(self, c: int, epoch: int) -> list[np.ndarray]:
        """The groups of one class in an epoch.

        The deal comes out even every K / gcd(n, K) epochs; from there it is dealt again up to this epoch, so
        that nothing but the epoch needs to be remembered.
        """
        own, size = self._members[c], self.samples_per_class
        n = len(own)
        if n == 1:
            return [own]
        if n < size:
            return [own[_topped_up(n, size, keyed(self.seed, "deal", epoch, c))]]
        left = np.empty(0, dtype=np.int64)
        for earlier in range(epoch - epoch % (size // math.gcd(n, size)), epoch + 1):
            order = keyed(self.seed, "deal", earlier, c).permutation(n)
            stream = _continued(left, order, size)
            used = len(stream) // size * size
            groups, left = stream[:used].reshape(-1, size), stream[used:]
        return list(own[groups])

    @cached_property
    def _sizes(self) -> np.ndarray:
        return np.array([len(own) for own in self._members], dtype=np.int64)

    def summary(self) -> str:
        """What this epoch's batches hold, said aloud: what is topped up, left out, or comes twice."""
        size, per_batch = self.samples_per_class, self.classes_per_batch
        used = self._sizes[self._used]
        small, single = int(((used > 1) & (used < size)).sum()), int((used == 1).sum())
        dropped = int((self._sizes == 1).sum()) - single
        said = [
            f"{plural(len(self), 'batch')} an epoch, each of up to {per_batch} classes × {size} samples, "
            f"from {plural(int(used.sum()), 'sample')} in {plural(len(used), 'class')}."
        ]
        if small:
            said.append(f"Drawn again to fill up {size} samples: {plural(small, 'class')} with fewer.")
        if single:
            said.append(f"Negatives only: {plural(single, 'class')} of one sample.")
        if dropped:
            said.append(f"Left out: {plural(dropped, 'class')} of one sample.")
        if len(used) < per_batch:
            said.append(f"There are fewer than {per_batch} classes, so a batch holds some of them more than once.")
        said += self._crowding(len(used) < per_batch)
        return " ".join(said)

    def _crowding(self, expected: bool) -> list[str]:
        """Words about batches that hold several groups of a class, or nothing but one class."""
        count = len(self)
        groups = Counter(c for c in self._used for _ in self._deal_class(c, self.epoch))
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
    ) -> None:
        super().__init__(labels, classes_per_batch, samples_per_class, seed, singletons)
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


def _continued(left: np.ndarray, order: np.ndarray, size: int) -> np.ndarray:
    """`left`, then a permutation, rearranged so that the group of both has no sample twice."""
    fresh = np.flatnonzero(~np.isin(order, left))[: size - len(left)]
    return np.concatenate([left, order[fresh], np.delete(order, fresh)])

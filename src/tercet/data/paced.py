"""Batches of P classes × K samples from a part of the data that grows."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

import numpy as np

from tercet.data.records import plural
from tercet.data.samplers import ClassBatches, _Batches
from tercet.errors import ConfigError


class PacedBatches(_Batches):
    """The batches of `ClassBatches` over the first items of an order, more of them from stage to stage.

    A stage deals its items from an epoch of their own on; a class with one item in it is a class of one there. Where
    the first items are not two classes with two samples each, or as many of these as the data has, the stage takes
    more, in order, until they are.

    Which batch is dealt is decided by the settings and the number of batches dealt before.

    Args:
        labels: int64 codes of shape (N,).
        order: all positions, those that come first first, int64 (N,).
        stages: the number of the batch that each stage begins with, rising from 0, and how many items it has.
        classes_per_batch: P.
        samples_per_class: K.
        seed: decides every draw.
        singletons: see `ClassBatches`; of the part that is in use.
        class_sampling: see `ClassBatches`; of the part that is in use.

    Raises:
        InputError: see `ClassBatches`.
        DataError: see `ClassBatches`.
    """

    def __init__(
        self,
        labels: np.ndarray,
        order: np.ndarray,
        stages: Sequence[tuple[int, int]],
        classes_per_batch: int,
        samples_per_class: int,
        seed: int = 0,
        singletons: str = "negatives",
        class_sampling: str = "size",
    ) -> None:
        super().__init__(seed)
        self.labels, self.order = np.asarray(labels, dtype=np.int64), np.asarray(order, dtype=np.int64)
        self._settings = classes_per_batch, samples_per_class, seed, singletons, class_sampling
        ClassBatches(self.labels, *self._settings)  # what cannot be dealt as a whole cannot be in parts
        fewest = _fewest(self.labels[self.order])
        self.asked = stages[0][1]
        self._starts = [start for start, _ in stages]
        self._counts = [min(len(order), max(count, fewest)) for _, count in stages]
        self.dealt, self.level = 0, 0
        self._inner = self._of_level()

    def pool(self, batch: int) -> int:
        """How many items a batch is drawn from, by its number from 0."""
        return self._counts[bisect_right(self._starts, batch) - 1]

    def deal(self, epoch: int) -> list[np.ndarray]:
        """The batches of an epoch with the items of the present stage, each int64 positions."""
        places = np.sort(self.order[: self._counts[self.level]])
        return [places[batch] for batch in self._inner.deal(epoch)]

    def next(self) -> np.ndarray:
        """The next batch; at the end of a stage the rest of its epoch is not dealt, and the next epoch begins."""
        batch = super().next()
        self.dealt += 1
        level = bisect_right(self._starts, self.dealt) - 1
        if level != self.level:
            if self.cursor:
                self.epoch, self.cursor = self.epoch + 1, 0
            self._go_to(level)
        return batch

    def state(self) -> dict[str, int | str]:
        """What `restore` needs to go on with the same batches, as plain JSON."""
        return {**super().state(), "dealt": self.dealt, "level": self.level}

    def restore(self, state: dict[str, int | str]) -> None:
        """Go on where `state` was taken.

        Raises:
            ConfigError: see `ClassBatches`, or it was taken with other stages.
        """
        dealt, level = int(state["dealt"]), int(state["level"])
        if bisect_right(self._starts, dealt) - 1 != level:
            raise ConfigError(f"The state is at stage {level} with batch {dealt}, where these settings are not.")
        self._go_to(level)
        super().restore(state)
        self.dealt = dealt

    def summary(self) -> str:
        """How the part in use grows, and what the first of it holds, said aloud."""
        first, last = self._counts[0], self._counts[-1]
        grows = f"From {first:,} of {len(self.order):,} samples"
        if len(self._counts) > 1:
            grows += f" to {last:,} at step {self._starts[-1]:,}, in {plural(len(self._counts), 'stage')}"
        if first > self.asked:
            grows += f"; {self.asked:,} were asked for, which are not two classes with two samples"
        return f"{grows}. At first: {self._inner.summary()}"

    def _go_to(self, level: int) -> None:
        self.level, self._dealt = level, None
        self._inner = self._of_level()

    def _of_level(self) -> ClassBatches:
        return ClassBatches(self.labels[np.sort(self.order[: self._counts[self.level]])], *self._settings)


def _fewest(labels: np.ndarray) -> int:
    """How many of these, from the first on, hold two classes with two samples; all of them where one class has two."""
    seen: dict[int, int] = {}
    several = 0
    for place, label in enumerate(labels.tolist()):
        seen[label] = seen.get(label, 0) + 1
        several += seen[label] == 2
        if several == 2:
            return place + 1
    return len(labels)

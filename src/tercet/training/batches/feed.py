"""The feed of a training: which items come next, and what the encoder is to be given of them."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor

from tercet.collectives import ALONE, Ranks
from tercet.data.augmentation import Augmentation, draw
from tercet.data.corruption import corrupt
from tercet.data.sides import TwoSides
from tercet.training.batches.loading import Loading
from tercet.training.batches.miner import Miner
from tercet.training.batches.supervision import Batch, Supervision
from tercet.training.model import Readable


class Pictures(NamedTuple):
    """Images of a batch, uint8 (B, C, H, W), and a row for each of what is to be changed in it."""

    pixels: Tensor
    changes: Tensor


@dataclass(frozen=True)
class Dealt:
    """A batch, this rank's rows of it, the epoch it belongs to, and the sampler's state after it."""

    epoch: int
    batch: Batch
    rows: slice
    state: dict[str, Any]


@dataclass(frozen=True)
class Fed:
    """A batch with its inputs as the loader gives them, on the CPU; images as `Pictures`.

    The inputs are those of this rank's rows of the batch.
    """

    epoch: int
    batch: Batch
    inputs: Any
    rows: slice


class Feed:
    """Deals batches and loads their inputs, some of them ahead; what is drawn for them is keyed by seed and step.

    Args:
        supervision: deals the batches.
        train: loads their items.
        augmentation: of images.
        seed: of the run.
        workers: processes that load, see `Loading`.
        corruption: share of the features of a row of numbers that change in all views of it but the first.
        miner: mines when it is due; batches after that are not dealt ahead of it.
        ranks: which share the rows of a batch.
    """

    def __init__(
        self, supervision: Supervision, train: Readable, augmentation: Augmentation, seed: int, workers: int = 0,
        corruption: float | None = None, miner: Miner | None = None, ranks: Ranks = ALONE,
    ) -> None:  # fmt: skip
        self.supervision, self.train, self.augmentation, self.seed = supervision, train, augmentation, seed
        self.corruption, self.miner, self.ranks = corruption, miner, ranks
        self.loading = Loading(train.loader, seed, workers)
        self._dealt: deque[Dealt] = deque()
        self._state = supervision.sampler.state()

    def next(self, step: int, last: int) -> Fed:
        """The batch of this step, counted from 0; those of later steps, up to the last, are asked for."""
        while len(self._dealt) <= self.loading.ahead and step + len(self._dealt) <= last:
            if self.miner is not None and self.miner.is_due:
                if self._dealt:  # whose steps come before, and change the weights to mine with
                    break
                self.miner.mine()
            self._deal(step + len(self._dealt))
        dealt, inputs = self._dealt.popleft(), self.loading.take()
        self._state = dealt.state
        if self.train.records.kind == "image":
            changes = draw(self.augmentation, len(dealt.batch.positions), self.seed, step)
            inputs = Pictures(inputs, changes[dealt.rows])
        elif isinstance(inputs, TwoSides):
            inputs = self._pictured(inputs, step)
        elif self.corruption:
            spared, first = len(dealt.batch.positions) // dealt.batch.views, dealt.rows.start
            inputs = corrupt(inputs, self.train.records.items, self.corruption, self.seed, step, spared, first)
        return Fed(dealt.epoch, dealt.batch, inputs, dealt.rows)

    def _pictured(self, inputs: TwoSides, step: int) -> TwoSides:
        """The batch with the images of either side as `Pictures`."""
        changes = draw(self.augmentation, inputs.n_left + inputs.n_right, self.seed, step)
        parts = [
            Pictures(part, own) if isinstance(part, Tensor) else part
            for part, own in ((inputs.left, changes[: inputs.n_left]), (inputs.right, changes[inputs.n_left :]))
        ]
        return TwoSides(parts[0], parts[1], inputs.n_left, inputs.n_right)

    def state(self) -> dict[str, Any]:
        """What `restore` needs to go on with the batch after the last one that was given, as plain JSON."""
        return self._state

    def restore(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken."""
        self.loading.forget()
        self._dealt.clear()
        if self.miner is not None:
            self.miner.restore()
        self.supervision.sampler.restore(state)
        self._state = state

    def close(self) -> None:
        """End what loads ahead."""
        self.loading.close()

    def _deal(self, step: int) -> None:
        sampler = self.supervision.sampler
        epoch, batch = sampler.epoch, self.supervision.next()
        rows = self.ranks.share(len(batch.positions))
        if rows.start == rows.stop:
            rows = slice(0, 1)  # encoded for nothing: how long embeddings are must be known on every rank
        self._dealt.append(Dealt(epoch, batch, rows, sampler.state()))
        self.loading.ask(batch.positions[rows], step, rows.start)

"""The feed of a training: which items come next, and what the encoder is to be given of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor

from tercet.data.augmentation import Augmentation, draw
from tercet.training.model import Readable
from tercet.training.supervision import Batch, Supervision


class Pictures(NamedTuple):
    """Images of a batch, uint8 (B, C, H, W), and a row for each of what is to be changed in it."""

    pixels: Tensor
    changes: Tensor


@dataclass(frozen=True)
class Fed:
    """A batch with its inputs as the loader gives them, on the CPU; images as `Pictures`."""

    epoch: int
    batch: Batch
    inputs: Any


class Feed:
    """Deals batches and loads their inputs; what is drawn for them is keyed by seed and step.

    Args:
        supervision: deals the batches.
        train: loads their items.
        augmentation: of images.
        seed: of the run.
    """

    def __init__(self, supervision: Supervision, train: Readable, augmentation: Augmentation, seed: int) -> None:
        self.supervision, self.train, self.augmentation, self.seed = supervision, train, augmentation, seed

    def next(self, step: int) -> Fed:
        """The batch of this step, counted from 0."""
        epoch, batch = self.supervision.sampler.epoch, self.supervision.next()
        inputs = self.train.loader.batch(batch.positions)
        if self.train.records.kind == "image":
            inputs = Pictures(inputs, draw(self.augmentation, len(inputs), self.seed, step))
        return Fed(epoch, batch, inputs)

    def state(self) -> dict[str, Any]:
        """What `restore` needs to go on with the batch after the last one, as plain JSON."""
        return self.supervision.sampler.state()

    def restore(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken."""
        self.supervision.sampler.restore(state)

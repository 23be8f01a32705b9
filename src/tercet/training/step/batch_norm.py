"""Batch normalisation: the statistics that an encoder is evaluated and saved with.

In training such a layer normalises by its batch; afterwards by means and variances that it gathered on the way, of
weights that have changed since, and of augmented items, which are unlike those that come. Here they are taken anew, of
the weights as they are and of items as they come: "precise BN", Wu and Johnson 2021, "Rethinking 'batch' in BatchNorm",
section 3.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import numpy as np
import torch
from torch import nn

from tercet.data.randomness import keyed, keyed_draws
from tercet.data.records import plural
from tercet.data.sides import SidesLoader
from tercet.training.model import EMBED_BATCH, Model, Readable
from tercet.training.step.gradient_cache import batch_statistics, buffers_as_now

ITEMS = 2048
"""Training items that the statistics are of, at most."""


class BatchNormStatistics:
    """Takes the statistics of a model's batch normalisation from training items, without augmentation.

    Layers that the encoder keeps in evaluation mode, those without running statistics, and those that it does not come
    to are left alone. Each use costs a forward pass of up to `ITEMS` items (of each side, where there are two) where
    there are layers left, and nothing where there are none.

    Args:
        model: whose encoder it is.
        train: the training data.
        seed: of the run, which decides on the items.
    """

    def __init__(self, model: Model, train: Readable, seed: int) -> None:
        self.model, self.train, self.seed = model, train, seed
        self.layers = _layers(model.encoder)
        self._parts = _parts(train, seed) if self.layers else []

    def said(self) -> str | None:
        """What is done, in words; None where nothing is."""
        if not self._parts:
            return None
        return (
            f"batch normalisation ({plural(len(self.layers), 'layer')}): evaluated and saved with the statistics of "
            f"{plural(sum(map(len, self._parts)), 'training item')} without augmentation"
        )

    @contextmanager
    def taken(self) -> Iterator[None]:
        """Within the block the layers have these statistics; afterwards those that they had.

        So an evaluation changes nothing in the training, and one that was interrupted goes on as if it had not been.
        """
        if not self._parts:
            yield
            return
        put_back = buffers_as_now(self.model.encoder)
        try:
            self._take()
            yield
        finally:
            put_back()

    def _take(self) -> None:
        """One pass over the items: the mean of the batches' statistics."""
        encoder, momenta = self.model.encoder, [layer.momentum for layer in self.layers]
        was_training, gathered = encoder.training, [deepcopy(list(layer.buffers())) for layer in self.layers]
        encoder.eval()
        try:
            for layer in self.layers:
                layer.reset_running_stats()
                layer.momentum = None  # PyTorch's word for a plain mean of all batches
                layer.train()
            with torch.no_grad(), keyed_draws(self.seed, 0, 0):
                for part in self._parts:
                    self.model.forward(self.train.loader.batch(part))
        finally:
            for layer, momentum, buffers in zip(self.layers, momenta, gathered, strict=True):
                layer.momentum = momentum
                if layer.num_batches_tracked == 0:  # not come to: a tower without items, a part for training alone
                    for buffer, before in zip(layer.buffers(), buffers, strict=True):
                        buffer.copy_(before)
            encoder.train(was_training)


def _layers(encoder: nn.Module) -> list[nn.BatchNorm2d]:
    """The layers that normalise by their batch in training, and keep running statistics for afterwards."""
    was_training = encoder.training
    encoder.train()
    layers: list[Any] = [encoder.get_submodule(name) for name in batch_statistics(encoder)]
    encoder.train(was_training)
    return [layer for layer in layers if layer.running_mean is not None]


def _parts(train: Readable, seed: int) -> list[np.ndarray]:
    """The positions of the items that are taken, in batches; of two sides each by itself, as its tower takes it."""
    sides = train.loader.sides if isinstance(train.loader, SidesLoader) else np.zeros(len(train.records))
    draws, parts = keyed(seed, "batch-norm"), []
    for side in np.unique(sides):
        own = np.flatnonzero(sides == side)
        chosen = own[draws.choice(len(own), min(len(own), ITEMS), replace=False)]
        parts += np.array_split(chosen, -(-len(chosen) // EMBED_BATCH))
    return [part for part in parts if len(part) > 1]  # one item alone has no variance

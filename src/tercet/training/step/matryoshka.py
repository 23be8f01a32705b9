"""Matryoshka: a loss summed over prefixes of the embedding, so that a prefix serves by itself.

Kusupati et al. 2022, "Matryoshka representation learning", equation 1: sum over m of c_m · L(z[1:m]).

Shapes: B items, D the length of an embedding.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from tercet.encoders.base import unit
from tercet.errors import InputError
from tercet.training.batches.supervision import Batch, Statistics, Supervision
from tercet.training.config import TrainingOptions


def over_prefixes(
    supervision: Supervision, embeddings: Tensor, batch: Batch, options: TrainingOptions, normalize: bool
) -> tuple[Tensor, Callable[[], Statistics]]:
    """The weighted sum of the losses of prefixes, and the statistics of the whole embeddings with each prefix's loss.

    Args:
        supervision: computes the loss of rows of any length.
        embeddings: of shape (B, D).
        batch: what is known of the items.
        options: which prefixes, and their weights.
        normalize: whether a prefix is scaled to length 1, as the encoder does with the whole.

    Raises:
        InputError: the longest prefix is not the whole embedding.
    """
    check_longest(options.matryoshka, embeddings.shape[1])
    weights = options.matryoshka_weights or (1.0,) * len(options.matryoshka)
    total, losses = embeddings.new_zeros(()), {}
    statistics: Callable[[], Statistics] = dict
    for length, weight in sorted(zip(options.matryoshka, weights, strict=True)):  # the whole last: it is remembered
        prefix = embeddings[:, :length]
        whole = length == embeddings.shape[1]
        value, statistics = supervision(unit(prefix) if normalize and not whole else prefix, batch)
        losses[f"loss_{length}"] = value.detach()
        total = total + weight * value

    def figures() -> Statistics:
        own = dict(zip(losses, torch.stack([one.double() for one in losses.values()]).tolist(), strict=True))
        return {**statistics(), "loss": float(total.detach()), **own}

    return total, figures


def check_longest(lengths: tuple[int, ...], dim: int) -> None:
    """Raise InputError unless the longest prefix is the whole embedding of this length."""
    if max(lengths) != dim:
        raise InputError(
            f"matryoshka is {', '.join(map(str, lengths))}, and an embedding has {dim} numbers: the longest must be "
            f"{dim}, the whole of it."
        )

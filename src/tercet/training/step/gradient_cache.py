"""The gradient cache: one step on a batch that is larger than memory, for every loss and encoder.

Gao, Zhang, Han and Callan 2021, "Scaling deep contrastive learning batch size under memory limited setup", section 3.
The encoder runs in chunks without a graph; the exact loss over the whole batch gives dL/dE; the chunks run again with a
graph, and dL/dE flows into the weights. Their method is for InfoNCE; nothing in it depends on the loss.

Shapes: B items of a batch, D the length of an embedding E.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from tercet.data.records import plural
from tercet.data.sides import TwoSides
from tercet.errors import InputError
from tercet.training.step.dropout import KeyedDraws

S = TypeVar("S")
BATCH_STATISTICS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


def cached_step(
    encode: Callable[[Any], Tensor],
    inputs: Any,
    count: int,
    loss: Callable[[Tensor], tuple[Tensor, S]],
    encoder: nn.Module,
    *,
    chunk: int | None = None,
    seed: int = 0,
    step: int = 0,
    first: int = 0,
) -> tuple[Tensor, S]:
    """The loss of a batch; its gradient is added to the `grad` of the encoder's and the loss's parameters.

    The gradient is that of the plain graph over the same chunks, up to the order of sums: both passes draw the same
    dropout (see `KeyedDraws`). The loss is called once, so its own parameters get their gradient once.

    Time: without chunks one forward and backward pass; with chunks one forward pass more. Memory: the graph of one
    chunk, and E with its gradient. Buffers that the encoder changes as it runs, such as running means, go through the
    same values in both passes and are changed once.

    Args:
        encode: from a part of the inputs to embeddings (part of B, D).
        inputs: a tensor, a list (of texts), or a dict, list or tuple of these, B rows each.
        count: B.
        loss: from embeddings (B, D) to a 0-d value with a graph, and anything else to be handed back.
        encoder: whose buffers `encode` changes.
        chunk: how many items the encoder takes at a time, at most: the batch is cut into as few parts of almost one
            size as that allows. All at once if it is B or more, or None.
        seed: of the run.
        step: of the training.
        first: the number of the first of these items in the batch, where other ranks have those before.

    Returns:
        The value and what else `loss` gave.

    Raises:
        InputError: the inputs cannot be cut into chunks.
    """
    parts = parts_of(inputs, count, chunk, bunch_of(encoder))
    if len(parts) == 1:
        return _plain_step(encode, inputs, loss, KeyedDraws(seed, step, slice(first, first + count)))
    pairs = [(rows, KeyedDraws(seed, step, first + rows)) for rows in parts]
    back = torch.from_numpy(np.argsort(np.concatenate(parts)))
    if chunk is None or chunk >= count:
        return _step_by_parts(encode, inputs, count, loss, pairs, back)
    put_back = buffers_as_now(encoder)
    embeddings = torch.cat([_encoded(encode, take(inputs, rows, count), drawn) for rows, drawn in pairs])
    embeddings = embeddings[back.to(embeddings.device)]

    value, said = loss(embeddings.requires_grad_())
    value.backward()
    if embeddings.grad is None:  # a loss that does not look at them, such as one of no triplets
        return value, said

    put_back()
    for rows, drawn in pairs:
        with drawn:
            again = encode(take(inputs, rows, count))
            if again.requires_grad:  # not where the loss alone is trained
                again.backward(embeddings.grad[torch.from_numpy(rows).to(embeddings.device)])
    return value, said


def parts_of(inputs: Any, count: int, chunk: int | None, bunch: int | None = None) -> list[np.ndarray]:
    """The rows that the encoder takes together, part by part, each of one side: at most `chunk`.

    Texts that are made into tokens are put together by their length, at most `bunch` of them, since all in a part are
    padded to its longest. What is drawn is keyed by the row, wherever it stands.
    """
    parts = []
    for section in inputs.sections if isinstance(inputs, TwoSides) else [slice(0, count)]:
        rows, size = np.arange(section.start, section.stop), len(range(*section.indices(count)))
        lengths = token_counts(inputs)
        together = size if chunk is None else chunk
        if lengths is not None and bunch is not None and (lengths[rows] > 0).all():
            rows, together = rows[np.argsort(lengths[rows], kind="stable")], min(bunch, together)
        parts += [rows[part] for part in cut(size, max(1, together))]
    return parts


def token_counts(inputs: Any) -> np.ndarray | None:
    """How many tokens each row of a batch has, (B,), 0 where it is none of texts; None where none is known."""
    if isinstance(inputs, TwoSides):
        sides = [(token_counts(inputs.left), inputs.n_left), (token_counts(inputs.right), inputs.n_right)]
        return np.concatenate([np.zeros(n, dtype=np.int64) if found is None else found for found, n in sides])
    if isinstance(inputs, list) and inputs and isinstance(inputs[0], np.ndarray):
        return np.array([max(1, len(row)) for row in inputs])
    return None


def bunch_of(encoder: nn.Module) -> int | None:
    """How many texts of about one length the encoder likes to be given at a time; None where it does not matter."""
    found = [getattr(part, "bunch", None) for part in encoder.modules()]
    return min((one for one in found if isinstance(one, int)), default=None)


def cut(count: int, chunk: int) -> list[slice]:
    """The fewest parts of at most `chunk` rows, whose sizes differ by one at most."""
    parts = math.ceil(count / chunk)
    bounds = [count * part // parts for part in range(parts + 1)]
    return [slice(start, stop) for start, stop in pairwise(bounds)]


def take(batch: Any, rows: slice | np.ndarray, count: int) -> Any:
    """These rows of a batch as loaders give it: a tensor, a list of texts, or a dict, list or tuple of these.

    What is neither, such as a number, belongs to all rows.

    Raises:
        InputError: a part of the batch does not have `count` rows.
    """
    if isinstance(batch, TwoSides):
        return batch.cut(rows, take)
    if isinstance(batch, Mapping):
        return {key: take(value, rows, count) for key, value in batch.items()}
    if isinstance(batch, (list, tuple)) and any(isinstance(value, (Tensor, Mapping)) for value in batch):
        taken = [take(value, rows, count) for value in batch]
        return type(batch)(*taken) if hasattr(batch, "_fields") else type(batch)(taken)
    if isinstance(batch, (Tensor, list, tuple)):
        if isinstance(batch, Tensor) and batch.ndim == 0:
            return batch
        if len(batch) != count:
            given = f"a tensor of shape {tuple(batch.shape)}" if isinstance(batch, Tensor) else f"{len(batch)} values"
            raise InputError(
                f"a batch of {count} items holds {given}, which cannot be cut into chunks of the items. Give the "
                f"encoder the whole batch: chunk={count} or more."
            )
        if isinstance(rows, slice):
            return batch[rows]
        return batch[torch.from_numpy(rows)] if isinstance(batch, Tensor) else [batch[place] for place in rows]
    return batch


def buffers_as_now(encoder: nn.Module) -> Callable[[], None]:
    """A function that puts the encoder's buffers, such as running means, back to what they are now."""
    before = {name: buffer.clone() for name, buffer in encoder.named_buffers()}

    @torch.no_grad()
    def put_back() -> None:
        for name, buffer in encoder.named_buffers():
            if name in before:
                buffer.copy_(before[name])

    return put_back


def batch_statistics(encoder: nn.Module) -> list[str]:
    """The names of the layers that, as the encoder stands, normalise by the statistics of what they are given."""
    return [name for name, layer in encoder.named_modules() if isinstance(layer, BATCH_STATISTICS) and layer.training]


def warning_of_statistics(encoder: nn.Module, chunk: int, count: int) -> str | None:
    """What chunks do to an encoder with batch normalisation, in words; None where there is none."""
    layers = batch_statistics(encoder)
    if not layers:
        return None
    return (
        f"the encoder has batch normalisation ({plural(len(layers), 'layer')}, such as {layers[0]}), which normalises "
        f"each chunk of {chunk:,} items by itself and not the batch of {count:,}: the chunk is part of the result. Use "
        "group or layer normalisation, keep these layers in evaluation mode (override their train method), or let the "
        f"encoder take the whole batch with --chunk {count}"
    )


def _plain_step(
    encode: Callable[[Any], Tensor], inputs: Any, loss: Callable[[Tensor], tuple[Tensor, S]], draws: KeyedDraws
) -> tuple[Tensor, S]:
    """The whole batch in one graph."""
    with draws:
        embeddings = encode(inputs)
    value, said = loss(embeddings)
    with draws:  # for what the backward pass computes anew: see KeyedDraws
        value.backward()
    return value, said


def _step_by_parts(
    encode: Callable[[Any], Tensor],
    inputs: Any,
    count: int,
    loss: Callable[[Tensor], tuple[Tensor, S]],
    pairs: list[tuple[np.ndarray, KeyedDraws]],
    back: Tensor,
) -> tuple[Tensor, S]:
    """The whole batch in one graph, each part of it with the draws of its rows; `back` puts the rows in their order.

    An encoder that computes anew in the backward pass (torch.utils.checkpoint) and draws there is not provided for.
    """
    parts = []
    for rows, draws in pairs:
        with draws:
            parts.append(encode(take(inputs, rows, count)))
    embeddings = torch.cat(parts)
    value, said = loss(embeddings[back.to(embeddings.device)])
    value.backward()
    return value, said


@torch.no_grad()
def _encoded(encode: Callable[[Any], Tensor], inputs: Any, draws: KeyedDraws) -> Tensor:
    with draws:
        return encode(inputs)

"""What ranks have in common while they train one model: weights, gradients, embeddings of a whole set.

Every rank deals the same batches, encodes its own part of each (`Ranks.share`), and holds the same weights. The sum of
gradients is taken here and not by DistributedDataParallel, which

* puts the parameters into other buckets after the first step, so that the order of sums is another: with three ranks or
  more, a run that is resumed would end with other bits than one that was not;
* needs a forward and a backward pass on every rank, and a batch may have fewer items than there are ranks;
* refuses an encoder without a trained parameter, whose loss may have some.

What it would save is time on fast networks: it sends gradients while the backward pass goes on.

Shapes: N items of a set, D the length of an embedding.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tercet.collectives import Ranks
from tercet.data.records import plural
from tercet.errors import InputError
from tercet.training.config import Config
from tercet.training.model import Model, Readable
from tercet.training.reporter import Reporter
from tercet.training.step.gradient_cache import batch_statistics

BUCKET_BYTES = 32 * 1024**2
"""Gradients sent at a time, which are copied for it."""
PLACES = ("source", "root", "validation")
"""Settings that say where data lies, which may differ from machine to machine."""


def average_gradients(parameters: Iterable[nn.Parameter], ranks: Ranks) -> None:
    """The mean over ranks of each parameter's gradient, in its place on every rank.

    A parameter without a gradient on any rank has none afterwards, as on one device; where only some have one, the
    others count as 0. The order of sums depends on the parameters alone.

    Cost: sends all gradients once, and copies up to 32 MiB of them at a time (or the largest).
    """
    if ranks.size == 1:
        return
    for bucket in _buckets(parameter for parameter in parameters if parameter.requires_grad):
        present = [torch.tensor(parameter.grad is not None, device=parameter.device) for parameter in bucket]
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in bucket]
        flat = torch.cat([*(gradient.flatten() for gradient in gradients), torch.stack(present).to(gradients[0].dtype)])
        *means, counts = ranks.sum(flat).split([*(len(p.flatten()) for p in bucket), len(bucket)])
        for parameter, mean, anywhere in zip(bucket, means, (counts > 0).tolist(), strict=True):
            parameter.grad = (mean / ranks.size).view_as(parameter) if anywhere else None


def _buckets(parameters: Iterable[nn.Parameter]) -> list[list[nn.Parameter]]:
    """The parameters in order, together as far as they are of one kind and small enough."""
    found: list[list[nn.Parameter]] = []
    size = 0
    for parameter in parameters:
        own = parameter.numel() * parameter.element_size()
        alike = found and (found[-1][0].dtype, found[-1][0].device) == (parameter.dtype, parameter.device)
        if alike and size + own <= BUCKET_BYTES:
            found[-1].append(parameter)
            size += own
        else:
            found.append([parameter])
            size = own
    return found


@torch.no_grad()
def spread_buffers(modules: Iterable[nn.Module], ranks: Ranks) -> None:
    """Give all ranks the buffers of rank 0, such as running means: each has seen its own part of the batch."""
    if ranks.size == 1:
        return
    kinds: dict[Any, list[Tensor]] = defaultdict(list)
    for module in modules:
        for buffer in module.buffers():
            kinds[buffer.dtype, buffer.device].append(buffer)
    for buffers in kinds.values():
        flat = ranks.spread(torch.cat([buffer.flatten() for buffer in buffers]))
        for buffer, own in zip(buffers, flat.split([buffer.numel() for buffer in buffers]), strict=True):
            buffer.copy_(own.view_as(buffer))


def spread_tensors(tensors: Mapping[str, Tensor], ranks: Ranks) -> dict[str, Tensor]:
    """The named tensors of rank 0 on every rank, on the CPU; what the others give is not looked at."""
    if ranks.size == 1:
        return dict(tensors)
    own = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    described = [(name, str(one.dtype).removeprefix("torch."), list(one.shape)) for name, one in own.items()]
    found = {}
    for name, dtype, shape in json.loads(ranks.told(json.dumps(described).encode())):
        tensor = own[name] if ranks.is_first else torch.empty(shape, dtype=getattr(torch, dtype))
        if tensor.numel():
            ranks.spread(tensor.view(-1).view(torch.uint8))  # bytes: a GPU's library knows fewer kinds of numbers
        found[name] = tensor
    return found


def spread_state(module: Any, ranks: Ranks) -> None:
    """Give a module on all ranks the weights and buffers that it has on rank 0; what is no module has none."""
    if ranks.size > 1 and isinstance(module, nn.Module):
        module.load_state_dict(spread_tensors(module.state_dict(), ranks))


def told(value: Any, ranks: Ranks) -> Any:
    """What rank 0 says, on every rank: plain JSON, in which floats keep their bits."""
    if ranks.size == 1:
        return value
    return json.loads(ranks.told(json.dumps(value if ranks.is_first else None).encode()))


def encode_whole(
    data: Readable, model: Model, ranks: Ranks, reporter: Reporter, title: str = "embedding"
) -> np.ndarray:
    """Embeddings of all N items, float32 (N, D), on every rank; each encodes its part of them.

    Views of held-out items are made by each rank for itself: they are few, and drawn by their place among all.
    """
    if ranks.size == 1 or type(data) is not Readable:
        return data.encode(model, reporter, title)
    count = len(data.records)
    own = np.arange(count)[ranks.share(count)]
    some = own if len(own) else np.arange(1)  # of a set smaller than the ranks: D must be known everywhere
    vectors = torch.from_numpy(model.encode(data.loader, some, reporter, title))[: len(own)]
    return ranks.gather(vectors, ranks.shares(count)).numpy()


def gather_norms(norms: Tensor, ranks: Ranks) -> Tensor:
    """Numbers of all ranks, of shapes (R,) that may differ, one rank after the other."""
    if ranks.size == 1:
        return norms
    lengths = [int(length) for length in ranks.exchange(str(len(norms)).encode())]
    return ranks.gather(norms, lengths)


def check_same(config: Config, data: str, ranks: Ranks) -> None:
    """Raise InputError on every rank unless all train with the same settings on the same data.

    Args:
        config: as this rank has understood it. Where the data lies may differ from machine to machine.
        data: a hash of what this rank has read.
        ranks: those that are compared.
    """
    if ranks.size == 1:
        return
    settings = [line for line in config.to_toml().splitlines() if line.split(" = ")[0] not in PLACES]
    given = [json.loads(sent) for sent in ranks.exchange(json.dumps([settings, data]).encode())]
    for rank, (other, read) in enumerate(given):
        if other != given[0][0]:
            first = [line for line in given[0][0] if line not in other]
            differing = [line for line in other if line not in given[0][0]]
            raise InputError(
                f"rank {rank} was given other settings than rank 0: {'; '.join(differing) or 'nothing'} instead of "
                f"{'; '.join(first) or 'nothing'}. Give all ranks the same; to resume on a machine that does not see "
                "the run folder, give it all settings of the run."
            )
        if read != given[0][1]:
            raise InputError(
                f"rank {rank} has read other training or validation data than rank 0: all ranks need the whole of it, "
                "the same files in the same order."
            )


def warning_of_shares(encoder: nn.Module, chunk: int | None, ranks: Ranks) -> str | None:
    """What ranks do to an encoder with batch normalisation, in words; None where there is none.

    Raises:
        InputError: its layers would wait for other ranks, which take the encoder another number of times.
    """
    layers = batch_statistics(encoder) if ranks.size > 1 else []
    if not layers:
        return None
    if chunk is not None and any(isinstance(layer, nn.SyncBatchNorm) for layer in encoder.modules()):
        raise InputError(
            "the encoder has SyncBatchNorm, whose ranks wait for each other in each forward pass, and ranks may have "
            "unequal numbers of chunks. Leave chunk and batch_size out, or use group or layer normalisation."
        )
    return (
        f"the encoder has batch normalisation ({plural(len(layers), 'layer')}, such as {layers[0]}), which normalises "
        f"each rank's part of the batch by itself: the number of ranks ({ranks.size}) is part of the result, and the "
        "running statistics are those of rank 0. Use group or layer normalisation for one that does not depend on it"
    )

"""The chunk: how many items the encoder takes at a time, from the memory that is free and what one item needs."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tercet.collectives import ALONE, Ranks
from tercet.data.records import Records
from tercet.training.config import BatchOptions, Config
from tercet.training.model import Model, Readable, mixed_precision, move
from tercet.training.step.dropout import KeyedDraws
from tercet.training.step.gradient_cache import buffers_as_now

PROBED = (8, 16)  # items in the two probes, whose difference is free of weights and all else that is kept but once
SHARE = 0.25
"""Of the free memory for what autograd keeps of a chunk. The rest is for what comes and goes within an operation and
its gradient (about as much again), for the gradients and the optimiser's moments, for items larger than those probed,
and for other programs."""
CPU_BYTES = 256 * 1024**2
"""More than this for a chunk gains nothing on a CPU: large memory comes fresh from the system at each step, which costs
about what the second forward pass does (docs/training.md has the figures)."""
UNKNOWN_BYTES = 2 * 1024**3
"""Free memory where the system does not tell: what a small machine has left."""


def items_in_batch(options: BatchOptions, records: Records) -> int:
    """How many items a batch holds, at most; each view of one counts."""
    if records.form == "items":
        return min(options.rows_per_batch, len(records)) * options.views
    if records.tuples is None:
        return options.classes_per_batch * options.samples_per_class * options.views
    return min(options.rows_per_batch * records.tuples.shape[1], len(records))


def with_chunk(config: Config, model: Model, train: Readable, ranks: Ranks = ALONE) -> Config:
    """The configuration with the chunk that the free memory allows, where a batch size is given and no chunk.

    Ranks on one machine share its memory, and all take the chunk that fits each of them.
    """
    if config.batch.batch_size is None or config.batch.chunk is not None:
        return config
    count = items_in_batch(config.batch, train.records)
    budget = budget_bytes(model.device, ranks.local_size)
    fits = fitting(budget, bytes_per_item(model, train, config.training.precision), count)
    chunk = int(ranks.smallest(torch.tensor([fits])))
    return dataclasses.replace(config, batch=dataclasses.replace(config.batch, chunk=chunk))


def fitting(budget: float, each: float, count: int) -> int:
    """The batch if it fits, otherwise a power of two, so that runs agree although the free memory never does."""
    affordable = int(budget / max(each, 1.0))
    if affordable >= count:
        return count
    return 2 ** max(0, affordable.bit_length() - 1)


def bytes_per_item(model: Model, train: Readable, precision: str) -> float:
    """What autograd keeps for the backward pass of an item, in bytes, measured on a few that are spread over the data.

    The random state, the weights and the buffers are as before.
    """
    encoder = model.encoder
    training, put_back = encoder.training, buffers_as_now(encoder)
    with torch.random.fork_rng():
        encoder.train()
        try:
            kept = [_bytes_kept(model, train, count, precision) for count in PROBED]
        finally:
            encoder.train(training)
            put_back()
    return max(kept[1] - kept[0], 0) / (PROBED[1] - PROBED[0])


def _bytes_kept(model: Model, train: Readable, count: int, precision: str) -> int:
    """The bytes of all storages that the graph of so many items holds, each counted once."""
    storages: dict[int, Any] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage  # held, so that no other takes its address
        return tensor

    positions = np.linspace(0, len(train.records) - 1, count).astype(np.int64)
    batch = move(train.loader.batch(positions), model.device)
    with (
        torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor),
        KeyedDraws(0, 0, slice(0, count)),
        mixed_precision(model.device, precision),
    ):
        rows = model.forward(batch)
    note(rows)
    return sum(storage.nbytes() for storage in storages.values())


def budget_bytes(device: torch.device, sharing: int = 1) -> float:
    """What autograd may keep of a chunk, where so many processes share the CPU's memory; each has its own GPU."""
    budget = SHARE * free_bytes(device)
    return min(budget / sharing, CPU_BYTES) if device.type == "cpu" else budget


def free_bytes(device: torch.device) -> int:
    """Memory that can be had on the device: on a CPU the least of what the system has and each limit leaves."""
    if device.type == "cuda":
        held = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + held
    return max(0, min((*_system_bytes(), *_group_bytes(), *_address_bytes()), default=UNKNOWN_BYTES))


def _system_bytes(table: Path = Path("/proc/meminfo")) -> Iterator[int]:
    """What Linux can give without swapping."""
    try:
        lines = table.read_text(encoding="ascii").splitlines()
    except OSError:
        return
    for line in lines:
        name, _, amount = line.partition(":")
        if name == "MemAvailable":
            yield int(amount.split()[0]) * 1024


def _group_bytes(groups: Path = Path("/proc/self/cgroup"), mounted: Path = Path("/sys/fs/cgroup")) -> Iterator[int]:
    """What each control group of this process has left, versions 1 and 2, the groups around it included."""
    try:
        lines = groups.read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers not in ("", "memory"):
            continue
        root = mounted / controllers
        names = ("memory.max", "memory.current") if not controllers else (
            "memory.limit_in_bytes", "memory.usage_in_bytes",
        )  # fmt: skip
        own = root / path.lstrip("/")
        for folder in (own, *own.parents):  # in a container the process's path may not be mounted, and its root is
            left = _left(folder, *names)
            if left is not None:
                yield left
            if folder == root:
                break


def _address_bytes() -> Iterator[int]:
    """What `ulimit -v` leaves this process."""
    try:
        import resource

        most, pages = resource.getrlimit(resource.RLIMIT_AS)[0], int(Path("/proc/self/statm").read_text().split()[0])
    except (ImportError, OSError):
        return
    if most != resource.RLIM_INFINITY:
        yield most - pages * resource.getpagesize()


def _left(group: Path, limit: str, used: str) -> int | None:
    """What a group has left, counting cached files that can be dropped as free; None without a limit."""
    try:
        most, taken = (group / limit).read_text(encoding="ascii").strip(), (group / used).read_text(encoding="ascii")
        figures = dict(line.split() for line in (group / "memory.stat").read_text(encoding="ascii").splitlines())
    except OSError:
        return None
    if most == "max":
        return None
    cached = figures.get("total_inactive_file") or figures.get("inactive_file", "0")
    return int(most) - int(taken) + int(cached)

"""What ranks send each other.

    gather          rows of every rank, on every rank; with a gradient where it is asked for
    sum_to_owners   the sum over ranks of rows, each row at the rank that owns it
    sum, smallest   over ranks, on every rank, in place
    any             whether it is so on one rank at least
    exchange        a message of every rank, on every rank
    told, spread    a message, or a tensor, of rank 0, on every rank
    wait            for all of them

Ranks may own unequal numbers of rows, and none. On one rank every call is trivial.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from tercet.errors import InputError, RankError


@dataclass(frozen=True)
class Ranks:
    """The processes that compute together, as one of them sees it.

    Attributes:
        rank: the number of this process.
        size: how many there are.
        local_size: how many of them share this machine.
    """

    rank: int = 0
    size: int = 1
    local_size: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this is rank 0, which writes and speaks for all."""
        return self.rank == 0

    def share(self, length: int) -> slice:
        """This rank's part of range(length), where all do nearly the same."""
        return slice(length * self.rank // self.size, length * (self.rank + 1) // self.size)

    def shares(self, length: int) -> list[int]:
        """How long the part of each rank is."""
        parts = (Ranks(rank, self.size).share(length) for rank in range(self.size))
        return [part.stop - part.start for part in parts]

    def owned(self, lengths: Sequence[int]) -> slice:
        """This rank's rows among those of all ranks, of which each owns so many, in order."""
        start = sum(lengths[: self.rank])
        return slice(start, start + lengths[self.rank])

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum over ranks, in place; every rank gives the same shape and dtype."""
        if self.size > 1:
            with _reached():
                dist.all_reduce(tensor)
        return tensor

    def smallest(self, tensor: Tensor) -> Tensor:
        """The minimum over ranks, entry by entry, in place; every rank gives the same shape and dtype."""
        if self.size > 1:
            with _reached():
                dist.all_reduce(tensor, dist.ReduceOp.MIN)
        return tensor

    def any(self, here: bool) -> bool:
        """Whether it is so on one rank at least: what one decides alone, and all must do."""
        if self.size == 1:
            return here
        return bool(self.sum(torch.tensor([int(here)], device=_message_device())) > 0)

    def spread(self, tensor: Tensor) -> Tensor:
        """The tensor of rank 0, in place of those of the others, which have its shape and dtype."""
        if self.size > 1:
            with _reached():
                dist.broadcast(tensor, 0)
        return tensor

    def told(self, message: bytes = b"") -> bytes:
        """The message of rank 0; what the others give is not looked at."""
        if self.size == 1:
            return message
        length = self.spread(torch.tensor([len(message)], device=_message_device()))
        if self.is_first:
            sent = torch.from_numpy(np.frombuffer(message, np.uint8).copy()).to(length.device)
        else:
            sent = torch.empty(int(length), dtype=torch.uint8, device=length.device)
        return (self.spread(sent) if len(sent) else sent).cpu().numpy().tobytes()

    def wait(self) -> None:
        """Come back when all ranks have come here."""
        self.any(False)

    def gather(self, rows: Tensor, lengths: Sequence[int]) -> Tensor:
        """The rows of all ranks, in order of the ranks, on every rank; without a graph.

        Args:
            rows: of shape (lengths[rank], ...), of any dtype; beyond the first dimension alike on all ranks.
            lengths: how many rows each rank has.
        """
        if self.size == 1:
            return rows.detach()
        row_bytes = math.prod(rows.shape[1:]) * rows.element_size()
        own = rows.detach().contiguous().flatten().view(torch.uint8)
        found = self._gather_bytes(own, [length * row_bytes for length in lengths])
        return found.view(rows.dtype).view(sum(lengths), *rows.shape[1:])

    def gather_with_gradient(self, rows: Tensor, lengths: Sequence[int]) -> Tensor:
        """As `gather`, and differentiable where each rank goes on to compute the same value from all rows.

        The gradient handed to this rank's rows is `size` times that of the value. With it, the mean over ranks of the
        parameters' gradients, which DistributedDataParallel takes, is the gradient of the value: every rank sees the
        part of it that goes through its own rows, and the sum of these parts is `size` times their mean. No rank
        waits for another in the backward pass.
        """
        if self.size == 1:
            return rows
        found: Tensor = _Gathered.apply(rows, self, tuple(lengths))
        return found

    def sum_to_owners(self, rows: Tensor, lengths: Sequence[int]) -> Tensor:
        """The sum over ranks of the rows that this rank owns, of shape (lengths[rank], D).

        Each rank sends the others their rows and adds up what it is sent, in order of the ranks: the traffic of a
        reduce-scatter, for unequal shares as well.

        Args:
            rows: of shape (sum(lengths), D): what this rank has to add to the rows of each.
            lengths: how many rows each rank owns.
        """
        if self.size == 1:
            return rows
        own = lengths[self.rank]
        received = rows.new_empty(self.size * own, *rows.shape[1:])
        with _reached():
            dist.all_to_all_single(received, rows.contiguous(), [own] * self.size, list(lengths))
        return received.view(self.size, own, *rows.shape[1:]).sum(0)

    def exchange(self, message: bytes) -> list[bytes]:
        """The messages of all ranks, of any lengths, in order of the ranks."""
        if self.size == 1:
            return [message]
        own = torch.from_numpy(np.frombuffer(message, np.uint8).copy()).to(_message_device())
        lengths = torch.zeros(self.size, dtype=torch.int64, device=own.device)
        lengths[self.rank] = len(own)
        found = self._gather_bytes(own, self.sum(lengths).tolist())
        return [part.cpu().numpy().tobytes() for part in found.split(lengths.tolist())]

    def _gather_bytes(self, own: Tensor, lengths: Sequence[int]) -> Tensor:
        """The bytes of all ranks, one after the other; each rank sends as many as the longest."""
        longest = max(lengths)
        if longest == 0:
            return own
        sent = own
        if len(own) < longest:
            sent = own.new_zeros(longest)
            sent[: len(own)] = own
        found = own.new_empty(self.size * longest)
        _all_gather(found, sent)
        if min(lengths) == max(lengths):
            return found
        parts = zip(found.split(longest), lengths, strict=True)
        return torch.cat([part[:length] for part, length in parts])


ALONE = Ranks()


def current_ranks() -> Ranks:
    """The processes of this program.

    Raises:
        InputError: they have not been made known to each other.
    """
    if not (dist.is_available() and dist.is_initialized()):
        raise InputError(
            "across_ranks is set, and there is no process group. Start the processes with `torchrun "
            "--nproc-per-node=N script.py` and call torch.distributed.init_process_group() before the loss; on one "
            "device leave across_ranks out."
        )
    return Ranks(dist.get_rank(), dist.get_world_size(), int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


@contextlib.contextmanager
def _reached() -> Iterator[None]:
    """Make a RankError of what PyTorch raises when another rank does not answer."""
    try:
        yield
    except RuntimeError as cause:
        reason = (str(cause).strip().splitlines() or [type(cause).__name__])[0]
        raise RankError(f"another rank cannot be reached ({reason}).") from cause


class _Gathered(torch.autograd.Function):
    @staticmethod
    def forward(rows: Tensor, ranks: Ranks, lengths: tuple[int, ...]) -> Tensor:
        return ranks.gather(rows, lengths)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, ranks, lengths = inputs
        ctx.factor, ctx.own = ranks.size, ranks.owned(lengths)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        return gradients[0][ctx.own] * ctx.factor, None, None


def _message_device() -> torch.device:
    """Where messages travel: the CPU, if the process group can; so they wait for no GPU."""
    if "cpu:" in dist.get_backend_config():
        return torch.device("cpu")
    return torch.device("cuda", torch.cuda.current_device())


def _all_gather(found: Tensor, own: Tensor) -> None:
    # Its old name is deprecated from PyTorch 2.13 on; the new one does not exist before.
    gather: Any = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
    with _reached():
        gather(found, own)

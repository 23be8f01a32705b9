"""Memory: embeddings of earlier batches as further positives and negatives, for any loss that takes a reference set.

Wang, Zhang, Huang and Scott 2020, "Cross-batch memory for embedding learning": an encoder changes slowly, so what it
made of an item some steps ago is nearly what it would make of it now. And He, Fan, Wu, Xie and Girshick 2020, "Momentum
contrast": what is kept comes from a copy of the encoder that follows it more slowly, and changes less.

Shapes: B items of a batch, N rows kept, D the length of an embedding.
"""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn


class Bank(nn.Module):
    """The newest N embeddings, without a graph, and which items they are of. Saved with the modules of a run.

    Memory: N·D numbers. Time: each batch copies them once.

    Args:
        capacity: how many rows are kept at most.

    Attributes:
        rows: float32 (N, D), oldest first.
        positions: int64 (N,), the item of each row; an item may be there several times, as it was at different steps.
        batches: int64, of shape (): how many batches have been added so far.
    """

    rows: Tensor
    positions: Tensor
    batches: Tensor

    def __init__(self, capacity: int) -> None:
        super().__init__()
        self.capacity = capacity
        self.register_buffer("rows", torch.zeros(0, 0))
        self.register_buffer("positions", torch.zeros(0, dtype=torch.int64))
        self.register_buffer("batches", torch.zeros((), dtype=torch.int64))

    def __len__(self) -> int:
        return len(self.positions)

    def add(self, embeddings: Tensor, positions: Tensor) -> None:
        """Keep these rows, of shapes (B, D) and (B,), and forget the oldest for them."""
        fresh = embeddings.detach().float()
        kept = self.rows.to(fresh.device) if len(self) else fresh[:0]
        self.rows = torch.cat([kept, fresh])[-self.capacity :]
        self.positions = torch.cat([self.positions, positions.to(self.positions)])[-self.capacity :]
        self.batches += 1

    def clear(self) -> None:
        """Forget all of them."""
        self.rows, self.positions = self.rows[:0], self.positions[:0]
        self.batches.zero_()

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *arguments: Any) -> None:
        for name in ("rows", "positions"):  # their length is that of the run, not of a new bank
            setattr(self, name, torch.empty_like(state_dict[prefix + name], device=getattr(self, name).device))
        super()._load_from_state_dict(state_dict, prefix, *arguments)


class Memory(nn.Module):
    """A bank, and what fills it.

    Args:
        capacity: rows kept, at most.
        warmup: batches that it takes in before it is used.
        encoder: what a slow copy follows with `momentum`; None if the encoder's own embeddings are kept.
        momentum: see `SlowCopy`.

    Attributes:
        keys: what it is to keep of the batch at hand, of shape (B, D); None means the batch's embeddings.
    """

    def __init__(self, capacity: int, warmup: int = 0, encoder: nn.Module | None = None, momentum: float = 0.0) -> None:
        super().__init__()
        self.bank = Bank(capacity)
        self.warmup = warmup
        self.slow = None if encoder is None else SlowCopy(encoder, momentum)
        self.keys: Tensor | None = None

    def restart(self, encoder: nn.Module) -> None:
        """Forget everything: the encoder has other weights now."""
        self.bank.clear()
        if self.slow is not None:
            self.slow.encoder.load_state_dict(encoder.state_dict())

    @property
    def in_use(self) -> bool:
        """Whether the loss looks at it by now."""
        return len(self.bank) > 0 and int(self.bank.batches) > self.warmup


class SlowCopy(nn.Module):
    """A copy of an encoder that follows it: after each step, weights = momentum · weights + (1 - momentum) · encoder's.

    He et al. 2020, eq. 2. Buffers are taken over as they are. No gradient flows into it.

    Args:
        encoder: what it follows.
        momentum: at least 0 and below 1; near 1, it follows slowly.
    """

    def __init__(self, encoder: nn.Module, momentum: float) -> None:
        super().__init__()
        self.encoder = deepcopy(encoder).requires_grad_(False).eval()
        self.momentum = momentum

    @torch.no_grad()
    def follow(self, encoder: nn.Module) -> None:
        """Move towards the encoder as it is now."""
        for own, other in zip(self.encoder.parameters(), encoder.parameters(), strict=True):
            own.lerp_(other.detach(), 1 - self.momentum)
        for held, given in zip(self.encoder.buffers(), encoder.buffers(), strict=True):
            held.copy_(given)

    def train(self, mode: bool = True) -> SlowCopy:
        """Stay in evaluation mode: what is kept has no dropout in it."""
        return super().train(False)

    def forward(self, batch: Any) -> Tensor:
        """Embeddings of a batch, without a graph."""
        with torch.no_grad():
            found: Tensor = self.encoder(batch)
        return found

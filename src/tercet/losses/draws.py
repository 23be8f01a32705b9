"""Which draw a call makes: keyed by a seed and the number of the call, so that a run can be repeated and resumed."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor, nn


class Draws(nn.Module):
    """Counts the draws of a loss; the count is saved with the loss's state, as a tensor.

    Args:
        seed: from 0 to 2^63 - 1.
    """

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.seed, self.number = seed, 0

    def key(self) -> int:
        """The seed of the current draw: of 63 bits, unlike those of neighbouring seeds and draws."""
        words = self.seed.to_bytes(8, "little") + self.number.to_bytes(8, "little", signed=True)
        return int.from_bytes(hashlib.blake2b(words, digest_size=8).digest(), "little") >> 1

    def get_extra_state(self) -> Tensor:
        """The number of the next draw. Kept as a plain number, since reading a tensor would wait for the device."""
        return torch.tensor(self.number)

    def set_extra_state(self, state: Tensor) -> None:
        """Go on with the draw that `get_extra_state` gave."""
        self.number = int(state)

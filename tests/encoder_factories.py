"""Encoders of a user's own, as test_encoders.py names them."""

import torch
from torch import nn


class Average(nn.Module):
    """Images to the means of their channels, times a weight."""

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(scale))

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        return batch.float().flatten(2).mean(2) * self.scale


def make(scale: float) -> nn.Module:
    return Average(scale)


def make_average(scale: float = 3.0) -> "Average":
    return Average(scale)


def unannotated(scale=1.0):
    raise AssertionError("this must never be called")


def number() -> int:
    raise AssertionError("this must never be called")


def wrong() -> nn.Module:
    return 7


def flat() -> nn.Module:
    return nn.Flatten(0)


instance = Average()


def numbers_network() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))

"""Pooling: the states of a text's tokens -> one row.

Shapes: B texts, L tokens of the longest, F features of a state, M poolings that are joined.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn


class Pooling(nn.Module):
    """States (B, L, F) to (B, M·F) over the tokens that are there: the poolings of a word such as "mean+max", joined.

    A text without tokens gives zeros. Padding may come first or last.

    Args:
        words: poolings joined by "+", as checked by `TextOptions`.
        features: F; only "attention" learns anything, a query of F numbers that starts as zeros, which is the mean.
    """

    def __init__(self, words: str, features: int) -> None:
        super().__init__()
        self.words = words.split("+")
        self.query = nn.Parameter(torch.zeros(features)) if "attention" in self.words else None

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        """Of shape (B, M·F)."""
        found = [
            _by_attention(states, mask, self.query) if word == "attention" else _POOLINGS[word](states, mask)
            for word in self.words
        ]
        return torch.cat(found, dim=-1)


def pool(states: Tensor, mask: Tensor, how: str) -> Tensor:
    """States (B, L, F) to (B, F) by one of the poolings that learn nothing."""
    return _POOLINGS[how](states, mask)


def _first(states: Tensor, mask: Tensor) -> Tensor:
    return _at(states, mask, mask.long().argmax(dim=1))  # not token 0 where padding comes first


def _last(states: Tensor, mask: Tensor) -> Tensor:
    return _at(states, mask, mask.shape[1] - 1 - mask.long().flip(1).argmax(dim=1))


def _at(states: Tensor, mask: Tensor, places: Tensor) -> Tensor:
    rows = states[torch.arange(len(states), device=states.device), places]
    return rows.masked_fill(~mask.bool().any(dim=1)[:, None], 0.0)


def _maximum(states: Tensor, mask: Tensor) -> Tensor:
    there = mask[..., None].bool()
    return states.masked_fill(~there, float("-inf")).amax(dim=1).masked_fill(~there.any(dim=1), 0.0)


def _mean(states: Tensor, mask: Tensor) -> Tensor:
    return _weighted(states, mask.to(states.dtype))


def _mean_root(states: Tensor, mask: Tensor) -> Tensor:
    """The sum over the root of the number of tokens."""
    return _mean(states, mask) * mask.sum(dim=1, keepdim=True).to(states.dtype).sqrt()


def _by_position(states: Tensor, mask: Tensor) -> Tensor:
    """The mean weighted by 1, 2, 3, ...: Muennighoff 2022, "SGPT", section 3.1.1."""
    return _weighted(states, (mask.cumsum(dim=1) * mask).to(states.dtype))


def _by_attention(states: Tensor, mask: Tensor, query: Tensor | None) -> Tensor:
    """The mean weighted by the softmax of states · query / root of F."""
    assert query is not None
    scores = states @ query / len(query) ** 0.5
    lowest = torch.finfo(scores.dtype).min
    shares = scores.masked_fill(~mask.bool(), lowest).softmax(dim=1)
    return _weighted(states, shares * mask.to(states.dtype))


def _weighted(states: Tensor, weights: Tensor) -> Tensor:
    there = weights[..., None]
    total = there.sum(dim=1)
    summed = (states.masked_fill(there == 0, 0.0) * there).sum(dim=1)  # a padded state may be anything
    return summed / torch.where(total > 0, total, 1.0)


_POOLINGS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "mean": _mean,
    "max": _maximum,
    "first": _first,
    "last": _last,
    "weighted-mean": _by_position,
    "mean-root": _mean_root,
}

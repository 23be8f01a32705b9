"""Tokens of texts: rows of numbers without padding, of which an encoder pads as many as it takes at a time.

Shapes: B texts, L tokens of the longest piece.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

OVERLAP = 8  # a piece of a long text begins an eighth of its length before the last one ends
_ONE_AT_A_TIME = threading.Lock()  # a tokenizer refuses to be used by two threads, and a thread loads batches ahead


class Tokens:
    """The tokenizer of a transformer, and how many tokens the transformer takes.

    Attributes:
        room: tokens of a text that a piece has room for, besides the special ones around them.
    """

    def __init__(self, tokenizer: Any, max_tokens: int) -> None:
        self.tokenizer = tokenizer
        tokenizer.padding_side = "right"  # where positions are counted from the left, padding must not move a token
        whole, bare = tokenizer("a")["input_ids"], tokenizer("a", add_special_tokens=False)["input_ids"]
        start = next(place for place in range(len(whole)) if whole[place : place + len(bare)] == bare)
        self.prefix, self.suffix = whole[:start], whole[start + len(bare) :]
        self.room = max(1, max_tokens - len(self.prefix) - len(self.suffix))
        self.pad = tokenizer.pad_token_id or 0  # what stands where nothing is looked at does not matter
        self.from_end = tokenizer.truncation_side == "left"

    def rows(self, texts: Sequence[str]) -> list[np.ndarray]:
        """The tokens of each text, int32, however many, without special ones."""
        if not len(texts):
            return []
        with _ONE_AT_A_TIME:
            made = self.tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]
        return [np.array(row, dtype=np.int32) for row in made]

    def cut(self, row: np.ndarray) -> np.ndarray:
        """As many tokens of a text as there is room for, from its start (or end, where the tokenizer says so)."""
        return row[-self.room :] if self.from_end else row[: self.room]

    def pieces(self, row: np.ndarray) -> list[np.ndarray]:
        """A text in as few pieces of almost one length as there is room for, each overlapping the one before."""
        if len(row) <= self.room:
            return [row]
        step = max(1, self.room - self.room // OVERLAP)
        count = -(-(len(row) - self.room) // step) + 1
        starts = [(len(row) - self.room) * place // (count - 1) for place in range(count)]
        return [row[start : start + self.room] for start in starts]

    def padded(self, pieces: Sequence[np.ndarray], device: torch.device) -> dict[str, Tensor]:
        """Tokens and mask of shape (B, L), special tokens around each piece."""
        rows = [[*self.prefix, *piece.tolist(), *self.suffix] for piece in pieces]
        longest = max(1, *map(len, rows))  # of no tokens at all, one that is masked
        numbers = torch.full((len(rows), longest), self.pad, dtype=torch.int64)
        mask = torch.zeros(len(rows), longest, dtype=torch.int64)
        for place, row in enumerate(rows):
            numbers[place, : len(row)] = torch.tensor(row, dtype=torch.int64)
            mask[place, : len(row)] = 1
        return {"input_ids": numbers.to(device), "attention_mask": mask.to(device)}

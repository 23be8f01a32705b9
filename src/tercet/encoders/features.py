"""Coded rows of a table (`data/features.py`) as features of a network; all that is learned is of training rows.

Shapes: B rows, W numbers of a coded row, G features that the network sees.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from tercet.errors import InputError

DAY = 86_400.0
YEAR = 365.2425 * DAY
TEXT_WIDTH = 64  # counts of words in buckets, as data/features.py makes them


def describe_features(names: Sequence[str], kinds: Sequence[str], rows: torch.Tensor) -> list[dict[str, Any]]:
    """What is to be kept of each column, as JSON: its kind, how many categories it has, whether it lacks values.

    Args:
        names: of the columns.
        kinds: "number", "category", "date" or "text".
        rows: the coded training rows, float64 (N, W).
    """
    described, start = [], 0
    for name, kind in zip(names, kinds, strict=True):
        column = rows[:, start]
        held = column[~column.isnan()]
        one: dict[str, Any] = {"name": name, "kind": kind}
        if kind == "category":
            one["categories"] = len(held.unique())
        elif kind != "text":
            one["missing"] = bool(column.isnan().any())
        if kind == "date":
            one["clock"] = bool((held % DAY != 0).any())
        described.append(one)
        start += TEXT_WIDTH if kind == "text" else 1
    return described


class Coded(nn.Module):
    """Coded rows (B, W) to features (B, G): each column by its kind, side by side."""

    def __init__(self, described: Sequence[dict[str, Any]], one_hot: int) -> None:
        super().__init__()
        self.names = tuple(one["name"] for one in described)
        parts = [_part(one, one_hot) for one in described]
        self.parts = nn.ModuleList(parts)
        self.takes = [part.takes for part in parts]
        self.width, self.features = sum(self.takes), sum(part.gives for part in parts)

    def fit(self, rows: torch.Tensor) -> None:
        """Learn what each column needs from the coded training rows (N, W)."""
        for part, columns in zip(self.parts, self._split(rows), strict=True):
            part.fit(columns)  # type: ignore[operator]

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Features, float32 (B, G)."""
        return torch.cat([part(columns) for part, columns in zip(self.parts, self._split(rows), strict=True)], dim=1)

    def _split(self, rows: torch.Tensor) -> tuple[torch.Tensor, ...]:
        if rows.ndim != 2 or rows.shape[1] != self.width:
            raise InputError(
                f"Rows of shape {tuple(rows.shape)} were given; this encoder takes (B, {self.width}), coded from the "
                f"columns {', '.join(self.names[:5])}{' …' if len(self.names) > 5 else ''}."
            )
        return rows.double().split(self.takes, dim=1)


class _Part(nn.Module):
    """One column: `takes` numbers of a coded row, and `gives` features."""

    takes: int = 1
    gives: int = 1

    def fit(self, column: torch.Tensor) -> None:
        """Learn from the column of the training rows, (N, `takes`)."""


class _Number(_Part):
    """(x - mean) / deviation; a missing value counts as the median, and says so in a feature of its own."""

    mean: torch.Tensor
    deviation: torch.Tensor
    median: torch.Tensor

    def __init__(self, lacks: bool) -> None:
        super().__init__()
        self.lacks, self.gives = lacks, 1 + lacks
        for name, value in (("mean", 0.0), ("deviation", 1.0), ("median", 0.0)):
            self.register_buffer(name, torch.tensor(value, dtype=torch.float64))

    def fit(self, column: torch.Tensor) -> None:
        """Mean and deviation of what is there, and the median; a constant column keeps a deviation of 1."""
        held = column[~column.isnan()]
        if not len(held):
            return
        deviation = held.std(correction=0)
        varies = deviation > torch.finfo(torch.float32).eps * held.abs().max()
        self.mean.copy_(held.mean())
        self.deviation.copy_(torch.where(varies, deviation, torch.ones_like(deviation)))
        self.median.copy_(held.quantile(0.5) if len(held) < 2**24 else held.median())

    def forward(self, column: torch.Tensor) -> torch.Tensor:
        """Of shape (B, 1), or (B, 2) with what is missing."""
        gone = column.isnan()
        standard = ((torch.where(gone, self.median, column) - self.mean) / self.deviation).float()
        return torch.cat([standard, gone.float()], dim=1) if self.lacks else standard


class _Category(_Part):
    """A category as one feature each, or, of many, as a learned vector; missing is a category, and so is unknown.

    Of many the vector has 1.6 n^0.56 numbers, at most 64: a common rule of thumb.
    """

    codes: torch.Tensor

    def __init__(self, categories: int, one_hot: int) -> None:
        super().__init__()
        self.register_buffer("codes", torch.full((categories,), torch.inf, dtype=torch.float64))
        known = categories + 2  # the last two are missing, and unknown
        self.vectors: nn.Embedding | None = None
        self.gives = known
        if categories > one_hot:
            self.gives = min(64, round(1.6 * categories**0.56))
            self.vectors = nn.Embedding(known, self.gives)
            nn.init.normal_(self.vectors.weight, std=self.gives**-0.5)
            with torch.no_grad():
                self.vectors.weight[-1] = 0  # no training row is unknown

    def fit(self, column: torch.Tensor) -> None:
        """The codes of the categories that the training rows hold."""
        self.codes.copy_(column[~column.isnan()].unique())

    def forward(self, column: torch.Tensor) -> torch.Tensor:
        """Of shape (B, categories + 2), or that of the learned vectors."""
        code = column[:, 0].contiguous()
        categories = len(self.codes)
        place = torch.searchsorted(self.codes, code.nan_to_num(0.0)).clamp(max=max(categories - 1, 0))
        known = self.codes[place] == code if categories else torch.zeros_like(code, dtype=torch.bool)
        place = torch.where(known, place, categories + 1)
        place = torch.where(code.isnan(), categories, place)
        if self.vectors is not None:
            return self.vectors(place)
        return nn.functional.one_hot(place, categories + 2).float()


class _Date(_Part):
    """A date: the time itself standardised, and where it lies in the year, the week and, if the hour counts, the day.

    Each as the sine and cosine of its turn, so that December is beside January. A missing date is zeros.
    """

    def __init__(self, clock: bool, lacks: bool) -> None:
        super().__init__()
        self.clock, self.lacks = clock, lacks
        self.periods = (YEAR, 7 * DAY, *((DAY,) if clock else ()))
        self.time = _Number(lacks)
        self.gives = self.time.gives + 2 * len(self.periods)

    def fit(self, column: torch.Tensor) -> None:
        """Mean and deviation of the times."""
        self.time.fit(column)

    def forward(self, column: torch.Tensor) -> torch.Tensor:
        """Of shape (B, 1 or 2 and two for each turn)."""
        turns = torch.cat([2 * math.pi * (column / period % 1) for period in self.periods], dim=1)
        return torch.cat([self.time(column), turns.sin().nan_to_num(0).float(), turns.cos().nan_to_num(0).float()], 1)


class _Text(_Part):
    """Counts of words in buckets, as they are."""

    takes = TEXT_WIDTH
    gives = TEXT_WIDTH

    def forward(self, column: torch.Tensor) -> torch.Tensor:
        """Of shape (B, 64)."""
        return column.float()


def _part(one: dict[str, Any], one_hot: int) -> _Part:
    if one["kind"] == "number":
        return _Number(one["missing"])
    if one["kind"] == "category":
        return _Category(one["categories"], one_hot)
    return _Text() if one["kind"] == "text" else _Date(one["clock"], one["missing"])

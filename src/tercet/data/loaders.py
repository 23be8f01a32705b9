"""Loaders: batches of inputs for an encoder, from the items of records."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, cast

import numpy as np
import torch

from tercet.data.images import BUDGET_BYTES, ImageCache, Progress
from tercet.data.lazy import LazyItems, items_at
from tercet.data.randomness import keyed_draws
from tercet.data.sides import SIDES, SidedItems, SidesLoader
from tercet.errors import DataError, InputError

Positions = Sequence[int] | np.ndarray
TOLD_EVERY = 1 << 14
"""Texts after which a pass over all says how far it is."""


class Loader(Protocol):
    """What training and embedding ask of the data."""

    def batch(self, positions: Positions) -> Any:
        """The inputs at these positions, as the encoder takes them (on the CPU)."""

    def check(self, progress: Progress | None = None) -> list[tuple[int, str]]:
        """Look at every item once; gives the positions that cannot be used, each with the reason."""


class EncoderOptions(Protocol):
    """What a loader needs of an encoder's options; those of images also have size, channels and fit."""

    @property
    def input(self) -> str | None:
        """One of "image", "text", "tabular" and "tensor"."""


def make_loader(options: EncoderOptions, items: Sequence[Any], budget_bytes: int = BUDGET_BYTES) -> Loader:
    """The loader of these items for an encoder with these options (completed by `encoders.prepare`).

    A torch Dataset that gives tensors is collated as it is, whatever the encoder.

    Args:
        options: the encoder's options.
        items: `records.items`.
        budget_bytes: memory that decoded images may take; more are decoded each time.

    Raises:
        InputError: the options are not complete.
    """
    if options.input == SIDES:
        towers, sided = cast(Any, options).towers, cast(SidedItems, items)
        return SidesLoader(sided, lambda side, values: make_loader(towers[side], values, budget_bytes))
    if options.input == "tensor" or _gives_tensors(items):
        return TensorLoader(items)
    if options.input == "image":
        size, channels = getattr(options, "size", None), getattr(options, "channels", None)
        if size is None or channels is None:
            raise InputError("The size of the images is not set; complete the options with prepare().")
        return ImageCache(items, size, channels, getattr(options, "fit", "crop"), budget_bytes)
    if options.input == "text":
        return TextLoader(items)
    if options.input == "tabular":
        rows = np.asarray(items)
        return TableLoader(rows if rows.dtype == np.float64 else rows.astype(np.float32))
    raise InputError(f"The encoder's input is {options.input!r}; complete the options with prepare().")


def _gives_tensors(items: Sequence[Any]) -> bool:
    if isinstance(items, list | tuple | np.ndarray | LazyItems) or len(items) == 0:
        return False
    return isinstance(items[0], torch.Tensor)


class TextLoader:
    """Texts, given as they are: the encoder tokenises them."""

    def __init__(self, items: Sequence[str]) -> None:
        self.items = items

    def batch(self, positions: Positions) -> list[str]:
        """The texts at these positions."""
        return items_at(self.items, positions)

    def check(self, progress: Progress | None = None) -> list[tuple[int, str]]:
        """Texts that are empty."""
        bad = []
        for place, text in enumerate(self.items):
            if not text.strip():
                bad.append((place, "the text is empty"))
            if progress is not None and (place + 1) % TOLD_EVERY == 0:
                progress(place + 1, len(self.items))
        return bad


class TableLoader:
    """Rows of numbers, float32 of shape (N, F); or coded rows, float64 of shape (N, W), in which NaN is missing."""

    def __init__(self, items: np.ndarray) -> None:
        self.items = torch.from_numpy(np.ascontiguousarray(items))

    def batch(self, positions: Positions) -> torch.Tensor:
        """A tensor of shape (B, F) or (B, W)."""
        return self.items[torch.as_tensor(np.asarray(positions, dtype=np.int64))]

    def check(self, progress: Progress | None = None) -> list[tuple[int, str]]:
        """Rows that hold a number that is not finite."""
        wrong = ~torch.isfinite(self.items) & ~(self.items.isnan() & (self.items.dtype == torch.float64))
        bad = torch.nonzero(wrong.any(dim=1)).flatten().tolist()
        return [(place, "a value is not finite") for place in bad]


class TensorLoader:
    """Items of a map-style torch Dataset, collated as torch's DataLoader does."""

    def __init__(self, items: Any) -> None:
        self.items = items

    def batch(self, positions: Positions) -> Any:
        """The collated items.

        Raises:
            DataError: they do not fit together.
        """
        return self._collated([self.items[int(place)] for place in positions])

    def drawn(self, positions: Positions, seed: int, step: int, keys: Positions) -> Any:
        """The collated items, where a dataset that draws, such as a crop, draws by (seed, step, key of the item)."""
        items = []
        for place, key in zip(positions, keys, strict=True):
            with keyed_draws(seed, step, int(key)):
                items.append(self.items[int(place)])
        return self._collated(items)

    def _collated(self, items: list[Any]) -> Any:
        from torch.utils.data import default_collate

        try:
            return default_collate(items)
        except (RuntimeError, TypeError) as cause:
            raise DataError(f"The dataset's items cannot be put into one batch: {cause}") from None

    def check(self, progress: Progress | None = None) -> list[tuple[int, str]]:
        """Items that raise, or whose tensors differ in shape from the first."""
        bad: list[tuple[int, str]] = []
        expected = None
        for place in range(len(self.items)):
            try:
                shape = tuple(getattr(self.items[place], "shape", ()))
            except Exception as cause:  # the user's own code, which may raise anything
                bad.append((place, f"{type(cause).__name__}: {cause}"))
            else:
                expected = shape if expected is None else expected
                if shape != expected:
                    bad.append((place, f"has shape {shape}, others {expected}"))
            if progress is not None:
                progress(place + 1, len(self.items))
        return bad

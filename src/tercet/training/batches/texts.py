"""Texts as an encoder is given them in training: made into tokens once, ahead of the step, and kept while they fit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, TypeGuard

import numpy as np

from tercet.data.loaders import Loader, Positions, TextLoader
from tercet.data.records import plural
from tercet.data.sides import SidesLoader
from tercet.encoders.texts import TextEncoder
from tercet.encoders.towers import TwoTowers
from tercet.training.reporter import Reporter

BUDGET_BYTES = 2**28  # of tokens that are kept: a million short texts, some hundred thousand long ones
BESIDE_BYTES = 216  # what Python holds beside the tokens of a text: the array, its number, its place among the others
TOGETHER = 1024  # texts whose tokens are made in one call


class _Progress(Protocol):
    def __call__(self, done: int, total: int) -> None: ...


class TokenLoader:
    """Batches of token rows, int32, as `encoder.numbers` gives them, cut to those that count.

    Made by the thread that loads ahead, or found among those that were kept.

    Args:
        loader: of the texts.
        encoder: whose tokens they are.
        budget_bytes: how much is kept; texts beyond are made into tokens each time.
    """

    def __init__(self, loader: TextLoader, encoder: TextEncoder, budget_bytes: int = BUDGET_BYTES) -> None:
        self.loader, self.encoder, self.left = loader, encoder, budget_bytes
        self.kept: dict[int, np.ndarray] = {}
        self.long: set[int] = set()
        """The texts, of those that were asked for, of which not all tokens count."""

    def batch(self, positions: Positions) -> list[np.ndarray]:
        """The tokens at these positions."""
        places = [int(place) for place in positions]
        new = [place for place in dict.fromkeys(places) if place not in self.kept]
        found = dict(zip(new, self.encoder.numbers(self.loader.batch(new)), strict=True)) if new else {}
        for place, row in found.items():
            found[place] = self._noted(place, row)
        return [self.kept[place] if place in self.kept else found[place] for place in places]

    def check(self, progress: _Progress | None = None) -> list[tuple[int, str]]:
        """As the loader of the texts."""
        return self.loader.check(progress)

    def look(self, progress: _Progress | None = None) -> None:
        """Make every text into tokens once, so that it is known which are cut."""
        total = len(self.loader.items)
        for start in range(0, total, TOGETHER):
            end = min(start + TOGETHER, total)
            self.batch(range(start, end))
            if progress is not None:
                progress(end, total)

    def lengths(self, positions: np.ndarray) -> np.ndarray:
        """About how long the texts are, (B,): letters, which need no tokens."""
        blocks = (positions[start : start + TOGETHER] for start in range(0, len(positions), TOGETHER))
        return np.array([len(text) for block in blocks for text in self.loader.batch(block)], dtype=np.int64)

    def _noted(self, place: int, row: np.ndarray) -> np.ndarray:
        counted = self.encoder.cut(row)
        is_cut = len(counted) < len(row)
        counted = counted.copy() if is_cut else row  # a view would keep the whole text, and be one more object
        if is_cut:
            self.long.add(place)
        if counted.nbytes + BESIDE_BYTES <= self.left:
            self.left -= counted.nbytes + BESIDE_BYTES
            self.kept[place] = counted
        return counted


def tokenised(loader: Loader, encoder: Any) -> Loader:
    """The loader, with tokens in the place of texts where the encoder is one of Tercet's for texts."""
    if isinstance(encoder, TwoTowers) and isinstance(loader, SidesLoader):
        both = SidesLoader.__new__(SidesLoader)
        both.sides, both.places = loader.sides, loader.places
        towers = (encoder.left, encoder.right)
        both.loaders = {side: tokenised(own, towers[side]) for side, own in loader.loaders.items()}
        return both
    if type(loader) is TextLoader and isinstance(encoder, TextEncoder):
        return TokenLoader(loader, encoder)
    return loader


def look(loader: Loader, reporter: Reporter, title: str) -> None:
    """Make all texts into tokens, and say how many are cut."""
    for part in _of_texts(loader):
        with reporter.progress(f"making tokens of {title} data") as advance:
            part.look(advance)
    warn_of_cut(loader, reporter, title)


def warn_of_cut(loader: Loader, reporter: Reporter, title: str) -> None:
    """Say how many texts are longer than what counts of them."""
    for part in _of_texts(loader):
        if part.long:
            encoder = part.encoder
            reporter.warn(
                f"{len(part.long):,} of {plural(len(part.loader.items), 'text')} of the {title} data have more than "
                f"{encoder.limit} tokens, and the rest of them does not count (--text.max-tokens takes more, and with "
                "the weights of a transformer --text.long-texts pool takes all)"
            )


def by_length(loader: Loader, positions: np.ndarray) -> np.ndarray:
    """The order, (N,), in which items are to be encoded: of texts the shortest first, left sides before right ones."""
    if isinstance(loader, TokenLoader):
        return np.argsort(loader.lengths(positions), kind="stable")
    if isinstance(loader, SidesLoader) and any(isinstance(own, TokenLoader) for own in loader.loaders.values()):
        sides, lengths = loader.sides[positions], np.zeros(len(positions), dtype=np.int64)
        for side, own in loader.loaders.items():
            if isinstance(own, TokenLoader):
                mine = sides == side
                lengths[mine] = own.lengths(loader.places[positions[mine]])
        return np.lexsort((lengths, sides))
    return np.arange(len(positions))


def _of_texts(loader: Loader) -> Sequence[TokenLoader]:
    parts = list(loader.loaders.values()) if isinstance(loader, SidesLoader) else [loader]
    return [part for part in parts if _is_tokens(part)]


def _is_tokens(loader: Any) -> TypeGuard[TokenLoader]:
    return isinstance(loader, TokenLoader)

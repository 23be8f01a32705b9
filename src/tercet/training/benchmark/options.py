"""What a benchmark compares, and how often. A field's name is its flag, the line under it its help; no torch here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

from tercet.errors import ConfigError, check_choice

LossName = Literal["triplet", "contrastive", "infonce", "supcon"]
USUAL: tuple[LossName, ...] = ("triplet", "contrastive", "supcon")
"""What is compared when nothing is named."""


@dataclass(frozen=True)
class BenchmarkOptions:
    """What is compared, on what, and how often.

    Raises:
        ConfigError: values out of range, all of them together.
    """

    losses: tuple[LossName, ...] | None = None
    """Compare these losses, each with the values that tercet tune would try; triplet, contrastive and supcon when \
neither losses nor methods are given."""

    methods: str | None = None
    """A TOML file with a table for each method: options of the loss and of its training, and in a table try values or \
ranges to choose from."""

    test: str | None = None
    """The test set, in the form of DATA, which is then all for training and validation. When left open, the test set \
of the data's layout, or the second half of the classes."""

    folds: int = 4
    """Into how many parts, without a class in common, the classes for training and validation are divided."""

    seeds: int = 3
    """How many times each method is trained on each fold with the settings that were chosen for it."""

    trials: int = 10
    """How many settings of each method are tried on each fold; all of them where there are fewer. With 1 nothing is \
tried: each method is trained as it is, with the defaults of what is left open."""

    halving: int | None = None
    """Try settings by successive halving: keep one trial in so many, and train so many times as long. When left open, \
all trials are trained for all steps."""

    def __post_init__(self) -> None:
        for loss in self.losses or ():
            check_choice("losses", loss, get_args(LossName), ConfigError)
        faults = [
            f"{name} is {given!r}, it must be a whole number, {low} or more"
            for name, low in {"folds": 2, "seeds": 1, "trials": 1, "halving": 2}.items()
            if not _is_whole(given := getattr(self, name), low) and not (name == "halving" and given is None)
        ]
        if self.losses is not None and len(set(self.losses)) < max(1, len(self.losses)):
            faults.append("losses is empty" if not self.losses else "losses names one twice")
        if self.losses is not None and self.methods is not None:
            faults.append("losses and methods both say what to compare; give one of them")
        if faults:
            raise ConfigError("; ".join(faults) + ".")


def _is_whole(value: Any, low: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= low

"""What a tuning tries, typed and frozen. A field's name is its flag, and the line under it its help; no torch here."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from tercet.errors import ConfigError, check_choice

Mining = Literal["all", "hard", "semihard", "easy-positive", "easy-positive-semihard", "distance-weighted"]
Metric = Literal["map_at_r", "recall_at_1", "auc", "eer", "triplet_accuracy"]

VALUES = {"margin": "margins", "mining": "minings", "temperature": "temperatures", "learning_rate": "learning_rates"}
"""The settings that can be tried, and the option that holds the values to try."""


@dataclass(frozen=True)
class TuningOptions:
    """What is tried, and how long.

    Raises:
        ConfigError: values out of range, all of them together.
    """

    margins: tuple[float, ...] | None = None
    """triplet and contrastive: the margins to try; when left open, four shares of the distance's range. A single \
--margin is kept as it is."""

    minings: tuple[Mining, ...] | None = None
    """triplet: the minings to try; all, semihard and hard when left open, as far as the penalty takes them. A single \
--mining is kept as it is."""

    temperatures: tuple[float, ...] | None = None
    """infonce, supcon, and the penalties logsumexp and lifted: the temperatures to try; when left open 0.2, 0.5, 1 \
and 2 times the usual one."""

    learning_rates: tuple[float, ...] | None = None
    """The peak learning rates to try; when left open 0.1, 0.3, 1 and 3 times the usual one. A single --learning-rate \
is kept as it is."""

    trials: int = 27
    """How many combinations of these values are drawn; all of them where there are fewer."""

    halving: int = 3
    """Each rung keeps one trial in so many, and trains so many times as long. The last trains for --steps."""

    finalists: int = 3
    """How many of the last rung are trained with further seeds."""

    seeds: int = 3
    """With how many seeds in all each finalist is trained; 1 for no comparison over seeds."""

    metric: Metric | None = None
    """The validation metric that trials are ranked by; that of --selection when left open, or, where that is the \
loss, the usual one: losses of different margins cannot be compared."""

    def __post_init__(self) -> None:
        if self.metric is not None:
            check_choice("metric", self.metric, get_args(Metric), ConfigError)
        for mining in self.minings or ():
            check_choice("minings", mining, get_args(Mining), ConfigError)
        faults = _faults(self)
        if faults:
            raise ConfigError("; ".join(faults) + ".")

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> TuningOptions:
        """The options of plain values, as TOML or Python give them: lists for tuples, whole numbers for others."""
        values = dict(given)
        for name in VALUES.values():
            listed = values.get(name)
            if isinstance(listed, (str, int, float)):
                raise ConfigError(f"{name} is {listed!r}; it must be a list, such as [{listed!r}].")
            if listed is not None:
                plain = tuple(getattr(value, "item", lambda value=value: value)() for value in listed)
                values[name] = plain if name == "minings" else tuple(map(_as_float, plain))
        return cls(**values)


def _as_float(value: Any) -> Any:
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _faults(options: TuningOptions) -> list[str]:
    """Every value out of range, in words."""
    least = {"trials": 2, "halving": 2, "finalists": 1, "seeds": 1}
    faults = [
        f"{name} is {given!r}, it must be a whole number, {low} or more"
        for name, low in least.items()
        if not isinstance(given := getattr(options, name), int) or isinstance(given, bool) or given < low
    ]
    for name in VALUES.values():
        values = getattr(options, name)
        if values is None:
            continue
        if not values:
            faults.append(f"{name} is empty; give at least one value, or leave it out")
        elif len(set(values)) < len(values):
            faults.append(f"{name} holds a value twice: {_listed(values)}")
        elif name != "minings" and not all(_allowed(name, value) for value in values):
            bound = "0 or more" if name == "margins" else "above 0"
            faults.append(f"{name} is {_listed(values)}, each must be a finite number, {bound}")
    return faults


def _allowed(name: str, value: Any) -> bool:
    if not isinstance(value, float) or not math.isfinite(value):
        return False
    return value >= 0 if name == "margins" else value > 0


def _listed(values: tuple[Any, ...]) -> str:
    return ", ".join(f"{value:g}" if isinstance(value, float) else repr(value) for value in values)

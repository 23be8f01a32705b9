"""Methods: a loss with its settings, kept or to be tried, as a table of TOML says it."""

from __future__ import annotations

import math
import re
import typing
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tercet.data.randomness import keyed
from tercet.data.records import Records
from tercet.errors import ConfigError, InputError, TercetWarning, suggest
from tercet.training.benchmark.options import USUAL, BenchmarkOptions
from tercet.training.config import Config, LossOptions, field_names, option_groups, read_toml
from tercet.training.objective.loss import completed, make_loss
from tercet.training.objective.loss_checks import check_supervision
from tercet.training.request import Request, make_request
from tercet.training.tuning.options import VALUES, TuningOptions
from tercet.training.tuning.space import Settings, Space, applied, draw, encoders_of, values_of, with_penalty

Tables = dict[str, dict[str, Any]]
"""The table of each method, by its name."""

ALLOWED = (
    *field_names(LossOptions), "learning_rate", "weight_decay", "warmup", "clip_norm", "mining_schedule",
    "memory", "memory_warmup", "momentum",
)  # fmt: skip
"""What a method decides: the loss, how it is optimised, and what it compares a batch with. All else is common."""


@dataclass(frozen=True)
class Range:
    """Numbers between two ends, drawn evenly, or evenly in their logarithm."""

    low: float
    high: float
    log: bool

    def at(self, share: float) -> float:
        """The number at this share of the way, 0 to 1, to four digits."""
        if self.log:
            value = self.low * (self.high / self.low) ** share
        else:
            value = self.low + share * (self.high - self.low)
        return float(f"{value:.4g}")

    def __str__(self) -> str:
        return f"{self.low:g} to {self.high:g}" + (" (log)" if self.log else "")


@dataclass(frozen=True)
class Method:
    """What is compared.

    Attributes:
        name: also of its folder.
        request: what is common to all methods, with what this one keeps fixed.
        space: the values to try of each setting.
        ranges: the ranges to draw other settings from.
        drawn: the settings of each trial; one, perhaps empty, where there is nothing to choose.
    """

    name: str
    request: Request
    space: Space
    ranges: dict[str, Range]
    drawn: tuple[Settings, ...]


def tables_of(options: BenchmarkOptions) -> Tables:
    """The methods that the options name.

    Raises:
        ConfigError: the file is no TOML, or holds something else than tables of methods.
    """
    if options.methods is None:
        return {loss: {"loss": loss} for loss in options.losses or USUAL}
    return check_tables(read_toml(Path(options.methods)), options.methods)


def check_tables(content: Mapping[str, Any], where: str) -> Tables:
    """The tables of methods, or ConfigError."""
    if not content:
        raise ConfigError(f"{where} holds no method; a method is a table, such as [triplet] with loss = 'triplet'.")
    for name, table in content.items():
        if not re.fullmatch(r"[A-Za-z0-9][\w.-]*", name):
            raise ConfigError(
                f"{where}: a method is called {name!r}, which names a folder; use letters, digits, dots and dashes."
            )
        if not isinstance(table, Mapping):
            raise ConfigError(
                f"{where}: {name} is {table!r}; a method is a table, such as [{name}] and lines below it."
            )
        if not isinstance(table.get("try", {}), Mapping):
            raise ConfigError(f"{where}: {name}.try is {table['try']!r}; it must be a table of values and ranges.")
    return {name: dict(table) for name, table in content.items()}


def make_method(name: str, table: Mapping[str, Any], request: Request, train: Records, trials: int) -> Method:
    """The method of a table, with the settings that its trials have.

    Args:
        name: of the method.
        table: its options, and what to try.
        request: what is common to all methods.
        train: what is trained on, which some settings depend on.
        trials: how many settings are drawn.

    Raises:
        ConfigError: an option that there is not, that is common to all methods, or that does nothing beside the others.
    """
    kept = {key: value for key, value in table.items() if key != "try"}
    tried = dict(table.get("try", {}))
    try:
        _check_names(kept, tried)
        own = make_request(request, options=kept)
        if trials == 1:
            return _untried(name, own, tried, train)
        own = own if "penalty" in tried else with_penalty(own, tried, train.form)
        ranges = {key: _range(key, value) for key, value in tried.items() if isinstance(value, Mapping)}
        space = _space(own, tried, ranges, train)
        drawn = _drawn(space, ranges, trials, request.training.seed)
        for settings in drawn:
            _check(own, settings, train)
    except (ConfigError, InputError) as fault:
        raise ConfigError(f"method {name}: {fault}") from None
    return Method(name, own, space, ranges, tuple(drawn))


def _untried(name: str, own: Request, tried: Mapping[str, Any], train: Records) -> Method:
    """A method as it is, with the defaults of what is left open."""
    if tried:
        raise ConfigError(
            f"{', '.join(tried)} is to be tried, and with one trial nothing is; give more --trials, or leave try out."
        )
    _check(own, {}, train)
    return Method(name, own, {}, {}, ({},))


def _check_names(kept: Mapping[str, Any], tried: Mapping[str, Any]) -> None:
    homes = {name for options in option_groups().values() for name in field_names(options)}
    for name in (*kept, *tried):
        if name in homes and name not in ALLOWED:
            raise ConfigError(
                f"{name} is the same for all methods; give it to the benchmark: --{name.replace('_', '-')}."
            )
        if name not in ALLOWED:
            raise ConfigError(
                f"there is no option {name!r}.{suggest(name, (*ALLOWED, 'try'))} Known are {', '.join(ALLOWED)}."
            )
    both = [name for name in tried if name in kept]
    if both:
        raise ConfigError(f"{', '.join(both)} is given and is to be tried; give one of them.")
    if "loss" in tried:
        raise ConfigError("loss is what a method is, and cannot be tried; make a method of each.")


def _range(name: str, given: Mapping[str, Any]) -> Range:
    groups = option_groups()
    hints = {key: hint for group in groups.values() for key, hint in typing.get_type_hints(group).items()}
    if float not in (hints[name], *typing.get_args(hints[name])):
        raise ConfigError(f"{name} cannot be drawn from a range; give a list of values.")
    low, high, scale = given.get("low"), given.get("high"), given.get("scale", "linear")
    unknown = [key for key in given if key not in ("low", "high", "scale")]
    numbers = all(isinstance(end, (int, float)) and not isinstance(end, bool) for end in (low, high))
    if unknown or not numbers or scale not in ("linear", "log"):
        raise ConfigError(
            f"{name} is to be tried in {dict(given)!r}; a range is {{ low = 0.0001, high = 0.01, scale = 'log' }}, "
            "with scale 'log' or 'linear'."
        )
    if not (-math.inf < low < high < math.inf) or (scale == "log" and low <= 0):  # type: ignore[operator]
        raise ConfigError(f"{name} is to be tried from {low!r} to {high!r}; the first must be less"
                          f"{', and above 0 on a logarithmic scale' if scale == 'log' else ''}.")  # fmt: skip
    return Range(float(low), float(high), scale == "log")  # type: ignore[arg-type]


def _space(request: Request, tried: Mapping[str, Any], ranges: Mapping[str, Range], train: Records) -> Space:
    """The values to try: those given, and for what belongs to the loss and is left open those of a tuning."""
    given: dict[str, Any] = {}
    others: Space = {}
    for name, values in tried.items():
        listed = [ranges[name].low, ranges[name].high] if name in ranges else values
        if not isinstance(listed, (list, tuple)) or not listed:
            raise ConfigError(f"{name} is to be tried as {values!r}; give a list of values, or a range.")
        for value in listed:
            make_request(request, options={name: value})
        if name in VALUES:
            given[VALUES[name]] = list(listed)
        else:
            others[name] = tuple(dict.fromkeys(listed))
    found = {**values_of(request, TuningOptions.of(given), train), **others}
    return {name: values for name, values in found.items() if name not in ranges}


def _drawn(space: Space, ranges: Mapping[str, Range], trials: int, seed: int) -> list[Settings]:
    """The settings of each trial: of the values without repeats, as far as they go, and of each range anew."""
    found = draw(space, trials, seed)
    if not ranges:
        return found
    return [
        found[place % len(found)]
        | {
            name: limits.at(float(keyed(seed, "benchmark", place + 1, number).random()))
            for number, (name, limits) in enumerate(sorted(ranges.items()))
        }
        for place in range(trials)
    ]


def _check(request: Request, settings: Settings, train: Records) -> None:
    """Raise the error that a training with these settings would end with, as far as the options tell."""
    asked = applied(request, settings)
    encoder = next(iter(encoders_of(request, train)), None)
    if encoder is not None:
        Config(
            source="", data=asked.data, encoder=encoder, loss=asked.loss, batch=asked.batch,
            augmentation=asked.augmentation, training=asked.training, mine=asked.mine, curriculum=asked.curriculum,
        )  # fmt: skip
    loss = completed(asked.loss, train.form, asked.training.seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TercetWarning)  # of a margin out of reach, which each training says
        check_supervision(make_loss(loss), train)

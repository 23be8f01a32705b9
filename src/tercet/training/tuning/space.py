"""What a tuning tries: the values of each setting, the trials drawn from their grid, and the rungs they climb."""

from __future__ import annotations

import dataclasses
import itertools
import math
import warnings
from collections.abc import Container, Mapping
from dataclasses import dataclass
from typing import Any

from tercet.data.randomness import keyed
from tercet.data.records import Records
from tercet.data.sides import SIDES
from tercet.distances import Distance
from tercet.encoders.options import EncoderOptions
from tercet.errors import ConfigError, InputError, TercetWarning
from tercet.losses.base import BatchLoss
from tercet.training.batches.towers import choose_towers
from tercet.training.config import ENCODERS, RECIPE, LossOptions, field_names, option_groups
from tercet.training.objective.loss import completed, make_loss
from tercet.training.objective.loss_checks import check_supervision
from tercet.training.request import Request
from tercet.training.tuning.options import VALUES, TuningOptions

Settings = dict[str, Any]
"""One value for each setting that is tried."""
Space = dict[str, tuple[Any, ...]]
"""The values to try of each setting."""

MARGIN_SHARES = {"triplet": (0.025, 0.05, 0.1, 0.2), "contrastive": (0.125, 0.25, 0.375, 0.5)}
"""Of the distance's range on the sphere. In 50 trials each on three data sets the best margins of the triplet loss were
0.045 to 0.14, and of the contrastive loss 0.38 to 0.77, where the range is 2 (Musgrave et al. 2020, their logs)."""
USUAL_RANGE = 2.0
"""Of embeddings that are not normalised, or whose dimension is not known: as on the sphere, for want of a scale."""
MININGS = ("all", "semihard", "hard")
TEMPERATURES, LIFTED_TEMPERATURES = (0.02, 0.05, 0.1, 0.2), (0.2, 0.5, 1.0, 2.0)
RATES, FINE_TUNING_RATES = (1e-4, 3e-4, 1e-3, 3e-3), (5e-6, 1.5e-5, 5e-5, 1.5e-4)


@dataclass(frozen=True)
class Rung:
    """How many trials are trained, and for how many steps each."""

    trials: int
    steps: int


def rungs_of(options: TuningOptions, trials: int, steps: int) -> tuple[Rung, ...]:
    """The rungs of successive halving, of which the last trains for `steps` and leaves the finalists.

    With the factor h (η in Li et al. 2018, Algorithm 1), rung i of s has floor(trials / hⁱ) trials of
    steps / h^(s-1-i) steps each, so that all rungs cost about the same. There are as many rungs as leave the last with
    at least as many trials as there are to be finalists.

    Raises:
        ConfigError: the first rung would have no step.
    """
    factor, number = options.halving, 1
    while trials >= factor**number * options.finalists:
        number += 1
    rungs = tuple(Rung(trials // factor**i, steps // factor ** (number - 1 - i)) for i in range(number))
    if rungs[0].steps < 1:
        raise ConfigError(
            f"steps is {steps}, and the first of {number} rungs would have none: it must be {factor ** (number - 1)} "
            f"or more for {trials} trials with halving={factor}. Give more steps, or fewer trials."
        )
    return rungs


def draw(space: Space, trials: int, seed: int) -> list[Settings]:
    """Combinations of the values without repeats, in an order that the seed decides."""
    grid = [dict(zip(space, values, strict=True)) for values in itertools.product(*space.values())]
    return [grid[place] for place in keyed(seed, "tune").permutation(len(grid))[:trials]]


def encoders_of(request: Request, train: Records) -> list[EncoderOptions]:
    """The options of the encoders as far as they are given: one, or one for each side of the data.

    None where a Dataset of tensors leaves them open.
    """
    if "custom" in request.encoders:
        return [request.encoders["custom"]]
    if train.kind == SIDES:
        return list(choose_towers(request, train).towers)
    if train.kind in ENCODERS:
        return [request.encoders.get(train.kind, ENCODERS[train.kind]())]
    return list(request.encoders.values())[:1]


def applied(request: Request, settings: Mapping[str, Any]) -> Request:
    """The request with one value for each setting that is tried."""
    changed = {}
    for group, options in option_groups().items():
        own = {name: value for name, value in settings.items() if name in field_names(options)}
        changed[group] = dataclasses.replace(getattr(request, group), **own)
    return dataclasses.replace(request, **changed)


def shown(value: Any) -> str:
    """A value of a setting for reading."""
    return f"{value:g}" if isinstance(value, float) else str(value)


def listed(settings: Settings) -> str:
    """Settings for reading, on one line."""
    return ", ".join(f"{name} {shown(value)}" for name, value in settings.items())


def single(request: Request, name: str) -> Any:
    """The one value that the request gives of a setting; None where it is left open."""
    return getattr(request.training if name == "learning_rate" else request.loss, name)


def check_one_of_both(request: Request, base: Request, options: TuningOptions) -> None:
    """Raise ConfigError where a value and values to try are given; what a file said before them is overruled."""
    faults = [
        f"{name} is {single(request, name)!r} and {values} is {getattr(options, values)!r}; give one of them"
        for name, values in VALUES.items()
        if getattr(options, values) is not None and single(request, name) != single(base, name)
    ]
    if faults:
        raise ConfigError("; ".join(faults) + ".")


def space_of(request: Request, options: TuningOptions, train: Records) -> Space:
    """The values to try: those given, and defaults of what is left open and belongs to the loss.

    Raises:
        ConfigError: a value out of the distance's range, one that does not belong to the loss, or nothing to try.
        InputError: a value that does not go with the data or with the other settings.
    """
    space = values_of(request, options, train)
    if math.prod(map(len, space.values())) < 2:
        raise ConfigError(
            "there is nothing to choose from: every setting that belongs to the loss has one value. Leave "
            f"{', '.join(sorted(name for name in VALUES if single(request, name) is not None)) or 'some'} open, or "
            "give several values, such as 0.0003 and 0.001 for learning_rates."
        )
    return space


def values_of(request: Request, options: TuningOptions, train: Records) -> Space:
    """As `space_of`, and there may be nothing to choose from."""
    defaults = _defaults(request, train)
    space: Space = {}
    for name, values in VALUES.items():
        given = getattr(options, values)
        if given is not None:
            _check_given(request, train, name, given)
            space[name] = given
        elif single(request, name) is None:
            usable = tuple(value for value in defaults.get(name, ()) if _fault(request, train, name, value) is None)
            if usable:
                space[name] = usable
    return space


def with_penalty(request: Request, tried: Container[str], form: str) -> Request:
    """The request with the penalty that a triplet loss has by default, so that all trials have one.

    It is the usual one (`RECIPE`), but hinge where margin or mining is given, or was asked to be tried.
    """
    loss = request.loss
    ours = request.custom_loss is None and loss.loss in (None, "triplet") and form not in ("triplets", "marked-pairs")
    if not ours or loss.penalty is not None:
        return request
    given = (loss.margin, loss.mining, request.training.mining_schedule)
    classic = given != (None, None, None) or "margin" in tried or "mining" in tried
    penalty: Any = "hinge" if classic else RECIPE["penalty"]
    return dataclasses.replace(request, loss=dataclasses.replace(loss, penalty=penalty))


def _defaults(request: Request, train: Records) -> Space:
    encoders = encoders_of(request, train)
    fine_tuned = any(getattr(one, "weights", None) and not getattr(one, "frozen", False) for one in encoders)
    rates = {"learning_rate": FINE_TUNING_RATES if fine_tuned else RATES}
    if request.custom_loss is not None:
        return rates
    loss = completed(_without_tried(request.loss), train.form, request.training.seed)
    shares = MARGIN_SHARES.get(loss.loss or "", ())
    largest = _range(request, train, loss)
    scale = largest if math.isfinite(largest) else USUAL_RANGE
    return {
        "margin": tuple(float(f"{share * scale:.3g}") for share in shares),
        "mining": () if request.training.mining_schedule else MININGS,
        "temperature": LIFTED_TEMPERATURES if loss.penalty == "lifted" else TEMPERATURES,
        **rates,
    }


def _without_tried(loss: LossOptions) -> LossOptions:
    """The loss before anything is tried: what belongs to a mining cannot be checked without one."""
    return dataclasses.replace(loss, margin=None, mining=None, temperature=None, fallback=None, draw_seed=None)


def _range(request: Request, train: Records, loss: LossOptions) -> float:
    """The largest distance between two embeddings; infinite where there is no bound, or none that is known."""
    distance: Distance = _quietly_made(loss).rule.distance
    encoders = encoders_of(request, train)
    if not encoders or not all(one.normalize for one in encoders):
        return distance.largest
    dim = getattr(encoders[0], "dim", None)
    if dim is None and distance.sphere_range(2) != distance.sphere_range(3):
        return distance.largest
    return distance.sphere_range(dim or 2)


def _check_given(request: Request, train: Records, name: str, values: tuple[Any, ...]) -> None:
    """Raise the error of the first value that cannot be tried."""
    if name != "learning_rate" and request.custom_loss is not None:
        raise ConfigError(
            f"{VALUES[name]} is given, and so is a loss as an object, which has its own settings: only learning_rates "
            "can be tried beside it. Give the loss by its name to try others."
        )
    for value in values:
        fault = _fault(request, train, name, value)
        if fault is not None:
            raise fault
    if name == "margin":
        loss = completed(_without_tried(request.loss), train.form, request.training.seed)
        largest, beyond = _range(request, train, loss), max(values)
        if beyond >= largest:
            raise ConfigError(
                f"margins holds {beyond:g}, and between these embeddings the {_quietly_made(loss).rule.distance.name} "
                f"distance is at most {largest:g}, so nothing could satisfy it. Choose margins well below, such as "
                f"{', '.join(f'{share * largest:g}' for share in MARGIN_SHARES[loss.loss or 'triplet'])}."
            )


def _fault(request: Request, train: Records, name: str, value: Any) -> ConfigError | InputError | None:
    """Why a value of a setting cannot be tried beside what is given, if it cannot."""
    if name == "learning_rate" or request.custom_loss is not None:
        return None
    loss = request.loss
    if name != "mining":  # it belongs to the loss with any of the minings, or with none
        loss = dataclasses.replace(loss, mining=None, fallback=None, draw_seed=None)
    try:
        candidate = completed(dataclasses.replace(loss, **{name: value}), train.form, request.training.seed)
        check_supervision(_quietly_made(candidate), train)
    except (ConfigError, InputError) as fault:
        return fault
    return None


def _quietly_made(loss: LossOptions) -> BatchLoss:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TercetWarning)  # of a margin out of reach, which is refused here
        return make_loss(loss)

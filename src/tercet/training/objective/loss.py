"""The loss of a run and its distance: made of options, and described by options again."""

from __future__ import annotations

import dataclasses
import hashlib
import typing
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from torch import Tensor

from tercet.data.labels import NONE
from tercet.data.records import Records
from tercet.distances import DISTANCES, Distance, Mahalanobis, Minkowski, resolve
from tercet.errors import ConfigError, InputError, RunError, TercetWarning
from tercet.kernels.rule import SEMIHARD
from tercet.losses import ContrastiveLoss, InfoNCE, SupConLoss, TripletLoss
from tercet.losses.base import BatchLoss
from tercet.training.config import NO_MAP, OWN_SETTINGS, RECIPE, SETTINGS, LossOptions, field_names, misplaced
from tercet.training.folder.toml import typed_value

Loss = Callable[..., Tensor]

LOSSES: dict[str, type[BatchLoss]] = {
    "triplet": TripletLoss,
    "contrastive": ContrastiveLoss,
    "infonce": InfoNCE,
    "supcon": SupConLoss,
}
MAP = "map.components"  # where the state of a loss holds the map of a Mahalanobis distance
LOSS_FILE = "loss.safetensors"  # in a run, what its loss holds with the best weights
LONGEST_DESCRIPTION = 2000  # characters: the margins of many classes would fill a configuration
_ARGUMENTS = {"draw_seed": "seed"}  # what a constructor calls an option, where it is not the option's name
_ARGUMENTS_OF: dict[type[BatchLoss], dict[str, str]] = {ContrastiveLoss: {"margin": "negative_margin"}}


def completed(options: LossOptions, form: str, seed: int) -> LossOptions:
    """The options with the loss that records of this form train with, and the seed of its draws.

    Raises:
        ConfigError: an option would do nothing, or mahalanobis is asked for by its name.
    """
    loss: Any = options.loss or ("contrastive" if form == "marked-pairs" else "triplet")
    options = with_recipe(dataclasses.replace(options, loss=loss), form)
    faults = misplaced(options) + ([NO_MAP] if options.distance == "mahalanobis" else [])
    if faults:
        raise ConfigError("; ".join(faults) + ".")
    if options.mining == "distance-weighted" and options.draw_seed is None:
        return dataclasses.replace(options, draw_seed=seed)
    return options


def with_recipe(options: LossOptions, form: str) -> LossOptions:
    """The options with the usual triplet loss, where nothing that is given is of another."""
    decided = (options.penalty, options.margin, options.mining) != (None, None, None)
    if options.loss != "triplet" or form == "triplets" or decided:
        return options
    temperature = RECIPE["temperature"] if options.temperature is None else options.temperature
    return dataclasses.replace(options, **RECIPE | {"temperature": temperature})


def make_loss(options: LossOptions) -> BatchLoss:
    """The loss of options that name one; what is left open takes the loss's own defaults.

    Raises:
        InputError: a setting is not allowed; all faults are named together.
    """
    assert options.loss is not None
    kind = LOSSES[options.loss]
    given = {name: getattr(options, name) for name in SETTINGS[options.loss] if name not in OWN_SETTINGS}
    settings = {_argument(kind, name): value for name, value in given.items() if value is not None}
    if options.distance is not None:
        settings["distance"] = make_distance(options)
    return kind(**settings)


def options_of(loss: BatchLoss) -> LossOptions:
    """The options that make an equal loss, as far as options can: see `described`.

    Raises:
        InputError: its distance is a function, which a run folder cannot hold.
    """
    distance = _distance_options(loss.rule.distance)
    name = next((name for name, kind in LOSSES.items() if type(loss) is kind), None)
    if name is None:
        return LossOptions(**distance)
    settings = {option: loss.settings.get(_argument(LOSSES[name], option)) for option in SETTINGS[name]}
    if name == "triplet":
        mining = loss.rule.mining
        settings["fallback"] = loss.rule.fallback if mining in SEMIHARD else None
        settings["draw_seed"] = loss.rule.seed if mining == "distance-weighted" else None
        if not isinstance(settings["margin"], (int, float)):
            settings["margin"] = None  # margins per class
    given = {option: value for option, value in settings.items() if value is not None} | distance | {"loss": name}
    hints = typing.get_type_hints(LossOptions)
    typed: dict[str, Any] = {option: typed_value(hints[option], value, option) for option, value in given.items()}
    return LossOptions(**typed)


def _argument(kind: type[BatchLoss], option: str) -> str:
    return _ARGUMENTS_OF.get(kind, {}).get(option) or _ARGUMENTS.get(option, option)


def described(loss: Loss) -> str | None:
    """What config.toml says of a loss that its options do not make again; None of one that they do.

    That is `package.module:Class` of the user's own, and the settings of one of Tercet's with margins per class, with a
    map, or of a class or with a setting that the options do not know.
    """
    if not isinstance(loss, BatchLoss):
        return f"{_class_of(loss).__module__}:{_class_of(loss).__qualname__}"
    if type(loss) in LOSSES.values() and loss.map is None and _remade(loss).settings == loss.settings:
        return None
    text = repr(loss)
    if len(text) <= LONGEST_DESCRIPTION:
        return text
    return f"{text[:LONGEST_DESCRIPTION]}... ({hashlib.blake2b(text.encode(), digest_size=16).hexdigest()})"


def _remade(loss: BatchLoss) -> BatchLoss:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TercetWarning)  # of a margin out of reach, which the loss itself said
        return make_loss(options_of(loss))


def own_options(options: LossOptions, loss: Loss) -> LossOptions:
    """The options beside a loss of the user's own: its distance, and nothing else.

    Raises:
        InputError: others are set, which would do nothing.
    """
    defaults = LossOptions()
    idle = [
        name
        for name in field_names(LossOptions)
        if name not in OWN_SETTINGS and getattr(options, name) != getattr(defaults, name)
    ]
    if idle:
        raise InputError(
            f"{', '.join(idle)} would do nothing: the loss {_class_of(loss).__qualname__} is your own and takes its "
            f"own settings. Beside it only {' and '.join(OWN_SETTINGS)} count, for evaluation and search."
        )
    return options


def _class_of(loss: Loss) -> Any:
    return loss if hasattr(loss, "__qualname__") else type(loss)


def _distance_options(distance: Distance) -> dict[str, Any]:
    if isinstance(distance, Minkowski):
        return {"distance": "minkowski", "p": distance.p}
    if isinstance(distance, Mahalanobis) or (distance.name in DISTANCES and resolve(distance.name) == distance):
        return {"distance": distance.name}
    raise InputError(
        f"the distance {distance.name!r} cannot be written to config.toml, and a run must be able to compare "
        "embeddings without your code; train with one of Tercet's distances."
    )


def make_distance(options: LossOptions, state: Mapping[str, Tensor] | None = None) -> Distance:
    """The distance of a configuration, for training, evaluation and search alike.

    Args:
        options: of a configuration.
        state: of the loss, which holds the map of a Mahalanobis distance.

    Raises:
        RunError: the state lacks the map.
    """
    if options.distance == "mahalanobis":
        if state is None or MAP not in state:
            raise RunError(
                f"the distance is 'mahalanobis', whose map is kept in {LOSS_FILE}, and it is not there: the training "
                "stopped before its first checkpoint, or the file was removed."
            )
        return Mahalanobis(components=state[MAP].detach().cpu())
    if options.p is not None:
        return Minkowski(p=options.p)
    assert options.distance is not None
    return resolve(options.distance)


def given_labels(loss: Loss, records: Records, codes: np.ndarray) -> np.ndarray:
    """What a loss is given for the codes of labels, of shape (N,): the codes, or with margins per class the labels.

    For sets of codes, (N, L), these are lists of codes, in an array of objects. The classes of margins are the user's
    own words or numbers, of which the codes are places in an order.
    """
    if codes.ndim > 1:
        lists = np.empty(len(codes), dtype=object)
        lists[:] = [[code for code in row if code != NONE] for row in codes.tolist()]
        return lists
    if not isinstance(loss, TripletLoss) or loss.margins is None:
        return codes
    number_of = {str(name): name for name in loss.margins.classes}
    return np.array([number_of[name] for name in records.classes])[codes]

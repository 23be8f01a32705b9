"""Requests: what the user asks to be trained, from words, options and objects, before the data decides the rest."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from tercet.data.options import Augmentation, preset
from tercet.encoders.options import CustomOptions
from tercet.errors import InputError, check_choice, suggest
from tercet.losses.base import BatchLoss
from tercet.mining.options import MiningOptions
from tercet.training.batches.pacing import CurriculumOptions
from tercet.training.config import (
    ENCODERS,
    BatchOptions,
    Config,
    DataOptions,
    EncoderOptions,
    LossOptions,
    TrainingOptions,
    field_names,
    option_groups,
    read_config,
    read_partial_config,
)
from tercet.training.folder.toml import typed_value
from tercet.training.folder.trackers import Tracker
from tercet.training.objective.loss import Loss, options_of


@dataclass(frozen=True)
class Request:
    """What the user asks for, before the data has decided the rest."""

    source: Any
    """A path, or from Python anything that `read` takes."""
    data: DataOptions = field(default_factory=DataOptions)
    loss: LossOptions = field(default_factory=LossOptions)
    batch: BatchOptions = field(default_factory=BatchOptions)
    augmentation: Augmentation = field(default_factory=Augmentation)
    preset: str | None = None
    """The preset that the augmentation is of; what it changes in colours is left out where images are grey."""
    training: TrainingOptions = field(default_factory=TrainingOptions)
    mine: MiningOptions = field(default_factory=MiningOptions)
    curriculum: CurriculumOptions = field(default_factory=CurriculumOptions)
    encoders: Mapping[str, EncoderOptions] = field(default_factory=dict)
    """Options by kind; those of the kind that the data turns out to be are used, or the defaults."""
    validation: Any = None
    """Validation data as an object; `data.validation` names it by path."""
    module: nn.Module | None = None
    """The user's own encoder, with its CustomOptions in `encoders`."""
    custom_loss: Loss | None = None
    """The loss as an object: the user's own loss(embeddings, labels), or one of Tercet's."""
    tracker: Tracker | None = None
    """Called with each row of the history, as it is written."""
    recorded_loss: str | None = None
    """The loss that the configuration was written with, where its options cannot make it again."""


def request_from(config: Config, source: Any = None) -> Request:
    """The request that leads to this configuration again."""
    kind = next(kind for kind, options in ENCODERS.items() if isinstance(config.encoder, options))
    return Request(
        source=config.source if source is None else source, data=config.data, loss=config.loss, batch=config.batch,
        augmentation=config.augmentation, training=config.training, mine=config.mine, curriculum=config.curriculum,
        encoders={kind: config.encoder}, recorded_loss=config.custom_loss,
    )  # fmt: skip


def base_request(source: Any, config: str | Path | Config | None, folder: Path, resume: bool) -> Request:
    """What there is before options: the run to resume, a configuration, or the defaults."""
    if resume and (folder / "config.toml").exists():
        return request_from(read_config(folder / "config.toml"), source)
    if isinstance(config, Config):
        return request_from(config, source)
    if config is not None:
        return request_from(read_partial_config(Path(config)), source)
    if source is None:
        raise InputError("source is missing: a folder, a table, an array with labels, or a torch Dataset.")
    return Request(source=source)


def make_request(
    base: Request,
    encoder: str | EncoderOptions | nn.Module | None = None,
    encoder_arguments: Mapping[str, Any] | None = None,
    loss: str | Loss | None = None,
    validation: Any = None,
    augmentation: Augmentation | str | None = None,
    mine: MiningOptions | None = None,
    options: Mapping[str, Any] | None = None,
) -> Request:
    """A request with what `train` takes put on top of it; see there."""
    options = dict(options or {})
    if isinstance(loss, str):
        options["loss"], loss = loss, None
    request = _with_options(base, options)
    request = _with_encoder(request, encoder, encoder_arguments or {})
    request = _with_loss(request, loss, options)
    if isinstance(augmentation, str):
        request = dataclasses.replace(request, augmentation=preset(augmentation), preset=augmentation)
    elif augmentation is not None:
        request = dataclasses.replace(request, augmentation=augmentation, preset=None)
    if mine is not None:
        request = dataclasses.replace(request, mine=mine)
    if isinstance(validation, (str, Path)):
        data = dataclasses.replace(request.data, validation=str(validation))
        return dataclasses.replace(request, data=data)
    return dataclasses.replace(request, validation=validation)


def _with_options(request: Request, options: Mapping[str, Any]) -> Request:
    """The request with settings given by name alone."""
    groups = option_groups()
    homes = {name: group for group, options_class in groups.items() for name in field_names(options_class)}
    unknown = [name for name in options if name not in homes or name == "validation"]
    if unknown:
        known = [name for name in homes if name != "validation"]
        hints = "".join(suggest(name, known) for name in unknown)
        raise InputError(f"unknown option {', '.join(map(repr, unknown))}.{hints} Known are {', '.join(known)}.")
    if options.get("views") == 1 and "corruption" not in options:  # that of the configuration goes with its views
        options = {**options, "corruption": None}
    changed = {}
    for group in groups:
        types = typing.get_type_hints(groups[group])
        mine = {name: _typed(types[name], value, name) for name, value in options.items() if homes[name] == group}
        changed[group] = dataclasses.replace(getattr(request, group), **mine)
    return dataclasses.replace(request, **changed)


def _with_encoder(request: Request, encoder: Any, arguments: Mapping[str, Any]) -> Request:
    if encoder is None:
        return request
    if isinstance(encoder, nn.Module):
        kind = type(encoder)
        options = CustomOptions(factory=f"{kind.__module__}:{kind.__qualname__}", arguments=dict(arguments))
        return dataclasses.replace(request, module=encoder, encoders={"custom": options})
    if isinstance(encoder, str) and ":" in encoder:
        options = CustomOptions(factory=encoder, arguments=dict(arguments))
        return dataclasses.replace(request, encoders={"custom": options})
    if arguments:
        raise InputError("encoder_arguments belong to an encoder of your own: a module, or 'package.module:factory'.")
    if isinstance(encoder, EncoderOptions):
        kind_name = next(name for name, options_class in ENCODERS.items() if isinstance(encoder, options_class))
        return dataclasses.replace(request, encoders={kind_name: encoder})
    check_choice("encoder", encoder, ("image", "text", "tabular"))
    return dataclasses.replace(request, data=dataclasses.replace(request.data, kind=encoder))


def _with_loss(request: Request, loss: Loss | None, options: Mapping[str, Any]) -> Request:
    """The request with a loss that is given as an object; the options of one of Tercet's are those of the object."""
    if loss is None:
        if "loss" not in options:
            check_recorded_loss(request.recorded_loss)
        return request
    if isinstance(loss, type) or not callable(loss):
        hint = f" Make one: {loss.__name__}(...)." if isinstance(loss, type) else ""
        given = f"the class {loss.__name__}" if isinstance(loss, type) else f"a {type(loss).__name__}"
        raise InputError(f"loss must be callable as loss(embeddings, labels); given is {given}.{hint}")
    if not isinstance(loss, BatchLoss):
        return dataclasses.replace(request, custom_loss=loss)
    both = [name for name in options if name in field_names(type(request.loss))]
    if both:
        raise InputError(f"{', '.join(both)} given both by name and by the loss; give them to the loss alone.")
    return dataclasses.replace(request, loss=options_of(loss), custom_loss=loss)


def check_recorded_loss(recorded: str | None) -> None:
    """Raise InputError if a configuration was written with a loss that its options cannot make again."""
    if recorded is not None:
        raise InputError(
            f"config.toml was written with the loss {recorded}, which its options cannot make again; from Python, give "
            "it: tercet.train(..., loss=...)."
        )


def _typed(hint: Any, given: Any, name: str) -> Any:
    """A setting as the type that config.toml holds; numbers of NumPy and paths are taken as what they stand for."""
    if given is None and type(None) in typing.get_args(hint):
        return None
    plain = given.item() if isinstance(given, np.generic) else given
    if isinstance(plain, (Path, torch.device)):
        plain = str(plain)
    return typed_value(hint, plain, name)

"""Prepares, builds and rebuilds encoders.

    options, assets = prepare(options, train)     # what the data or the pretrained folder decide
    encoder = build(options, assets)              # random or pretrained weights
    fit_buffers(encoder, train)                   # statistics of the training data, saved with the weights
    encoder.save_assets(run / "encoder")

and from a run alone: `build(options, assets, run / "encoder")`, then `load_state_dict`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn

from tercet.encoders import images, texts
from tercet.encoders.base import Encoder
from tercet.encoders.custom import build_custom
from tercet.encoders.features import describe_features
from tercet.encoders.options import (
    CustomOptions,
    EncoderOptions,
    ImageOptions,
    TabularOptions,
    TextOptions,
    TowersOptions,
)
from tercet.encoders.tables import FeatureNetwork, TableNetwork
from tercet.encoders.towers import TwoTowers
from tercet.errors import InputError

Assets = dict[str, Any]


class CodedFeatures(Protocol):
    """What is asked of the columns of coded rows."""

    @property
    def names(self) -> tuple[str, ...]:
        """Of the columns."""

    @property
    def kinds(self) -> tuple[str, ...]:
        """Of each "number", "category", "date" or "text"."""


class TrainingData(Protocol):
    """What is asked of the training records."""

    @property
    def kind(self) -> str:
        """One of "image", "text", "tabular" and "tensor"."""

    @property
    def items(self) -> Any:
        """The items."""

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of features."""

    @property
    def features(self) -> CodedFeatures | None:
        """What the numbers of coded rows mean, where rows are coded."""

    def image_shape(self) -> tuple[tuple[int, int], int]:
        """The automatic (height, width) and channels."""


def prepare(options: EncoderOptions, records: TrainingData, role: int | None = None) -> tuple[EncoderOptions, Assets]:
    """Options completed from the training data, and assets: plain JSON that replaces the data from then on.

    Args:
        options: as they were given.
        records: of the training data.
        role: of a tower: 0 for the left one, 1 for the right one.

    Raises:
        InputError: the data are of another kind than the encoder, or the weights do not fit.
    """
    if isinstance(options, CustomOptions):
        return _prepare_custom(options, records), {}
    if records.kind not in (options.input, "tensor"):
        raise InputError(f"The data are of kind {records.kind!r}, the encoder is for {options.input!r}; choose one.")
    if isinstance(options, TowersOptions):
        return _prepare_towers(options, records)
    if isinstance(options, ImageOptions):
        return _prepare_images(options, records)
    if records.kind == "tensor" and isinstance(options, TextOptions):
        raise InputError("The dataset gives tensors, the encoder is for 'text'; give a list of texts and labels.")
    if isinstance(options, TextOptions):
        return texts.prepare_texts(options, records, role)
    assets: Assets = {"columns": list(records.columns) or _number_columns(records.items)}
    if records.features is not None:
        rows = torch.from_numpy(records.items)
        assets["features"] = describe_features(records.features.names, records.features.kinds, rows)
    return options, assets


def build(options: EncoderOptions, assets: Assets, folder: Path | None = None) -> Encoder:
    """The encoder of completed options, in training mode; its random weights follow torch's seed.

    Args:
        options: from `prepare`.
        assets: from `prepare`.
        folder: where `save_assets` wrote its files. Given, nothing outside it is read, and the weights are
            random until they are loaded; otherwise pretrained weights come from where the options say.
    """
    if isinstance(options, TowersOptions):
        homes = (None, None) if folder is None else (folder / "left", folder / "right")
        left, right = (
            build(tower, assets[side], home)
            for tower, side, home in zip(options.towers, ("left", "right"), homes, strict=True)
        )
        encoder: Encoder = TwoTowers(options, left, right)
    elif isinstance(options, ImageOptions):
        encoder = images.build_images(options, assets, folder)
    elif isinstance(options, TextOptions):
        encoder = texts.build_texts(options, assets, folder)
    elif isinstance(options, TabularOptions):
        encoder = (FeatureNetwork if "features" in assets else TableNetwork)(options, assets)
    else:
        encoder = build_custom(options)
    return encoder.train()


def fit_buffers(encoder: nn.Module, records: TrainingData) -> None:
    """Set what an encoder keeps of the training data: the mean and deviation of features."""
    if isinstance(encoder, TableNetwork | FeatureNetwork):
        rows = records.items
        if not isinstance(rows, np.ndarray):
            rows = np.stack([np.asarray(rows[place]) for place in range(len(rows))])
        encoder.fit(torch.from_numpy(rows))


def _prepare_towers(options: TowersOptions, records: Any) -> tuple[TowersOptions, Assets]:
    (left, of_left), (right, of_right) = (
        prepare(tower, records.of_side(side), side) for side, tower in enumerate(options.towers)
    )
    completed = replace(options, left=left, right=right, sides=records.columns)  # type: ignore[arg-type]
    return completed, {"left": of_left, "right": of_right}


def _prepare_images(options: ImageOptions, records: TrainingData) -> tuple[ImageOptions, Assets]:
    assets: Assets = {}
    if options.weights is not None:
        size, channels, assets = images.describe_pretrained(options)
        if options.channels not in (None, channels):
            raise InputError(f"channels is {options.channels}, but {options.weights} takes {channels}.")
    elif options.size is not None and options.channels is not None:
        return options, assets
    elif records.kind == "tensor":
        shape = tuple(records.items[0].shape)
        if len(shape) != 3 or shape[0] not in (1, 3):
            raise InputError(f"The dataset gives tensors of shape {shape}; images have (1 or 3, H, W).")
        size, channels = (shape[1], shape[2]), shape[0]
    else:
        size, channels = records.image_shape()
    return replace(options, size=options.size or size, channels=options.channels or channels), assets


def _prepare_custom(options: CustomOptions, records: TrainingData) -> CustomOptions:
    if options.input not in (None, records.kind):
        raise InputError(f"The data are of kind {records.kind!r}, the encoder's input is {options.input!r}.")
    if records.features is not None:
        raise InputError(
            "an encoder of your own takes rows of numbers, and this table has missing values or columns of another "
            "kind. Fill it in, or name the columns of numbers with columns."
        )
    completed = replace(options, input=records.kind)  # type: ignore[arg-type]
    if records.kind != "image" or (options.size is not None and options.channels is not None):
        return completed
    size, channels = records.image_shape()
    return replace(completed, size=options.size or size, channels=options.channels or channels)


def _number_columns(items: Sequence[Any]) -> list[str]:
    shape = tuple(items[0].shape)
    if len(shape) != 1:
        raise InputError(f"The dataset gives tensors of shape {shape}; rows of numbers have (F,).")
    return [f"feature {place + 1}" for place in range(shape[0])]

"""Pretrained models of transformers, from local folders only; the one file that loads them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from tercet.errors import InputError, require


def load_config(folder: str | Path) -> Any:
    """The configuration of a transformers model.

    Raises:
        InputError: the folder is missing or holds none.
        MissingDependency: transformers is not installed.
    """
    transformers = require("transformers", "text")
    _check_folder(folder)
    try:
        return transformers.AutoConfig.from_pretrained(str(folder), local_files_only=True)
    except (OSError, ValueError, KeyError) as cause:
        raise InputError(f"{folder}: the model's config.json cannot be used: {_first_line(cause)}") from None


def load_model(weights: str, folder: Path | None) -> tuple[nn.Module, Any]:
    """A model and its configuration: with its weights, or from a run's `folder` with random ones.

    Only safetensors are read, never a pickle.
    """
    transformers = require("transformers", "text")
    if folder is not None:
        config = load_config(folder)
        return transformers.AutoModel.from_config(config).float(), config
    config = load_config(weights)
    try:
        model = transformers.AutoModel.from_pretrained(str(weights), local_files_only=True, use_safetensors=True)
    except (OSError, ValueError) as cause:
        raise InputError(
            f"{weights}: the model's weights cannot be read: {_first_line(cause)} Weights must be in model.safetensors."
        ) from None
    return model.float(), config


def load_tokenizer(folder: str | Path) -> Any:
    """The tokenizer of a transformers model."""
    transformers = require("transformers", "text")
    try:
        return transformers.AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
    except (OSError, ValueError, KeyError) as cause:
        raise InputError(f"{folder}: the tokenizer cannot be read: {_first_line(cause)}") from None


def check_weights(weights: str | Path) -> None:
    """Raise InputError where there is no such folder."""
    if not str(weights) or not Path(weights).is_dir():
        raise InputError(
            f"{str(weights) or 'an empty path'} is not a folder. Weights are a local folder with config.json and "
            "model.safetensors; nothing is fetched by name."
        )


def _check_folder(folder: str | Path) -> None:
    check_weights(folder)
    if not (Path(folder) / "config.json").is_file():
        raise InputError(f"{folder} holds no config.json, so it is not the folder of a model.")


def _first_line(cause: Exception) -> str:
    return (str(cause).strip() or type(cause).__name__).splitlines()[0]

"""Static embeddings of tokens, as sentence-transformers and model2vec write them: a tokenizer and a table."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from tercet.encoders.options import TextOptions
from tercet.encoders.sentence_folder import SentenceFolder, read_tensors
from tercet.errors import InputError, require

ALL_TOKENS = 1_000_000
"""How many tokens of a text count where nothing is said: a table has no limit of its own."""


def describe_static(
    options: TextOptions, found: SentenceFolder, assets: dict[str, Any]
) -> tuple[TextOptions, dict[str, Any]]:
    """Options and assets of an encoder with this table.

    Raises:
        InputError: options that need a transformer, or files that cannot be read.
    """
    of_transformers = {"pooling": options.pooling not in (None, "mean"), "long_texts": options.long_texts == "pool",
                       "lora_rank": options.lora_rank is not None}  # fmt: skip
    for name, is_set in of_transformers.items():
        if is_set:
            raise InputError(
                f"{name} is {getattr(options, name)!r}, which is of a transformer; {options.weights} holds static "
                "embeddings, of which the mean over all tokens is taken. Leave it out."
            )
    weights = _table(found.inner)
    completed = replace(options, pooling="mean", max_tokens=options.max_tokens or ALL_TOKENS)
    return completed, assets | {"static": list(weights.shape)}


def load_static(home: Path, with_weights: bool) -> tuple[Any, Tensor | None]:
    """The tokenizer of a folder, and the table of shape (tokens, F) in float32, where it is wanted.

    Raises:
        InputError: a file is missing or cannot be read.
        MissingDependency: tokenizers is not installed.
    """
    tokenizers = require("tokenizers", "text")
    path = home / "tokenizer.json"
    if not path.is_file():
        raise InputError(f"{home} holds no tokenizer.json, which static embeddings need.")
    try:
        tokenizer = tokenizers.Tokenizer.from_file(str(path))
    except Exception as cause:  # tokenizers raises nothing more special
        raise InputError(f"{path} cannot be read: {cause}") from None
    tokenizer.no_padding()
    return tokenizer, _table(home) if with_weights else None


def _table(home: Path) -> Tensor:
    tensors = read_tensors(home)
    table = tensors.get("embedding.weight", tensors.get("embeddings"))
    if table is None or table.ndim != 2 or {"mapping", "weights"} & set(tensors):
        raise InputError(
            f"{home / 'model.safetensors'} holds {', '.join(sorted(tensors)) or 'nothing'}; expected is one table, "
            "embedding.weight, with a row for each token."
        )
    return table.float()

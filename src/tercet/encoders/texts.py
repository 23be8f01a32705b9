"""Encoders of texts: a bag of words from scratch, and pretrained transformers with pooling.

Shapes: B texts, L tokens of the longest, F features.
"""

from __future__ import annotations

import json
import re
import zlib
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tercet.encoders.base import Backbone, Encoder, make_head
from tercet.encoders.options import TextOptions
from tercet.encoders.pretrained import load_config, load_model, load_tokenizer
from tercet.errors import InputError

BUCKETS = 1024  # rows shared by the words that are not in the vocabulary
WIDTH = 256  # numbers of a word
MAX_TOKENS = 256
_WORD = re.compile(r"\w+")


def words_of(text: str) -> list[str]:
    """The words of a text, in lower case."""
    return _WORD.findall(text.lower())


def find_vocabulary(texts: Iterable[str], size: int) -> list[str]:
    """The `size` most frequent words, the most frequent first; equals in the order of the alphabet."""
    counts = Counter(word for text in texts for word in words_of(text))
    return [word for word, _ in sorted(counts.items(), key=lambda one: (-one[1], one[0]))[:size]]


class BagOfWords(Encoder):
    """Embeddings of words, pooled, normalised, perhaps with dropout, and a head.

    Words that are not in the vocabulary share 1,024 buckets by their hash. Takes a list of texts, or what
    `tokens` made of one.
    """

    def __init__(self, options: TextOptions, assets: dict[str, Any]) -> None:
        super().__init__(options.normalize)
        assert options.max_tokens is not None
        assert options.pooling is not None
        self.max_tokens = options.max_tokens
        self.place = {word: number for number, word in enumerate(assets["vocabulary"])}
        self.words = nn.EmbeddingBag(len(self.place) + BUCKETS, WIDTH, mode=options.pooling)
        self.norm = nn.LayerNorm(WIDTH)
        self.dropout = nn.Dropout(options.dropout)
        self.head = make_head(options.head, WIDTH, options.dim)

    def tokens(self, texts: Sequence[str]) -> dict[str, torch.Tensor]:
        """The words' numbers, one text after another, and where each text starts; on the encoder's device."""
        rows = [[self._number(word) for word in words_of(text)[: self.max_tokens]] for text in texts]
        starts = torch.tensor([0] + [len(row) for row in rows[:-1]], dtype=torch.int64).cumsum(0)
        numbers = torch.tensor([number for row in rows for number in row], dtype=torch.int64)
        device = self.words.weight.device
        return {"numbers": numbers.to(device), "starts": starts.to(device)}

    def embed(self, batch: Sequence[str] | dict[str, torch.Tensor]) -> torch.Tensor:
        """Embeddings before normalisation."""
        tokens = batch if isinstance(batch, dict) else self.tokens(batch)
        return self.head(self.dropout(self.norm(self.words(tokens["numbers"], tokens["starts"]))))

    def _number(self, word: str) -> int:
        known = self.place.get(word)
        return len(self.place) + zlib.crc32(word.encode()) % BUCKETS if known is None else known


class PretrainedTexts(Encoder):
    """A pretrained transformer, its last hidden states pooled over the tokens, and a head.

    Takes a list of texts, or what `tokens` made of one.
    """

    def __init__(self, options: TextOptions, network: nn.Module, config: Any, tokenizer: Any) -> None:
        super().__init__(options.normalize)
        assert options.max_tokens is not None
        assert options.pooling is not None
        self.max_tokens, self.pooling = options.max_tokens, options.pooling
        self.config, self.tokenizer = config, tokenizer
        self.backbone = Backbone(network, options.frozen)
        self.head = make_head(options.head, config.hidden_size, options.dim)

    def tokens(self, texts: Sequence[str]) -> dict[str, torch.Tensor]:
        """Tokens and mask of shape (B, L), on the encoder's device: the first `max_tokens` of each text."""
        made = self.tokenizer(
            list(texts), padding=True, truncation=True, max_length=self.max_tokens, return_tensors="pt"
        )
        device = next(self.parameters()).device
        return {name: value.to(device) for name, value in made.items()}

    def embed(self, batch: Sequence[str] | dict[str, torch.Tensor]) -> torch.Tensor:
        """Embeddings before normalisation."""
        tokens = batch if isinstance(batch, dict) else self.tokens(batch)
        states = self.backbone(**tokens).last_hidden_state
        return self.head(pool(states, tokens["attention_mask"], self.pooling))

    def save_assets(self, folder: Path) -> None:
        """Write the network's configuration and the tokenizer."""
        self.config.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)


def pool(states: torch.Tensor, mask: torch.Tensor, how: str) -> torch.Tensor:
    """States (B, L, F) to (B, F) over the tokens that are there: their mean or maximum, or the first.

    A text without tokens gives zeros.
    """
    if how == "first":
        first = mask.argmax(dim=1)  # not token 0 where padding comes first
        return states[torch.arange(len(states), device=states.device), first]
    there = mask[..., None].bool()
    if how == "max":
        return states.masked_fill(~there, float("-inf")).amax(dim=1).masked_fill(~there.any(dim=1), 0.0)
    return states.masked_fill(~there, 0.0).sum(dim=1) / there.sum(dim=1).clamp(min=1)


def describe_pretrained(options: TextOptions) -> tuple[str, int]:
    """Pooling and the number of tokens: as the options say, otherwise as the weights do.

    A folder of sentence-transformers names its pooling; others get the mean.

    Raises:
        InputError: more tokens than the model takes, or a model with layers that would be lost.
    """
    assert options.weights is not None
    folder = transformer_folder(options.weights)
    config = load_config(folder)
    limit = _token_limit(config, Path(options.weights))
    if options.max_tokens is not None and options.max_tokens > limit:
        raise InputError(f"max_tokens is {options.max_tokens}; the model in {options.weights} takes at most {limit}.")
    pooling = options.pooling or _said_pooling(Path(options.weights)) or "mean"
    return pooling, options.max_tokens or min(MAX_TOKENS, limit)


def transformer_folder(weights: str) -> Path:
    """The folder of the transformer itself, which in a sentence-transformers folder may lie below.

    Raises:
        InputError: the model has layers other than a transformer, pooling and normalisation.
    """
    folder = Path(weights)
    if not (folder / "modules.json").is_file():
        return folder
    inner = folder
    for module in json.loads((folder / "modules.json").read_text(encoding="utf-8")):
        name = module["type"].rsplit(".", 1)[-1]
        if name == "Transformer":
            inner = folder / module["path"]
        elif name not in ("Pooling", "Normalize"):
            raise InputError(
                f"{weights} has a layer of type {name}, which would be left out; its model is not supported."
            )
    return inner


def _token_limit(config: Any, folder: Path) -> int:
    said = folder / "sentence_bert_config.json"
    limits = [getattr(config, "max_position_embeddings", None)]
    if said.is_file():
        limits.append(json.loads(said.read_text(encoding="utf-8")).get("max_seq_length"))
    return min([limit for limit in limits if limit], default=MAX_TOKENS)


def _said_pooling(folder: Path) -> str | None:
    """The pooling that a sentence-transformers folder names, None if it names none.

    Raises:
        InputError: it names one that is not supported.
    """
    path = folder / "1_Pooling" / "config.json"
    if not path.is_file():
        return None
    said = json.loads(path.read_text(encoding="utf-8"))
    words = {
        "cls": "first",
        "cls_token": "first",
        "mean": "mean",
        "mean_tokens": "mean",
        "max": "max",
        "max_tokens": "max",
    }
    named = [
        name.removeprefix("pooling_mode_")
        for name, on in said.items()
        if name.startswith("pooling_mode_") and on is True
    ]
    named += [said["pooling_mode"]] if isinstance(said.get("pooling_mode"), str) else []
    if len(named) != 1 or named[0] not in words:
        raise InputError(
            f"{path} asks for pooling by {', '.join(named) or 'nothing'}; say --pooling mean, max or first."
        )
    return words[named[0]]


def build_texts(options: TextOptions, assets: dict[str, Any], folder: Path | None) -> Encoder:
    """The encoder of texts; from `folder` without the pretrained weights, otherwise with them."""
    if options.weights is None:
        return BagOfWords(options, assets)
    home = transformer_folder(options.weights) if folder is None else folder
    network, config = load_model(str(home), folder)
    return PretrainedTexts(options, network, config, load_tokenizer(home))

"""Encoders of texts: a bag of words from scratch, and pretrained transformers with pooling.

Shapes: B texts, L tokens of the longest, F features.
"""

from __future__ import annotations

import re
import zlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tercet.encoders.adapters import add_adapters
from tercet.encoders.base import Backbone, Encoder, make_head
from tercet.encoders.options import TextOptions
from tercet.encoders.pooling import Pooling
from tercet.encoders.pretrained import load_config, load_model, load_tokenizer
from tercet.encoders.sentence_folder import SentenceFolder, load_tail, make_tail, read_sentence_folder
from tercet.encoders.static import describe_static, load_static
from tercet.encoders.tokens import Tokens
from tercet.errors import InputError

WIDTH = 256  # numbers of a word
MAX_TOKENS = 256
BUNCH = 16  # texts of about one length that a transformer takes at a time
ROLES = (("query",), ("document", "passage", "corpus"))
"""What sentence-transformers calls the prompts of the side that looks for the other, and of the other."""
_WORD = re.compile(r"\w+")

Batch = Sequence[str] | Sequence[np.ndarray] | dict[str, Tensor]
"""Texts; the tokens of each, int32, as `numbers` gives them; or those of all, as `tokens` does."""


def words_of(text: str) -> list[str]:
    """The words of a text, in lower case."""
    return _WORD.findall(text.lower())


def find_vocabulary(texts: Iterable[str], size: int) -> list[str]:
    """The `size` most frequent words, the most frequent first; equals in the order of the alphabet."""
    counts = Counter(word for text in texts for word in words_of(text))
    return [word for word, _ in sorted(counts.items(), key=lambda one: (-one[1], one[0]))[:size]]


class TextEncoder(Encoder):
    """What encoders of texts share: texts become rows of token numbers, which may be made ahead and kept.

    Attributes:
        limit: how many tokens of a text count; None where all do.
        bunch: how many texts of about one length should be encoded together, for little padding; None where there is
            no padding.
    """

    limit: int | None = None
    bunch: int | None = None

    def __init__(self, options: TextOptions) -> None:
        super().__init__(options.normalize)
        self.prompt = options.prompt or ""

    def numbers(self, texts: Sequence[str]) -> list[np.ndarray]:
        """The tokens of each text with the prompt before it, int32, however many there are."""
        raise NotImplementedError

    def cut(self, row: np.ndarray) -> np.ndarray:
        """The tokens of a text that count."""
        return row if self.limit is None else row[: self.limit]

    def tokens(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """The tokens that count of all texts, on the encoder's device."""
        return self._gathered([self.cut(row) for row in self.numbers(texts)])

    def embed(self, batch: Batch) -> Tensor:
        """Embeddings before normalisation."""
        if isinstance(batch, dict):
            return self._embedded(batch)
        rows: Any = self.numbers([str(one) for one in batch]) if _are_texts(batch) else batch
        return self._embed_rows([self.cut(row) for row in rows])

    def _embed_rows(self, rows: list[np.ndarray]) -> Tensor:
        return self._embedded(self._gathered(rows))

    def _gathered(self, rows: Sequence[np.ndarray]) -> dict[str, Tensor]:
        raise NotImplementedError

    def _embedded(self, tokens: dict[str, Tensor]) -> Tensor:
        raise NotImplementedError


class BagEncoder(TextEncoder):
    """Rows of a table of embeddings, pooled over the tokens of a text."""

    words: nn.EmbeddingBag

    def _gathered(self, rows: Sequence[np.ndarray]) -> dict[str, Tensor]:
        """The tokens' numbers, one text after another, and where each text starts."""
        starts = torch.tensor([0] + [len(row) for row in rows[:-1]], dtype=torch.int64).cumsum(0)
        numbers = torch.from_numpy(np.concatenate([np.zeros(0, dtype=np.int64), *rows]))
        device = self.words.weight.device
        return {"numbers": numbers.to(device), "starts": starts.to(device)}


class BagOfWords(BagEncoder):
    """Embeddings of words, pooled, normalised, perhaps with dropout, and a head.

    Words that are not in the vocabulary share buckets by their hash. Takes a list of texts, their numbers, or what
    `tokens` made of one.
    """

    def __init__(self, options: TextOptions, assets: dict[str, Any]) -> None:
        super().__init__(options)
        assert options.max_tokens is not None
        assert options.pooling is not None
        self.limit, self.buckets = options.max_tokens, options.buckets
        self.place = {word: number for number, word in enumerate(assets["vocabulary"])}
        self.words = nn.EmbeddingBag(len(self.place) + self.buckets, WIDTH, mode=options.pooling)
        self.norm = nn.LayerNorm(WIDTH)
        self.dropout = nn.Dropout(options.dropout)
        self.head = make_head(options.head, WIDTH, options.dim)

    def numbers(self, texts: Sequence[str]) -> list[np.ndarray]:
        """The words' numbers."""
        return [
            np.array([self._number(word) for word in words_of(self.prompt + text)], dtype=np.int32) for text in texts
        ]

    def _embedded(self, tokens: dict[str, Tensor]) -> Tensor:
        return self.head(self.dropout(self.norm(self.words(tokens["numbers"], tokens["starts"]))))

    def _number(self, word: str) -> int:
        known = self.place.get(word)
        return len(self.place) + zlib.crc32(word.encode()) % self.buckets if known is None else known


class StaticTexts(BagEncoder):
    """Pretrained static embeddings of tokens, their mean, and a head."""

    def __init__(self, options: TextOptions, assets: dict[str, Any], tokenizer: Any) -> None:
        super().__init__(options)
        self.limit, self.tokenizer = options.max_tokens, tokenizer
        rows, features = assets["static"]
        self.words = nn.EmbeddingBag(rows, features, mode="mean")
        self.words.requires_grad_(not options.frozen)
        self.tail = make_tail(assets.get("tail", []))
        self.head = make_head(options.head, _width(assets, features), options.dim)

    def numbers(self, texts: Sequence[str]) -> list[np.ndarray]:
        """The tokens' numbers."""
        found = self.tokenizer.encode_batch([self.prompt + text for text in texts], add_special_tokens=False)
        return [np.array(one.ids, dtype=np.int32) for one in found]

    def _embedded(self, tokens: dict[str, Tensor]) -> Tensor:
        return self.head(self.tail(self.words(tokens["numbers"], tokens["starts"])))

    def save_assets(self, folder: Path) -> None:
        """Write the tokenizer."""
        folder.mkdir(parents=True, exist_ok=True)
        self.tokenizer.save(str(folder / "tokenizer.json"))


class PretrainedTexts(TextEncoder):
    """A pretrained transformer, its last hidden states pooled over the tokens, and a head.

    Takes a list of texts, their numbers, or what `tokens` made of one. A text that is longer than the transformer takes
    is cut, or embedded in pieces, whose embeddings before normalisation are averaged by their tokens.
    """

    bunch = BUNCH

    def __init__(
        self, options: TextOptions, network: nn.Module, config: Any, tokenizer: Any, assets: dict[str, Any]
    ) -> None:
        super().__init__(options)
        assert options.max_tokens is not None
        assert options.pooling is not None
        self.config, self.tokenizer, self.pooling = config, tokenizer, options.pooling
        self.max_tokens = options.max_tokens
        self.pieces = Tokens(tokenizer, options.max_tokens)
        self.limit = None if options.long_texts == "pool" else self.pieces.room
        self.backbone = Backbone(network, options.frozen)
        self.pool = Pooling(options.pooling, config.hidden_size)
        self.tail = make_tail(assets.get("tail", []))
        features = config.hidden_size * len(options.pooling.split("+"))
        self.head = make_head(options.head, _width(assets, features), options.dim)

    def numbers(self, texts: Sequence[str]) -> list[np.ndarray]:
        """The tokens of each text, without special ones."""
        return self.pieces.rows([self.prompt + text for text in texts])

    def cut(self, row: np.ndarray) -> np.ndarray:
        """The tokens of a text that there is room for, or all of it where it is embedded in pieces."""
        return row if self.limit is None else self.pieces.cut(row)

    def save_assets(self, folder: Path) -> None:
        """Write the network's configuration and the tokenizer."""
        self.config.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)

    def _gathered(self, rows: Sequence[np.ndarray]) -> dict[str, Tensor]:
        return self.pieces.padded(rows, next(self.parameters()).device)

    def _embedded(self, tokens: dict[str, Tensor]) -> Tensor:
        states = self.backbone(**tokens).last_hidden_state
        return self.head(self.tail(self.pool(states, tokens["attention_mask"])))

    def _embed_rows(self, rows: list[np.ndarray]) -> Tensor:
        parts = [self.pieces.pieces(row) for row in rows]
        if all(len(own) == 1 for own in parts):
            return super()._embed_rows(rows)
        flat = [(place, piece) for place, own in enumerate(parts) for piece in own]
        found = [
            super(PretrainedTexts, self)._embed_rows([piece for _, piece in flat[start : start + BUNCH]])
            for start in range(0, len(flat), BUNCH)
        ]
        return _averaged(torch.cat(found), [place for place, _ in flat], [len(piece) for _, piece in flat])


def _averaged(pieces: Tensor, owners: Sequence[int], lengths: Sequence[int]) -> Tensor:
    """The mean of the pieces of each text, of shape (B, D), weighted by their lengths."""
    places = torch.tensor(owners, device=pieces.device)
    weights = torch.tensor(lengths, device=pieces.device, dtype=pieces.dtype).clamp(min=1.0)
    count = owners[-1] + 1
    totals = weights.new_zeros(count).index_add(0, places, weights)
    return pieces.new_zeros(count, pieces.shape[1]).index_add(0, places, pieces * (weights / totals[places])[:, None])


def _are_texts(batch: Sequence[Any]) -> bool:
    return len(batch) > 0 and not isinstance(batch[0], np.ndarray)


def _width(assets: dict[str, Any], features: int) -> int:
    """Features after the tail."""
    tail = assets.get("tail")
    return int(tail[-1]["out"]) if tail else features


def prepare_texts(options: TextOptions, records: Any, role: int | None) -> tuple[TextOptions, dict[str, Any]]:
    """Options completed from the texts or the pretrained folder, and assets.

    Pooling, the number of tokens and prompts are as the options say, otherwise as the weights do.

    Args:
        options: as they were given.
        records: of the training data.
        role: of a tower: 0 for the side that looks for the other, 1 for the other. Otherwise None.

    Raises:
        InputError: the options do not go with the weights or the data.
    """
    is_sided = getattr(records, "tuples", None) is not None
    if (options.query_prompt or options.document_prompt) and not is_sided:
        raise InputError(
            "query_prompt and document_prompt are for pairs and triplets, or two towers, whose texts look for others "
            "or are looked for; here no text has a side. Give prompt, which is for all texts."
        )
    if options.weights is None:
        vocabulary = find_vocabulary(records.items, options.vocabulary)
        pooling, limit = options.pooling or "mean", options.max_tokens or MAX_TOKENS
        return replace(options, pooling=pooling, max_tokens=limit), {"vocabulary": vocabulary}
    found = read_sentence_folder(options.weights)
    options = _with_prompts(options, found, is_sided, role)
    assets: dict[str, Any] = {"tail": found.tail} if found.tail else {}
    if found.is_static:
        return describe_static(options, found, assets)
    limit = _token_limit(options, found)
    return replace(options, pooling=options.pooling or found.pooling or "mean", max_tokens=limit), assets


def _with_prompts(options: TextOptions, found: SentenceFolder, is_sided: bool, role: int | None) -> TextOptions:
    """The options with the prompts of the folder, where none was given."""
    given = (options.prompt, options.query_prompt, options.document_prompt)
    if given != (None, None, None):
        completed = options
    elif is_sided and any(found.prompt(*names) for names in ROLES):
        query, document = (found.prompt(*names) for names in ROLES)
        completed = replace(options, query_prompt=query, document_prompt=document)
    else:
        names: tuple[str | None, ...] = ROLES[role] if role is not None else ()
        completed = replace(options, prompt=found.prompt(*names, found.default_prompt) or None)
    if not found.pools_prompt and any((completed.prompt, completed.query_prompt, completed.document_prompt)):
        raise InputError(
            f"{options.weights} leaves the tokens of a prompt out of its pooling, which is not supported; train it "
            'without prompts: --text.prompt "".'
        )
    return completed


def _token_limit(options: TextOptions, found: SentenceFolder) -> int:
    """How many tokens count: as given, otherwise what the weights take, and 256 at most."""
    config = load_config(found.inner)
    limits = [getattr(config, "max_position_embeddings", None), found.limit]
    limit = min([one for one in limits if one], default=MAX_TOKENS)
    if options.max_tokens is not None and options.max_tokens > limit:
        raise InputError(f"max_tokens is {options.max_tokens}; the model in {options.weights} takes at most {limit}.")
    return options.max_tokens or min(MAX_TOKENS, limit)


def pretrained_texts(weights: str | Path, **options: Any) -> Encoder:
    """The encoder of a folder as it comes, in training mode, for a loop of your own: texts to embeddings (B, D).

    Args:
        weights: folder of a transformers or sentence-transformers model.
        **options: of `TextOptions`, such as max_tokens, prompt or lora_rank. The head is "none" and dim what the
            weights give, unless they say otherwise.

    Raises:
        InputError: the folder cannot be used, or an option does not go with it.
    """
    given = {"head": "none"} | options
    found, assets = prepare_texts(TextOptions(weights=str(weights), **given), None, None)
    if "dim" not in options and found.head == "none":
        found = replace(found, dim=_features(found, assets))
    return build_texts(found, assets, None).train()


def _features(options: TextOptions, assets: dict[str, Any]) -> int:
    """How many numbers the weights give for a text."""
    assert options.weights is not None
    assert options.pooling is not None
    if "static" in assets:
        return _width(assets, assets["static"][1])
    config = load_config(read_sentence_folder(options.weights).inner)
    return _width(assets, config.hidden_size * len(options.pooling.split("+")))


def build_texts(options: TextOptions, assets: dict[str, Any], folder: Path | None) -> Encoder:
    """The encoder of texts; from `folder` without the pretrained weights, otherwise with them.

    From a folder it has no adapters: a run keeps what they learned merged into the weights.
    """
    if options.weights is None:
        return BagOfWords(options, assets)
    found = None if folder is not None else read_sentence_folder(options.weights)
    home = folder if found is None else found.inner
    assert home is not None
    if "static" in assets:
        tokenizer, weights = load_static(home, with_weights=found is not None)
        encoder: Any = StaticTexts(options, assets, tokenizer)
        if weights is not None:
            encoder.words.load_state_dict({"weight": weights})
    else:
        network, config = load_model(str(home), folder)
        encoder = PretrainedTexts(options, network, config, load_tokenizer(home), assets)
        if found is not None and options.lora_rank is not None:
            add_adapters(network, options)
    if found is not None:
        load_tail(encoder.tail, found.homes)
    built: Encoder = encoder
    return built

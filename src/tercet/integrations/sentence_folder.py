"""A run of texts as a folder that `SentenceTransformer(path)` loads, to the same vectors.

Every part becomes a module of theirs: the transformer or the table of tokens, pooling, layer normalisation, linear
maps, scaling to length 1. What has no module there is refused. Weights are safetensors; nothing is pickled.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor, nn

from tercet.encoders.options import TextOptions, TowersOptions
from tercet.encoders.sentence_folder import ACTIVATIONS, POOLING_WORDS
from tercet.encoders.texts import BagOfWords, PretrainedTexts, StaticTexts, TextEncoder, words_of
from tercet.encoders.towers import TwoTowers
from tercet.errors import InputError, RunError, check_choice, require
from tercet.training.config import Config
from tercet.training.folder import files
from tercet.training.model import Model

_MODULES = "sentence_transformers.models."  # where theirs have been since the first version, and still are
_SIMILARITIES = {"euclidean": "euclidean", "squared-euclidean": "euclidean", "manhattan": "manhattan"}
_UNKNOWN = "[UNK]"


class _Part(NamedTuple):
    """A module of theirs: its type, its config.json where it has one, its tensors, and what else writes its files."""

    type: str
    config: dict[str, Any] | None = None
    tensors: dict[str, Tensor] | None = None
    write: Callable[[Path], None] | None = None


def write_sentence_folder(model: Model, config: Config, card: str, folder: Path, side: str | None = None) -> None:
    """Write the folder, which must not exist yet.

    Args:
        model: of the run.
        config: of the run.
        card: the contents of README.md.
        folder: where to.
        side: of two towers, which of them.

    Raises:
        InputError: the encoder has a part that sentence-transformers has not.
        RunError: the folder exists.
    """
    if folder.exists():
        raise RunError(f"{folder} exists already; choose another name.")
    options, encoder = _encoder_of(model, side)
    parts = _parts(options, encoder)
    if config.encoder.normalize:
        parts.append(_Part("Normalize"))
    paths = ["" if place == 0 else f"{place}_{part.type}" for place, part in enumerate(parts)]
    with files.new_folder(folder) as partial:
        for path, part in zip(paths, parts, strict=True):
            _write_part(partial / path, part)
        modules = [
            {"idx": place, "name": str(place), "path": path, "type": _MODULES + part.type}
            for place, (path, part) in enumerate(zip(paths, parts, strict=True))
        ]
        files.write_json(partial / "modules.json", modules)
        files.write_json(partial / "config_sentence_transformers.json", _about(options, config))
        files.write_text(partial / "README.md", card)


def _encoder_of(model: Model, side: str | None) -> tuple[TextOptions, TextEncoder]:
    options, encoder = model.options, model.encoder
    if isinstance(options, TowersOptions) and isinstance(encoder, TwoTowers):
        if side is None:
            named = " or ".join(f"--side {name}" for name in options.sides)
            raise InputError(f"the run has two encoders, and a folder holds one; say which: {named}.")
        check_choice("side", side, options.sides)
        number = options.sides.index(side)
        options, encoder = options.towers[number], (encoder.left, encoder.right)[number]
    elif side is not None:
        raise InputError(f"side is {side!r}, and this run has one encoder; leave it out.")
    if not isinstance(options, TextOptions) or not isinstance(encoder, TextEncoder):
        raise InputError(f"the encoder is of kind {options.kind!r}; sentence-transformers takes those of texts.")
    return options, encoder


def _parts(options: TextOptions, encoder: TextEncoder) -> list[_Part]:
    if isinstance(encoder, PretrainedTexts):
        return [*_of_transformer(options, encoder), *_of_tail(encoder.tail), *_of_head(encoder.head)]
    if isinstance(encoder, StaticTexts):
        static = _static(encoder.words.weight, encoder.tokenizer, encoder.limit)
        return [static, *_of_tail(encoder.tail), *_of_head(encoder.head)]
    assert isinstance(encoder, BagOfWords)
    static = _static(encoder.words.weight, _tokenizer_of(options, encoder), encoder.limit)
    return [static, _layer_norm(encoder.norm), *_of_head(encoder.head)]


def _of_transformer(options: TextOptions, encoder: PretrainedTexts) -> list[_Part]:
    if options.long_texts == "pool":
        raise InputError(
            "long_texts is 'pool', and sentence-transformers cuts long texts: it would give other vectors for them. "
            "Train with --text.long-texts truncate to export."
        )
    words = encoder.pooling.split("+")
    theirs = {ours: word for word, ours in POOLING_WORDS.items()}
    if any(word not in theirs for word in words):
        raise InputError(f"pooling is {encoder.pooling!r}, which sentence-transformers does not have.")

    def write(folder: Path) -> None:
        network: Any = encoder.backbone.network
        network.save_pretrained(folder)
        encoder.tokenizer.save_pretrained(folder)
        files.write_json(
            folder / "sentence_bert_config.json", {"max_seq_length": encoder.max_tokens, "do_lower_case": False}
        )

    modes = [theirs[word] for word in words]
    pooling = {"word_embedding_dimension": encoder.config.hidden_size, "include_prompt": True}
    return [
        _Part("Transformer", write=write),
        _Part("Pooling", pooling | {"pooling_mode": modes[0] if len(modes) == 1 else modes}),
    ]


def _of_tail(tail: nn.Sequential) -> list[_Part]:
    return [_layer_norm(one) if isinstance(one, nn.LayerNorm) else _dense_of(one) for one in tail]


def _dense_of(both: Any) -> _Part:
    """Of a linear map and what follows it."""
    return _dense(both[0], type(both[1]))


def _of_head(head: nn.Module) -> list[_Part]:
    if isinstance(head, nn.Linear):
        return [_dense(head, nn.Identity)]
    if isinstance(head, nn.Sequential):
        return [_dense(head[0], type(head[1])), _dense(head[2], nn.Identity)]
    return []


def _dense(linear: Any, activation: type[nn.Module]) -> _Part:
    assert activation in ACTIVATIONS.values()
    bias = linear.bias is not None
    config = {
        "in_features": linear.in_features, "out_features": linear.out_features, "bias": bias,
        "activation_function": f"{activation.__module__}.{activation.__name__}",
    }  # fmt: skip
    return _Part("Dense", config, {"linear.weight": linear.weight} | ({"linear.bias": linear.bias} if bias else {}))


def _layer_norm(norm: nn.LayerNorm) -> _Part:
    return _Part(
        "LayerNorm", {"dimension": norm.normalized_shape[0]}, {"norm.weight": norm.weight, "norm.bias": norm.bias}
    )


def _static(table: Tensor, tokenizer: Any, limit: int | None) -> _Part:
    def write(folder: Path) -> None:
        if limit is not None:
            tokenizer.enable_truncation(limit)
        tokenizer.save(str(folder / "tokenizer.json"))

    return _Part("StaticEmbedding", None, {"embedding.weight": table}, write)


def _tokenizer_of(options: TextOptions, encoder: BagOfWords) -> Any:
    """A tokenizer that finds the words that `words_of` finds, and gives all unknown ones one number.

    Raises:
        InputError: the bag of words does something that no tokenizer does.
    """
    if options.pooling != "mean":
        raise InputError(
            f"pooling is {options.pooling!r}, and sentence-transformers takes the mean of static embeddings."
        )
    if encoder.buckets != 1:
        raise InputError(
            f"the words that this bag of words does not know share {encoder.buckets} buckets by their hash, which no "
            "tokenizer does; one that is trained with --text.buckets 1 can be exported."
        )
    tokenizers = require("tokenizers", "text")
    numbers = encoder.place | {_UNKNOWN: len(encoder.place)}
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(numbers, unk_token=_UNKNOWN))
    made.normalizer = tokenizers.normalizers.Lowercase()
    between = tokenizers.Regex(r"[^\p{L}\p{N}_]+")
    made.pre_tokenizer = tokenizers.pre_tokenizers.Split(between, "removed")
    wrong = [word for word in encoder.place if words_of(word) != made.encode(word).tokens]
    if wrong:
        raise InputError(
            f"the tokenizer would not find {len(wrong)} words of the vocabulary as Tercet does, such as {wrong[0]!r}."
        )
    return made


def _write_part(folder: Path, part: _Part) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    if part.config is not None:
        files.write_json(folder / "config.json", part.config)
    if part.tensors is not None:
        files.write_tensors(folder / "model.safetensors", part.tensors, {"format": "pt"})
    if part.write is not None:
        part.write(folder)


def _about(options: TextOptions, config: Config) -> dict[str, Any]:
    """Prompts, and how vectors are compared."""
    prompts = {"query": options.query_prompt, "document": options.document_prompt, "prompt": options.prompt}
    return {
        "model_type": "SentenceTransformer",
        "prompts": {name: text for name, text in prompts.items() if text},
        "default_prompt_name": "prompt" if options.prompt else None,
        "similarity_fn_name": _SIMILARITIES.get(config.loss.distance or "", "cosine"),
    }

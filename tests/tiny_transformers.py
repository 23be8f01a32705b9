"""Tiny pretrained folders, made on the spot: a transformer of two layers, with modules of sentence-transformers."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from conftest import WORDS

WIDTH = 24


def save_bert(folder: Path, length: int = 64, dropout: float = 0.1) -> Path:
    """A BERT with random weights that knows the words of `conftest`."""
    transformers = pytest.importorskip("transformers")
    folder.mkdir(parents=True, exist_ok=True)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS, "query", "document", ":"]
    (folder / "vocab.txt").write_text("\n".join(words))
    transformers.BertTokenizerFast(vocab=str(folder / "vocab.txt")).save_pretrained(folder)
    config = transformers.BertConfig(
        vocab_size=len(words), hidden_size=WIDTH, num_hidden_layers=2, num_attention_heads=2, intermediate_size=40,
        max_position_embeddings=length, hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout,
    )  # fmt: skip
    torch.manual_seed(5)
    transformers.BertModel(config).save_pretrained(folder)
    return folder


def save_sentence_folder(folder: Path, pooling: dict, extra: tuple = (), prompts: dict | None = None) -> Path:
    """The same, with pooling, other modules (type, config, tensors), normalisation and prompts."""
    save_bert(folder)
    modules = [("Transformer", "", None, None), ("Pooling", "1_Pooling", pooling, None)]
    modules += [(kind, f"{n}_{kind}", config, tensors) for n, (kind, config, tensors) in enumerate(extra, 2)]
    modules += [("Normalize", "9_Normalize", None, None)]
    for _, path, config, tensors in modules:
        (folder / path).mkdir(exist_ok=True)
        if config is not None:
            (folder / path / "config.json").write_text(json.dumps(config))
        if tensors is not None:
            save_file(tensors, folder / path / "model.safetensors")
    listed = [
        {"idx": n, "name": str(n), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for n, (kind, path, _, _) in enumerate(modules)
    ]
    (folder / "modules.json").write_text(json.dumps(listed))
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 16, "do_lower_case": False}))
    about = {"prompts": prompts or {}, "default_prompt_name": None}
    (folder / "config_sentence_transformers.json").write_text(json.dumps(about))
    return folder


def save_static(folder: Path, features: int = 12) -> Path:
    """A table of static embeddings with its tokenizer."""
    tokenizers = pytest.importorskip("tokenizers")
    folder.mkdir(parents=True)
    made = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({word: n for n, word in enumerate([*WORDS, "[UNK]"])}, unk_token="[UNK]")
    )
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    made.save(str(folder / "tokenizer.json"))
    torch.manual_seed(6)
    save_file({"embedding.weight": torch.randn(len(WORDS) + 1, features)}, folder / "model.safetensors")
    module = {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.StaticEmbedding"}
    (folder / "modules.json").write_text(json.dumps([module]))
    return folder

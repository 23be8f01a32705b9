"""A run's encoder as an ONNX file: pooling and normalisation inside, any number of items, texts of any length.

| encoder | inputs |
|---|---|
| of images | `pixels`, uint8 (B, C, H, W), C, H and W as the run's |
| of rows | `rows`, float32 (B, F) |
| of texts, pretrained | `input_ids` and `attention_mask`, int64 (B, L), of the run's tokenizer |
| of texts, from scratch | `numbers` and `mask`, int64 (B, L): the words' numbers, padded with 0 |

The output is `embeddings`, float32 (B, D).
"""

from __future__ import annotations

import logging
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tercet.encoders.images import ImageNetwork, PretrainedImages
from tercet.encoders.options import TowersOptions
from tercet.encoders.tables import TableNetwork
from tercet.encoders.texts import BagOfWords, PretrainedTexts
from tercet.errors import InputError, RunError, require
from tercet.training.folder import files
from tercet.training.model import Model

TOLERANCE = 1e-4
OPSET = 18


class OnTokens(nn.Module):
    """A pretrained encoder of texts, of tokens."""

    def __init__(self, encoder: PretrainedTexts) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Of shape (B, D)."""
        return self.encoder({"input_ids": input_ids, "attention_mask": attention_mask})


class OnWords(nn.Module):
    """A bag of words, of numbers of words with a mask: ONNX has no ragged rows."""

    def __init__(self, encoder: BagOfWords) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, numbers: Tensor, mask: Tensor) -> Tensor:
        """Of shape (B, D); a text without words is pooled to 0, as by EmbeddingBag."""
        own = self.encoder
        vectors, kept = F.embedding(numbers, own.words.weight), mask[..., None].to(torch.float32)
        some = kept.sum(dim=1)
        if own.words.mode == "mean":
            pooled = (vectors * kept).sum(dim=1) / some.clamp(min=1)
        else:
            pooled = vectors.masked_fill(kept == 0, -1e30).amax(dim=1) * (some > 0)
        return own.scale(own.head(own.norm(pooled)).float())


def write_onnx(model: Model, path: Path) -> float:
    """Write the encoder, and the largest difference to PyTorch that was seen on another batch than it was traced with.

    Raises:
        InputError: an encoder that takes no tensors, or a name without .onnx.
        RunError: the file is there; or ONNX gives other vectors, by more than 1e-4, and then nothing is written.
        MissingDependency: onnx, onnxscript or onnxruntime is not installed.
    """
    if path.suffix != ".onnx":
        raise InputError(f"{path} must end in .onnx.")
    if path.exists():
        raise RunError(f"{path} exists already; choose another name, or remove it first.")
    for name in ("onnx", "onnxscript", "onnxruntime"):
        require(name, "onnx")
    encoder = model.encoder.cpu().eval()
    module, traced, other = _inputs(model, encoder)
    try:
        with tempfile.TemporaryDirectory() as folder:
            made = Path(folder) / "made.onnx"
            _export(module.eval(), traced, made)
            difference = max(_difference(module, made, inputs) for inputs in (traced, other))
            if not difference <= TOLERANCE:
                raise RunError(
                    f"ONNX gives vectors that are off by {difference:.2g}, more than {TOLERANCE}; nothing is written."
                )
            files.write_bytes(path, made.read_bytes())
    finally:
        model.encoder.to(model.device)
    return difference


def _export(module: nn.Module, inputs: dict[str, Tensor], path: Path) -> None:
    """Write the file; what the exporter says of libraries that are not there is kept from the user."""
    logger = logging.getLogger("torch.onnx")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                module, tuple(inputs.values()), str(path), input_names=list(inputs), output_names=["embeddings"],
                dynamic_shapes=_dynamic(module, inputs), opset_version=OPSET, dynamo=True, external_data=False,
                verbose=False,
            )  # fmt: skip
    finally:
        logger.setLevel(before)


def _dynamic(module: nn.Module, inputs: dict[str, Tensor]) -> Any:
    """What may change from call to call: the number of items, and of tokens of the longest."""
    several = isinstance(module, OnTokens | OnWords)
    shape = {0: torch.export.Dim("items"), 1: torch.export.Dim("tokens")} if several else {0: torch.export.Dim("items")}
    return tuple(dict(shape) for _ in inputs)


def _difference(module: nn.Module, path: Path, inputs: dict[str, Tensor]) -> float:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    found = session.run(None, {name: value.numpy() for name, value in inputs.items()})[0]
    with torch.no_grad():
        expected = module(*inputs.values()).numpy()
    return float(np.abs(found - expected).max()) if found.shape == expected.shape else float("inf")


def _inputs(model: Model, encoder: nn.Module) -> tuple[nn.Module, dict[str, Tensor], dict[str, Tensor]]:
    """What is exported, inputs to trace it with, and others of another number and length to check it with."""
    options: Any = model.options
    generator = torch.Generator().manual_seed(0)
    if isinstance(options, TowersOptions):
        raise InputError("this run has two encoders; ONNX files hold one.")
    if isinstance(encoder, ImageNetwork | PretrainedImages):
        made = [torch.randint(0, 256, (count, options.channels, *options.size), generator=generator, dtype=torch.uint8)
                for count in (3, 5)]  # fmt: skip
        return encoder, {"pixels": made[0]}, {"pixels": made[1]}
    if isinstance(encoder, TableNetwork):
        columns = len(model.assets["columns"])
        rows = [torch.randn(count, columns, generator=generator) for count in (3, 5)]
        return encoder, {"rows": rows[0]}, {"rows": rows[1]}
    if isinstance(encoder, PretrainedTexts):
        return OnTokens(encoder), _tokens(encoder, SHORT), _tokens(encoder, LONG)
    if isinstance(encoder, BagOfWords):
        return OnWords(encoder), _words(encoder, SHORT), _words(encoder, LONG)
    raise InputError("an encoder of your own is exported by your own code: torch.onnx.export(run.encoder, ...).")


SHORT = ["a few words", "some", "another text of several words"]
LONG = [
    "one",
    "a longer text, of more words than any that the file was traced with, and then some",
    "",
    "the end",
    "x y",
]


def _tokens(encoder: PretrainedTexts, texts: list[str]) -> dict[str, Tensor]:
    made = encoder.tokens(texts)
    return {name: made[name] for name in ("input_ids", "attention_mask")}


def _words(encoder: BagOfWords, texts: list[str]) -> dict[str, Tensor]:
    made = encoder.tokens(texts)
    rows = list(torch.tensor_split(made["numbers"], made["starts"][1:]))
    numbers = nn.utils.rnn.pad_sequence(rows, batch_first=True)
    mask = nn.utils.rnn.pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
    return {"numbers": numbers, "mask": mask}

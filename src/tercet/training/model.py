"""A model: an encoder with what it needs to read items and to be built again from a run folder."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tercet.data.loaders import Loader, make_loader
from tercet.data.records import Records
from tercet.data.sides import TwoSides
from tercet.encoders.adapters import merged_state, remove_adapters
from tercet.encoders.base import Encoder, unit
from tercet.encoders.build import build, fit_buffers, prepare
from tercet.encoders.custom import CustomEncoder
from tercet.errors import InputError, RunError
from tercet.training.batches.texts import by_length, tokenised, warn_of_cut
from tercet.training.config import EncoderOptions
from tercet.training.folder import files
from tercet.training.objective.loss import LOSS_FILE
from tercet.training.objective.loss_state import read_state
from tercet.training.reporter import Reporter

EMBED_BATCH = 128
WEIGHTS_FILE = "model.safetensors"
START_WEIGHTS = "checkpoints/start-encoder.safetensors"
"""In a run that started from another's weights, or may have to go back to its own first ones."""


@dataclass(frozen=True)
class Embedded:
    """Embeddings of the items that could be read, and the reasons for those that could not."""

    vectors: np.ndarray  # float32 (N, D)
    positions: np.ndarray  # int64 (N,), which item each row is of
    unreadable: list[tuple[int, str]]


@dataclass
class Model:
    """An encoder, its options, and its assets (vocabulary, columns, ...)."""

    options: EncoderOptions
    assets: dict[str, Any]
    encoder: Encoder
    device: torch.device
    cut_to: int | None = None
    """How many numbers of an embedding are given, from its start; all if None."""

    @classmethod
    def create(
        cls,
        options: EncoderOptions,
        records: Records,
        seed: int,
        device: str,
        module: nn.Module | None = None,
    ) -> Model:
        """A new model for these training records, initialised from the seed; or around the user's own module."""
        where = choose_device(device)
        completed, assets = prepare(options, records)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            encoder = _wrapped(completed, module) if module is not None else build(completed, assets)
        fit_buffers(encoder, records)
        return cls(completed, assets, encoder.to(where), where)

    @classmethod
    def load(
        cls, options: EncoderOptions, folder: Path, device: str = "auto", module: nn.Module | None = None,
        file: str = WEIGHTS_FILE,
    ) -> Model:  # fmt: skip
        """The model of a run folder, rebuilt from that folder alone, with the weights in a file of it.

        Raises:
            RunError: the folder holds no weights yet, or they do not fit.
        """
        weights = read_weights(folder, file)
        assets = files.read_json(folder / "encoder" / "assets.json")
        with torch.random.fork_rng(devices=[]):  # the random weights that are about to be replaced
            encoder = _wrapped(options, module) if module is not None else build(options, assets, folder / "encoder")
        try:
            encoder.load_state_dict(weights)
        except RuntimeError as cause:
            raise RunError(f"the weights in {folder} do not fit the encoder of its config.toml: {cause}") from None
        where = choose_device(device)
        return cls(options, assets, encoder.to(where).eval(), where)

    def save_assets(self, folder: Path) -> None:
        """Write what rebuilds the encoder, besides config.toml and the weights, to `folder`."""
        files.write_json(folder / "assets.json", self.assets)
        self.encoder.save_assets(folder)

    def save_weights(self, folder: Path) -> None:
        """Write the encoder's weights to `folder`/model.safetensors, what adapters learned merged into them."""
        files.write_tensors(folder / "model.safetensors", merged_state(self.encoder), {"format": "pt"})

    def take_weights(self, folder: Path) -> None:
        """Take the weights that `save_weights` wrote, in the place of adapters too."""
        remove_adapters(self.encoder)
        self.encoder.load_state_dict(read_weights(folder))

    def forward(self, batch: Any) -> Tensor:
        """Embeddings of a batch as the loader gives it, of shape (B, D), with a graph."""
        return self.encoder(move(batch, self.device))

    def embed(self, items: Sequence[Any], reporter: Reporter | None = None) -> Embedded:
        """Embeddings of items as they come: paths, texts, or an array of rows.

        Each item is read once first, so that one that cannot be read is known before the work begins.
        """
        reporter = reporter or Reporter()
        loader = make_loader(self.options, items)
        with reporter.progress("reading") as advance:
            unreadable = loader.check(advance)
        bad = {position for position, _ in unreadable}
        positions = np.array([i for i in range(len(items)) if i not in bad], dtype=np.int64)
        return Embedded(self.encode(loader, positions, reporter), positions, unreadable)

    def encode(self, loader: Loader, positions: np.ndarray, reporter: Reporter, title: str = "embedding") -> np.ndarray:
        """Embeddings of these items of a loader, float32 of shape (N, D), in chunks and without a graph."""
        was_training, given = self.encoder.training, loader
        self.encoder.eval()
        loader = tokenised(given, self.encoder)
        order, chunks = by_length(loader, positions), []
        try:
            with torch.no_grad(), reporter.progress(title) as advance:
                for start in range(0, len(positions), EMBED_BATCH):
                    batch = loader.batch(positions[order[start : start + EMBED_BATCH]])
                    chunks.append(self.forward(batch).float().cpu().numpy())
                    advance(min(start + EMBED_BATCH, len(positions)), len(positions))
        finally:
            self.encoder.train(was_training)
        if loader is not given:
            warn_of_cut(loader, reporter, "given")
        if not chunks:
            return np.zeros((0, 0), dtype=np.float32)
        vectors = np.concatenate(chunks)
        vectors[order] = vectors.copy()
        return self.shortened(vectors)

    def shortened(self, vectors: np.ndarray) -> np.ndarray:
        """The first `cut_to` numbers of each row, scaled to length 1 where the encoder does that."""
        return vectors if self.cut_to is None else first_numbers(vectors, self.cut_to, self.encoder.normalize)


def first_numbers(vectors: np.ndarray, count: int, normalize: bool) -> np.ndarray:
    """The first numbers of each row, of shape (N, count); of length 1 again if that is asked for."""
    short = vectors[:, :count]
    return unit(torch.from_numpy(short)).numpy() if normalize else np.ascontiguousarray(short)


@dataclass(frozen=True)
class Readable:
    """Records of which every item has been read once, and the loader that gives them as batches."""

    records: Records
    loader: Loader

    def count(self) -> str:
        """How much there is, in words."""
        return self.records.count()

    def encode(self, model: Model, reporter: Reporter, title: str = "embedding") -> np.ndarray:
        """Embeddings of all records, float32 of shape (N, D)."""
        return model.encode(self.loader, np.arange(len(self.records)), reporter, title)


def read_all(options: EncoderOptions, records: Records, reporter: Reporter, title: str) -> Readable:
    """Read every item once, leave out those that cannot be read, and say how many.

    Raises:
        DataError: none can be read.
    """
    loader = make_loader(options, records.items)
    with reporter.progress(f"reading {title} data") as advance:
        unreadable = loader.check(advance)
        if not unreadable:
            return Readable(records, loader)
        left = records.without(unreadable)
        first = "; ".join(f"{records.names[i]}: {reason}" for i, reason in unreadable[:3])
        reporter.warn(
            f"{len(unreadable)} of {len(records)} items of the {title} data cannot be read and are skipped ({first})"
        )
        loader = make_loader(options, left.items)
        loader.check(advance)
    return Readable(left, loader)


def _wrapped(options: EncoderOptions, module: nn.Module) -> Encoder:
    """The user's own module as an encoder."""
    return CustomEncoder(module, options.normalize)


def read_weights(folder: Path, file: str = WEIGHTS_FILE) -> dict[str, Tensor]:
    """The tensors of a run's model.safetensors, or of another file of weights in it."""
    if not (folder / file).exists() and not any(folder.glob("checkpoints/step-*")):
        raise RunError(
            f"{folder} holds no {file}: the training stopped before its first checkpoint. "
            f"Go on with: tercet train --resume --out {folder}"
        )
    return files.read_tensors(folder / file)


def weights_hash(folder: Path) -> str:
    """32 hexadecimal digits that name the weights of a run folder, its loss's included, whatever they were saved as."""
    digest = hashlib.blake2b(digest_size=16)
    own = read_state(folder / LOSS_FILE)  # a map, perhaps, without which distances mean nothing
    for name, tensor in [*sorted(read_weights(folder).items()), *sorted(own.items())]:
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
        digest.update(tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def choose_device(device: str) -> torch.device:
    """The device of that name; "auto" is a GPU where there is one.

    Raises:
        InputError: there is no such device here.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
        torch.zeros(1, device=chosen).item()  # the device "meta" makes tensors, and none that holds anything
    except (RuntimeError, AssertionError, ImportError) as cause:
        reason = str(cause).splitlines()[0]
        raise InputError(f"device is {device!r}, which cannot be used here ({reason}). Try auto or cpu.") from None
    return chosen


def mixed_precision(device: torch.device, precision: str) -> torch.autocast:
    """Within the block an encoder's products are of this precision: "float32" or "bfloat16"."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16")


def move(batch: Any, device: torch.device) -> Any:
    """Tensors of a batch, however nested, on the device; anything else (texts) as it is."""
    if isinstance(batch, Tensor):
        return batch.to(device)
    if isinstance(batch, TwoSides):
        return batch.each(lambda part: move(part, device))
    if isinstance(batch, dict):
        return {key: move(value, device) for key, value in batch.items()}
    if isinstance(batch, (list, tuple)) and any(isinstance(value, (Tensor, dict)) for value in batch):
        return type(batch)(move(value, device) for value in batch)
    return batch

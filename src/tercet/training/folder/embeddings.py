"""Embeddings of whole sets, kept in the run folder: cache/<hash of the weights>/<hash of the rest>.safetensors.

What names a file is what its vectors follow from: the weights, the encoder's settings and files, Tercet's version, and
the contents of the items in their order. Names of files and of runs count for nothing, so neither a run that was
trained further nor a picture that was replaced can bring back vectors of before. Vectors of other weights are removed,
for they cannot be asked for again. The code of a user's own encoder has no hash, so its embeddings are not kept.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open

import tercet
from tercet.data.records import Records
from tercet.training.folder import files
from tercet.training.folder.toml import to_mapping
from tercet.training.model import Model, read_all
from tercet.training.reporter import Reporter

FOLDER = "cache"


@dataclass(frozen=True, eq=False)
class EmbeddedSet:
    """The records that could be read, which of those given they are, their embeddings, and whether these were kept."""

    records: Records
    positions: np.ndarray  # int64 (N,)
    vectors: np.ndarray  # float32 (N, D)
    was_kept: bool


def embed_set(
    model: Model, records: Records, run: Path, weights: str, reporter: Reporter, *, cache: bool = True
) -> EmbeddedSet:
    """Embeddings of records: those kept of an earlier call where model and contents are the same, or new ones.

    Args:
        model: the run's.
        records: items, with labels or without.
        run: its folder.
        weights: the hash of its weights.
        reporter: hears what is done.
        cache: use and keep; otherwise embed in any case, and keep nothing.

    Raises:
        DataError: none of the items can be read.
        StorageError: the embeddings could not be kept.
    """
    path = _path(model, records, run, weights) if cache else None
    kept = _read(path, records, reporter) if path is not None else None
    if kept is not None:
        reporter.say(f"the embeddings of these {len(kept.records):,} items are at hand, in {path}")
        return kept
    readable = read_all(model.options, records, reporter, "given")
    vectors = model.encode(readable.loader, np.arange(len(readable.records)), reporter)
    unreadable = _unreadable(records, readable.records)
    if path is not None:
        _write(path, vectors, unreadable)
    return EmbeddedSet(readable.records, _positions(records, unreadable), vectors, False)


def _path(model: Model, records: Records, run: Path, weights: str) -> Path | None:
    """Where the embeddings belong, or None where nothing can name them."""
    if model.options.kind == "custom":
        return None
    try:
        contents = records.fingerprints()
    except OSError:  # a file that cannot be read: embedding says which
        return None
    digest = hashlib.blake2b(digest_size=16)
    settings = [tercet.__version__, records.kind, model.options.kind, to_mapping(model.options)]
    digest.update(json.dumps(settings, sort_keys=True).encode())
    for part in sorted((run / "encoder").rglob("*")):
        if part.is_file():
            digest.update(f"{part.relative_to(run).as_posix()} {part.stat().st_size} ".encode() + part.read_bytes())
    digest.update(contents.astype("<i8").tobytes())
    return run / FOLDER / weights / f"{digest.hexdigest()}.safetensors"


def _read(path: Path, records: Records, reporter: Reporter) -> EmbeddedSet | None:
    """What is kept there, or None where nothing is or it is damaged, which is said."""
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            vectors, metadata = file.get_tensor("vectors").numpy(), file.metadata()
        unreadable = {int(place): reason for place, reason in json.loads(metadata["unreadable"]).items()}
        if _checksum(vectors) != metadata["checksum"]:
            raise ValueError("its checksum is another")
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as cause:
        reporter.say(f"the embeddings kept in {path} are damaged ({cause}) and are made again")
        return None
    if unreadable:
        reporter.warn(f"{len(unreadable)} of {len(records)} items of the given data cannot be read and are skipped")
    return EmbeddedSet(records.without(unreadable.items()), _positions(records, unreadable), vectors, True)


def _write(path: Path, vectors: np.ndarray, unreadable: dict[int, str]) -> None:
    """Keep embeddings, and remove those of other weights."""
    metadata = {"unreadable": json.dumps(unreadable, ensure_ascii=False), "checksum": _checksum(vectors)}
    files.write_tensors(path, {"vectors": torch.from_numpy(vectors)}, metadata)
    for other in path.parent.parent.iterdir():
        if other != path.parent:
            shutil.rmtree(other, ignore_errors=True)


def _unreadable(records: Records, left: Records) -> dict[int, str]:
    """The positions of what was left out while reading, with reasons; items of one name are one file."""
    reasons = {one.name: one.reason for one in left.skipped[len(records.skipped) :]}
    return {place: reasons[name] for place, name in enumerate(records.names) if name in reasons}


def _positions(records: Records, unreadable: dict[int, str]) -> np.ndarray:
    return np.array([place for place in range(len(records)) if place not in unreadable], dtype=np.int64)


def _checksum(vectors: np.ndarray) -> str:
    return hashlib.blake2b(np.ascontiguousarray(vectors).tobytes(), digest_size=16).hexdigest()

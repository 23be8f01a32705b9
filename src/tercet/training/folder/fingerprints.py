"""fingerprints.safetensors: hashes of the items that a run was trained on, by which others find them again.

And one hash of all that it was trained on, and one of its validation data, by which a run that is resumed finds out
that its data is what it was.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from tercet.data.records import Records
from tercet.training.folder import files

FINGERPRINTS_FILE = "fingerprints.safetensors"


def write_fingerprints(folder: Path, known: np.ndarray, whole: Mapping[str, bytes] | None = None) -> None:
    """Write the hashes of `Records.fingerprints`, in order of their value: they tell nothing of the data's order.

    Args:
        folder: of the run.
        known: the hashes.
        whole: of `hash_of_all`, of training and of validation data, for a run that can be resumed.
    """
    tensors = {name: torch.tensor(list(one), dtype=torch.uint8) for name, one in (whole or {}).items()}
    files.write_tensors(folder / FINGERPRINTS_FILE, tensors | {"train": torch.from_numpy(np.sort(known))})


def hash_of_all(records: Records, known: np.ndarray) -> bytes:
    """A hash of 128 bits of the items, by their hashes, in their order, and of what is known of them: labels, pairs."""
    digest = hashlib.blake2b("\0".join(records.classes).encode(), digest_size=16)
    for told in (known, records.labels, records.sets, records.tuples, records.similar, records.scores, records.forged):
        digest.update(b"none" if told is None else f"{told.shape} ".encode() + np.ascontiguousarray(told).tobytes())
    return digest.digest()


def changed_data(folder: Path, whole: Mapping[str, bytes]) -> list[str]:
    """The names of these hashes that are not those that the run was begun with."""
    before = files.read_tensors(folder / FINGERPRINTS_FILE)
    return [name for name, one in whole.items() if name not in before or bytes(before[name].tolist()) != one]


def read_fingerprints(folder: Path) -> np.ndarray:
    """The hashes of a run, int64 (N,).

    Raises:
        RunError: the file is missing or damaged.
    """
    known: np.ndarray = files.read_tensors(folder / FINGERPRINTS_FILE)["train"].numpy()
    return known

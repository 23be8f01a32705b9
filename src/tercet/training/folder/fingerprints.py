"""fingerprints.safetensors: hashes of the items that a run was trained on, by which others find them again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from tercet.training.folder import files

FINGERPRINTS_FILE = "fingerprints.safetensors"


def write_fingerprints(folder: Path, known: np.ndarray) -> None:
    """Write the hashes of `Records.fingerprints`, in order of their value: they tell nothing of the data's order."""
    files.write_tensors(folder / FINGERPRINTS_FILE, {"train": torch.from_numpy(np.sort(known))})


def read_fingerprints(folder: Path) -> np.ndarray:
    """The hashes of a run, int64 (N,).

    Raises:
        RunError: the file is missing or damaged.
    """
    known: np.ndarray = files.read_tensors(folder / FINGERPRINTS_FILE)["train"].numpy()
    return known

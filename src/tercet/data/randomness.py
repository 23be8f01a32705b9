"""Random numbers keyed by what they are for, so that order, chunks and restarts do not change them."""

from __future__ import annotations

import contextlib
import random
import threading
from collections.abc import Iterator

import numpy as np

from tercet.errors import InputError

_PURPOSES = (
    "deal", "batches", "order", "tuples", "augment", "split", "vitals", "dropout", "mine", "tune", "dataset", "lmnn",
    "colour", "corrupt", "curriculum", "cluster", "geometry", "benchmark", "shown", "batch-norm",
)  # fmt: skip


def keyed(seed: int, purpose: str, step: int = 0, item: int = 0) -> np.random.Generator:
    """A generator that depends on its arguments alone.

    Philox with the key (seed, purpose) and the counter (0, 0, step, item).
    The lower half of the counter is what the generator itself advances, so no two streams overlap.
    """
    if not 0 <= seed < 2**64:
        raise InputError(f"seed is {seed}; allowed is a whole number from 0 to 2**64 - 1.")
    key = np.array([seed, _PURPOSES.index(purpose)], dtype=np.uint64)
    counter = np.array([0, 0, step, item], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=counter))


_DRAWING = threading.RLock()
_depth = 0


@contextlib.contextmanager
def keyed_draws(seed: int, step: int, item: int) -> Iterator[None]:
    """Within the block, code of a user's own draws by (seed, step, item) from torch, NumPy and Python on the CPU.

    Of nested blocks the outermost decides. One thread at a time: the generators are the process's own. They are
    afterwards as before.
    """
    global _depth
    import torch

    with _DRAWING:
        if _depth:
            yield
            return
        number = int(keyed(seed, "dataset", step, item).integers(2**63))
        of_numpy, of_python = np.random.get_state(), random.getstate()  # noqa: NPY002  those that others draw from
        _depth += 1
        try:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(number)
                np.random.seed(number % 2**32)  # noqa: NPY002
                random.seed(number)
                yield
        finally:
            _depth -= 1
            np.random.set_state(of_numpy)  # noqa: NPY002
            random.setstate(of_python)

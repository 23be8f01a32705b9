"""Random numbers keyed by what they are for, so that order, chunks and restarts do not change them."""

from __future__ import annotations

import numpy as np

from tercet.errors import InputError

_PURPOSES = ("deal", "batches", "order", "tuples", "augment", "split", "vitals", "dropout", "mine")


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

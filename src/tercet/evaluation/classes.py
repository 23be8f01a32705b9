"""Labels as users bring them, turned into codes 0, 1, 2, … without ever passing through a float."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from tercet.errors import InputError


def class_codes(labels: Any, n_rows: int, name: str = "labels") -> np.ndarray:
    """One int64 code per row, of shape (N,), numbered in the order in which the classes first appear.

    That order makes every seeded sample independent of what the classes are called.

    Raises:
        InputError: labels that are not one per row, or are neither whole numbers nor strings. Floats are
            refused because float32 merges ids from 2^24 up.
    """
    given = labels.detach().cpu().numpy() if isinstance(labels, torch.Tensor) else np.asarray(labels)
    if given.shape != (n_rows,):
        raise InputError(f"{name} must be one per embedding, {n_rows} in all; given shape {given.shape}.")
    if given.dtype.kind not in "iubUS" and n_rows:
        raise InputError(
            f"{name} must be whole numbers or strings; given {given.dtype}. "
            "Convert ids to an integer type: floats merge large ids."
        )
    _, first, codes = np.unique(given, return_index=True, return_inverse=True)
    order_of_appearance = np.empty(len(first), dtype=np.int64)
    order_of_appearance[np.argsort(first)] = np.arange(len(first))
    return order_of_appearance[codes.reshape(-1)]

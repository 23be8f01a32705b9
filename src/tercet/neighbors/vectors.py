"""Rows of vectors as users bring them: a NumPy array, a tensor or nested lists, checked once at the edge."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from tercet.errors import InputError

LARGEST = 1e15  # squares of larger values, summed over a row, leave the range of float32


def as_vectors(given: Any, name: str) -> torch.Tensor:
    """The rows as a detached float32 or float64 tensor of shape (N, D), on the device they are on.

    float64 stays float64; half precision and integers become float32. Cost: one pass over the values.

    Raises:
        InputError: the shape is not (N, D) with D >= 1, or a value is not finite or is beyond 1e15.
    """
    try:
        rows = given.detach() if isinstance(given, torch.Tensor) else torch.as_tensor(np.asarray(given))
    except (TypeError, ValueError, RuntimeError) as cause:
        raise InputError(f"{name} cannot be read as rows of numbers: {cause}") from None
    if rows.ndim != 2 or rows.shape[1] == 0:
        raise InputError(f"{name} must have shape (rows, dimensions); given {tuple(rows.shape)}.")
    if rows.is_complex() or rows.dtype == torch.bool:
        raise InputError(f"{name} must be real numbers; given {rows.dtype}.")
    rows = rows if rows.dtype in (torch.float32, torch.float64) else rows.float()
    bad_rows = torch.nonzero(~(rows.abs().amax(dim=1) < LARGEST)).flatten() if len(rows) else rows[:0, 0]
    if len(bad_rows):
        raise InputError(
            f"{name} must be finite and below 1e15: {len(bad_rows)} of {len(rows)} rows are not, "
            f"the first is row {int(bad_rows[0])}."
        )
    return rows


def check_same_space(queries: torch.Tensor, references: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Both of one dtype (the wider) and on the device of the queries, or an InputError if D differs."""
    if queries.shape[1] != references.shape[1]:
        raise InputError(
            f"queries have {queries.shape[1]} dimensions and references {references.shape[1]}; "
            "both must come from the same model."
        )
    dtype = torch.promote_types(queries.dtype, references.dtype)
    return queries.to(dtype), references.to(queries.device, dtype)

"""Checks and casts of the tensors that a loss is given."""

from __future__ import annotations

import torch
from torch import Tensor

from tercet.errors import InputError


def check_rows(name: str, given: object) -> Tensor:
    """The tensor, if it is a real floating tensor of shape (rows, D) with D at least 1.

    Raises:
        InputError: it is not.
    """
    if not isinstance(given, Tensor):
        raise InputError(f"{name} is a {type(given).__name__}; allowed is a torch tensor of shape (rows, D).")
    if given.ndim != 2 or given.shape[1] == 0:
        raise InputError(f"{name} has shape {tuple(given.shape)}; allowed is (rows, D) with D at least 1.")
    if not given.is_floating_point():
        raise InputError(f"{name} has dtype {given.dtype}; allowed is a floating dtype: call {name}.float().")
    return given


def check_alike(name: str, given: Tensor, first_name: str, first: Tensor, rows: bool) -> None:
    """Raise InputError unless both agree in device and D, and with `rows` in their number of rows."""
    if given.device != first.device:
        raise InputError(f"{name} is on {given.device} and {first_name} on {first.device}; move them to one device.")
    if given.shape[1] != first.shape[1] or (rows and len(given) != len(first)):
        what = "shape" if rows else "D"
        raise InputError(
            f"{name} has shape {tuple(given.shape)} and {first_name} {tuple(first.shape)}; "
            f"they must have the same {what}."
        )


def working_dtype(*tensors: Tensor) -> torch.dtype:
    """The dtype to compute in: float64 if any is, else float32, half precision included."""
    dtype = torch.float32
    for tensor in tensors:
        dtype = torch.promote_types(dtype, tensor.dtype)
    return dtype

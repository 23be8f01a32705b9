"""Checks and casts of what a loss is given."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
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
    if given.layout != torch.strided:
        raise InputError(f"{name} has layout {given.layout}; allowed is a dense tensor: call {name}.to_dense().")
    if given.is_meta:
        raise InputError(f"{name} is on the device 'meta', which holds no numbers; move the model to a real device.")
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


def check_number(name: str, given: Any, above_zero: bool = False) -> None:
    """Raise InputError unless it is a finite number of at least 0, or above 0."""
    number = isinstance(given, (int, float)) and not isinstance(given, bool) and math.isfinite(given)
    if not number or given < 0 or (above_zero and given == 0):
        bound = "above 0" if above_zero else "of at least 0"
        raise InputError(f"{name} is {given!r}; allowed is a finite number {bound}.")


def check_weights(given: object, length: int, like: Tensor) -> Tensor:
    """The weights of anchors as a tensor of shape (length,), of the dtype and device of `like`.

    Raises:
        InputError: another shape, something else than finite numbers of at least 0, or a tensor with a graph.
    """
    if isinstance(given, Tensor) and given.requires_grad:
        raise InputError("weights require a gradient, and the loss forms none for them; call weights.detach().")
    try:  # a list keeps its digits as float64; torch would make float32 of it
        weights = given if isinstance(given, Tensor) else torch.from_numpy(np.asarray(given, dtype=np.float64))
    except (TypeError, ValueError):
        raise InputError(f"weights is {given!r}; allowed are {length} numbers, one for each anchor.") from None
    if weights.shape != (length,):
        raise InputError(f"weights has shape {tuple(weights.shape)}; allowed is ({length},), one for each anchor.")
    if weights.is_complex():
        raise InputError(f"weights has dtype {weights.dtype}; allowed are numbers of at least 0.")
    weights = weights.to(like)
    wrong = weights[~((weights >= 0) & weights.isfinite())]
    if len(wrong):
        raise InputError(f"weights holds {float(wrong[0]):g}; allowed are finite numbers of at least 0.")
    return weights


def check_flag(name: str, given: Any) -> None:
    """Raise InputError unless it is True or False."""
    if not isinstance(given, bool):
        raise InputError(f"{name} is {given!r}; allowed are True and False.")


def faults_of(*checks: Callable[[], object]) -> list[str]:
    """The messages of those checks that raise InputError, so that all can be named together."""
    found: list[str] = []
    for check in checks:
        attempt(check, None, found)
    return found


def attempt(make: Callable[[], Any], otherwise: Any, faults: list[str]) -> Any:
    """What `make` gives; where it raises InputError, its message joins the faults, and `otherwise` stands in."""
    try:
        return make()
    except InputError as fault:
        faults.append(str(fault))
        return otherwise


def working_dtype(*tensors: Tensor) -> torch.dtype:
    """The dtype to compute in: float64 if any is, else float32, half precision included."""
    dtype = torch.float32
    for tensor in tensors:
        dtype = torch.promote_types(dtype, tensor.dtype)
    return dtype


def unit_rows(rows: Tensor) -> Tensor:
    """Rows of shape (N, D) of length one; a zero row stays zero, with gradient zero. Differentiable by autograd.

    They are scaled by their largest entry first: the square of 1e-30 would vanish in float32, that of 1e30 overflow.
    """
    largest = rows.detach().abs().amax(1, keepdim=True)
    alive = largest != 0  # so that what is not a number stays so
    scaled = rows / torch.where(alive, largest, 1)
    length = torch.where(alive, scaled.square().sum(1, keepdim=True), 1).sqrt()
    return torch.where(alive, scaled / length, 0)


def as_plain(numbers: Any) -> Any:
    """Tensors and arrays as numbers, or lists of numbers; anything else as it is."""
    return numbers.tolist() if isinstance(numbers, (Tensor, np.ndarray, np.generic)) else numbers

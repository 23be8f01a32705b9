"""Hands a gradient that was formed in the forward pass to autograd."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tercet.errors import TrainingError


class _Scaled(torch.autograd.Function):
    """upstream * gradient, which cannot be differentiated once more.

    It is handed the tensor that the gradient is for, on which it depends in truth: without it, a gradient
    penalty would not find a graph, and be left out in silence.
    """

    @staticmethod
    def forward(ctx: Any, upstream: Tensor, gradient: Tensor, tensor: Tensor) -> Tensor:
        return upstream * gradient

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> Any:
        raise TrainingError(
            "this loss forms its gradient in the forward pass and cannot be differentiated twice; leave "
            "it out of what is differentiated with create_graph=True, or use triplet_margin_loss on given "
            "triplets."
        )


class _Formed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, gradients: list[Tensor], *tensors: Tensor) -> Tensor:
        ctx.save_for_backward(*gradients, *tensors)
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> Any:
        half = len(ctx.saved_tensors) // 2
        pairs = zip(ctx.saved_tensors[:half], ctx.saved_tensors[half:], strict=True)
        return None, None, *(_Scaled.apply(upstream[0], gradient, tensor) for gradient, tensor in pairs)


def with_gradient(value: Tensor, tensors: list[Tensor], gradients: list[Tensor]) -> Tensor:
    """The value of shape (), whose gradient for each tensor is the one given."""
    found: Tensor = _Formed.apply(value, gradients, *tensors)
    return found

"""Hands a gradient that was formed in the forward pass to autograd."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from tercet.errors import TrainingError

Computed = tuple[Tensor, Sequence[Tensor]]  # a value of shape (), and its gradient for each tensor, or none at all
_TWICE = (
    "this loss forms its gradient in the forward pass and cannot be differentiated twice; leave "
    "it out of what is differentiated with create_graph=True, or use triplet_margin_loss on given "
    "triplets."
)
_BATCHED = (
    "this loss compares the rows of one batch and cannot be mapped over several by torch.func.vmap; call it once "
    "for each batch, in a loop."
)
_FORWARD_MODE = (
    "this loss forms its gradient for the backward pass and has no forward-mode derivative (torch.func.jvp, "
    "jacfwd); use torch.func.grad or backward()."
)


class _Scaled(torch.autograd.Function):
    """upstream * gradient, which cannot be differentiated once more.

    It is handed the tensor that the gradient is for, on which it depends in truth: without it, a gradient
    penalty would not find a graph, and be left out in silence.
    """

    generate_vmap_rule = True  # torch.func.jacrev maps the backward pass

    @staticmethod
    def forward(upstream: Tensor, gradient: Tensor, tensor: Tensor) -> Tensor:
        return upstream * gradient

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        """Nothing is kept, since nothing can be asked for."""

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> Any:
        raise TrainingError(_TWICE)


class _Formed(torch.autograd.Function):
    """The gradients are outputs, because only inputs and outputs may be kept for a backward pass of torch.func."""

    @staticmethod
    def forward(compute: Callable[..., Computed], *tensors: Tensor) -> tuple[Tensor, ...]:
        value, gradients = compute(*tensors)
        return value, *gradients

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.set_materialize_grads(False)  # else a matrix of zeros would be made for each gradient that is an output
        ctx.mark_non_differentiable(*output[1:])
        ctx.save_for_backward(*output[1:], *inputs[1:])

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> Any:
        half = len(ctx.saved_tensors) // 2
        if upstream[0] is None:
            return None, *(None for _ in range(half))
        pairs = zip(ctx.saved_tensors[:half], ctx.saved_tensors[half:], strict=True)
        return None, *(_Scaled.apply(upstream[0], gradient, tensor) for gradient, tensor in pairs)

    @staticmethod
    def vmap(info: Any, in_dims: Any, *inputs: Any) -> Any:
        raise TrainingError(_BATCHED)

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        raise TrainingError(_FORWARD_MODE)


def with_gradient(compute: Callable[..., Computed], tensors: Sequence[Tensor]) -> Tensor:
    """The value of shape () that `compute(*tensors)` gives, differentiable by the gradients that it gives too.

    `compute` runs without a graph and may give an empty list of gradients where no tensor requires one.
    """
    value: Tensor = _Formed.apply(compute, *tensors)[0]
    return value

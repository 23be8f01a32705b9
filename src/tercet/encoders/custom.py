"""Encoders of the user's own: a module as it is, or one made by a factory that a run's configuration names.

A configuration file is data, and reading one must not call whatever it names. So a factory is called only if
it is an nn.Module class, or a function annotated to return an nn.Module: a promise that its author made in
code. (Importing the factory's module runs that module, as any import does; only modules on the Python path
can be named.)
"""

from __future__ import annotations

import importlib
import inspect
import typing
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from tercet.encoders.base import Encoder
from tercet.encoders.options import CustomOptions
from tercet.errors import InputError, suggest


class CustomEncoder(Encoder):
    """Any module from a batch to (B, D), with its output checked."""

    def __init__(self, network: nn.Module, normalize: bool = False) -> None:
        super().__init__(normalize)
        self.network = network

    def embed(self, batch: Any) -> torch.Tensor:
        """What the module gives, of shape (B, D)."""
        rows = self.network(batch)
        if not isinstance(rows, torch.Tensor) or rows.ndim != 2:
            given = f"shape {tuple(rows.shape)}" if isinstance(rows, torch.Tensor) else f"a {type(rows).__name__}"
            raise InputError(f"The encoder {type(self.network).__name__} gives {given}; expected is a tensor (B, D).")
        return rows


def build_custom(options: CustomOptions) -> CustomEncoder:
    """The module that the factory makes with the arguments.

    Raises:
        InputError: the factory is not there, not allowed, or does not take the arguments.
    """
    factory = load_factory(options.factory)
    try:
        inspect.signature(factory).bind(**options.arguments)
    except TypeError as cause:
        raise InputError(
            f"{options.factory} does not take the arguments {options.arguments}: {cause}. "
            f"It is {options.factory.partition(':')[2]}{inspect.signature(factory)}."
        ) from None
    network = factory(**options.arguments)
    if not isinstance(network, nn.Module):
        raise InputError(f"{options.factory} gave a {type(network).__name__}, not an nn.Module.")
    return CustomEncoder(network, options.normalize)


def load_factory(named: str) -> Callable[..., nn.Module]:
    """The factory of package.module:name, if it may be called.

    Raises:
        InputError: it is not there, or is neither an nn.Module class nor a function annotated to return one.
    """
    path, _, name = named.partition(":")
    try:
        module = importlib.import_module(path)
    except ImportError as cause:
        raise InputError(f"factory {named!r}: {path} cannot be imported ({cause}). Is it on the Python path?") from None
    if not hasattr(module, name):
        raise InputError(f"factory {named!r}: {path} has no {name!r}.{suggest(name, vars(module))}")
    factory = getattr(module, name)
    if not _makes_modules(factory):
        raise InputError(
            f"factory {named!r} is not allowed; it must be an nn.Module class, or a function annotated to "
            f"return one, such as `def {name}(...) -> nn.Module`."
        )
    return factory


def _makes_modules(factory: Any) -> bool:
    if inspect.isclass(factory):
        return issubclass(factory, nn.Module)
    if not inspect.isfunction(factory):
        return False
    try:
        made = typing.get_type_hints(factory).get("return")
    except NameError:
        return False
    return inspect.isclass(made) and issubclass(made, nn.Module)

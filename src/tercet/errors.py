"""Errors: one root, and each error is also the class that the ecosystem catches.

A message says what was given, what is allowed, and what to do. The command line prints it and exits with
`exit_code`; nothing else about an error is shown to the user.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterable
from types import ModuleType


class TercetError(Exception):
    """Root of every error that Tercet raises on purpose."""

    exit_code = 2
    quiet = False
    """Whether another process of the same training says it, so that the command line need not."""


class InputError(TercetError, ValueError):
    """An argument that is not allowed."""


class DataError(TercetError, ValueError):
    """Data that cannot be used; the message names the file and the row or line."""


class ConfigError(TercetError, ValueError):
    """A configuration that cannot be read or makes no sense."""


class RunError(TercetError, OSError):
    """A run folder that is missing, incomplete, in the way, or from a newer version."""


class StorageError(TercetError, OSError):
    """A file that could not be written: a full disk, a missing permission."""


class TrainingError(TercetError, RuntimeError):
    """Training that cannot go on, such as a loss that is not finite."""


class RankError(TrainingError):
    """Another process of the same training has failed, or cannot be reached."""


class MissingDependency(TercetError, ImportError):
    """An optional package that is not installed; the message holds the command that installs it."""


class TercetWarning(UserWarning):
    """Something that works but is probably not what the user wants."""


def suggest(word: object, allowed: Iterable[str]) -> str:
    """` Did you mean 'semihard'?` for the likeliest of the allowed words, or the empty string."""
    near = difflib.get_close_matches(str(word).lower(), list(allowed), n=1, cutoff=0.6)
    return f" Did you mean {near[0]!r}?" if near else ""


def check_choice(name: str, given: object, allowed: Iterable[str], error: type[TercetError] = InputError) -> None:
    """Raise `error` unless `given` is one of the allowed words."""
    words = list(allowed)
    if given not in words:
        listed = ", ".join(repr(word) for word in words)
        raise error(f"{name} is {given!r}; allowed are {listed}.{suggest(given, words)}")


def require(module: str, extra: str) -> ModuleType:
    """Import an optional package, or raise with the exact command that installs it.

    Args:
        module: the module to import, such as "faiss".
        extra: the extra of Tercet that brings it, such as "faiss".

    Raises:
        MissingDependency: the package is not installed, or is installed but broken.
    """
    try:
        return importlib.import_module(module)
    except (ImportError, RuntimeError, OSError) as cause:
        raise MissingDependency(
            f"{module} is needed here and could not be imported ({cause}). "
            f"Install it with: pip install 'tercet[{extra}]'"
        ) from None

"""What a threshold is calibrated for, as a word: eer, f1, or far=0.001. Imports nothing heavy."""

from __future__ import annotations

from typing import Any

from tercet.errors import InputError, suggest

TARGETS = ("eer", "f1")
ALLOWED = "'eer', 'f1', or 'far=' with a false accept rate between 0 and 1, such as far=0.001"


def parse_target(given: Any) -> str | float:
    """The word, or the false accept rate as a number, which may also be given as one.

    Raises:
        InputError: anything else.
    """
    if given in TARGETS:
        return str(given)
    rate = given
    if isinstance(given, str) and given.startswith("far="):
        try:
            rate = float(given.removeprefix("far="))
        except ValueError:
            rate = None
    if isinstance(rate, float) and 0 < rate < 1:
        return rate
    raise InputError(f"target is {given!r}; it must be {ALLOWED}.{suggest(given, TARGETS)}")


def is_target(given: Any) -> bool:
    """Whether `parse_target` takes it."""
    try:
        parse_target(given)
    except InputError:
        return False
    return True


def target_word(target: str | float) -> str:
    """The target as it is written on the command line."""
    return target if isinstance(target, str) else f"far={target:g}"

"""Frozen dataclasses to and from the nested dictionaries that TOML holds.

TOML has no null: a field that is None is left out when written, and only such a field may be absent when read.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

from tercet.errors import ConfigError, suggest

T = TypeVar("T")


def to_mapping(config: Any) -> dict[str, Any]:
    """A dataclass as nested dictionaries and lists, without the fields that are None."""
    mapping: dict[str, Any] = {}
    for entry in dataclasses.fields(config):
        value = getattr(config, entry.name)
        if dataclasses.is_dataclass(value):
            named = {"kind": value.kind} if _is_one_of_several(value) else {}  # type: ignore[union-attr]
            mapping[entry.name] = named | to_mapping(value)
        elif isinstance(value, tuple):
            mapping[entry.name] = list(value)
        elif value is not None:
            mapping[entry.name] = value
    return mapping


def from_mapping(
    cls: type[T],
    mapping: Mapping[str, Any],
    where: str,
    *,
    partial: bool,
    unions: Mapping[str, type] | None = None,
) -> T:
    """Make a dataclass of nested dictionaries.

    Args:
        cls: the dataclass.
        mapping: what was read.
        where: the file, and the section in it, for messages.
        partial: what is absent takes its default; otherwise only fields that may be None may be absent.
        unions: which class to make of a field that may hold several.

    Raises:
        ConfigError: an unknown key, a missing one, or a value of the wrong type.
    """
    hints = typing.get_type_hints(cls)
    entries = {entry.name: entry for entry in dataclasses.fields(cls)}  # type: ignore[arg-type]
    for key in mapping:
        if key not in entries:
            known = ", ".join(entries)
            raise ConfigError(f"{where}: unknown key {key!r}.{suggest(key, entries)} Known here are {known}.")
    values: dict[str, Any] = {}
    for name, entry in entries.items():
        hint = (unions or {}).get(name, hints[name])
        if name in mapping:
            values[name] = typed_value(hint, mapping[name], f"{where}: {name}", partial)
        elif dataclasses.is_dataclass(hint) and partial:
            values[name] = from_mapping(typing.cast(type, hint), {}, f"{where}: {name}", partial=True)
        elif _may_be_none(hint):
            values[name] = None
        elif not partial or _has_no_default(entry):
            raise ConfigError(f"{where}: the key {name!r} is missing.")
    return cls(**{name: value for name, value in values.items() if entries[name].init})


def typed_value(hint: Any, given: Any, where: str, partial: bool = False) -> Any:
    """`given` as the annotated type, or ConfigError."""
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        if not isinstance(given, Mapping):
            raise ConfigError(f"{where} is {given!r}; it must be a section of keys and values.")
        return from_mapping(hint, given, where, partial=partial)
    several = _by_kind(hint)
    if several and isinstance(given, Mapping):
        return _of_several(several, given, where, partial)
    for allowed in _alternatives(hint):
        origin, arguments = typing.get_origin(allowed), typing.get_args(allowed)
        if origin is typing.Literal and given in arguments:
            return given
        if origin is tuple and isinstance(given, (list, tuple)) and _fits_tuple(arguments, given):
            return tuple(given)
        if origin is dict and isinstance(given, Mapping):
            return dict(given)
        if allowed is float and isinstance(given, (int, float)) and not isinstance(given, bool):
            return float(given)
        if allowed in (str, int, bool) and type(given) is allowed:
            return given
    words = [word for allowed in _alternatives(hint) for word in typing.get_args(allowed) if isinstance(word, str)]
    raise ConfigError(f"{where} is {given!r}; it must be {_in_words(hint)}.{suggest(given, words)}")


def _is_one_of_several(value: Any) -> bool:
    """Whether the class of a value is named beside it by its `kind`, which is no field."""
    return hasattr(value, "kind") and "kind" not in {entry.name for entry in dataclasses.fields(value)}


def _by_kind(hint: Any) -> dict[str, type]:
    """The dataclasses that an annotation allows, by their kind; none of an annotation of one."""
    classes: list[Any] = [one for one in _alternatives(hint) if dataclasses.is_dataclass(one)]
    return {one.kind: one for one in classes} if len(classes) > 1 else {}


def _of_several(several: Mapping[str, type], given: Mapping[str, Any], where: str, partial: bool) -> Any:
    """The dataclass that a section names by its kind."""
    kind: Any = given.get("kind")
    if kind not in several:
        raise ConfigError(
            f"{where}: kind is {kind!r}; allowed are {', '.join(map(repr, several))}.{suggest(kind, several)}"
        )
    plain = {name: value for name, value in given.items() if name != "kind"}
    return from_mapping(several[kind], plain, where, partial=partial)


def _alternatives(hint: Any) -> list[Any]:
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return [argument for argument in typing.get_args(hint) if argument is not type(None)]
    return [hint]


def _fits_tuple(arguments: tuple[Any, ...], given: Any) -> bool:
    if len(arguments) == 2 and arguments[1] is Ellipsis:
        return all(type(value) is arguments[0] for value in given)
    return len(arguments) == len(given) and all(
        type(value) is kind for value, kind in zip(given, arguments, strict=True)
    )


def _may_be_none(hint: Any) -> bool:
    return type(None) in typing.get_args(hint)


def _has_no_default(entry: dataclasses.Field[Any]) -> bool:
    return entry.default is dataclasses.MISSING and entry.default_factory is dataclasses.MISSING


def _in_words(hint: Any) -> str:
    words = []
    for allowed in _alternatives(hint):
        origin, arguments = typing.get_origin(allowed), typing.get_args(allowed)
        if origin is typing.Literal:
            words += [repr(argument) for argument in arguments]
        elif origin is tuple:
            words.append("a list of " + ", ".join("..." if kind is Ellipsis else kind.__name__ for kind in arguments))
        else:
            words.append({"str": "a text", "int": "a whole number", "float": "a number", "bool": "true or false"}.get(
                getattr(allowed, "__name__", ""), str(allowed)))  # fmt: skip
    return " or ".join(words)

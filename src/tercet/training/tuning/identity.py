"""What a tuning is made from, as settings.toml holds it: it can be gone on with only as the same."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tercet.data.records import Records
from tercet.errors import ConfigError, DataError, RunError
from tercet.training.config import ENCODERS, read_toml
from tercet.training.folder.fingerprints import hash_of_all
from tercet.training.folder.toml import from_mapping, to_mapping
from tercet.training.objective.loss import described
from tercet.training.request import Request
from tercet.training.tuning.options import TuningOptions
from tercet.training.tuning.space import encoders_of

SETTINGS_FILE = "settings.toml"


def settings_of(request: Request, options: TuningOptions, train: Records, held: Records) -> dict[str, Any]:
    """What a tuning is made from, for settings.toml: it can be gone on with only as the same."""
    return {**request_settings(request, train, held), "tuning": to_mapping(options)}


def request_settings(request: Request, train: Records, held: Records) -> dict[str, Any]:
    """A request as plain values, with a hash of what is trained on and of what is held out."""
    written: dict[str, Any] = {"source": train.source, "contents": _contents(train, held)}
    if request.custom_loss is not None:
        written["custom_loss"] = described(request.custom_loss)
    for group in _groups():
        written[group] = to_mapping(getattr(request, group))
    written["encoders"] = [{"kind": one.kind, **to_mapping(one)} for one in encoders_of(request, train)]
    return written


def read_settings(folder: Path) -> tuple[Request, TuningOptions] | None:
    """The request and the options that a tuning was started with; None where there is none yet."""
    path = folder / SETTINGS_FILE
    if not path.exists():
        return None
    content = read_toml(path)
    return request_of_settings(content, path), TuningOptions.of(content.get("tuning", {}))


def request_of_settings(content: Mapping[str, Any], path: Path) -> Request:
    """The request that `request_settings` was written of; `path` is where it was read."""
    groups: dict[str, Any] = {
        group: from_mapping(kind, content.get(group, {}), f"{path}: {group}", partial=True)
        for group, kind in _groups().items()
    }
    encoders: dict[str, Any] = {}
    for written in content.get("encoders", []):
        encoder = dict(written)
        kind = encoder.pop("kind", None)
        if kind in ENCODERS:
            encoders[kind] = from_mapping(ENCODERS[kind], encoder, f"{path}: encoders", partial=True)
    return Request(source=content.get("source"), encoders=encoders, recorded_loss=content.get("custom_loss"), **groups)


def check_free(folder: Path, noun: str = "tuning") -> None:
    """Raise RunError if the folder holds anything."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise RunError(
            f"{folder} exists already. If it is a {noun}, go on with it by adding --resume (from Python: resume=True); "
            "otherwise choose another name."
        )


def check_same(settings: Mapping[str, Any], before: Mapping[str, Any], folder: Path, noun: str = "tuning") -> None:
    """Raise ConfigError unless what is in the folder was started with these settings and on this data."""
    old, new = _flat(before), _flat(settings)
    if old.get("contents") != new.get("contents"):
        raise ConfigError(
            f"{folder} cannot be gone on with: its data, or what is held out of it, has changed since. Bring the data "
            f"back, or start a new {noun}."
        )
    differing = [
        f"{name} was {old.get(name, 'left open')!r} and is now {new.get(name, 'left open')!r}"
        for name in sorted(old.keys() | new.keys())
        if name != "source" and old.get(name) != new.get(name)
    ]
    if differing:
        raise ConfigError(
            f"{folder} can be gone on with by its own settings only: {'; '.join(differing)}. Leave these out, or start "
            f"a new {noun}."
        )


def _groups() -> dict[str, type]:
    """The groups of options in a request, by name."""
    empty = Request(None)
    values = {entry.name: getattr(empty, entry.name) for entry in dataclasses.fields(Request)}
    return {name: type(value) for name, value in values.items() if dataclasses.is_dataclass(value)}


def _contents(train: Records, held: Records) -> str:
    """A hash of what is trained on and of what is held out: items, and what is known of them."""
    try:
        return b"".join(hash_of_all(records, records.fingerprints()) for records in (train, held)).hex()
    except OSError as cause:
        raise DataError(f"{cause.filename} cannot be read: {cause.strerror}. Remove it, or mend it.") from None


def _flat(mapping: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in mapping.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {prefix + name: value}
    return flat

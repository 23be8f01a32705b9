"""Atomic files: a reader sees the old contents or the new ones, never half of either.

Everything a run writes goes through here. A file is written beside its target under a temporary name, flushed to the
disk, and renamed over the target, which POSIX and Windows both do in one step. When the disk is full the temporary
file is removed, the target is as it was, and StorageError says so.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from tercet.errors import RunError, StorageError

_BRING_BACK = "Bring the file back from a copy of the run, or train anew."


def write_with(path: Path, write: Callable[[Path], None]) -> None:
    """Replace the file at `path` by what `write` puts into the temporary path it is called with, atomically."""
    temporary = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(temporary)
        os.chmod(temporary, 0o666 & ~_umask())  # safetensors makes files that their owner alone can read
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except (OSError, SafetensorError) as cause:  # safetensors reports a full disk in a class of its own
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise _storage_error(path, cause) from cause


def write_bytes(path: Path, content: bytes) -> None:
    """Replace the file at `path` by `content`, atomically."""

    def write(temporary: Path) -> None:
        temporary.write_bytes(content)

    write_with(path, write)


def write_text(path: Path, content: str) -> None:
    """Replace the file at `path` by `content` in UTF-8, atomically."""
    write_bytes(path, content.encode())


def write_json(path: Path, content: Any) -> None:
    """Replace the file at `path` by `content` as JSON with sorted keys, atomically; NaN is refused."""
    write_text(path, json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n")


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Replace the file at `path` by named tensors in the safetensors format, atomically.

    Tensors that share memory, such as tied weights, are each written in full: the format knows no ties.
    """
    named: dict[str, Tensor] = {}
    memories: set[int] = set()
    for name, tensor in sorted(tensors.items()):
        own = tensor.detach().contiguous().cpu()
        memory = own.untyped_storage().data_ptr()
        named[name] = own.clone() if memory in memories else own
        memories.add(memory)

    def write(temporary: Path) -> None:
        save_file(named, temporary, metadata=metadata)

    write_with(path, write)


def read_json(path: Path) -> Any:
    """What `write_json` wrote.

    Raises:
        RunError: there is no such file, or it is damaged.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RunError(f"{path} is missing, which belongs to the run. {_BRING_BACK}") from None
    except (OSError, ValueError) as cause:
        raise RunError(f"{path} cannot be read: {cause}. {_BRING_BACK}") from None


def read_tensors(path: Path) -> dict[str, Tensor]:
    """What `write_tensors` wrote.

    Raises:
        RunError: there is no such file, or it is damaged.
    """
    try:
        return load_file(path)
    except FileNotFoundError:
        raise RunError(f"{path} is missing, which belongs to the run. {_BRING_BACK}") from None
    except (OSError, SafetensorError) as cause:
        raise RunError(f"{path} cannot be read: {cause}. {_BRING_BACK}") from None


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A folder that appears at `path` whole or not at all: fill the one given, it is renamed at the end."""
    temporary = path.with_name(f".{path.name}.partial")
    shutil.rmtree(temporary, ignore_errors=True)  # left behind by a process that was killed
    try:
        temporary.mkdir(parents=True)
        yield temporary
        shutil.rmtree(path, ignore_errors=True)
        os.replace(temporary, path)
    except OSError as cause:
        shutil.rmtree(temporary, ignore_errors=True)
        raise _storage_error(path, cause) from cause


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _storage_error(path: Path, cause: Exception) -> StorageError:
    if isinstance(cause, StorageError):
        return cause
    reason = getattr(cause, "strerror", None) or str(cause)
    return StorageError(
        f"could not write {path}: {reason}. What was there before is unharmed; free some space or choose another place."
    )

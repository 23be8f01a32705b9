"""What is kept of large sources between runs: a folder for each source, bound to its files as they are now."""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from tercet.errors import StorageError

FORMAT = 2
"""Of all that is kept; another one as soon as the same files would give something else."""


def cache_folder() -> Path:
    """Where it is kept: TERCET_CACHE, or the user's own folder of caches."""
    given = os.environ.get("TERCET_CACHE")
    if given:
        return Path(given)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tercet"


def state_of(about: os.stat_result) -> tuple[int, int]:
    """What tells a file from what it was before: its size, and when it was changed."""
    return about.st_size, about.st_mtime_ns


def folder_of(files: Sequence[Path], purpose: str) -> Path:
    """The folder of what was made of these files for a purpose; another one as soon as a file has changed.

    A file is known by its path, its size and when it was changed; reading 100 GB to hash it would take as long as the
    work that is saved.
    """
    digest = hashlib.blake2b(f"{FORMAT} {purpose}".encode(), digest_size=16)
    for path in files:
        size, changed = state_of(path.stat())
        digest.update(f"\n{path.resolve()} {size} {changed}".encode())
    return cache_folder() / digest.hexdigest()


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A folder that appears at `path` whole or not at all; one that another process has made meanwhile is left.

    Raises:
        StorageError: it cannot be written.
    """
    # not by the number of the process: in a container, one that was killed and left its folder had the same
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.partial")
    try:
        temporary.mkdir(parents=True)
        yield temporary
        try:
            os.replace(temporary, path)
        except OSError:
            if not path.exists():
                raise
    except OSError as cause:
        raise StorageError(
            f"could not write {path}: {cause.strerror or cause}. Free some space, or name another folder in the "
            "environment variable TERCET_CACHE."
        ) from cause
    finally:
        shutil.rmtree(temporary, ignore_errors=True)

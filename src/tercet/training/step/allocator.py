"""What a step frees stays with the process for the next one, instead of going back to the system."""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
import threading
from collections.abc import Iterator
from typing import Any

import torch

from tercet.training.step.chunk import free_bytes

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # mallopt's names for them, in glibc's malloc.h
_LARGEST_KEPT = 2**30
_SHARE_KEPT = 16  # so many blocks of the largest kept fit into the free memory, of which glibc may strand seven
_USUAL = 32 * 2**20  # what glibc's own threshold, which follows the blocks that are freed, comes to at most
_lock = threading.Lock()
_open_blocks = 0  # in this process, whose trainings may nest, or run in several threads


@contextlib.contextmanager
def freed_memory_kept() -> Iterator[None]:
    """Within the block freed tensors of up to 1 GiB leave their memory to the next; afterwards it is given back.

    Left to itself, glibc takes each block above 32 MB from the system and returns it when it is freed, and every page
    of it is fetched and cleared again in the next step. The price is memory that lies idle, as a freed block may fit no
    later tensor: up to seven times the largest that is kept, which therefore is at most a sixteenth of the free memory.
    glibc 2.34 and older keep blocks of up to 32 MB only. Nothing is done with other C libraries, nor where environment
    variables have set glibc's ways already.
    """
    library = _glibc()
    if library is None or _set_by_user():
        yield
        return
    _count(library, 1)
    try:
        yield
    finally:
        _count(library, -1)


def _count(library: Any, change: int) -> None:
    """Count the open blocks; the first begins to keep what is freed, and the last gives it back."""
    global _open_blocks
    with _lock:
        _open_blocks += change
        if change > 0 and _open_blocks == 1:
            _keep(library)
        elif _open_blocks == 0:
            _give_back(library)


def _keep(library: Any) -> None:
    largest = max(_USUAL, min(_LARGEST_KEPT, free_bytes(torch.device("cpu")) // _SHARE_KEPT))
    if not library.mallopt(_MMAP_THRESHOLD, largest):
        library.mallopt(_MMAP_THRESHOLD, _USUAL)  # the next call stops it from growing up to there by itself
    library.mallopt(_TRIM_THRESHOLD, -1)  # never


def _give_back(library: Any) -> None:
    library.mallopt(_MMAP_THRESHOLD, _USUAL)
    library.mallopt(_TRIM_THRESHOLD, 2 * _USUAL)  # the ratio that glibc itself keeps
    library.malloc_trim(0)


def _glibc() -> Any:
    """The C library of the process if it is GNU's, else None."""
    if sys.platform != "linux":
        return None
    library = ctypes.CDLL(None)
    return library if hasattr(library, "gnu_get_libc_version") else None


def _set_by_user() -> bool:
    return any(name.startswith("MALLOC_") for name in os.environ) or "malloc" in os.environ.get("GLIBC_TUNABLES", "")

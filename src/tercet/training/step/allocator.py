"""What a step frees stays with the process for the next one, instead of going back to the system."""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
from collections.abc import Iterator
from typing import Any

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # mallopt's names for them, in glibc's malloc.h
_LARGEST_KEPT = 2**30
_USUAL = 32 * 2**20  # what glibc's own threshold, which follows the blocks that are freed, comes to at most


@contextlib.contextmanager
def freed_memory_kept() -> Iterator[None]:
    """Within the block freed tensors of up to 1 GiB leave their memory to the next; afterwards it is given back.

    Left to itself, glibc takes each block above 32 MB from the system and returns it when it is freed, and every page
    of it is fetched and cleared again in the next step. The price is memory that lies idle between tensors of different
    sizes. Nothing is done with other C libraries, nor where environment variables have set glibc's ways already.
    """
    library = _glibc()
    if library is None or _set_by_user():
        yield
        return
    library.mallopt(_MMAP_THRESHOLD, _LARGEST_KEPT)
    library.mallopt(_TRIM_THRESHOLD, -1)  # never
    try:
        yield
    finally:
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

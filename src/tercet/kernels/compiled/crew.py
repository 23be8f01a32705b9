"""Threads that deal the tiles out among themselves, and the order in which tiles may be visited together.

Two pools of threads that spin for the same cores cost half of them, so the tiles run in PyTorch's own threads, each of
which runs PyTorch's functions and ours on one core. That needs PyTorch to use an OpenMP runtime with GNU's entry point,
as it does on Linux. Elsewhere they run in threads of ours, and so does all between the tiles, while PyTorch's idle.
"""

# ruff: noqa: D102  the methods of a crew are described once, in the base class

from __future__ import annotations

import ctypes
import itertools
import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import TypeVar

import torch

_HOME = os.getpid()
_LEADING = threading.local()  # the crew that this thread leads

Item = TypeVar("Item")
Found = TypeVar("Found")


class Crew:
    """One thread, which is the caller's; base of those with more."""

    def __init__(self, size: int) -> None:
        self.size = size

    def lead(self, job: Callable[[], Found]) -> Found:
        """The result of a job, which may `run` others, done in the thread from which these are to be run."""
        _LEADING.crew = self
        return job()

    def run(self, job: Callable[[int, Item], None], items: Sequence[Item]) -> None:
        """Call job(worker, item) for every item; workers take turns, so that each one's share is always the same."""
        for item in items:
            job(0, item)


class PyTorchThreads(Crew):
    """PyTorch's own threads, which wait for work as they do after any function of PyTorch's."""

    def run(self, job: Callable[[int, Item], None], items: Sequence[Item]) -> None:
        size = min(self.size, len(items))
        if size < 2:
            return super().run(job, items)
        parallel, numbers = _gnu_parallel(), itertools.count()
        errors: list[BaseException] = []
        inference = torch.is_inference_mode_enabled()

        def share(worker: int) -> None:
            try:
                with torch.inference_mode(inference), torch.no_grad():  # which every thread has to be told
                    for item in items[worker::size]:
                        job(worker, item)
            except BaseException as error:  # raised below, in the caller's thread
                errors.append(error)

        assert parallel is not None
        parallel(_SHARE(lambda _: share(next(numbers))), None, size, 0)
        for worker in range(next(numbers), size):  # the runtime may give fewer threads than it is asked for
            share(worker)
        if errors:
            raise errors[0]


class OwnThreads(Crew):
    """A leader and its helpers."""

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self._leader = _threads(1)
        self._helpers = _threads(size - 1)
        torch.set_num_threads(size)  # the threads have set the default of threads to come, too: set it back

    def lead(self, job: Callable[[], Found]) -> Found:
        """Done by the leader; the jobs of several callers wait for each other."""
        try:
            found = self._leader.submit(super().lead, job)
        except RuntimeError:  # the interpreter is ending and starts no more threads
            return Crew(1).lead(job)
        return found.result()

    def run(self, job: Callable[[int, Item], None], items: Sequence[Item]) -> None:
        def share(worker: int) -> None:
            for item in items[worker :: self.size]:
                job(worker, item)

        busy = [self._helpers.submit(share, worker) for worker in range(1, min(self.size, len(items)))]
        try:
            share(0)
        finally:
            for done in busy:
                done.exception()  # wait for all: none may go on writing once this is left
        for done in busy:
            done.result()


_SHARE = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


@lru_cache(maxsize=1)
def _gnu_parallel() -> Callable[..., None] | None:
    """The function of PyTorch's OpenMP runtime that calls another in several threads of its pool; None without it."""
    library = Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"
    if not sys.platform.startswith("linux") or "ATen parallel backend: OpenMP" not in torch.__config__.parallel_info():
        return None
    try:
        found = ctypes.CDLL(str(library)).GOMP_parallel  # loaded already; this is the one that PyTorch itself calls
    except (OSError, AttributeError):
        return None
    found.argtypes, found.restype = (_SHARE, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint), None
    call: Callable[..., None] = found
    return call


def _threads(number: int) -> ThreadPoolExecutor:
    """Threads that are started now, and of which PyTorch takes each for a core."""
    all_here = threading.Barrier(number)
    pool = ThreadPoolExecutor(number, "tercet", initializer=_be_one_thread)
    for done in [pool.submit(all_here.wait) for _ in range(number)]:
        done.result()
    return pool


def _be_one_thread() -> None:
    torch.get_num_threads()  # the first call in a thread sets the default
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)  # of this thread, as of the one that called


@lru_cache(maxsize=1)
def _keep_freed_memory() -> None:
    """Let what a call frees serve the next one, instead of going back to the system, which costs more than the sums.

    The C library decides by the largest block that has been freed so far, up to 32 MB (glibc; others take no notice).
    """
    torch.empty(31 << 20, dtype=torch.uint8)  # freed at once, and never touched: it takes no memory


def give_back_memory() -> None:
    """Let what was freed go back to the system, so that pieces of other sizes find room (glibc; elsewhere nothing)."""
    trim = getattr(_c_library(), "malloc_trim", None)
    if trim is not None:
        trim(0)


@lru_cache(maxsize=1)
def _c_library() -> ctypes.CDLL | None:
    try:
        return ctypes.CDLL(None)
    except (OSError, TypeError):  # Windows has no such library
        return None


@lru_cache(maxsize=8)
def _crew(size: int, process: int) -> Crew:
    _keep_freed_memory()
    if size == 1:
        return Crew(1)
    if process == _HOME and _gnu_parallel():  # PyTorch's threads are lost in a fork, and asking for them hangs
        return PyTorchThreads(size)
    return OwnThreads(size)


def current_crew() -> Crew:
    """The crew of this process, of the size that PyTorch is set to now."""
    try:
        return _crew(torch.get_num_threads(), os.getpid())  # threads of ours are lost in a fork, too
    except RuntimeError:  # the interpreter is ending and starts no more threads
        return Crew(1)


def leading_crew() -> Crew:
    """The crew that leads in this thread."""
    found: Crew = _LEADING.crew
    return found


def tournament(blocks: int) -> Iterator[list[tuple[int, int]]]:
    """Rounds of pairs of blocks, i <= j, each pair once; no block twice in a round (the circle method).

    So the tiles of a round write to different rows, and every row is written in the same order in every run.
    """
    yield [(i, i) for i in range(blocks)]
    ring = list(range(blocks + blocks % 2))
    for _ in range(len(ring) - 1):
        pairs = zip(ring[: len(ring) // 2], reversed(ring), strict=False)
        yield [(min(pair), max(pair)) for pair in pairs if max(pair) < blocks]
        ring = [ring[0], ring[-1], *ring[1:-1]]


def dealt(rounds: Iterable[list[tuple[int, int]]], rank: int, size: int) -> Iterator[list[tuple[int, int]]]:
    """A rank's tiles of every round. All ranks take turns, from one round to the next as well."""
    turn = 0
    for tiles in rounds:
        yield tiles[(rank - turn) % size :: size]
        turn += len(tiles)


def rectangle(rows: int, columns: int) -> Iterator[list[tuple[int, int]]]:
    """Rounds of all pairs of a block of rows and one of columns; neither twice in a round."""
    for shift in range(max(rows, columns)):
        if rows <= columns:
            yield [(row, (row + shift) % columns) for row in range(rows)]
        else:
            yield [((column + shift) % rows, column) for column in range(columns)]

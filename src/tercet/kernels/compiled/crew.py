"""Threads that deal the tiles out among themselves, and the order in which tiles may be visited together.

Each thread runs PyTorch's and its own loops on one core. PyTorch's own threads idle meanwhile: two pools that spin for
the same cores cost half of them. So even what comes between the tiles runs in a thread of the crew, its leader.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import TypeVar

import torch

_LEADING = threading.local()  # the crew that this thread leads

Item = TypeVar("Item")
Found = TypeVar("Found")


class Crew:
    """As many threads as PyTorch would use: a leader and its helpers. One does without, and runs in the caller's."""

    def __init__(self, size: int) -> None:
        self.size = size
        if size > 1:
            self._leader = _threads(1)
            self._helpers = _threads(size - 1)
            torch.set_num_threads(size)  # the threads have set the default of threads to come, too: set it back

    def lead(self, job: Callable[[], Found]) -> Found:
        """The result of a job, done by the leader; the jobs of several callers wait for each other."""

        def led() -> Found:
            _LEADING.crew = self
            return job()

        if self.size == 1:
            return led()
        try:
            found = self._leader.submit(led)
        except RuntimeError:  # the interpreter is ending and starts no more threads
            return Crew(1).lead(job)
        return found.result()

    def run(self, job: Callable[[int, Item], None], items: Sequence[Item]) -> None:
        """Call job(worker, item) for every item; workers take turns, so that each one's share is always the same."""

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


@lru_cache(maxsize=8)
def _crew(size: int, process: int) -> Crew:
    return Crew(size)


def current_crew() -> Crew:
    """The crew of this process, of the size that PyTorch is set to now."""
    try:
        return _crew(torch.get_num_threads(), os.getpid())  # threads do not survive a fork
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

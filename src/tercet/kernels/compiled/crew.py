"""Threads that deal the tiles out among themselves, and the order in which tiles may be visited together.

Each thread runs PyTorch's and its own loops on one core. PyTorch's threads idle meanwhile: two pools that spin for
the same cores cost half of them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from threading import Barrier
from typing import TypeVar

import torch

Item = TypeVar("Item")


class Crew:
    """As many threads as PyTorch would use. One does without: what it is given runs in the caller's."""

    def __init__(self, size: int) -> None:
        self.size = size
        if size > 1:
            all_here = Barrier(size)  # so that every thread is started now, and none later
            self.pool = ThreadPoolExecutor(size, "tercet", initializer=_be_one_thread)
            for done in [self.pool.submit(all_here.wait) for _ in range(size)]:
                done.result()
            torch.set_num_threads(size)  # the threads have set the default of threads to come, too: set it back

    def run(self, job: Callable[[int, Item], None], items: Sequence[Item]) -> None:
        """Call job(worker, item) for every item; workers take turns, so that each one's share is always the same."""
        if self.size == 1 or len(items) == 1:
            for item in items:
                job(0, item)
            return

        def share(worker: int) -> None:
            for item in items[worker :: self.size]:
                job(worker, item)

        for done in [self.pool.submit(share, worker) for worker in range(min(self.size, len(items)))]:
            done.result()


def _be_one_thread() -> None:
    torch.get_num_threads()  # the first call in a thread sets the default
    torch.set_num_threads(1)


@lru_cache(maxsize=8)
def _crew(size: int, process: int) -> Crew:
    return Crew(size)


def current_crew() -> Crew:
    """The crew of this process, of the size that PyTorch is set to now."""
    return _crew(torch.get_num_threads(), os.getpid())  # threads do not survive a fork


def tournament(blocks: int) -> Iterator[list[tuple[int, int]]]:
    """Rounds of pairs of blocks, i <= j, each pair once; no block twice in a round (the circle method).

    So the tiles of a round write to different rows, and every row is written in the same order whatever the number of
    threads.
    """
    yield [(i, i) for i in range(blocks)]
    ring = list(range(blocks + blocks % 2))
    for _ in range(len(ring) - 1):
        pairs = zip(ring[: len(ring) // 2], reversed(ring), strict=False)
        yield [(min(pair), max(pair)) for pair in pairs if max(pair) < blocks]
        ring = [ring[0], ring[-1], *ring[1:-1]]


def rectangle(rows: int, columns: int) -> Iterator[list[tuple[int, int]]]:
    """Rounds of all pairs of a block of rows and one of columns; neither twice in a round."""
    for shift in range(max(rows, columns)):
        if rows <= columns:
            yield [(row, (row + shift) % columns) for row in range(rows)]
        else:
            yield [((column + shift) % rows, column) for column in range(columns)]

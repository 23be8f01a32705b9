"""Threads that share the blocks of rows; a result does not depend on how many there are."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

from threadpoolctl import threadpool_limits

Item = TypeVar("Item")
Found = TypeVar("Found")


class Workers:
    """Some threads, each of which runs matrix products on one core."""

    def __init__(self, pool: ThreadPoolExecutor | None) -> None:
        self._pool = pool

    def each(self, job: Callable[[Item], Found], items: Sequence[Item]) -> list[Found]:
        """The results of job(item), in the order of the items."""
        if self._pool is None or len(items) < 2:
            return [job(item) for item in items]
        return list(self._pool.map(job, items))


@contextmanager
def workers(n_jobs: int) -> Iterator[Workers]:
    """Workers for as long as the block runs.

    The products are held to one core each, whatever n_jobs is: a library may add in another order on two cores.
    """
    with threadpool_limits(limits=1, user_api="blas"):
        if n_jobs == 1:
            yield Workers(None)
            return
        with ThreadPoolExecutor(n_jobs, "tercet-lmnn") as pool:
            yield Workers(pool)

"""Loading: batches that are asked for ahead, so that they are there when the step before them is done.

Pillow and NumPy free the interpreter's lock, so one thread beside the training does for what Tercet reads itself.
A torch Dataset is the user's code: it may hold the lock, and it may draw from the process's generators, so it is
loaded in turn, or in processes of its own. Whoever loads, a batch holds the same.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import torch

from tercet.data.images import ImageCache
from tercet.data.loaders import Loader, Positions, TensorLoader
from tercet.data.records import plural
from tercet.errors import TrainingError

AHEAD = 2  # batches, for a thread or for each process

_loader: Loader | None = None  # of a process that loads


class Loading:
    """Inputs of batches, in the order that they are asked for.

    Args:
        loader: of the training data.
        seed: of the run, for what a dataset draws.
        workers: processes that load; 0 for none.

    Attributes:
        ahead: how many batches should be asked for beyond the one that is taken next.
    """

    def __init__(self, loader: Loader, seed: int, workers: int = 0) -> None:
        self.loader, self.seed, self.workers = loader, seed, workers
        self._asked: deque[Callable[[], Any]] = deque()
        self._executor: Executor | None = None
        if workers:
            self._executor = ProcessPoolExecutor(
                workers, multiprocessing.get_context("spawn"), _begin, (loader,)
            )  # fmt: skip  a forked process hangs where PyTorch has started threads
        elif not isinstance(loader, TensorLoader):
            self._executor = ThreadPoolExecutor(1, "loading")
        self.ahead = 0 if self._executor is None else AHEAD * max(1, workers)

    def ask(self, positions: Positions, step: int, first: int = 0) -> None:
        """Ask for the inputs at these positions, which are the rows from `first` on of the batch of a step."""
        if self._executor is None:
            self._asked.append(lambda: load(self.loader, positions, self.seed, step, first))
        elif self.workers:
            self._asked.append(self._result(self._executor.submit(_load, positions, self.seed, step, first)))
        else:
            given = self.loader, positions, self.seed, step, first
            self._asked.append(self._executor.submit(load, *given).result)

    def take(self) -> Any:
        """The inputs that were asked for first, of those that have not been taken.

        Raises:
            TrainingError: a process that loads has died.
            DataError: an item can no longer be read.
        """
        return self._asked.popleft()()

    def forget(self) -> None:
        """Drop what was asked for and not taken."""
        while self._asked:
            with contextlib.suppress(Exception):
                self._asked.popleft()()  # what is under way ends first, so that the loader is free

    def close(self) -> None:
        """End the thread or the processes."""
        self._asked.clear()
        if self._executor is not None:
            self._executor.shutdown(wait=not self.workers, cancel_futures=True)

    def _result(self, future: Future[Any]) -> Callable[[], Any]:
        def result() -> Any:
            try:
                return future.result()
            except BrokenProcessPool:
                raise TrainingError(
                    f"one of {plural(self.workers, 'process')} that load the data (--workers) has ended: it was killed,"
                    " perhaps for want of memory, or it could not start (a script that calls tercet.train with workers "
                    'needs the line if __name__ == "__main__":). The last checkpoint is unharmed; go on with --resume.'
                ) from None

        return result


def load(loader: Loader, positions: Positions, seed: int, step: int, first: int = 0) -> Any:
    """The inputs of a batch; what a dataset draws for a row follows from (seed, step, row)."""
    if isinstance(loader, TensorLoader):
        return loader.drawn(positions, seed, step, range(first, first + len(positions)))
    return loader.batch(positions)


def gains_by_workers(loader: Loader) -> bool:
    """Whether there is work for processes: a dataset's own code, or images that are decoded each time."""
    return isinstance(loader, TensorLoader) or (isinstance(loader, ImageCache) and not loader.in_memory)


def _begin(loader: Loader) -> None:
    """Prepare a process that loads."""
    global _loader
    _loader = loader
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the training, which ends its processes itself
    threading.Thread(target=_end_with_the_training, daemon=True).start()


def _end_with_the_training() -> None:
    """A training that is killed cannot end its processes, and they would wait for ever."""
    training = multiprocessing.parent_process()
    if training is not None:
        training.join()
        os._exit(1)


def _load(positions: Positions, seed: int, step: int, first: int) -> Any:
    assert _loader is not None
    return load(_loader, positions, seed, step, first)

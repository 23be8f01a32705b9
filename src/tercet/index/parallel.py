"""Shards by several processes of this machine, each with a model of its own, on a GPU of its own where there are."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool

import torch

from tercet.errors import InputError, RunError
from tercet.index.shards import Shards, pace
from tercet.training.reporter import Reporter

Work = Callable[[int, int, str], None]
"""Writes the shards of process `number` of `of`, on a device; a function of a module, with its arguments bound."""


def in_processes(work: Work, shards: Shards, processes: int, reporter: Reporter) -> None:
    """Have `work` done by so many processes, and say how far they are.

    Raises:
        InputError: fewer than one process.
        RunError: a process was killed; what is finished stays.
    """
    if processes < 1:
        raise InputError(f"processes is {processes}; allowed is a whole number from 1 up.")
    gpus = torch.cuda.device_count()
    before, total, started = shards.done(), shards.settings["items"], time.monotonic()
    with (
        ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"), _begin, (processes,)) as pool,
        reporter.progress("embedding") as advance,
    ):
        devices = [f"cuda:{number % gpus}" if gpus else "cpu" for number in range(processes)]
        waiting = {pool.submit(work, number, processes, device) for number, device in enumerate(devices)}
        try:
            while waiting:
                finished, waiting = wait(waiting, timeout=0.5)
                for one in finished:
                    one.result()
                done = shards.done() - before
                if done:
                    advance(before + done, total, pace(done, total - before, time.monotonic() - started))
        except BrokenProcessPool:
            raise RunError(
                "a process that embeds was killed, perhaps for want of memory. Finished shards are kept: go on with "
                "--resume, and with fewer --processes."
            ) from None


def _begin(processes: int) -> None:
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // processes))

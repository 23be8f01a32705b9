"""Training steps with freed memory kept by the process, as in training, and given back to the system after each use.

    python benchmarks/freed_memory.py

Forward, backward and update of Tercet's networks on batches of grey images of 48 x 48 pixels, and of two linear layers
on 700,000 rows of 16 numbers, 20 steps a process, the two ways in turns; medians of the processes. "system" is the part
of the processor's time that the system takes, such as for fetching and clearing pages, and GB the peak of memory. Where
environment variables set glibc's allocator, both ways are the same.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import multiprocessing
import resource
import statistics
import time
from collections.abc import Callable

import torch

from tercet.encoders.build import build
from tercet.encoders.options import ImageOptions
from tercet.training.step.allocator import freed_memory_kept

STEPS, ROWS = 20, 700_000
NETWORKS = {"plain": {}, "residual": {"network": "residual", "width": 16, "depth": 2}}


def make_step(network: str, count: int) -> Callable[[], None]:
    """One step of training of a network, on the same `count` items each time."""
    torch.manual_seed(0)
    if network == "rows":
        encoder = torch.nn.Sequential(torch.nn.Linear(16, 128), torch.nn.ReLU(), torch.nn.Linear(128, 128))
        items = torch.rand(count, 16)
    else:
        encoder = build(ImageOptions(size=(48, 48), channels=1, **NETWORKS[network]), {})
        items = torch.rand(count, 1, 48, 48)
    optimizer = torch.optim.AdamW(encoder.parameters(), lr=1e-4)

    def step() -> None:
        optimizer.zero_grad()
        encoder(items).square().mean().backward()
        optimizer.step()

    return step


def timed(network: str, count: int, kept: bool) -> tuple[float, float, float]:
    """Seconds of a step, of them the system's, and the gigabytes of the process at their peak."""
    step = make_step(network, count)
    with freed_memory_kept() if kept else contextlib.nullcontext():
        for _ in range(3):
            step()
        before, started = resource.getrusage(resource.RUSAGE_SELF).ru_stime, time.perf_counter()
        for _ in range(STEPS):
            step()
        seconds = time.perf_counter() - started
    used = resource.getrusage(resource.RUSAGE_SELF)
    return seconds / STEPS, (used.ru_stime - before) / STEPS, used.ru_maxrss / 1e6


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--counts", type=int, nargs="+", default=[64, 256], help="images in a batch")
    given = parser.parse_args()
    fresh = multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1)  # each turn in a process of its own
    for network, count in [*itertools.product(NETWORKS, given.counts), ("rows", ROWS)]:
        turns = [[fresh.apply(timed, (network, count, kept)) for kept in (False, True)] for _ in range(given.rounds)]
        said, seconds = [], []
        for name, found in zip(("given back", "kept"), zip(*turns, strict=True), strict=True):
            whole, system, peak = (statistics.median(column) for column in zip(*found, strict=True))
            said.append(f"{name} {1000 * whole:.0f} ms, system {1000 * system:.0f}, {peak:.1f} GB")
            seconds.append(whole)
        print(f"{network:<9} {count:>6} items   {'   '.join(said)}   ratio {seconds[1] / seconds[0]:.2f}", flush=True)


if __name__ == "__main__":
    main()

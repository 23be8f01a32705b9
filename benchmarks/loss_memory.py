"""Peak memory and time of TripletLoss, forward and backward, by batch size, class size and mining.

    python benchmarks/loss_memory.py
    python benchmarks/loss_memory.py --rows 4096 8192 --positives 4 40 --mining all --threads 2

Each line is a process of its own. `memory` is the growth of the peak resident size over that just before the
call, in MB and as a ratio to one B×B matrix of the embeddings' dtype; `time` is the best of five calls, in
milliseconds and as a ratio to three plain products X·Xᵀ, which value and gradient of such a loss take.
"""

from __future__ import annotations

import argparse
import itertools
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable

MEGABYTE = 10**6
DIM = 128


def best_seconds(call: Callable[[], object], repeats: int = 5) -> float:
    """The shortest of several runs."""
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def peak_bytes() -> int:
    """The largest resident size of this process so far; Linux counts in KiB, macOS in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def measure(rows: int, class_size: int, mining: str, threads: int) -> dict[str, float]:
    """Figures of one setting, in this process, whose peak must not have been above what it holds now."""
    import torch

    from tercet.losses import TripletLoss

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    loss = TripletLoss(mining=mining)

    def call(x: torch.Tensor, size: int = class_size) -> None:
        loss(x, torch.arange(len(x)) // size).backward()

    call(torch.nn.functional.normalize(torch.randn(8, DIM)).requires_grad_(), 2)  # loads what is loaded on first use
    x = torch.nn.functional.normalize(torch.randn(rows, DIM)).requires_grad_()
    before = peak_bytes()
    call(x)
    grown = peak_bytes() - before
    plain = x.detach()
    products = best_seconds(lambda: [plain @ plain.T for _ in range(3)])
    seconds = best_seconds(lambda: call(x))
    return {
        "memory_bytes": grown,
        "memory_ratio": grown / (rows * rows * x.element_size()),
        "time_seconds": seconds,
        "time_ratio": seconds / products,
    }


def main() -> None:
    """Measure every combination that was asked for, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[1800, 4096, 8192], help="batch sizes B")
    parser.add_argument("--positives", type=int, nargs="+", default=[4, 40], help="class sizes K")
    parser.add_argument("--mining", nargs="+", default=["all", "hard", "semihard"])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    settings = list(itertools.product(given.rows, given.positives, given.mining))
    if given.one:
        print(json.dumps(measure(*settings[0], given.threads)))
        return
    print(f"{'B':>6} {'K':>4} {'mining':>9} {'memory':>10} {'/ BxB':>6} {'time':>10} {'/ 3 XXt':>8}")
    for rows, class_size, mining in settings:
        command = [sys.executable, __file__, "--one", "--threads", str(given.threads)]
        command += ["--rows", str(rows), "--positives", str(class_size), "--mining", mining]
        found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        print(
            f"{rows:6} {class_size:4} {mining:>9} {found['memory_bytes'] / MEGABYTE:7.1f} MB "
            f"{found['memory_ratio']:6.2f} {found['time_seconds'] * 1000:7.1f} ms {found['time_ratio']:8.1f}"
        )


if __name__ == "__main__":
    main()

"""Seconds, memory and errors of the Triton kernels: all triplets, value and gradient, on a CUDA GPU.

    python benchmarks/triton_speed.py
    python benchmarks/triton_speed.py --rows 8192 65536 --precision ieee tf32x3 --mining hard

Unit vectors in classes of K. `TFLOP/s` counts two products of B × B × D, which is what value and gradient take.
`torch` is the implementation in plain PyTorch, where it is asked for. The errors are those of some anchors' values
and of their rows of the gradient, against the definition in float64, as shares of the largest.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time

import torch
from torch import Tensor

from tercet.distances import Euclidean
from tercet.kernels.pairing import Batch
from tercet.kernels.result import Totals
from tercet.kernels.rule import Plan, Rule, make_plan
from tercet.kernels.tiled import reduce_by_tiles

MARGIN = 0.2
CHUNK = 1 << 16  # references at a time, where float64 is used


def make_rows(rows: int, dim: int, class_size: int, device: str) -> tuple[Tensor, Tensor]:
    """Unit vectors, somewhat nearer to their own class than to others."""
    generator = torch.Generator(device).manual_seed(0)
    centres = torch.randn(-(-rows // class_size), dim, generator=generator, device=device)
    noise = torch.randn(rows, dim, generator=generator, device=device)
    labels = torch.arange(rows, device=device) // class_size
    return torch.nn.functional.normalize(centres[labels] + noise), labels


def exact(x: Tensor, class_size: int, anchors: int) -> tuple[Tensor, Tensor]:
    """Of the first anchors the sums of hinges over all triplets, and their rows of the gradient; float64.

    The anchors are whole classes. Rows are in classes of `class_size`, one after the other.
    """
    x = x.double()
    members = x.view(-1, class_size, x.shape[1])
    d_positive = torch.cat([_gaps(some).norm(dim=3) for some in members.split(CHUNK)])  # (classes, K, K)
    itself = torch.eye(class_size, dtype=torch.bool, device=x.device)
    thresholds = (d_positive + MARGIN).masked_fill(itself, -torch.inf).view(len(x), class_size)
    own, labels = x[:anchors], torch.arange(len(x), device=x.device) // class_size
    values, slopes, gradient = x.new_zeros(anchors), x.new_zeros(anchors, class_size), torch.zeros_like(own)
    for start in range(0, len(x), CHUNK):
        part = slice(start, start + CHUNK)
        d = (own.square().sum(1)[:, None] + x[part].square().sum(1) - 2 * own @ x[part].T).clamp(min=0).sqrt()
        d.masked_fill_(labels[:anchors, None] == labels[part], torch.inf)
        weights = torch.zeros_like(d)
        for k in range(class_size):
            below = thresholds[:anchors, k, None] - d
            values += below.relu().sum(1)
            slopes[:, k] += (below > 0).sum(1)
            weights += (below > 0).double() + (thresholds[part, k] > d).double()
        pull = weights / d
        gradient += pull @ x[part] - pull.sum(1, keepdim=True) * own
    both = slopes.view(-1, class_size, class_size)
    force = torch.where(itself, 0, (both + both.transpose(1, 2)) / d_positive[: len(both)])
    gradient += (force[..., None] * _gaps(members[: len(both)])).sum(2).view(anchors, -1)
    return values, gradient


def _gaps(members: Tensor) -> Tensor:
    """Differences within classes, (classes, K, D) -> (classes, K, K, D)."""
    return members[:, :, None] - members[:, None]


def reduce(batch: Batch, rule: Rule, how: str) -> Totals:
    """Value and gradient in one of the ways to be measured."""
    rows = len(batch.anchors)
    if how == "torch":
        return reduce_by_tiles(batch, rule, make_plan("torch", rows, rows, batch.pairing.largest_class, 1 << 30), True)
    from tercet.kernels.triton import reduce_by_triton

    return reduce_by_triton(batch, rule, Plan("triton", 1024, 1024), True, how)


def errors(x: Tensor, class_size: int, found: Totals, anchors: int) -> tuple[float, float]:
    """How far values and gradient of the first anchors are from float64, as shares of the largest."""
    values, gradient = exact(x, class_size, anchors)
    part = found.parts[0]
    assert part.gradient_anchors is not None
    off = (part.values[:anchors] - values).abs().max() / values.abs().max()
    return float(off), float((part.gradient_anchors[:anchors].double() - gradient).abs().max() / gradient.abs().max())


def measure(rows: int, given: argparse.Namespace, how: str) -> str:
    """One line of the table."""
    x, labels = make_rows(rows, given.dim, given.positives, given.device)
    ids = torch.arange(rows, device=x.device)
    rule = Rule(Euclidean(), given.mining, MARGIN, reduction="sum")
    torch.cuda.reset_peak_memory_stats()
    before, seconds = torch.cuda.memory_allocated(), []
    for _ in range(given.repeats):
        found = None  # so that no two are held
        torch.cuda.synchronize()
        start = time.perf_counter()
        found = reduce(Batch(x, x, labels, labels, ids, ids), rule, how)
        torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    peak, best = torch.cuda.max_memory_allocated() - before, min(seconds)
    line = f"{rows:9} {how:>7} {best:9.4f} s {4 * rows**2 * given.dim / best / 1e12:7.1f} {peak / 1e6:9.1f} MB"
    if given.mining != "all":
        return line
    anchors = min(rows, 64) // given.positives * given.positives
    of_values, of_gradient = errors(x, given.positives, found, anchors)
    return f"{line} {of_values:10.1e} {of_gradient:10.1e}"


def main() -> None:
    """Measure every combination that was asked for, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[8192, 65536, 262144, 1048576], help="batch sizes B")
    parser.add_argument("--precision", nargs="+", default=["ieee", "tf32x3", "tf32"], help="these, or torch")
    parser.add_argument("--mining", default="all", choices=["all", "hard", "semihard"])
    parser.add_argument("--positives", type=int, default=4, help="class size K, which divides B")
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=3, help="of which the fastest counts")
    given = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("This benchmark needs a CUDA GPU, and PyTorch sees none. On a CPU: benchmarks/loss_memory.py.")
    if any(rows % given.positives for rows in given.rows):
        sys.exit(f"--rows are {given.rows}; each must be a multiple of --positives, which is {given.positives}.")
    given.device = "cuda"
    print(f"{torch.cuda.get_device_name()}, PyTorch {torch.__version__}, D = {given.dim}, K = {given.positives}")
    print(f"{'B':>9} {'':>7} {'time':>11} {'TFLOP/s':>7} {'memory':>12} {'value off':>10} {'grad. off':>10}")
    for rows, how in itertools.product(given.rows, given.precision):
        measure(4096 // given.positives * given.positives, given, how)  # compiles
        print(measure(rows, given, how), flush=True)


if __name__ == "__main__":
    main()

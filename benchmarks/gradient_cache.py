"""Memory and time of a training step on a large batch, in chunks of several sizes and in one piece.

    python benchmarks/gradient_cache.py                          # 1,800 images of 48×48
    python benchmarks/gradient_cache.py --items 600 --chunks 64  # smaller

Grey images of noise about a pattern for each class, 4 a class, through the small network (the options' defaults) on
two threads (--threads): a real `tercet.train` of a few steps, each chunk size in a process of its own. Memory is the
peak resident size of that process over the whole run, evaluation included. Times are medians of a step after the first,
by the clock on the wall, or with --clock processor the processor's, which other work on the machine changes less.

The bars: a step in chunks may take 1.1 · (1 + the share of the forward pass) of one in one piece; loss, sampling and
loading together may take 8 % of it; 1,800 images must pass inside 1.5 GB.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import numpy as np

PER_CLASS = 4
SIDE = 48  # pixels


def make_images(items: int) -> tuple[np.ndarray, list[int]]:
    """Images uint8 (N, H, W) for training and as many as a tenth of them beside, to validate on; and their classes."""
    generator = np.random.default_rng(0)
    classes = items // PER_CLASS + items // PER_CLASS // 9
    patterns = np.kron(generator.integers(40, 216, (classes, 1, 6, 6)), np.ones((1, 1, SIDE // 6, SIDE // 6)))
    images = patterns + generator.normal(0, 20, (classes, PER_CLASS, SIDE, SIDE))
    labels = np.repeat(np.arange(classes), PER_CLASS)
    return images.clip(0, 255).astype(np.uint8).reshape(-1, SIDE, SIDE), labels.tolist()


CLOCKS = {"wall": time.perf_counter, "processor": time.process_time}


def clocked(home: Any, name: str, spent: dict[str, float], clock: Callable[[], float]) -> None:
    """Put a clock around a method of a class."""
    method: Callable[..., Any] = getattr(home, name)

    def run(*arguments: Any, **named: Any) -> Any:
        started = clock()
        found = method(*arguments, **named)
        spent[name] += clock() - started
        return found

    setattr(home, name, run)


def measure(items: int, chunk: int, steps: int, precision: str, threads: int, clock: str) -> dict[str, Any]:
    """Train for a few steps; seconds of each part of a step, and the peak resident bytes."""
    import torch

    import tercet
    from tercet.encoders.options import ImageOptions
    from tercet.training.batches.feed import Feed
    from tercet.training.batches.supervision import Labelled
    from tercet.training.step.learner import Learner

    torch.set_num_threads(threads)
    now = CLOCKS[clock]
    spent: dict[str, float] = defaultdict(float)
    for home, name in ((Learner, "_encode"), (Labelled, "__call__"), (Feed, "next")):
        clocked(home, name, spent, now)
    step, rows = Learner.step, []

    def one_step(learner: Learner, *given: Any) -> Any:
        started = now()
        found = step(learner, *given)
        rows.append({"step": now() - started + spent["next"], **spent})
        spent.clear()
        return found

    Learner.step = one_step
    with tempfile.TemporaryDirectory() as folder:
        tercet.train(
            make_images(items), out=f"{folder}/run", encoder=ImageOptions(size=(SIDE, SIDE), channels=1),
            batch_size=items, chunk=chunk, steps=steps, evaluate_every=steps, holdout=0.1, precision=precision,
            progress=False,
        )  # fmt: skip
    later = rows[1:]
    return {
        **{name: statistics.median(row[name] for row in later) for name in rows[0]},
        "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }


def in_process(words: list[str]) -> dict[str, Any]:
    """The figures of `measure` in a process of its own."""
    done = subprocess.run([sys.executable, __file__, *words], stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--items", type=int, default=1800)
    parser.add_argument("--chunks", type=int, nargs="+", default=[64, 128, 256])
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--clock", choices=tuple(CLOCKS), default="wall")
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one is not None:
        print(json.dumps(measure(given.items, given.one, given.steps, given.precision, given.threads, given.clock)))
        return
    names = ("items", "steps", "precision", "threads", "clock")
    common = [word for name in names for word in (f"--{name}", str(getattr(given, name)))]
    print(f"{given.items:,} images, {given.precision}\nchunk   peak MB   step s   of plain   bar    loss, data")
    plain = None
    for chunk in (given.items, *given.chunks):
        found = in_process([*common, "--one", str(chunk)])
        plain = plain or found
        share = plain["_encode"] / plain["step"]
        beside = (found["__call__"] + found["next"]) / found["step"]
        print(f"{chunk:<7} {found['peak'] / 1e6:<9.0f} {found['step']:<8.2f} {found['step'] / plain['step']:<10.2f} "
              f"{1.1 * (1 + share) if found is not plain else 1:<6.2f} {beside:.1%}", flush=True)  # fmt: skip
    print(f"the forward pass of a plain step, with augmentation: {share:.1%} of it")


if __name__ == "__main__":
    main()

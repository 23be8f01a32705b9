"""How fast images are loaded and augmented, beside how fast the network from scratch trains on them.

    python benchmarks/loading.py icons/ --size 48 --preset icons
    python benchmarks/loading.py icons/ --network residual --width 24

Prints images a second of decoding (what an image costs once where all fit into memory, or each time where they do not),
of a batch from memory with its augmentation, and of a step of the network; and their ratio, which is what counts: the
busier the machine, the slower all of them.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from tercet.data.augmentation import augment, draw
from tercet.data.images import ImageCache
from tercet.data.options import PRESETS, preset
from tercet.data.readers import read
from tercet.encoders.images import ImageNetwork
from tercet.encoders.options import ImageOptions


def fastest(work: Callable[[], object], rounds: int = 5) -> float:
    """Seconds that the work takes at best."""
    taken = []
    for _ in range(rounds):
        start = time.perf_counter()
        work()
        taken.append(time.perf_counter() - start)
    return min(taken)


def main() -> None:
    """Measure, and print a line each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path)
    parser.add_argument("--size", type=int, default=48)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--preset", choices=PRESETS, default="icons")
    parser.add_argument("--network", choices=("plain", "residual"), default="plain")
    parser.add_argument("--width", type=int, default=16)
    options = parser.parse_args()

    items = read(options.images).items
    chosen = [items[i] for i in np.linspace(0, len(items) - 1, min(1000, len(items))).astype(int)]
    size, settings = (options.size, options.size), preset(options.preset)
    cache, cold = ImageCache(chosen, size, 1), ImageCache(chosen, size, 1, budget_bytes=0)
    cache.check()
    rows = np.arange(options.batch) % len(chosen)
    network = ImageNetwork(ImageOptions(size=size, channels=1, network=options.network, width=options.width))
    optimizer = torch.optim.AdamW(network.parameters())

    def load() -> torch.Tensor:
        return augment(cache.batch(rows), draw(settings, len(rows), 0, 0), settings)

    def train() -> None:
        optimizer.zero_grad()
        network(batch).square().sum().backward()
        optimizer.step()

    batch = load()
    seconds = {
        "decode": fastest(lambda: cold.batch(rows)),
        "load and augment": fastest(load),
        "train": fastest(train),
    }
    for name, taken in seconds.items():
        print(f"{name:<18} {options.batch / taken:>8,.0f} images a second")
    print(f"loading from memory is {seconds['train'] / seconds['load and augment']:.1f} times as fast as training,")
    print(f"decoding each time {seconds['train'] / (seconds['decode'] + seconds['load and augment']):.1f} times")


if __name__ == "__main__":
    main()

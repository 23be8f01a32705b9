"""What putting texts together by their length saves: padding, and the time of a training step.

    python benchmarks/padding.py --pairs descriptions.jsonl --weights MODEL

The pairs are those that `descriptions.py` keeps, or others of that form. A batch is so many of them, chosen by chance:
texts and the texts that belong to them. A step is the forward and backward pass with InfoNCE. Either way sees the same
batches in turn; the figure is the ratio of the times, step by step.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from tercet.encoders import pretrained_texts
from tercet.training.step.gradient_cache import bunch_of, cached_step, parts_of


def share_of_padding(encoder: torch.nn.Module, rows: list[np.ndarray], bunch: int | None) -> float:
    """How much of what the encoder is given for these texts is padding."""
    filled = padded = 0
    for part in parts_of(rows, len(rows), None, bunch):
        mask = encoder._gathered([rows[place] for place in part])["attention_mask"]
        filled, padded = filled + int(mask.sum()), padded + mask.numel()
    return 1 - filled / padded


def infonce(embeddings: Tensor) -> tuple[Tensor, None]:
    """Each text of the first half among those of the second, at a temperature of 0.05."""
    left, right = embeddings.chunk(2)
    return torch.nn.functional.cross_entropy(left @ right.T / 0.05, torch.arange(len(left))), None


def seconds(encoder: torch.nn.Module, rows: list[np.ndarray], bunch: int | None) -> float:
    """The time of a step on these texts."""
    encoder.bunch = bunch
    encoder.zero_grad()
    start = time.perf_counter()
    cached_step(encoder, rows, len(rows), infonce, encoder)
    return time.perf_counter() - start


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=Path, required=True, help="JSON lines, each a list of two texts")
    parser.add_argument("--weights", type=Path, required=True, help="folder of a transformer")
    parser.add_argument("--rows", type=int, default=64, help="pairs in a batch")
    parser.add_argument("--max-tokens", type=int, default=128)
    parser.add_argument("--batches", type=int, default=20)
    options = parser.parse_args()
    pairs = [json.loads(line) for line in options.pairs.read_text(encoding="utf-8").splitlines()]
    encoder = pretrained_texts(options.weights, max_tokens=options.max_tokens)
    usual, ratios, shares = bunch_of(encoder), [], []
    rng = np.random.default_rng(0)
    for batch in range(options.batches):
        chosen = [pairs[place] for place in rng.choice(len(pairs), options.rows, replace=False)]
        rows = [encoder.cut(row) for row in encoder.numbers([pair[side] for side in (0, 1) for pair in chosen])]
        shares.append([share_of_padding(encoder, rows, bunch) for bunch in (None, usual)])
        order = (None, usual) if batch % 2 else (usual, None)
        taken = {bunch: seconds(encoder, rows, bunch) for bunch in order}
        ratios.append(taken[usual] / taken[None])
    whole, together = np.mean(shares, axis=0)
    low, middle, high = np.quantile(ratios[1:], [0.25, 0.5, 0.75])  # the first step warms up
    print(f"padding: {whole:.0%} of a batch that is padded to its longest text, {together:.0%} by {usual} of a length")
    print(f"a step takes {middle:.2f} of the time so (quartiles {low:.2f} and {high:.2f})")


if __name__ == "__main__":
    main()

